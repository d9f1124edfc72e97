package node

import (
	"context"
	"sync"
)

// fetches are the pulls under way: pods that want the same image at the same time
// share one.
type fetches struct {
	mu   sync.Mutex
	open map[fetchKey]*fetch
}

// fetchKey: with other credentials it is another pull, which may not be allowed.
type fetchKey struct {
	image, auth string
	unpack      bool
}

type fetch struct {
	done    chan struct{}
	err     error
	waiting int
	cancel  context.CancelFunc
}

// fetchOnce pulls an image, or waits for who does already. The pull ends early when
// nobody waits for it any more.
func (n *Node) fetchOnce(ctx context.Context, p Pull) error {
	key := fetchKey{p.Image, string(p.Auth), p.Unpack}
	s := &n.fetches
	s.mu.Lock()
	f := s.open[key]
	if f == nil {
		own, cancel := context.WithTimeout(context.WithoutCancel(ctx), pullTimeout)
		f = &fetch{done: make(chan struct{}), cancel: cancel}
		if s.open == nil {
			s.open = map[fetchKey]*fetch{}
		}
		s.open[key] = f
		go func() {
			defer cancel()
			err := n.o.Pull(own, p)
			s.mu.Lock()
			f.err = err
			s.drop(key, f)
			s.mu.Unlock()
			close(f.done)
		}()
	}
	f.waiting++
	s.mu.Unlock()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
	}
	s.mu.Lock()
	f.waiting--
	last := f.waiting == 0
	if last {
		s.drop(key, f)
	}
	s.mu.Unlock()
	if last { // its process is not left behind
		f.cancel()
		<-f.done
	}
	return ctx.Err()
}

// drop is called with the lock: who comes later begins anew.
func (s *fetches) drop(key fetchKey, f *fetch) {
	if s.open[key] == f {
		delete(s.open, key)
	}
}
