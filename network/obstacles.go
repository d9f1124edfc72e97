package network

import (
	"github.com/minirun/minirun/internal/nfnetlink"
	"github.com/minirun/minirun/network/store"
	"golang.org/x/sys/unix"
)

// An Obstacle is a rule of somebody else that ends packets of a network: each
// chain of a hook has to let a packet through, whatever ours says.
type Obstacle struct {
	What     string
	Commands []string // that let the network through, for a shell
}

func (o *Obstacle) String() string {
	s := o.What + "; to let this network through:"
	for _, c := range o.Commands {
		s += "\n  " + c
	}
	return s
}

// Obstacles looks for them: policies of drop, and firewalld, which rejects what it
// does not know. Rules of iptables-legacy are not seen.
func Obstacles(n *store.Network) ([]Obstacle, error) {
	c, err := nfnetlink.Dial()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	chains, err := c.Chains()
	if err != nil {
		return nil, err
	}
	has := func(in *nfnetlink.Chain, name string) bool {
		for i := range chains {
			if chains[i].Family == in.Family && chains[i].Table == in.Table && chains[i].Name == name {
				return true
			}
		}
		return false
	}
	has6 := len(n.Subnets) > 1 || n.Subnets[0].Prefix.Addr().Is6()
	var list []Obstacle
	firewalld := false
	for i := range chains {
		ch := &chains[i]
		if ch.Table == "firewalld" && !firewalld {
			firewalld = true
			list = append(list, Obstacle{"firewalld rejects what is forwarded to and from interfaces that it has not been told of", []string{
				"firewall-cmd --permanent --zone=trusted --add-interface=" + n.Bridge, "firewall-cmd --reload",
			}})
		}
		if !ch.Base || !ch.Drops || ch.Hook != unix.NF_INET_FORWARD || ch.Table == UserTable || ch.Table == "firewalld" {
			continue
		}
		tool, family := "iptables", "ip"
		switch ch.Family {
		case unix.NFPROTO_IPV4:
		case unix.NFPROTO_IPV6:
			if !has6 {
				continue
			}
			tool, family = "ip6tables", "ip6"
		case unix.NFPROTO_INET:
			family = "inet"
		default:
			continue
		}
		o := Obstacle{What: "the chain " + ch.Name + " of the nftables table " + family + " " + ch.Table + " drops what it has no rule for"}
		own := func(chain string) {
			for _, flag := range []string{" -i ", " -o "} {
				o.Commands = append(o.Commands, tool+" -I "+chain+flag+n.Bridge+" -j ACCEPT")
			}
		}
		switch {
		case family != "inet" && ch.Table == "filter" && has(ch, "DOCKER-USER"):
			o.What += " (docker's)"
			own("DOCKER-USER")
		case family != "inet" && ch.Table == "filter" && has(ch, "ufw-before-forward"):
			o.What += " (ufw's)"
			o.Commands = []string{"ufw route allow in on " + n.Bridge, "ufw route allow out on " + n.Bridge}
		case family != "inet" && ch.Table == "filter" && ch.Name == "FORWARD":
			own("FORWARD")
		default:
			for _, key := range []string{"iifname", "oifname"} {
				o.Commands = append(o.Commands, "nft insert rule "+family+" "+ch.Table+" "+ch.Name+" "+key+" "+n.Bridge+" accept")
			}
		}
		list = append(list, o)
	}
	return list, nil
}

// warnObstacles tells of what is in the way of a network.
func (h *Host) warnObstacles(n *store.Network) {
	if h.Warn == nil {
		return
	}
	list, err := Obstacles(n)
	if err != nil {
		h.Warn("look for rules of others: " + err.Error())
	}
	for i := range list {
		h.Warn("network " + n.Name + ": " + list[i].String())
	}
}
