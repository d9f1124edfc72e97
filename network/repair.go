package network

import (
	"errors"

	"github.com/minirun/minirun/internal/nfnetlink"
	"github.com/minirun/minirun/internal/rtnetlink"
)

// Repair makes the rules anew, from the records and in one transaction, after
// another program has changed them: connections go on. Without a bridge nobody
// needs them. It is for a watcher, see package network/watch, which gives no reason
// at first: then it says whether they were missing, and otherwise whether it has
// made them.
func (h *Host) Repair(reason string) (bool, error) {
	needed, err := h.needed()
	if err != nil || !needed {
		return false, err
	}
	nf, err := nfnetlink.Dial()
	if err != nil {
		return false, nftError(err)
	}
	defer nf.Close()
	there, err := h.checkTable(nf)
	var foreign *ForeignTableError
	if errors.As(err, &foreign) {
		return false, nil // the networks of another store, and their watcher's business
	}
	if err == nil {
		err = h.Reload()
	}
	return err == nil && (!there || reason != ""), err
}

// needed reports whether one of the networks has its bridge.
func (h *Host) needed() (bool, error) {
	networks, err := h.Store.Networks()
	if err != nil || len(networks) == 0 {
		return false, err
	}
	c, err := rtnetlink.Dial()
	if err != nil {
		return false, err
	}
	defer c.Close()
	for _, n := range networks {
		if _, err := c.LinkByName(n.Bridge); err == nil {
			return true, nil
		}
	}
	return false, nil
}
