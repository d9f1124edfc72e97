package store

import (
	"errors"
	"fmt"
	"slices"

	"github.com/minirun/minirun/internal/netip"
	"github.com/minirun/minirun/network/ipam"
	"golang.org/x/sys/unix"
)

// ExhaustedError reports a subnet without a free address.
type ExhaustedError struct {
	Network string
	Subnet  netip.Prefix
	Taken   int
}

func (e *ExhaustedError) Error() string {
	return fmt.Sprintf("network %q: subnet %s has no free address: %d are taken", e.Network, e.Subnet, e.Taken)
}

func (e *ExhaustedError) Unwrap() error { return ipam.ErrExhausted }

// Hint says what to do.
func (e *ExhaustedError) Hint() string {
	return "minirun network prune frees what killed processes have left; minirun network create --subnet makes a larger network"
}

// tries is how many addresses are tried before all that are taken are looked at.
const tries = 8

// Next takes the next free address of a subnet for a container, which has a
// record already.
func (s Store) Next(n *Network, subnet *Subnet, key string) (netip.Addr, error) {
	last := s.Last(n.Name, subnet.Prefix.Addr().Is6())
	// Behind the last one there is nearly always one, however many are taken.
	var tried [tries]netip.Addr
	for i := range tried {
		a, err := ipam.Next(subnet.Prefix, last, i+1, func(a netip.Addr) bool { return a == subnet.Gateway || slices.Contains(tried[:i], a) })
		if err != nil {
			break
		}
		_, err = s.Holder(n.Name, a)
		var other *TakenError
		if errors.Is(err, unix.ENOENT) {
			if err = s.Take(n.Name, a, key); !errors.As(err, &other) {
				return a, err
			}
		} else if err != nil {
			return a, err
		}
		tried[i], last = a, a
	}
	list, err := s.Leases(n.Name)
	if err != nil {
		return netip.Addr{}, err
	}
	taken := make(map[netip.Addr]struct{}, len(list)+1)
	taken[subnet.Gateway] = struct{}{}
	for _, a := range list {
		if subnet.Prefix.Contains(a) {
			taken[a] = struct{}{}
		}
	}
	for {
		a, err := ipam.Next(subnet.Prefix, last, len(taken), func(a netip.Addr) bool {
			_, ok := taken[a]
			return ok
		})
		if err != nil {
			return a, &ExhaustedError{n.Name, subnet.Prefix, len(taken) - 1}
		}
		err = s.Take(n.Name, a, key)
		var other *TakenError
		if !errors.As(err, &other) {
			return a, err
		}
		taken[a] = struct{}{} // by somebody who has no respect for locks
	}
}
