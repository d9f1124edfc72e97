package main

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// measured is a series of equal samples.
func measured(test, peer string, wall time.Duration) *series {
	x := &series{test: test, peer: peer}
	for range 3 {
		x.add(usage{wall: wall, cpu: wall})
	}
	return x
}

func TestVerdicts(t *testing.T) {
	s := &suite{
		series: []*series{
			measured("run", "minirun", 7*time.Millisecond),
			measured("run", "crun", 10*time.Millisecond), // 0.70: the limit itself passes
			measured("run", "runc", 20*time.Millisecond), // 0.35: above 0.25
			{test: "run", peer: "floor", failures: 3},    // no sample
		},
		memory: []memoryResult{{peer: "crun", rss: 1}, {peer: "minirun", rss: 65}},
	}
	want := []string{"PASS", "MISS", "NOT MEASURED", "NOT MEASURED", "MISS", "NOT MEASURED"}
	got := s.verdicts()
	if len(got) != len(want) {
		t.Fatalf("%d verdicts, want %d", len(got), len(want))
	}
	for i, v := range got {
		if v.result != want[i] {
			t.Errorf("%s: got %s %s, want %s", v.what, v.got, v.result, want[i])
		}
	}
}

// A runtime that fails must be visible: in the table and with its words.
func TestReport_Failure(t *testing.T) {
	broken := &series{test: "run", peer: "crun"}
	for range giveUpAfter {
		broken.fail(errors.New("exit 1: no such device"))
	}
	s := &suite{series: []*series{measured("run", "minirun", time.Millisecond), broken}}
	text := s.report(&machine{}, s.verdicts(), []string{"mount 12 /mnt"})
	for _, want := range []string{"FAILED run crun: exit 1: no such device", "given up after 5", "LEAK mount 12 /mnt", "NOT MEASURED"} {
		if !strings.Contains(text, want) {
			t.Errorf("report lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "leak check: no") {
		t.Error("report has a leak and says that there is none")
	}
}

func TestSamples(t *testing.T) {
	s := &suite{series: []*series{measured("create+start+delete", "minirun", 1234*time.Nanosecond)}}
	want := "BenchmarkCreateStartDelete/minirun 1 1234 ns/op 1234 cpu-ns/op\n"
	if got := s.samples(&machine{}); strings.Count(got, want) != 3 {
		t.Errorf("samples:\n%s\nwant three times %q", got, want)
	}
}

// Two saved reports must be comparable: a line of the form "key: value" other than these
// would split the samples.
func TestReport_BenchstatProperties(t *testing.T) {
	x := measured("run", "minirun", time.Millisecond)
	s := &suite{
		series: []*series{x}, init: &initResult{minirun: *x, empty: *x, largest: "os 0.1"},
		memory: []memoryResult{{peer: "minirun"}}, calls: []callsResult{{peer: "minirun"}},
	}
	m := &machine{lines: []string{"minirun: version 1", "rounds: 3"}}
	text := s.report(m, s.verdicts(), nil) + s.samples(m)
	for line := range strings.Lines(text) {
		key, _, found := strings.Cut(line, ": ")
		if found && key != "" && key[0] >= 'a' && key[0] <= 'z' && !strings.ContainsAny(key, " \t") {
			switch key {
			case "goos", "goarch", "cpu":
			default:
				t.Errorf("benchstat takes this line for a property: %q", line)
			}
		}
	}
}

func TestParseInittrace(t *testing.T) {
	text := "init internal/bytealg @0.008 ms, 0 ms clock, 0 bytes, 0 allocs\n" +
		"something else\n" +
		"init errors @0.4 ms, 0.25 ms clock, 100 bytes, 2 allocs\n" +
		"init os @0.5 ms, 0.5 ms clock, 100 bytes, 2 allocs\n"
	sum, top := parseInittrace(text)
	if sum != 0.75 || top != "os 0.500, errors 0.250, internal/bytealg 0.000" {
		t.Errorf("got %v, %q", sum, top)
	}
}

func TestStraceTotal(t *testing.T) {
	for table, want := range map[string]int{
		"% time     seconds  usecs/call     calls    errors syscall\n 50.00    0.000100           1        10         2 openat\n100.00    0.000200           1       412        17 total\n": 412,
		"100.00    0.000200           1       7           total\n": 7,
	} {
		if got, err := straceTotal(table); got != want || err != nil {
			t.Errorf("straceTotal(%q) = %d, %v, want %d", table, got, err, want)
		}
	}
	if _, err := straceTotal("strace: cannot\n"); err == nil {
		t.Error("a table without a total must be an error, not 0 calls")
	}
}

func TestParse(t *testing.T) {
	if o, err := parse([]string{"-cases", "run,exec", "-seccomp"}, new(strings.Builder)); err != nil ||
		!o.selected("run") || !o.selected("run-seccomp") || o.selected("life") || o.selected("run-userns") {
		t.Errorf("got %+v, %v", o, err)
	}
	for _, bad := range [][]string{{"-cases", "sing"}, {"-n", "0"}, {"extra"}} {
		if _, err := parse(bad, new(strings.Builder)); err == nil {
			t.Errorf("parse(%q) must fail", bad)
		}
	}
}
