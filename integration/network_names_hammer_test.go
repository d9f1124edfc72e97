package integration

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/minirun/minirun/internal/testenv"
)

// A nameLife is what may be answered for a name, and when. What is new may be from
// before the command that makes it so, what was may be until the new has been seen.
type nameLife struct {
	mu     sync.Mutex
	spells []spell
}

type spell struct {
	answer      string
	from, until time.Time // until zero: still
}

func (l *nameLife) begin(answer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spells = append(l.spells, spell{answer: answer, from: time.Now()})
}

// only ends what is something else than the answer.
func (l *nameLife) only(answer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.spells {
		if s := &l.spells[i]; s.answer != answer && s.until.IsZero() {
			s.until = time.Now()
		}
	}
}

// right judges an answer as soon as it is there: what may be answered still was
// allowed when it was asked for.
func (l *nameLife) right(answer string, asked, answered time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.spells, func(s spell) bool {
		return s.answer == answer && !s.from.After(answered) && (s.until.IsZero() || !asked.After(s.until))
	})
}

func TestNameLife(t *testing.T) {
	var l nameLife
	start := time.Now()
	l.begin("no")
	l.begin("yes")
	both := time.Now()
	if !l.right("no", both, both) || !l.right("yes", both, both) || l.right("maybe", both, both) {
		t.Error("while it changes it is one or the other")
	}
	l.only("yes")
	time.Sleep(time.Millisecond)
	now := time.Now()
	if l.right("no", now, now) || !l.right("yes", now, now) {
		t.Error("what was is no right answer any more")
	}
	if !l.right("no", both, now) {
		t.Error("it was when the question was asked")
	}
	if l.right("yes", start.Add(-2), start.Add(-1)) {
		t.Error("it was not yet when it was answered")
	}
}

// Containers come and go by command, again and again, while questions are asked:
// about each of them and about one that stays. Every question has an answer, and no
// answer is wrong. `make hammer-dns` asks 10,000 times a second for 30 s, with 100
// containers.
func TestRootNetworkNames_Containers(t *testing.T) {
	n, rate, during := 8, 500, time.Duration(0)
	text := os.Getenv("MINIRUN_TEST_HAMMER_DNS")
	if text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 1 || n > 250 {
			t.Fatalf("MINIRUN_TEST_HAMMER_DNS=%q: want 1 to 250 containers", text)
		}
		rate, during = 10_000, 30*time.Second
	}
	h := netSetup(t)
	// In an internal network nobody else is asked for a name that there is not.
	h.must("network", "create", "--subnet", "10.77.0.0/16", "--internal", "web")
	h.background("", "--network", "web", "--ip", "10.77.200.1", "--network-alias", "stable")
	h.names("web")
	lives := make([]*nameLife, n+1)
	for i := range lives {
		lives[i] = new(nameLife)
		lives[i].begin("NXDOMAIN")
	}
	lives[n].spells = []spell{{answer: "NOERROR 10.77.200.1"}}

	conns := make([]*dns.Conn, max(4, rate/150)) // each waits for its answer
	for i := range conns {
		var err error
		if conns[i], err = dns.Dial("udp", "10.77.0.1:53"); err != nil { // here: this thread is the one in the namespace
			t.Fatal(err)
		}
	}
	stop := make(chan struct{})
	end := sync.OnceFunc(func() { close(stop) })
	var asking sync.WaitGroup
	t.Cleanup(func() { end(); asking.Wait() })
	var asked, silent, wrong atomic.Int64
	begin := time.Now()
	gap := time.Second * time.Duration(len(conns)) / time.Duration(rate)
	slowest := make([]time.Duration, len(conns))
	for k, conn := range conns {
		asking.Go(func() {
			defer conn.Close()
			next := begin.Add(gap * time.Duration(k) / time.Duration(len(conns)))
			for i := k; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Until(next)):
				}
				next = next.Add(gap)
				who, name := n, "stable."
				if i%2 == 0 {
					who = i / 2 % n
					name = fmt.Sprintf("c%d.", who)
				}
				at := time.Now()
				got, err := askOn(conn, name)
				took := time.Since(at)
				slowest[k] = max(slowest[k], took)
				asked.Add(1)
				switch {
				case err != nil:
					if silent.Add(1) < 10 {
						t.Errorf("%s: no answer after %s: %v", name, took, err)
					}
				case !lives[who].right(got, at, at.Add(took)):
					if wrong.Add(1) < 10 {
						t.Errorf("%s: %q, which it was not at the time", name, got)
					}
				}
			}
		})
	}

	var latest time.Duration
	lifetimes := 0
	change := func(i int, is string, args ...string) {
		lives[i].begin(is)
		h.must(args...)
		returned := time.Now()
		h.wantName("10.77.0.1", fmt.Sprintf("c%d.", i), is)
		latest = max(latest, time.Since(returned))
		lives[i].only(is)
	}
	for round := 0; round == 0 || time.Since(begin) < during; round++ {
		ids := make([]string, n)
		for i := range ids {
			ids[i] = h.id()
			ip := fmt.Sprintf("10.77.1.%d", i+1)
			change(i, "NOERROR "+ip, "run", "--detach", "--image", "base", "--network", "web", "--ip", ip, "--network-alias", fmt.Sprintf("c%d", i), ids[i], "sleep", "100000")
		}
		for i, id := range ids {
			change(i, "NXDOMAIN", "delete", "--force", id)
		}
		lifetimes += n
	}
	end()
	took := time.Since(begin)
	asking.Wait()
	reached := float64(asked.Load()) / took.Seconds()
	if asked.Load() < int64(lifetimes) {
		t.Errorf("%d questions: nothing was tested", asked.Load())
	}
	if text != "" && reached < 0.9*float64(rate) {
		t.Errorf("%.0f questions a second, want %d: the machine is too busy for a verdict", reached, rate)
	}
	verdict := "passed"
	if t.Failed() {
		verdict = "FAILED"
	}
	t.Logf("verdict: %s. %d containers came and went, %d lifetimes in all; %d questions in %s (%.0f a second), %d without an answer, %d answered wrongly; the slowest took %s; a change was seen at most %s after the command",
		verdict, n, lifetimes, asked.Load(), took.Round(time.Millisecond), reached, silent.Load(), wrong.Load(), slices.Max(slowest), latest)
}

// askOn is lookup on a connection that is there.
func askOn(conn *dns.Conn, name string) (string, error) {
	q := new(dns.Msg).SetQuestion(name, dns.TypeA)
	conn.SetDeadline(time.Now().Add(testenv.Timeout(5 * time.Second)))
	if err := conn.WriteMsg(q); err != nil {
		return "", err
	}
	for {
		m, err := conn.ReadMsg()
		if err != nil {
			return "", err
		}
		if m.Id != q.Id {
			continue // to a question that was given up
		}
		return answerText(m), nil
	}
}

func answerText(m *dns.Msg) string {
	s := dns.RcodeToString[m.Rcode]
	for _, rr := range m.Answer {
		s += " " + strings.TrimPrefix(rr.String(), rr.Header().String())
	}
	return s
}
