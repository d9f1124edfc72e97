package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// counter turns events into progress lines and totals.
type counter struct {
	w                       io.Writer
	name                    string // of the phase
	passed, failed, skipped int
	packages                map[string]*pkg
	builds                  map[string]string // import path -> what the compiler said
	failures                []string          // names, for the summary
	passes                  map[string]bool   // names
	unstable                []string          // names of those that failed once
	skips                   []string          // names with reasons
	phases                  []string          // one line per phase
	slow                    []slowTest
	atPhase                 [3]int // totals when the phase began
}

// pkg is a package whose tests are running.
type pkg struct {
	tests map[string]*test
	out   strings.Builder // output of no test
	exit  string          // why its process counts as failed whatever it printed
}

// test is a test or a subtest.
type test struct {
	action  string // pass, fail, skip; empty while it runs
	elapsed float64
	out     strings.Builder
}

// slowTest is one that takes so long that the summary names it: twenty at most.
type slowTest struct {
	name    string
	seconds float64
}

const slowSeconds = 10

func newCounter(w io.Writer) *counter {
	return &counter{w: w, packages: make(map[string]*pkg), passes: make(map[string]bool), builds: make(map[string]string)}
}

func (c *counter) phase(name string) {
	c.name = name
	c.atPhase = [3]int{c.passed, c.failed, c.skipped}
	fmt.Fprintf(c.w, "=== %s\n", name)
}

func (c *counter) phaseDone(d time.Duration) {
	c.phases = append(c.phases, fmt.Sprintf("%-6s %s in %s", c.name, countLine(
		c.passed-c.atPhase[0], c.failed-c.atPhase[1], c.skipped-c.atPhase[2]), d.Round(100*time.Millisecond)))
}

func countLine(passed, failed, skipped int) string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", passed, failed, skipped)
}

// fail counts something that is no test as failed.
func (c *counter) fail(name, why string) {
	c.failed++
	c.failures = append(c.failures, name)
	fmt.Fprintf(c.w, "--- FAIL: %s\n%s", name, indent(why))
}

// skip counts a test that could not run.
func (c *counter) skip(name, why string) {
	c.skipped++
	c.skips = append(c.skips, name+": "+why)
}

func (c *counter) pass() { c.passed++ }

func indent(s string) string {
	s = strings.TrimRight(s, "\n")
	if s == "" {
		return ""
	}
	return "    " + strings.ReplaceAll(s, "\n", "\n    ") + "\n"
}

// add takes one event.
func (c *counter) add(e event) {
	switch e.Action {
	case "build-output":
		c.builds[e.ImportPath] += e.Output
		return
	case "build-fail":
		return // a fail event of every package that needs it follows
	}
	if e.Package == "" {
		return
	}
	p := c.packages[e.Package]
	if p == nil {
		p = &pkg{tests: make(map[string]*test)}
		c.packages[e.Package] = p
	}
	if e.Test == "" {
		switch e.Action {
		case "output":
			p.out.WriteString(e.Output)
		case "pass", "fail", "skip":
			c.endPackage(e.Package, p, e)
		}
		return
	}
	t := p.tests[e.Test]
	if t == nil {
		t = &test{}
		p.tests[e.Test] = t
	}
	switch e.Action {
	case "output":
		t.out.WriteString(e.Output)
	case "pass", "fail", "skip":
		t.action, t.elapsed = e.Action, e.Elapsed
	}
}

// exited notes that a test process ended badly, before its package's last event.
func (c *counter) exited(name, why string) {
	p := c.packages[name]
	if p == nil {
		p = &pkg{tests: make(map[string]*test)}
		c.packages[name] = p
	}
	p.exit = why
}

func (c *counter) endPackage(name string, p *pkg, e event) {
	delete(c.packages, name)
	if e.Action == "skip" { // no test files, or none that the phase selects
		return
	}
	before := [3]int{c.passed, c.failed, c.skipped}
	for _, tn := range slices.Sorted(maps.Keys(p.tests)) {
		c.countTest(name, tn, p)
	}
	passed, failed, skipped := c.passed-before[0], c.failed-before[1], c.skipped-before[2]
	if p.exit != "" {
		if failed > 0 {
			fmt.Fprintf(c.w, "    %s: %s\n", name, p.exit)
		}
		e.Action = "fail"
		p.out.WriteString(p.exit + "\n")
	}
	if e.Action == "fail" && failed == 0 {
		c.fail(name, c.builds[e.FailedBuild]+p.out.String())
		failed++
	}
	word := "ok  "
	if failed > 0 {
		word = "FAIL"
	} else if passed+skipped == 0 {
		return
	}
	fmt.Fprintf(c.w, "%s %s  %s  %.1fs\n", word, name, countLine(passed, failed, skipped), e.Elapsed)
}

func (c *counter) countTest(pkgName, name string, p *pkg) {
	t := p.tests[name]
	if strings.HasPrefix(name, "Fuzz") && strings.Contains(name, "/") {
		if t.action == "fail" {
			fmt.Fprintf(c.w, "%s", indent(messages(t.out.String())))
		}
		return
	}
	parent, childFailed := false, false
	for n, other := range p.tests {
		if strings.HasPrefix(n, name+"/") {
			parent = true
			childFailed = childFailed || other.action == "fail" || other.action == ""
		}
	}
	if strings.HasPrefix(name, "Fuzz") {
		parent, childFailed = false, false
	}
	full := pkgName + " " + name
	switch t.action {
	case "pass":
		c.passes[full] = true
		if !parent {
			c.passed++
			if t.elapsed >= slowSeconds {
				c.slow = append(c.slow, slowTest{full, t.elapsed})
			}
		}
	case "skip":
		c.skipped++
		why := strings.Join(strings.Fields(messages(t.out.String())), " ")
		if why == "" {
			why = "no reason given"
		}
		c.skips = append(c.skips, full+": "+why)
	case "fail":
		out := messages(t.out.String())
		if !childFailed {
			c.fail(full, out)
		} else if out != "" {
			fmt.Fprintf(c.w, "    output of %s:\n%s", full, indent(out))
		}
	default: // the process ended while it ran
		if !childFailed {
			c.fail(full, "did not finish\n"+messages(t.out.String()))
		}
	}
}

// messages is a test's output without the lines of the testing framework.
func messages(out string) string {
	var b strings.Builder
	for line := range strings.Lines(out) {
		trimmed := strings.TrimLeft(line, " ")
		if strings.HasPrefix(line, "=== ") || strings.HasPrefix(trimmed, "--- FAIL: ") || strings.HasPrefix(trimmed, "--- SKIP: ") ||
			strings.HasPrefix(trimmed, "--- PASS: ") {
			continue
		}
		b.WriteString(line)
	}
	return b.String()
}

// finish ends a phase: packages without a last event are failures.
func (c *counter) finish() {
	for _, name := range slices.Sorted(maps.Keys(c.packages)) {
		p := c.packages[name]
		p.out.WriteString("the test process ended without a result\n")
		c.endPackage(name, p, event{Action: "fail"})
	}
	clear(c.builds)
}

// summary prints what is left to say and reports whether nothing failed.
func (c *counter) summary() bool {
	fmt.Fprintln(c.w, "=== summary")
	for _, line := range c.phases {
		fmt.Fprintln(c.w, line)
	}
	slices.SortFunc(c.slow, func(a, b slowTest) int { return cmp.Compare(b.seconds, a.seconds) })
	for _, s := range c.slow[:min(len(c.slow), 20)] {
		fmt.Fprintf(c.w, "slow:    %s took %.0fs\n", s.name, s.seconds)
	}
	for _, f := range c.failures {
		fmt.Fprintf(c.w, "failed:  %s\n", f)
	}
	for _, f := range c.unstable {
		fmt.Fprintf(c.w, "unstable: %s (failed, and passed when run again alone)\n", f)
	}
	for _, s := range c.skips {
		fmt.Fprintf(c.w, "skipped: %s\n", s)
	}
	fmt.Fprintln(c.w, countLine(c.passed, c.failed, c.skipped))
	return c.failed == 0
}
