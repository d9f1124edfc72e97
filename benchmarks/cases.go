package main

import "fmt"

// benchRun measures `run true`: create, start, wait and delete in one command.
func (s *suite) benchRun(test string, v variant, peers []*peer) error {
	for _, p := range peers {
		s.at(test, p)
	}
	s.probe(v, peers)
	s.rounds(peers, func(p *peer, record bool) *series {
		x, id := s.at(test, p), s.id(p)
		if _, ok := s.timed(x, p.run(v, id), record); !ok {
			s.discard(p, id)
		}
		s.reap(p)
		return x
	})
	return nil
}

// benchLife measures the commands that engines use, and their sum. The container's own end
// lies between start and delete and is not counted.
func (s *suite) benchLife() error {
	steps := []string{"create", "start", "delete", "create+start+delete"}
	for _, test := range steps {
		for _, p := range s.oci() {
			s.at(test, p)
		}
	}
	s.rounds(s.oci(), func(p *peer, record bool) *series {
		id := s.id(p)
		sum := s.at(steps[3], p)
		var total usage
		for i, argv := range [][]string{p.verb("create", "-b", p.bundle(plain), id), p.verb("start", id), p.verb("delete", id)} {
			u, ok := s.timed(s.at(steps[i], p), argv, record)
			if !ok {
				s.discard(p, id)
				s.reap(p)
				sum.fail(fmt.Errorf("%s failed", steps[i]))
				return sum
			}
			total.wall += u.wall
			total.cpu += u.cpu
			if i > 0 {
				s.reap(p) // `true` ends after start
			}
		}
		sum.row = 0
		if record {
			sum.add(total)
		}
		return sum
	})
	return nil
}

// benchRunning measures commands on a container that runs meanwhile: exec and state.
func (s *suite) benchRunning(test string, argv func(p *peer, id string) []string) error {
	ids := map[*peer]string{}
	var ready []*peer
	for _, p := range s.oci() {
		x, id := s.at(test, p), s.id(p)
		ids[p] = id
		_, err := s.h.run(p.verb("create", "-b", p.bundle(sleeper), id))
		if err == nil {
			_, err = s.h.run(p.verb("start", id))
		}
		if err != nil {
			x.fail(fmt.Errorf("no container to work on: %w", err))
			continue
		}
		ready = append(ready, p)
	}
	s.rounds(ready, func(p *peer, record bool) *series {
		x := s.at(test, p)
		s.timed(x, argv(p, ids[p]), record)
		return x
	})
	for _, p := range s.oci() {
		s.discard(p, ids[p])
	}
	if err := s.h.reap(); err != nil {
		s.problem("%s: %v", test, err)
	}
	return nil
}

// runCases runs what was asked for.
func (s *suite) runCases() error {
	cases := []struct {
		name string
		run  func() error
	}{
		{"run", func() error { return s.benchRun("run", plain, s.peers) }},
		{"run-seccomp", func() error { return s.benchRun("run-seccomp", seccomp, s.oci()) }},
		{"run-userns", func() error { return s.benchRun("run-userns", userns, s.oci()) }},
		{"life", s.benchLife},
		{"exec", func() error {
			return s.benchRunning("exec", func(p *peer, id string) []string { return p.verb("exec", id, "true") })
		}},
		{"state", func() error {
			return s.benchRunning("state", func(p *peer, id string) []string { return p.verb("state", id) })
		}},
		{"memory", s.benchMemory},
		{"init", s.benchInit},
		{"syscalls", s.benchCalls},
	}
	for _, c := range cases {
		if !s.o.selected(c.name) || s.stopped.Load() {
			continue
		}
		fmt.Printf("measuring %s\n", c.name)
		if err := c.run(); err != nil {
			return fmt.Errorf("case %s: %w", c.name, err)
		}
	}
	return nil
}
