package names

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/minirun/minirun/internal/testenv"
	"github.com/minirun/minirun/network"
)

// Containers come and go in the records while questions are asked. No question is
// without an answer, and no answer is wrong: it is what the records said at some
// moment between lag before the question and the answer.
func TestNames_Hammer(t *testing.T) {
	hammer(t, load{during: 2 * time.Second, rate: 1000, containers: 100, lag: testenv.Timeout(20 * time.Second)})
}

// A measurement of `make hammer-dns`.
func BenchmarkHammer(b *testing.B) {
	if os.Getenv("MINIRUN_BENCH_NETWORK") == "" {
		b.Skip("a measurement: make hammer-dns")
	}
	hammer(b, load{during: 30 * time.Second, rate: 10_000, containers: 100, lag: time.Second})
	b.ReportMetric(0, "ns/op")
}

type load struct {
	during     time.Duration
	rate       int // questions a second
	containers int
	lag        time.Duration
}

// life is what a name has had when; the last entry is what it has.
type life struct {
	mu  sync.Mutex
	was []moment
}

type moment struct {
	from time.Time // when it began to be so
	is   string    // what is answered
}

// answer is what somebody has been told.
type answer struct {
	who             int
	text            string
	asked, answered time.Time
}

// right says whether an answer was the right one at some time between the two, and
// for how long it has not been when it was asked for.
func (l *life) right(answer string, asked, answered time.Time) (ok bool, late time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	late = -1
	for i, m := range l.was {
		if m.is != answer || m.from.After(answered) {
			continue
		}
		if i == len(l.was)-1 || l.was[i+1].from.After(asked) {
			return true, 0
		}
		if d := asked.Sub(l.was[i+1].from); late < 0 || d < late {
			late = d
		}
	}
	return false, late
}

func hammer(t testing.TB, l load) {
	w := newWorld(t)
	one := w.create(1, nil)
	const stable = "stable"
	lives := make([]*life, l.containers+1)
	for i := range lives {
		lives[i] = &life{was: []moment{{time.Time{}, "NXDOMAIN"}}}
	}
	c := w.attach(stable, network.Request{Networks: []string{"net1"}})
	lives[l.containers] = &life{was: []moment{{time.Time{}, "NOERROR " + c.Endpoints[0].Addresses[0].String()}}}
	w.start()
	w.wait(one, stable+".", mdns.TypeA, lives[l.containers].was[0].is)
	at := w.at[one.Subnets[0].Gateway.String()]

	begin := time.Now()
	end := begin.Add(l.during)
	var all sync.WaitGroup
	var changes atomic.Int64
	all.Go(func() { // each of them comes and goes in turn, half are there
		for k := 0; time.Now().Before(end); k++ {
			i := k % l.containers
			id := fmt.Sprintf("c%d", i)
			// A name is of two values while it changes: the old one until the end of the
			// change, the new one from its beginning.
			before := time.Now()
			if k/l.containers%2 == 0 {
				c := w.attach(id, network.Request{Networks: []string{"net1"}})
				change(lives[i], "NOERROR "+c.Endpoints[0].Addresses[0].String(), before)
			} else {
				c, err := w.h.Store.Container(id + ".0")
				if err != nil {
					t.Error(err)
					return
				}
				w.detach(c)
				change(lives[i], "NXDOMAIN", before)
			}
			changes.Add(1)
			time.Sleep(5 * time.Millisecond)
		}
	})
	clients := max(8, l.rate/150) // each waits for its answer
	times := make([][]time.Duration, clients)
	seen := make([][]answer, clients) // judged when all is known that has been
	var behind atomic.Int64
	for n := range clients {
		all.Go(func() {
			conn, err := mdns.Dial("udp", at)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			gap := time.Second * time.Duration(clients) / time.Duration(l.rate)
			next := begin.Add(gap * time.Duration(n) / time.Duration(clients))
			for i := n; next.Before(end); i++ {
				time.Sleep(time.Until(next))
				next = next.Add(gap)
				at, name := l.containers, stable
				if i%4 == 0 {
					at = i / 4 % l.containers
					name = fmt.Sprintf("c%d", at)
				}
				q := new(mdns.Msg).SetQuestion(name+".", mdns.TypeA)
				asked := time.Now()
				conn.SetDeadline(asked.Add(testenv.Timeout(5 * time.Second)))
				if err := conn.WriteMsg(q); err != nil {
					t.Error(err)
					return
				}
				m, err := conn.ReadMsg()
				if err != nil || m.Id != q.Id {
					t.Errorf("%s: %v", name, err) // a timeout
					return
				}
				answered := time.Now()
				times[n] = append(times[n], answered.Sub(asked))
				if late := answered.Sub(next); late > time.Duration(behind.Load()) {
					behind.Store(int64(late))
				}
				seen[n] = append(seen[n], answer{at, text(m), asked, answered})
			}
		})
	}
	all.Wait()
	took := time.Since(begin)
	var stalest time.Duration
	wrong := 0
	for _, a := range slices.Concat(seen...) {
		ok, late := lives[a.who].right(a.text, a.asked, a.answered)
		switch {
		case ok:
		case late >= 0 && late <= l.lag:
			stalest = max(stalest, late)
		default:
			if wrong++; wrong < 10 {
				t.Errorf("container %d: %q, which it was not at the time (late by %s)", a.who, a.text, late)
			}
		}
	}
	list := slices.Concat(times...)
	slices.Sort(list)
	if len(list) == 0 || changes.Load() < 10 {
		t.Fatalf("%d questions and %d changes: nothing was tested", len(list), changes.Load())
	}
	t.Logf("%d questions in %s (%.0f/s, at worst %s behind), %d changes of records, %d wrong; answers took %s (median), %s (99 %%), %s (99.9 %%), %s (most); a change was seen after at most %s",
		len(list), took.Round(time.Millisecond), float64(len(list))/took.Seconds(), time.Duration(behind.Load()).Round(time.Millisecond), changes.Load(), wrong,
		list[len(list)/2], list[len(list)*99/100], list[len(list)*999/1000], list[len(list)-1], stalest)
	// In the end it is what the records say.
	for i := range l.containers {
		w.wait(one, fmt.Sprintf("c%d.", i), mdns.TypeA, lives[i].was[len(lives[i].was)-1].is)
	}
}

// change records that a name has another value: from before the change on the new
// one, and until its end the old one too.
func change(l *life, is string, before time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.was[len(l.was)-1].is
	now := time.Now()
	l.was = append(l.was, moment{before, is}, moment{before, old}, moment{now, is})
}
