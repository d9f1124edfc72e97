package service

import (
	"context"

	"github.com/minirun/minirun/network/watch"
)

// Watched is the table, for a watcher that looks after others too. It is what
// services are from the first Replace on.
func (b *Balancer) Watched() watch.Table {
	return watch.Table{Name: b.opts.Table, Ours: func(port uint32, _ string) bool { return b.k.ours(port) }, Repair: b.repair}
}

// Watch restores the table whenever another program has changed or removed it,
// until ctx ends. Call it after the first Replace.
func (b *Balancer) Watch(ctx context.Context) error {
	w, err := watch.New(watch.Options{NetNS: b.opts.NetNS, Tables: []watch.Table{b.Watched()}, Log: b.opts.Log})
	if err != nil {
		return explain("look after the rules of services", err)
	}
	return w.Run(ctx)
}

// repair compares and restores.
func (b *Balancer) repair(reason string) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.removed {
		return false, nil
	}
	changed, err := b.resync(b.services)
	if changed && b.opts.Restored != nil {
		b.opts.Restored(reason)
	}
	return changed, err
}
