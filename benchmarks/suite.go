package main

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
)

// series is what was measured of one case and one runtime.
type series struct {
	test, peer string
	wall, cpu  []float64 // nanoseconds, one per success, in the order of rounds
	failures   int
	firstError string
	row        int // failures since the last success
}

// giveUpAfter failures without a success in between a runtime is left out of the rest of
// a case: it does not work here, and its cleanup would disturb the others.
const giveUpAfter = 5

// suite is one run of the benchmark.
type suite struct {
	o       options
	h       *harness
	work    string
	tag     string
	peers   []*peer
	series  []*series
	memory  []memoryResult
	init    *initResult
	calls   []callsResult
	errs    []string // what went wrong outside of a measured command
	order   *rand.Rand
	stopped atomic.Bool // by a signal: finish the command, clean up
	serial  int
}

// at returns the series of a case and a runtime; rows of the table keep the order of first use.
func (s *suite) at(test string, p *peer) *series {
	for _, x := range s.series {
		if x.test == test && x.peer == p.name {
			return x
		}
	}
	x := &series{test: test, peer: p.name}
	s.series = append(s.series, x)
	return x
}

// find is at without creating; nil when the case was not run.
func (s *suite) find(test, peer string) *series {
	for _, x := range s.series {
		if x.test == test && x.peer == peer {
			return x
		}
	}
	return nil
}

func (x *series) add(u usage) {
	x.wall = append(x.wall, float64(u.wall))
	x.cpu = append(x.cpu, float64(u.cpu))
}

func (x *series) fail(err error) {
	x.failures++
	x.row++
	if x.firstError == "" {
		x.firstError = err.Error()
	}
}

// problem notes what must not be overlooked although no command failed.
func (s *suite) problem(format string, args ...any) {
	s.errs = append(s.errs, fmt.Sprintf(format, args...))
}

// id returns a container id that no one has used.
func (s *suite) id(p *peer) string {
	s.serial++
	return fmt.Sprintf("%s-%s-%d", s.tag, p.name, s.serial)
}

// rounds calls f once for each peer in each round, warm-up rounds (record false) first.
// Within a round the order is random: whoever runs after a slow runtime, whose namespaces
// the kernel is still taking down, is somebody else each time. f returns the round's
// series, to notice a peer that does not work.
func (s *suite) rounds(peers []*peer, f func(p *peer, record bool) *series) {
	peers = append([]*peer(nil), peers...)
	for i := -s.o.warmup; i < s.o.rounds; i++ {
		s.order.Shuffle(len(peers), func(a, b int) { peers[a], peers[b] = peers[b], peers[a] })
		for j := 0; j < len(peers); j++ {
			if s.stopped.Load() {
				return
			}
			if x := f(peers[j], i >= 0); x.row >= giveUpAfter {
				peers = append(peers[:j], peers[j+1:]...)
				j--
			}
		}
	}
}

// timed runs one command into a series.
func (s *suite) timed(x *series, argv []string, record bool) (usage, bool) {
	u, err := s.h.run(argv)
	if err != nil {
		x.fail(err)
		return u, false
	}
	x.row = 0
	if record {
		x.add(u)
	}
	return u, true
}

// oci are the peers with the whole command line.
func (s *suite) oci() []*peer {
	var out []*peer
	for _, p := range s.peers {
		if p.kind == ociRuntime {
			out = append(out, p)
		}
	}
	return out
}

// reap notes processes that had to be killed.
func (s *suite) reap(p *peer) {
	if err := s.h.reap(); err != nil {
		s.problem("%s: %v", p.name, err)
	}
}

// discard removes a container in whatever condition it is; not measured.
func (s *suite) discard(p *peer, id string) {
	if p.kind == ociRuntime {
		// An error means that there is nothing to delete, or it shows in the leak check.
		_, _ = s.h.run(p.verb("delete", "--force", id))
	}
}
