package main

import (
	"fmt"
	"math"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// ms formats nanoseconds as milliseconds; a dash when there is nothing to format.
func ms(ns float64) string {
	if math.IsNaN(ns) {
		return "-"
	}
	return fmt.Sprintf("%.3f", ns/1e6)
}

func kib(v float64) string {
	if v < 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f", v)
}

func (s *suite) report(m *machine, verdicts []verdict, leaked []string) string {
	var b strings.Builder
	// Indented: benchstat takes "key: value" at the start of a line for a property of the
	// samples, and compares only samples of the same properties.
	fmt.Fprintf(&b, "\n  date: %s\n  cpu: %s, %d cores, %d MiB\n  kernel: %s\n  load: %s before, %s after\n",
		m.start.UTC().Format(time.RFC3339), m.cpu, m.cores, m.memoryMiB, m.kernel, m.loadBefore, m.loadAfter)
	for _, line := range m.lines {
		fmt.Fprintln(&b, "  "+line)
	}
	s.timeTable(&b)
	s.memoryTable(&b)
	s.initTable(&b)
	s.callsTable(&b)
	s.failures(&b, leaked)
	fmt.Fprintln(&b)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "target\tlimit\tgot\tresult")
	for _, v := range verdicts {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", v.what, v.limit, v.got, v.result)
	}
	w.Flush()
	// The table writer pads the lines that only separate.
	lines := strings.Split(b.String(), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

func (s *suite) timeTable(b *strings.Builder) {
	if len(s.series) == 0 {
		return
	}
	fmt.Fprintln(b, "\ntimes in ms; cpu is the median of user+system of the command and the descendants it waited for;\nratio is the median over minirun's: above 1 is slower than minirun")
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
	last := ""
	fmt.Fprintln(w, "case\truntime\tn\tmedian\tp10\tp90\tp99\tcpu\tratio\tfailures\t")
	for _, x := range s.series {
		if last != "" && x.test != last {
			fmt.Fprintln(w, strings.Repeat("\t", 10))
		}
		last = x.test
		ratio := "-"
		if base := s.find(x.test, "minirun"); base != nil && len(base.wall) > 0 && len(x.wall) > 0 {
			ratio = fmt.Sprintf("%.2f", median(x.wall)/median(base.wall))
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t\n", x.test, x.peer, len(x.wall), ms(median(x.wall)),
			ms(quantile(x.wall, 0.10)), ms(quantile(x.wall, 0.90)), ms(quantile(x.wall, 0.99)), ms(median(x.cpu)), ratio, x.failures)
	}
	w.Flush()
}

func (s *suite) memoryTable(b *strings.Builder) {
	if len(s.memory) == 0 {
		return
	}
	fmt.Fprintf(b, "\nmemory in KiB; run: peak resident set of the largest process, median of %d; init: the process waiting for start\n", memoryRuns)
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "runtime\trun peak\tinit RSS\tinit PSS\tinit threads\tinit exe\t")
	for _, m := range s.memory {
		threads, exe := "-", "-"
		if m.threads > 0 {
			threads, exe = fmt.Sprint(m.threads), m.exe
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t\n", m.peer, kib(m.peak), kib(m.rss), kib(m.pss), threads, exe)
	}
	w.Flush()
}

func (s *suite) initTable(b *strings.Builder) {
	r := s.init
	if r == nil {
		return
	}
	fmt.Fprintln(b, "\npackage initialization: `minirun --version` and a Go program that only prints the same; times in ms")
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "program\tn\tmedian\tp10\tp90\tp99\tcpu\tfailures\tinittrace sum\t")
	for _, x := range []struct {
		*series
		traced float64
	}{{&r.minirun, r.tracedMinirun}, {&r.empty, r.tracedEmpty}} {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t\n", x.peer, len(x.wall), ms(median(x.wall)), ms(quantile(x.wall, 0.1)),
			ms(quantile(x.wall, 0.9)), ms(quantile(x.wall, 0.99)), ms(median(x.cpu)), x.failures, ms(x.traced*1e6))
	}
	w.Flush()
	fmt.Fprintf(b, "  difference: %.3f wall, %.3f cpu (medians of the differences of pairs)\n", r.cost(), pairedMedian(r.minirun.cpu, r.empty.cpu)/1e6)
	if r.largest != "" {
		fmt.Fprintf(b, "  slowest packages by inittrace: %s\n", r.largest)
	}
}

func (s *suite) callsTable(b *strings.Builder) {
	if len(s.calls) == 0 {
		return
	}
	fmt.Fprintln(b, "\nsystem calls of one run, all processes (strace -f -c)")
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, c := range s.calls {
		calls := "-"
		if c.err == "" {
			calls = fmt.Sprint(c.calls)
		}
		fmt.Fprintf(w, "%s\t%s\t\n", c.peer, calls)
	}
	w.Flush()
}

// failures prints the first error of everything that failed, and what was left behind.
func (s *suite) failures(b *strings.Builder, leaked []string) {
	var lines []string
	note := func(test, peer, text string) {
		if text != "" {
			lines = append(lines, fmt.Sprintf("FAILED %s %s: %s", test, peer, text))
		}
	}
	all := s.series
	if s.init != nil {
		all = append(append([]*series{}, all...), &s.init.minirun, &s.init.empty)
	}
	for _, x := range all {
		text := x.firstError
		if x.row >= giveUpAfter {
			text += fmt.Sprintf(" (given up after %d failures in a row)", x.row)
		}
		note(x.test, x.peer, text)
	}
	for _, m := range s.memory {
		note("memory of run", m.peer, m.peakBad)
		note("memory of init", m.peer, m.initBad)
	}
	for _, c := range s.calls {
		note("syscalls", c.peer, c.err)
	}
	for _, e := range s.errs {
		lines = append(lines, "FAILED "+e)
	}
	for _, l := range leaked {
		lines = append(lines, "LEAK "+l)
	}
	if len(leaked) == 0 {
		lines = append(lines, "leak check: no process, mount, cgroup, state or descriptor left")
	}
	fmt.Fprintf(b, "\n%s\n", strings.Join(lines, "\n"))
}

// samples are the raw numbers in the format that benchstat reads.
func (s *suite) samples(m *machine) string {
	var b strings.Builder
	fmt.Fprintf(&b, "goos: linux\ngoarch: %s\ncpu: %s\n", runtime.GOARCH, m.cpu)
	all := s.series
	if s.init != nil {
		all = append(append([]*series{}, all...), &s.init.minirun, &s.init.empty)
	}
	for _, x := range all {
		for i := range x.wall {
			fmt.Fprintf(&b, "Benchmark%s/%s 1 %.0f ns/op %.0f cpu-ns/op\n", benchName(x.test), x.peer, x.wall[i], x.cpu[i])
		}
	}
	return b.String()
}

// benchName turns "run-userns" into "RunUserns", "create+start+delete" into "CreateStartDelete".
func benchName(test string) string {
	var b strings.Builder
	for _, word := range strings.FieldsFunc(test, func(r rune) bool { return r == '-' || r == '+' }) {
		b.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return b.String()
}
