package main

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// measure is the second start, in the private mount namespace.
func measure(o options) (int, error) {
	replaced, err := enter(o.isolated)
	if err != nil {
		return 1, err
	}
	peers, err := findPeers(o)
	if err != nil {
		return 1, err
	}
	m := describeMachine(peers, o, replaced)
	h, err := newHarness(o.isolated)
	if err != nil {
		return 1, err
	}
	s := &suite{
		o: o, h: h, work: o.isolated, tag: peers[0].tag, peers: peers,
		order: rand.New(rand.NewPCG(1, 2)),
	} // the same order in every run
	if err := s.bundles(); err != nil {
		return 1, err
	}
	if err := os.Mkdir(filepath.Join(cgroupMount, s.tag), 0o755); err != nil {
		return 1, err
	}
	before, err := takeSnapshot()
	if err != nil {
		return 1, err
	}
	if o.fifo {
		if err := realTime(); err != nil {
			return 1, errors.Join(err, os.Remove(filepath.Join(cgroupMount, s.tag)))
		}
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		for range signals {
			s.stopped.Store(true)
		}
	}()
	caseErr := s.runCases()
	leaked := s.leaks(before)
	m.finish()

	verdicts := s.verdicts()
	report := s.report(m, verdicts, leaked)
	fmt.Print(report)
	if path, err := s.save(m, report); err != nil {
		return 1, errors.Join(caseErr, err)
	} else if path != "" {
		fmt.Printf("\nwritten to %s\n", path)
	}
	code := 0
	switch {
	case s.stopped.Load():
		caseErr = errors.Join(caseErr, errors.New("interrupted: the report is of a part"))
		code = 1
	case caseErr != nil || len(leaked) > 0 || len(s.errs) > 0 || s.minirunFailed():
		code = 1
	case o.strict && slices.ContainsFunc(verdicts, func(v verdict) bool { return v.result != "PASS" }):
		code = 1
	}
	return code, caseErr
}

// findPeers lists who is compared: minirun, the Debian runtimes or what BENCH_PEERS has
// under their names, further ones from BENCH_PEERS, bubblewrap, and the floor.
func findPeers(o options) ([]*peer, error) {
	given := peersFromEnv()
	if err := checkPeers(given); err != nil {
		return nil, err
	}
	tag := fmt.Sprintf("mrbench%d", os.Getpid())
	var peers []*peer
	add := func(name, path string, k kind) error {
		abs, err := exec.LookPath(path)
		if err == nil {
			abs, err = filepath.Abs(abs)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		p := &peer{name: name, path: abs, kind: k, work: o.isolated, tag: tag, version: "c/floor.c"}
		if k != floorKind {
			p.version = version(abs)
		}
		peers = append(peers, p)
		return nil
	}
	var errs []error
	bin := filepath.Join(o.isolated, "bin")
	if !o.noMinirun {
		errs = append(errs, add("minirun", filepath.Join(bin, "minirun"), ociRuntime))
	}
	for _, name := range []string{"crun", "runc"} {
		path := name
		if given[name] != "" {
			path = given[name]
			delete(given, name)
		}
		errs = append(errs, add(name, path, ociRuntime))
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		errs = append(errs, add(name, given[name], ociRuntime))
	}
	errs = append(errs, add("bwrap", "bwrap", bwrapKind), add("floor", filepath.Join(bin, "floor"), floorKind))
	return peers, errors.Join(errs...)
}

// bundles writes every peer's bundles and the root filesystem that all of them use.
func (s *suite) bundles() error {
	if err := writeRootfs(filepath.Join(s.work, "rootfs")); err != nil {
		return fmt.Errorf("root filesystem: %w", err)
	}
	for _, p := range s.oci() {
		for _, v := range []variant{plain, sleeper, seccomp, userns, probeOf(plain), probeOf(seccomp), probeOf(userns)} {
			config, err := spec(v, p.rootfs(), p.cgroup(v))
			if err != nil {
				return err
			}
			if err := writeBundle(p.bundle(v), config); err != nil {
				return err
			}
		}
	}
	return nil
}

// minirunFailed tells whether any measured command of minirun failed.
func (s *suite) minirunFailed() bool {
	for _, x := range s.series {
		if x.peer == "minirun" && x.failures > 0 {
			return true
		}
	}
	for _, m := range s.memory {
		if m.peer == "minirun" && m.peakBad+m.initBad != "" {
			return true
		}
	}
	return s.init != nil && s.init.minirun.failures > 0
}

// save writes the report and the raw samples where -out or -save say. "" when neither does.
func (s *suite) save(m *machine, report string) (string, error) {
	dir := s.o.out
	if dir == "" {
		if !s.o.save {
			return "", nil
		}
		module, err := moduleDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(module, "benchmarks", "results")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(dir, m.fileName())
	return path, os.WriteFile(path, []byte(strings.TrimRight(report, "\n")+"\n\n"+s.samples(m)), 0o644)
}
