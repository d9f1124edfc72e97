package runtime

import (
	"encoding/binary"
	"time"

	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/linux"
)

// Timing collects how long the phases of a command take. All of its methods do
// nothing on nil: whoever does not want to know pays one comparison.
type Timing struct {
	Phases []PhaseTime
	last   time.Time
	names  []string // of the phases whose times the init will tell
}

// PhaseTime is how long one phase took.
type PhaseTime struct {
	Init bool // of the init: it runs while the runtime goes on
	Name string
	Took time.Duration
}

// NewTiming starts the clock.
func NewTiming() *Timing { return &Timing{last: time.Now(), Phases: make([]PhaseTime, 0, 48)} }

// Mark says that what has happened since the last mark was the named phase.
func (t *Timing) Mark(name string) {
	if t == nil {
		return
	}
	now := time.Now()
	took := now.Sub(t.last)
	t.last = now
	t.Phases = append(t.Phases, PhaseTime{Name: name, Took: took})
}

// clock adds the init's readings of the clock to a program. They are taken when
// a phase begins and sent in one record when the init has nothing more to do but
// to wait. CLOCK_REALTIME: the others are shifted in a new time namespace.
type clock struct {
	t     *Timing
	words initprog.Value
	n     int
}

const timespecSize = 16

func (t *Timing) clock(b *initprog.Builder, steps int) *clock {
	if t == nil {
		return nil
	}
	t.names = t.names[:0]
	return &clock{t: t, words: b.Bytes(make([]byte, (steps+2)*timespecSize))}
}

func (c *clock) phase(b *initprog.Builder, name string) {
	if c == nil || len(c.t.names) > 0 && c.t.names[len(c.t.names)-1] == name {
		return
	}
	c.read(b)
	c.t.names = append(c.t.names, name)
}

func (c *clock) read(b *initprog.Builder) {
	b.ClockRealtime(initprog.Const(c.words.Bits() + uint64(c.n*timespecSize)))
	c.n++
}

func (c *clock) send(b *initprog.Builder) {
	if c == nil {
		return
	}
	c.read(b)
	b.WriteWords(initprog.Sync(), c.words, 2*c.n)
}

// read reads a record of an init. The one with the times, longer than any
// other, is put aside.
func (t *Timing) read(fd int, buf []byte) (int, error) {
	if t == nil {
		return linux.Read(fd, buf)
	}
	long := make([]byte, (len(t.names)+1)*timespecSize)
	for {
		n, err := linux.Read(fd, long)
		if err != nil || n <= initprog.RecordSize {
			return copy(buf, long[:max(n, 0)]), err
		}
		at := func(i int) time.Time {
			p := long[i*timespecSize:]
			return time.Unix(int64(binary.LittleEndian.Uint64(p)), int64(binary.LittleEndian.Uint64(p[8:])))
		}
		for i := 0; (i+2)*timespecSize <= n; i++ {
			t.Phases = append(t.Phases, PhaseTime{Init: true, Name: t.names[i], Took: at(i + 1).Sub(at(i))})
		}
	}
}
