package podlife

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// quickest is the wait before the first try between two probes.
const quickest = 50 * time.Millisecond

// Cadence says when a container is probed.
//
// Probes come once in a period, as from a kubelet, and their results count. After
// the first of them that fails there are tries in between, the first after 50 ms,
// each further one after twice as long, until something succeeds or the wait is as
// long as the period: a server that needs some milliseconds is ready then, and not
// a period later. The failure of a try does not count, so a container is ended no
// earlier and no later than without them. Its success is a probe's: the period
// begins anew, and what successThreshold wants beyond it comes at that pace.
//
// Liveness probes have no tries: their first success changes nothing. Neither have
// containers that ran before, which fresh is false for.
type Cadence struct {
	period time.Duration
	next   time.Time // of the probes that count
	try    time.Time
	wait   time.Duration // before the next try; 0: there are no more
	begun  bool          // no result so far has ended the tries
}

// NewCadence is that of a probe which is due for the first time at first.
func NewCadence(kind ProbeKind, p *corev1.Probe, first time.Time, fresh bool) *Cadence {
	return &Cadence{
		period: time.Duration(orDefault(p.PeriodSeconds, 10)) * time.Second, next: first,
		begun: fresh && kind != Liveness,
	}
}

// Next is when to probe again, and whether the result counts if it is a failure. A
// try that does not count has to be over when the next one that does is due: until.
func (c *Cadence) Next() (at time.Time, counts bool, until time.Time) {
	if c.wait > 0 && c.try.Before(c.next) {
		return c.try, false, c.next
	}
	return c.next, true, time.Time{}
}

// Took takes in a result that was there at now. What missed its time is made up for
// once.
func (c *Cadence) Took(now time.Time, counts, ok bool) {
	switch {
	case ok:
		c.wait, c.begun = 0, false
	case c.begun && c.wait == 0:
		c.wait = quickest
	case c.wait > 0 && !counts:
		if c.wait *= 2; c.wait >= c.period {
			c.wait, c.begun = 0, false
		}
	}
	c.try = now.Add(c.wait)
	switch {
	case !counts && ok:
		c.next = now.Add(c.period)
	case counts:
		if c.next = c.next.Add(c.period); c.next.Before(now) {
			c.next = now
		}
	}
}
