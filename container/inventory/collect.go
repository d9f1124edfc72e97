package inventory

import (
	"context"
	"errors"

	"github.com/minirun/minirun/container/unpack"
	"github.com/minirun/minirun/overlay"
)

// Collected is what a collection has removed.
type Collected struct {
	Blobs, Layers int
	Snapshots     int        // of lost containers
	Lost          []LostData // kept of lost containers, and moved
	Freed         int64      // bytes on disk
}

// Collect removes what nothing needs. It may run at any time, beside everything:
// names, containers and leases keep what is in use.
func Collect(ctx context.Context, s Stores) (*Collected, error) {
	swept, err := s.Images.GC(ctx)
	c := &Collected{Blobs: swept.Blobs, Freed: swept.Disk}
	if s.Layers != nil {
		err = errors.Join(err, c.sweepLost(s), c.prune(ctx, s))
	}
	return c, err
}

// Prune removes unpacked layers that nothing needs.
func Prune(ctx context.Context, s Stores) (*Collected, error) {
	c := &Collected{}
	if s.Layers == nil {
		return c, nil
	}
	return c, c.prune(ctx, s)
}

func (c *Collected) prune(ctx context.Context, s Stores) error {
	if staged, err := s.Layers.Staging(); err == nil {
		for _, w := range staged {
			if !w.Live {
				c.count(s.Layers.Root() + "/staging/" + w.Name)
			}
		}
	}
	records := s.Images.Root() + "/unpacked"
	before, _ := measure(records)
	removed, err := unpack.Prune(ctx, s.Images, s.Layers, func(d *overlay.Dropped) { c.count(d.Path()) })
	c.Layers = len(removed)
	if after, err := measure(records); err == nil && before != nil {
		c.Freed += max(before.total-after.total, 0)
	}
	return err
}

func (c *Collected) count(path string) {
	if d, err := measure(path); err == nil {
		c.Freed += d.total
	}
}
