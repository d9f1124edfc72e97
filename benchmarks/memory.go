package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// memoryResult is the memory of one runtime, in KiB; -1 was not measured.
type memoryResult struct {
	peer     string
	peak     float64 // of `run`, the largest process of the reaped tree; median of memoryRuns
	peakBad  string
	rss, pss float64 // of the init that waits for start
	threads  int
	exe      string
	initBad  string
}

const memoryRuns = 5

// benchMemory measures the peak of run, and the init that create leaves waiting.
func (s *suite) benchMemory() error {
	launch := filepath.Join(s.work, "bin", "launch")
	for _, p := range s.peers {
		if s.stopped.Load() {
			return nil
		}
		m := memoryResult{peer: p.name, peak: -1, rss: -1, pss: -1}
		var peaks []float64
		for range memoryRuns {
			id := s.id(p)
			kib, err := s.peak(append([]string{launch}, p.run(plain, id)...))
			if err != nil {
				m.peakBad = err.Error()
				s.discard(p, id)
			} else {
				peaks = append(peaks, kib)
			}
			s.reap(p)
		}
		if len(peaks) > 0 {
			m.peak = median(peaks)
		}
		if p.kind == ociRuntime {
			if err := s.waiting(p, &m); err != nil {
				m.initBad = err.Error()
			}
		}
		s.memory = append(s.memory, m)
	}
	return nil
}

func (s *suite) peak(argv []string) (float64, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	_, err = s.h.run(argv, w.Fd())
	w.Close()
	if err != nil {
		return 0, err
	}
	buffer := make([]byte, 32)
	n, err := r.Read(buffer)
	if err != nil {
		return 0, fmt.Errorf("launcher's report: %w", err)
	}
	return strconv.ParseFloat(strings.TrimSpace(string(buffer[:n])), 64)
}

// waiting looks at the init process between create and start.
func (s *suite) waiting(p *peer, m *memoryResult) error {
	id := s.id(p)
	file := filepath.Join(s.work, "run", id+".pid")
	defer s.reap(p)
	defer s.discard(p, id)
	if _, err := s.h.run(p.verb("create", "-b", p.bundle(plain), "--pid-file", file, id)); err != nil {
		return err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	proc := "/proc/" + strings.TrimSpace(string(text))
	rollup, err := os.ReadFile(proc + "/smaps_rollup")
	if err != nil {
		return err
	}
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		return err
	}
	if m.exe, err = os.Readlink(proc + "/exe"); err != nil {
		return err
	}
	m.rss, m.pss = number(string(rollup), "Rss:"), number(string(rollup), "Pss:")
	m.threads = int(number(string(status), "Threads:"))
	return os.Remove(file)
}

// number is the first number of the line that begins with key, -1 without one.
func number(text, key string) float64 {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			if fields := strings.Fields(rest); len(fields) > 0 {
				if v, err := strconv.ParseFloat(fields[0], 64); err == nil {
					return v
				}
			}
		}
	}
	return -1
}
