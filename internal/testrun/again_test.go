package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
)

// runs is a phase that reports, each time it runs, what the next text says: a
// word per test, "name:result".
type runs struct {
	texts []string
	runs  []string // patterns of the runs
	err   error    // of the second run
}

func (r *runs) phase(_ context.Context, o *options, c *counter) error {
	text := r.texts[len(r.runs)]
	r.runs = append(r.runs, strings.Join(o.packages, ",")+" "+o.run)
	for word := range strings.FieldsSeq(text) {
		name, action, _ := strings.Cut(word, ":")
		pkg, test, _ := strings.Cut(name, ".")
		c.add(event{Action: action, Package: pkg, Test: test})
	}
	for _, p := range []string{"a", "b"} {
		c.add(event{Action: "pass", Package: p})
	}
	c.finish()
	if len(r.runs) == 2 {
		return r.err
	}
	return nil
}

func TestAgain(t *testing.T) {
	busy := errors.New("no second machine")
	tests := []struct {
		name, first, second string
		err                 error
		want                string
		unstable            []string
		pattern             string
	}{
		{"passes alone", "a.TestX:pass a.TestY:fail b.TestZ:pass", "a.TestY:pass", nil, "3 passed, 0 failed, 0 skipped", []string{"a TestY"}, "a ^(TestY)$"},
		{"fails again", "a.TestX:pass a.TestY:fail", "a.TestY:fail", nil, "1 passed, 1 failed, 0 skipped", nil, "a ^(TestY)$"},
		{"one of two fails again", "a.TestX:fail b.TestY:fail", "a.TestX:pass b.TestY:fail", nil, "0 passed, 2 failed, 0 skipped", nil, "a,b ^(TestX|TestY)$"},
		{"does not run again", "a.TestX:fail", "", nil, "0 passed, 1 failed, 0 skipped", nil, "a ^(TestX)$"},
		{"is skipped then", "a.TestX:fail", "a.TestX:skip", nil, "0 passed, 1 failed, 0 skipped", nil, "a ^(TestX)$"},
		{"a subtest", "a.TestX/one:pass a.TestX/two:fail a.TestX:fail", "a.TestX/one:pass a.TestX/two:pass a.TestX:pass", nil, "2 passed, 0 failed, 0 skipped", []string{"a TestX/two"}, "a ^(TestX)$"},
		{"another subtest then", "a.TestX/one:pass a.TestX/two:fail a.TestX:fail", "a.TestX/one:fail a.TestX/two:pass a.TestX:fail", nil, "1 passed, 1 failed, 0 skipped", nil, "a ^(TestX)$"},
		{"the phase fails then", "a.TestX:fail", "a.TestX:pass", busy, "0 passed, 1 failed, 0 skipped", nil, "a ^(TestX)$"},
		{"too many", "a.TestA:fail a.TestB:fail a.TestC:fail a.TestD:fail a.TestE:fail a.TestF:fail", "", nil, "0 passed, 6 failed, 0 skipped", nil, ""},
		{"nothing failed", "a.TestX:pass", "", nil, "1 passed, 0 failed, 0 skipped", nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			c, r := newCounter(&out), &runs{texts: []string{tt.first, tt.second}, err: tt.err}
			if err := r.phase(t.Context(), &options{}, c); err != nil {
				t.Fatal(err)
			}
			again(t.Context(), &options{}, c, "root", r.phase, 0)
			ok := c.summary()
			if got := countLine(c.passed, c.failed, c.skipped); got != tt.want || ok != (c.failed == 0) || !slices.Equal(c.unstable, tt.unstable) {
				t.Errorf("%s, unstable %q; want %s, unstable %q\n%s", got, c.unstable, tt.want, tt.unstable, out.String())
			}
			if got := r.runs[len(r.runs)-1]; len(r.runs) == 2 && got != tt.pattern || len(r.runs) == 1 && tt.pattern != "" {
				t.Errorf("ran %q, want %q", r.runs, tt.pattern)
			}
			for _, u := range tt.unstable {
				if !strings.Contains(out.String(), "\nunstable: "+u+" ") {
					t.Errorf("no word of %s in\n%s", u, out.String())
				}
			}
		})
	}
}

// A package that does not build stays a failure, and is no reason to run anything.
func TestAgainNotForPackages(t *testing.T) {
	var out strings.Builder
	c, r := newCounter(&out), &runs{}
	c.fail("a", "undefined: x")
	c.fail("a TestX", "no")
	again(t.Context(), &options{}, c, "root", r.phase, 0)
	if c.failed != 2 || len(r.runs) != 0 {
		t.Errorf("%d failed, ran %q", c.failed, r.runs)
	}
}
