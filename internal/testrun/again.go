package main

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// mostAgain is how many tests of a phase may have failed for them to be run
// again: more than a few are no coincidence.
const mostAgain = 5

// again runs the tests that failed in a phase once more, alone. Those that pass
// then count as passed but are listed as unstable: a host that was busy at the
// wrong moment must not hide what the other thousand tests say, and nobody must
// believe that such a test is fine. before is what had failed before the phase.
func again(ctx context.Context, o *options, c *counter, name string, phase func(context.Context, *options, *counter) error, before int) {
	failed := slices.Clone(c.failures[before:])
	if len(failed) == 0 || len(failed) > mostAgain || ctx.Err() != nil {
		return
	}
	tests, packages := map[string]bool{}, map[string]bool{}
	for _, f := range failed {
		pkg, test, ok := strings.Cut(f, " ")
		if !ok || !strings.HasPrefix(test, "Test") {
			return // a package or phase: what is wrong there stays wrong
		}
		top, _, _ := strings.Cut(test, "/")
		tests[regexp.QuoteMeta(top)], packages[pkg] = true, true
	}
	alone := *o
	alone.packages = slices.Sorted(maps.Keys(packages))
	alone.run = "^(" + strings.Join(slices.Sorted(maps.Keys(tests)), "|") + ")$"
	fmt.Fprintf(c.w, "=== %s: what failed, again\n", name)
	second := newCounter(c.w)
	start := time.Now()
	err := phase(ctx, &alone, second)
	second.finish()
	c.phases = append(c.phases, fmt.Sprintf("%-6s %s in %s, of what failed", "again", countLine(second.passed, second.failed, second.skipped), time.Since(start).Round(100*time.Millisecond)))
	if err != nil || second.failed > 0 || ctx.Err() != nil {
		return
	}
	c.failures = slices.DeleteFunc(c.failures, func(f string) bool {
		if !slices.Contains(failed, f) || !second.passes[f] {
			return false
		}
		c.failed--
		c.passed++
		c.unstable = append(c.unstable, f)
		return true
	})
}
