package store

import (
	"context"
	"errors"
)

// EventType is what happened to an object, as a watcher sees it.
type EventType string

// An object that begins to match what is watched is Added, one that ceases to
// is Deleted.
const (
	Added    EventType = "ADDED"
	Modified EventType = "MODIFIED"
	Deleted  EventType = "DELETED"
)

// Event is one change.
type Event struct {
	Type     EventType
	Kind     string
	Object   Object
	Revision uint64
}

// change is one write. old is nil for what is new, new for what was deleted.
type change struct {
	revision uint64
	kind     string
	old, new Object
}

// ring is the last changes, guarded by the store's mu. Watchers have no queues of
// their own: each has a place in it, and one that is too slow learns that its
// place is gone.
type ring struct {
	changes []change
	first   uint64 // revision of the oldest one kept
	next    uint64 // revision of the next one
	news    chan struct{}
}

func (r *ring) init(n int) {
	r.changes, r.first, r.next, r.news = make([]change, n), 1, 1, make(chan struct{})
}

// start says that everything up to a revision happened before.
func (r *ring) start(revision uint64) { r.first, r.next = revision+1, revision+1 }

func (r *ring) add(c change) {
	r.changes[c.revision%uint64(len(r.changes))] = c
	r.next = c.revision + 1
	if r.next-r.first > uint64(len(r.changes)) {
		r.first = r.next - uint64(len(r.changes))
	}
	r.wake()
}

func (r *ring) wake() {
	close(r.news)
	r.news = make(chan struct{})
}

// ErrClosed ends the watches of a store that was closed.
var ErrClosed = errors.New("the store was closed")

// Watch is a place in the changes. It needs no closing. It is for one goroutine.
type Watch struct {
	s    *Store
	kind string
	sel  Selector
	next uint64
}

// Watch gives the changes of a kind after a revision, which is that of a list
// or of an event; kind "" is all kinds.
func (s *Store) Watch(kind string, sel Selector, after uint64) (*Watch, error) {
	if kind != "" {
		if _, err := s.table(kind); err != nil {
			return nil, err
		}
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	// One from the future is from another store: nothing would ever come.
	if after+1 < s.changes.first || after >= s.changes.next {
		return nil, &GoneError{after, s.changes.first - 1}
	}
	return &Watch{s: s, kind: kind, sel: sel, next: after + 1}, nil
}

// Next waits for the next change that is watched.
func (w *Watch) Next(ctx context.Context) (Event, error) {
	for {
		w.s.mu.RLock()
		r, news, closed := &w.s.changes, w.s.changes.news, w.s.closed
		if w.next < r.first {
			first := r.first
			w.s.mu.RUnlock()
			return Event{}, &GoneError{w.next - 1, first - 1}
		}
		for w.next < r.next {
			c := r.changes[w.next%uint64(len(r.changes))]
			w.next++
			if e, ok := w.see(c); ok {
				w.s.mu.RUnlock()
				return e, nil
			}
		}
		w.s.mu.RUnlock()
		if closed {
			return Event{}, ErrClosed
		}
		select {
		case <-news:
		case <-ctx.Done():
			return Event{}, ctx.Err()
		}
	}
}

// see makes of a change what it is to this watcher.
func (w *Watch) see(c change) (Event, bool) {
	if w.kind != "" && w.kind != c.kind {
		return Event{}, false
	}
	before, after := w.sel.matches(c.old), w.sel.matches(c.new)
	e := Event{Kind: c.kind, Object: c.new, Revision: c.revision}
	switch {
	case before && after:
		e.Type = Modified
	case after:
		e.Type = Added
	case before && c.new == nil:
		e.Type, e.Object = Deleted, c.old
	case before:
		// What is shown carries the revision at which it ceased to match.
		gone := c.old.DeepCopyObject().(Object)
		gone.SetResourceVersion(c.new.GetResourceVersion())
		e.Type, e.Object = Deleted, gone
	default:
		return e, false
	}
	return e, true
}

// Revision is the last one that was looked at: a bookmark, after which a watch
// can go on.
func (w *Watch) Revision() uint64 { return w.next - 1 }
