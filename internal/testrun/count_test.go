package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// feed counts the events of the text as one phase and returns what was printed.
func feed(t *testing.T, events string) (*counter, string) {
	t.Helper()
	var out strings.Builder
	c := newCounter(&out)
	if err := readEvents(strings.NewReader(events), c.add, func(line string) { out.WriteString(line) }); err != nil {
		t.Fatal(err)
	}
	c.finish()
	c.summary()
	return c, out.String()
}

// testdata/go-test.json is what `go test -json` says about a module with one
// package for each way to end.
func TestCountRecordedRun(t *testing.T) {
	b, err := os.ReadFile("testdata/go-test.json")
	if err != nil {
		t.Fatal(err)
	}
	_, out := feed(t, string(b))
	if want := "\n9 passed, 6 failed, 1 skipped\n"; !strings.HasSuffix(out, want) {
		t.Errorf("output ends with %q, want %q", out[max(0, len(out)-60):], want)
	}
	for _, want := range []string{
		"undefined: undefined",    // the compiler's words
		"leaving badly",           // a process that ends with a status of its own
		"got 1, want 2",           // a subtest
		"the parent itself",       // a test beside its subtests
		"panic: boom",             // and its stack
		"test timed out after 2s", // the test that hangs
		"failed:  example.org/rec/good TestChildFails/bad\n",
		"failed:  example.org/rec/good TestParentFails\n",
		"failed:  example.org/rec/slow TestHangs\n",
		"failed:  example.org/rec/broken\n",
		"failed:  example.org/rec/exits\n",
		"skipped: example.org/rec/good TestSkipped: a_test.go:19: no reason to run\n",
		"FAIL example.org/rec/good  7 passed, 2 failed, 1 skipped",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("output has no %q", want)
		}
	}
	if strings.Contains(out, "rec/empty") {
		t.Error("a package without tests has a line")
	}
	if t.Failed() {
		t.Log(out)
	}
}

func TestCountEnds(t *testing.T) {
	tests := []struct {
		name, events, want string
	}{
		{"nothing", ``, "0 passed, 0 failed, 0 skipped"},
		{"one", `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p"}`, "1 passed, 0 failed, 0 skipped"},
		{"killed between tests", `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA"}`, "1 passed, 1 failed, 0 skipped"},
		{"killed in a test", `{"Action":"run","Package":"p","Test":"TestA"}`, "0 passed, 1 failed, 0 skipped"},
		{"killed in a subtest", `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestA/x"}
{"Action":"run","Package":"p","Test":"TestA/x/y"}`, "0 passed, 1 failed, 0 skipped"},
		{"no test matches", `{"Action":"start","Package":"p"}
{"Action":"pass","Package":"p"}`, "0 passed, 0 failed, 0 skipped"},
		{"a seed fails", `{"Action":"fail","Package":"p","Test":"FuzzA/seed#0"}
{"Action":"fail","Package":"p","Test":"FuzzA"}
{"Action":"fail","Package":"p"}`, "0 passed, 1 failed, 0 skipped"},
		{"passes but its package fails", `{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p"}`, "1 passed, 1 failed, 0 skipped"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, out := feed(t, tt.events)
			if got := countLine(c.passed, c.failed, c.skipped); got != tt.want {
				t.Errorf("got %s, want %s\n%s", got, tt.want, out)
			}
		})
	}
}

// The slowest tests are named, the slowest first.
func TestSlow(t *testing.T) {
	_, out := feed(t, `{"Action":"pass","Package":"p","Test":"TestA","Elapsed":11}
{"Action":"pass","Package":"p","Test":"TestB","Elapsed":30.4}
{"Action":"pass","Package":"p","Test":"TestC","Elapsed":9}
{"Action":"pass","Package":"p"}`)
	if want := "slow:    p TestB took 30s\nslow:    p TestA took 11s\n3 passed, 0 failed, 0 skipped\n"; !strings.HasSuffix(out, want) {
		t.Errorf("output %q, want the end %q", out, want)
	}
}

func TestLinesThatAreNoEvents(t *testing.T) {
	_, out := feed(t, "go: something is wrong\n{not json}\n")
	if !strings.Contains(out, "go: something is wrong\n{not json}\n") {
		t.Errorf("output %q hides what go test said", out)
	}
}

func TestTestNames(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a_test.go")
	src := "package p\nfunc TestRootA(t *testing.T) {}\nfunc TestVMA(t *testing.T) {}\nfunc (x T) TestRootB(t *testing.T) {}\nfunc TestRootHelper() {}\n// func TestRootC(t *testing.T) {}\n"
	if err := os.WriteFile(file, []byte(src), 0o644); err != nil {
		t.Fatal(err)
	}
	names, err := testNames(file, "TestRoot")
	if err != nil || strings.Join(names, " ") != "TestRootA" {
		t.Errorf("got %q, %v, want TestRootA", names, err)
	}
	if names, err := testNames(filepath.Join(t.TempDir(), "none.go"), "Test"); err == nil {
		t.Errorf("a file that is not there: %q, want an error", names)
	}
}
