package daemon

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/minirun/minirun/orchestrate/store"
)

// Waits before a part that ended is started again.
const (
	firstRestart = 100 * time.Millisecond
	lastRestart  = 30 * time.Second
	// steady is how long a part must have run to be trusted again.
	steady = time.Minute
)

// part is one of the things that minirund does, all the time.
type part struct {
	name string
	run  func(context.Context) error

	mu       sync.Mutex
	running  bool
	restarts int
	err      error
}

// PartStatus is what a part does.
type PartStatus struct {
	Name    string `json:"name"`
	Running bool   `json:"running"`
	// Restarts counts how often it ended, LastError is why it did last.
	Restarts  int    `json:"restarts,omitempty"`
	LastError string `json:"lastError,omitempty"`
}

func (p *part) status() PartStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := PartStatus{Name: p.name, Running: p.running, Restarts: p.restarts}
	if p.err != nil {
		s.LastError = p.err.Error()
	}
	return s
}

// startParts runs all parts until ctx ends; done waits for them.
func (d *Daemon) startParts(ctx context.Context) (done func()) {
	var wg sync.WaitGroup
	for _, p := range d.parts {
		wg.Go(func() { d.keep(ctx, p) })
	}
	return wg.Wait
}

// keep runs a part, and again when it ends: one that fails takes no other with it.
func (d *Daemon) keep(ctx context.Context, p *part) {
	wait := firstRestart
	for {
		began := time.Now()
		err := p.once(ctx)
		if ctx.Err() != nil || errors.Is(err, store.ErrClosed) {
			return
		}
		if err == nil {
			err = errors.New("it ended without a reason")
		}
		if time.Since(began) > steady {
			wait = firstRestart
		}
		p.mu.Lock()
		p.restarts++
		p.err = err
		p.mu.Unlock()
		d.o.Log.Error("a part of minirund ended", "part", p.name, "error", err, "again", wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, lastRestart)
	}
}

// once runs a part until it ends, and makes an error of a panic.
func (p *part) once(ctx context.Context) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
		p.set(false)
	}()
	p.set(true)
	return p.run(ctx)
}

func (p *part) set(running bool) {
	p.mu.Lock()
	p.running = running
	p.mu.Unlock()
}
