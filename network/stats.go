package network

import (
	"slices"

	"github.com/minirun/minirun/internal/rtnetlink"
)

// Stats is what has gone through one interface of a container, as it sees it.
type Stats struct {
	Network   string `json:"network"`
	Container string `json:"container"`
	Interface string `json:"interface"`
	RxBytes   uint64 `json:"rxBytes"`
	RxPackets uint64 `json:"rxPackets"`
	RxErrors  uint64 `json:"rxErrors"`
	RxDropped uint64 `json:"rxDropped"`
	TxBytes   uint64 `json:"txBytes"`
	TxPackets uint64 `json:"txPackets"`
	TxErrors  uint64 `json:"txErrors"`
	TxDropped uint64 `json:"txDropped"`
}

// Stats lists what has gone through the interfaces of the containers in the
// networks, or in all networks. Containers whose interfaces are gone have none.
func (h *Host) Stats(networks ...string) ([]Stats, error) {
	c, err := rtnetlink.Dial()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	links, err := c.Links()
	if err != nil {
		return nil, err
	}
	byName := make(map[string]*rtnetlink.LinkStats, len(links))
	for i := range links {
		byName[links[i].Name] = &links[i]
	}
	records, err := h.containers()
	if err != nil {
		return nil, err
	}
	list := []Stats{}
	for _, r := range records {
		for i := range r.Endpoints {
			e := &r.Endpoints[i]
			l := byName[e.Link]
			if l == nil || len(networks) > 0 && !slices.Contains(networks, e.Network) {
				continue
			}
			// What the host's end sends is what the container receives.
			list = append(list, Stats{
				Network: e.Network, Container: r.ID, Interface: e.Name,
				RxBytes: l.TxBytes, RxPackets: l.TxPackets, RxErrors: l.TxErrors, RxDropped: l.TxDropped,
				TxBytes: l.RxBytes, TxPackets: l.RxPackets, TxErrors: l.RxErrors, TxDropped: l.RxDropped,
			})
		}
	}
	return list, nil
}
