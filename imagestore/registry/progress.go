package registry

import (
	"sync"
	"time"
)

// Progress says how far a transfer is. Sizes are bytes.
type Progress struct {
	Blobs, BlobsDone int
	Total            int64  // of all blobs
	Done             int64  // of these, what is here
	Wire             int64  // what came, or went, over the network in this run
	Note             string // the last thing that happened, such as a retry; for people
}

// counters collect progress from several goroutines.
type counters struct {
	mu   sync.Mutex
	p    Progress
	last time.Time
	tell func(Progress)
}

// progressEvery is how often progress is told.
const progressEvery = 100 * time.Millisecond

func (c *counters) change(f func(*Progress), always bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.p)
	if c.tell == nil {
		return
	}
	if now := time.Now(); always || now.Sub(c.last) >= progressEvery {
		c.last = now
		c.tell(c.p)
	}
}

func (c *counters) arrived(n int64) {
	c.change(func(p *Progress) { p.Done += n; p.Wire += n }, false)
}
func (c *counters) wire(n int64)    { c.change(func(p *Progress) { p.Wire += n }, false) }
func (c *counters) have(n int64)    { c.change(func(p *Progress) { p.Done += n }, false) }
func (c *counters) resumed(n int64) { c.change(func(p *Progress) { p.Done += n }, false) }
func (c *counters) finished()       { c.change(func(p *Progress) { p.BlobsDone++ }, true) }

func (c *counters) expect(size int64) {
	c.change(func(p *Progress) { p.Blobs++; p.Total += size }, false)
}

func (c *counters) wait(object string) {
	c.change(func(p *Progress) { p.Note = "waiting for another process that fetches " + object }, true)
}

func (c *counters) retry(err error) {
	c.change(func(p *Progress) { p.Note = "trying again: " + err.Error() }, true)
}

func (c *counters) wired() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.p.Wire
}
