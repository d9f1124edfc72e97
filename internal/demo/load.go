package demo

import (
	goruntime "runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// burn uses the CPU: -t SECONDS (1), -n THREADS (1). It prints how far it came,
// the CPU time it was given, and what the cgroup says about throttling.
func burn(args []string) int {
	duration, threads := time.Second, 1
	rest, ok := options(args, "tn", "", func(o byte, v string) (ok bool) {
		if o == 't' {
			duration, ok = seconds(v)
		} else {
			threads, ok = number(v, 1, 1024)
		}
		return ok
	})
	if !ok || len(rest) != 0 {
		return usage("burn [-t SECONDS] [-n THREADS]")
	}
	// The Go runtime takes a cgroup's CPU limit as the number of threads to
	// use; to run into the limit one has to ask for more.
	goruntime.GOMAXPROCS(threads)
	before, _ := cpuStat()
	start := time.Now()
	counts := make([]int64, threads)
	var wg sync.WaitGroup
	for i := range counts {
		wg.Go(func() { counts[i] = spin(start, duration) })
	}
	wg.Wait()
	elapsed := time.Since(start)
	after, visible := cpuStat()
	var total int64
	for _, c := range counts {
		total += c
	}
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		return fail("burn", "getrusage: ", err.Error())
	}
	cpu := time.Duration(unix.TimevalToNsec(ru.Utime) + unix.TimevalToNsec(ru.Stime))
	o := &out{fd: 1}
	o.s("threads ").n(int64(threads)).s("\n")
	o.s("iterations ").n(total).s("\n")
	o.s("wall_usec ").n(elapsed.Microseconds()).s("\n")
	o.s("cpu_usec ").n(cpu.Microseconds()).s("\n")
	if visible {
		o.s("nr_periods ").n(after[0] - before[0]).s("\n")
		o.s("nr_throttled ").n(after[1] - before[1]).s("\n")
		o.s("throttled_usec ").n(after[2] - before[2]).s("\n")
	}
	return o.status()
}

// spin works until d after start and returns the number of rounds. The clock
// is looked at once per round so that it does not become the work.
func spin(start time.Time, d time.Duration) int64 {
	x := uint64(88172645463325252)
	var rounds int64
	for time.Since(start) < d {
		for range 10000 {
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
		}
		rounds++
	}
	if x == 0 { // never: xorshift has no way to zero; keeps x alive
		return 0
	}
	return rounds
}

// cpuStat reads nr_periods, nr_throttled and throttled_usec of our own cgroup
// (version 2); false where they are not to be seen.
func cpuStat() (v [3]int64, ok bool) {
	own, err := linux.ReadFile("/proc/self/cgroup", 1<<20)
	if err != nil {
		return v, false
	}
	path := ""
	for line := range strings.SplitSeq(string(own), "\n") {
		if p, found := strings.CutPrefix(line, "0::"); found {
			path = p
		}
	}
	stat, err := linux.ReadFile("/sys/fs/cgroup"+path+"/cpu.stat", 1<<16)
	if err != nil {
		return v, false
	}
	for line := range strings.SplitSeq(string(stat), "\n") {
		name, value, _ := strings.Cut(line, " ")
		for i, want := range [...]string{"nr_periods", "nr_throttled", "throttled_usec"} {
			if name == want {
				if n, good := size(value); good {
					v[i], ok = n, true
				}
			}
		}
	}
	return v, ok
}

// eat uses memory: SIZE bytes are mapped and every page touched, STEP bytes
// (-step, a sixteenth) at a time with a line after each, then held for -s SECONDS (0).
func eat(args []string) int {
	const how = "eat SIZE[kMG] [-step SIZE[kMG]] [-s SECONDS]"
	var total, step int64
	var hold time.Duration
	have := false
	for i := 0; i < len(args); i++ {
		ok := true
		switch {
		case (args[i] == "-step" || args[i] == "--step") && i+1 < len(args):
			i++
			step, ok = size(args[i])
			ok = ok && step > 0
		case args[i] == "-s" && i+1 < len(args):
			i++
			hold, ok = seconds(args[i])
		case !have:
			total, ok = size(args[i])
			have = true
		default:
			ok = false
		}
		if !ok {
			return usage(how)
		}
	}
	if !have {
		return usage(how)
	}
	page := int64(unix.Getpagesize())
	if step == 0 {
		step = total / 16
	}
	step = max(step, page)
	o := &out{fd: 1}
	for eaten := int64(0); eaten < total; {
		n := min(step, total-eaten)
		b, err := unix.Mmap(-1, 0, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return fail("eat", "mmap: ", err.Error())
		}
		for at := int64(0); at < n; at += page {
			b[at] = 1
		}
		eaten += n
		// Line by line: the last one seen tells how far it came before it was killed.
		if !o.s("ate ").n(eaten).s(" of ").n(total).s(" bytes\n").flush() {
			return 1
		}
	}
	if hold > 0 {
		return wait(hold)
	}
	return 0
}
