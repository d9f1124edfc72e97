package main

import (
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// initResult is what linking minirun's packages costs every command: `minirun --version`
// against a Go program that only prints the same.
type initResult struct {
	minirun, empty series
	// traced are the sums of the runtime's own account (GODEBUG=inittrace=1), in ms.
	tracedMinirun, tracedEmpty float64
	largest                    string
}

// milliseconds that package initialization adds, by the median of the rounds' differences.
func (r *initResult) cost() float64 { return pairedMedian(r.minirun.wall, r.empty.wall) / 1e6 }

func (s *suite) benchInit() error {
	var minirun *peer
	for _, p := range s.peers {
		if p.name == "minirun" {
			minirun = p
		}
	}
	if minirun == nil {
		return nil
	}
	empty := filepath.Join(s.work, "bin", "empty")
	r := &initResult{minirun: series{test: "init", peer: "minirun"}, empty: series{test: "init", peer: "empty-main"}}
	a, b := []string{minirun.path, "--version"}, []string{empty}
	for i := -s.o.warmup; i < s.o.initRounds && !s.stopped.Load(); i++ {
		// A B, then B A: neither is always the one that runs after the other.
		first, second := &r.minirun, &r.empty
		argv1, argv2 := a, b
		if i%2 != 0 {
			first, second, argv1, argv2 = second, first, argv2, argv1
		}
		u1, err1 := s.h.run(argv1)
		u2, err2 := s.h.run(argv2)
		switch {
		case err1 != nil:
			first.fail(err1)
		case err2 != nil:
			second.fail(err2)
		case i >= 0: // pairs only
			first.add(u1)
			second.add(u2)
		}
	}
	r.tracedMinirun, r.largest = inittrace(a)
	r.tracedEmpty, _ = inittrace(b)
	s.init = r
	return nil
}

// inittrace returns the median over a few runs of the sum of all packages' clock times,
// and the slowest packages of the last run.
func inittrace(argv []string) (sum float64, largest string) {
	var sums []float64
	for range 11 {
		var trace bytes.Buffer
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Env = append(append([]string{}, environment...), "GODEBUG=inittrace=1")
		cmd.Stderr = &trace
		if cmd.Run() != nil {
			continue
		}
		total, top := parseInittrace(trace.String())
		sums = append(sums, total)
		largest = top
	}
	return median(sums), largest
}

// parseInittrace adds up lines like `init errors @0.25 ms, 0.003 ms clock, 0 bytes, 0 allocs`
// and names the three largest.
func parseInittrace(text string) (sum float64, largest string) {
	type entry struct {
		name  string
		clock float64
	}
	var top []entry
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 6 || f[0] != "init" || f[5] != "ms" {
			continue
		}
		clock, err := strconv.ParseFloat(f[4], 64)
		if err != nil {
			continue
		}
		sum += clock
		i := 0
		for i < len(top) && top[i].clock >= clock {
			i++
		}
		top = append(top[:i], append([]entry{{f[1], clock}}, top[i:]...)...)
	}
	var names []string
	for _, e := range top[:min(3, len(top))] {
		names = append(names, fmt.Sprintf("%s %.3f", e.name, e.clock))
	}
	return sum, strings.Join(names, ", ")
}
