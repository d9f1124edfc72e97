// Package clock keeps durations right when the clock of the host is set.
//
// Objects say when something was by the clock of that time, in whole seconds. How
// long ago that is cannot be told by the clock of now: it may have been set since,
// by an hour or, on a host without a battery, by decades. So [Memory] notes when it
// saw a time first, by the clock that only goes forward. That is soon after it was
// written, since controllers look at every change.
//
// What a restart loses is taken from the clock again. A time that is in the future
// then counts as one of now: whoever waits, waits once more, and not for decades.
package clock

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// generation is how many times are remembered at least.
const generation = 16384

// Memory remembers when times that objects have were. It is for use by several
// goroutines.
type Memory struct {
	now func() time.Time

	mu sync.Mutex
	// Each time that is asked for is in young; what is only in old when young is
	// full is forgotten.
	young, old map[moment]time.Time
}

// moment is a time that an object has.
type moment struct {
	uid     types.UID
	seconds int64
}

// New makes an empty one. A nil now is the real clock.
func New(now func() time.Time) *Memory {
	if now == nil {
		now = time.Now
	}
	return &Memory{now: now, young: map[moment]time.Time{}}
}

// Then is when the time t of the object was, such that the time since then is what
// has really passed, whatever the clock was set to meanwhile. It is comparable with
// the clock of now, and has a reading of the one that only goes forward: a timer that
// is derived from it is right, too. Time in which the host was suspended does not count.
func (m *Memory) Then(uid types.UID, t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	now := m.now()
	key := moment{uid, t.Unix()}
	m.mu.Lock()
	defer m.mu.Unlock()
	at, ok := m.young[key]
	if !ok {
		if at, ok = m.old[key]; !ok {
			at = now.Add(-max(now.Sub(t), 0))
		}
		if len(m.young) >= generation {
			m.old, m.young = m.young, map[moment]time.Time{}
		}
		m.young[key] = at
	}
	return now.Add(-now.Sub(at))
}
