package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine is where and how the numbers came about. It has no host name in it.
type machine struct {
	start      time.Time
	cpu        string
	cores      int
	memoryMiB  int
	kernel     string
	loadBefore string
	loadAfter  string
	lines      []string // versions and conditions
}

func describeMachine(peers []*peer, o options, replacedCgroup bool) *machine {
	m := &machine{start: time.Now(), cores: runtime.NumCPU(), cpu: "unknown", loadBefore: load()}
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			m.cpu = strings.TrimSpace(value)
			break
		}
	}
	memory, _ := os.ReadFile("/proc/meminfo")
	m.memoryMiB = int(number(string(memory), "MemTotal:")) / 1024
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		m.kernel = unix.ByteSliceToString(uts.Release[:])
	}
	for _, p := range peers {
		m.lines = append(m.lines, fmt.Sprintf("%s: %s", p.name, p.version))
	}
	m.lines = append(m.lines, "harness: "+runtime.Version())
	cgroup := "the host's own cgroup2"
	if replacedCgroup {
		cgroup = "cgroup2 mounted over the host's hybrid tree, in the private mount namespace"
	}
	m.lines = append(m.lines,
		"cgroup: "+cgroup+", controllers: "+controllers(),
		"bundle: runc spec's default with a cgroup namespace; no linux.resources.devices, because crun 1.8 raises RLIMIT_MEMLOCK for them",
		"state directories: tmpfs",
		fmt.Sprintf("rounds: %d after %d of warm-up, order shuffled in each", o.rounds, o.warmup))
	if o.fifo {
		m.lines = append(m.lines, "scheduling: SCHED_FIFO 5 for all that is measured")
	}
	return m
}

func controllers() string {
	text, _ := os.ReadFile(cgroupMount + "/cgroup.controllers")
	if s := strings.TrimSpace(string(text)); s != "" {
		return s
	}
	return "none"
}

func load() string {
	text, _ := os.ReadFile("/proc/loadavg")
	f := strings.Fields(string(text))
	if len(f) < 3 {
		return "unknown"
	}
	return strings.Join(f[:3], " ")
}

func (m *machine) finish() { m.loadAfter = load() }

// fileName says when and on what kind of machine, never on whose.
func (m *machine) fileName() string {
	release, _, _ := strings.Cut(m.kernel, "-")
	return fmt.Sprintf("%s-linux-%s-%s-%dcpu.txt", m.start.UTC().Format("2006-01-02T150405"), release, runtime.GOARCH, m.cores)
}
