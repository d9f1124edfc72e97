package main

import (
	"fmt"
	"strings"
)

// probeOf is the variant with the same container that runs the probe instead of `true`.
func probeOf(v variant) variant { return "probe-" + v }

// probed undoes probeOf.
func probed(v variant) (variant, bool) {
	rest, ok := strings.CutPrefix(string(v), "probe-")
	return variant(rest), ok
}

// probePassed is the exit status of a container that is what the bundle says.
const probePassed = 42

// probeChecks are shell commands that must succeed in every container; the exit status of
// the probe is the number of the first that does not. A runtime that skips the work, or
// does not even run the process, would otherwise look fast.
var probeChecks = []struct{ what, command string }{
	{"is process 1", `test $$ -eq 1`},
	{"host name from the bundle", `test "$(busybox cat /proc/sys/kernel/hostname)" = bench`},
	{"network namespace with loopback only", `test "$(busybox grep -c : /proc/net/dev)" -eq 1`},
	{"read-only root", `! busybox touch /file`},
	{"private /dev with a working null", `echo x >/dev/null && ! test -e /dev/kmsg`},
	{"masked /proc/keys", `test -z "$(busybox cat /proc/keys)"`},
	{"masked /sys/firmware", `test -z "$(busybox ls /sys/firmware)"`},
	{"capabilities", `busybox grep -q "CapEff:.0000000020000420" /proc/self/status`},
	{"no new privileges", `busybox grep -q "NoNewPrivs:.1" /proc/self/status`},
}

// ociChecks hold for what bubblewrap cannot do.
var ociChecks = []struct{ what, command string }{
	{"bounding set", `busybox grep -q "CapBnd:.0000000020000420" /proc/self/status`},
	{"read-only /proc/sys", `! echo other >/proc/sys/kernel/hostname`},
	{"open file limit", `test "$(ulimit -n)" = 1024`},
	{"cgroup namespace", `busybox grep -q "^0::/$" /proc/self/cgroup`},
	{"read-only cgroup2 mount", `busybox grep -q " /sys/fs/cgroup cgroup2 ro," /proc/mounts`},
}

// probeScript is the probe for a variant and the list of its checks.
func probeScript(v variant, k kind) (script string, what []string) {
	checks := append(probeChecks[:len(probeChecks):len(probeChecks)], ociChecks...)
	if k == bwrapKind {
		checks = probeChecks
	}
	switch v {
	case seccomp:
		checks = append(checks, struct{ what, command string }{"seccomp filter", `busybox grep -q "Seccomp:.2" /proc/self/status`})
	case userns:
		checks = append(checks, struct{ what, command string }{"user id map", fmt.Sprintf(`busybox grep -q " %d " /proc/self/uid_map`, mappedID)})
	}
	var b strings.Builder
	for i, c := range checks {
		fmt.Fprintf(&b, "{ %s; } 2>/dev/null || exit %d\n", c.command, i+1)
		what = append(what, c.what)
	}
	fmt.Fprintf(&b, "exit %d\n", probePassed)
	return b.String(), what
}

// probe notes every runtime whose container is not what the others' are.
func (s *suite) probe(v variant, peers []*peer) {
	for _, p := range peers {
		id := s.id(p)
		_, err := s.h.run(p.run(probeOf(v), id))
		status, failed := exitStatus(err)
		_, what := probeScript(v, p.kind)
		switch {
		case failed && status == probePassed:
		case failed && status >= 1 && status <= len(what):
			s.problem("%s: its %s container is not the one of the bundle: %s (%v)", p.name, v, what[status-1], err)
		default:
			s.problem("%s: its %s container did not run its process: exit %d (%v)", p.name, v, status, err)
		}
		s.discard(p, id)
		s.reap(p)
	}
}
