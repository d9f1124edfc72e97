package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// callsResult is the number of system calls of one `run`, all processes together.
type callsResult struct {
	peer  string
	calls int
	err   string
}

// benchCalls counts with strace, where there is one. Information, not a target: calls
// differ in price by a factor of a thousand.
func (s *suite) benchCalls() error {
	strace, err := exec.LookPath("strace")
	if err != nil {
		return nil
	}
	for _, p := range s.peers {
		if s.stopped.Load() {
			return nil
		}
		id := s.id(p)
		file := filepath.Join(s.work, "run", id+".strace")
		r := callsResult{peer: p.name}
		_, err := s.h.run(append([]string{strace, "-f", "-qq", "-c", "-o", file, "--"}, p.run(plain, id)...))
		if err == nil {
			var table []byte
			if table, err = os.ReadFile(file); err == nil {
				r.calls, err = straceTotal(string(table))
			}
		}
		if err != nil {
			r.err = err.Error()
			s.discard(p, id)
		}
		s.reap(p)
		s.calls = append(s.calls, r)
	}
	return nil
}

// straceTotal reads the calls column of the last line of `strace -c`:
// "100.00 0.001234 3 412 17 total", where the errors column may be missing.
func straceTotal(table string) (int, error) {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) >= 5 && f[len(f)-1] == "total" {
			return strconv.Atoi(f[3])
		}
	}
	return 0, fmt.Errorf("strace: no total in its table")
}
