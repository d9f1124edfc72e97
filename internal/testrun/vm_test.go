package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The way through the guest, without a guest: shell scripts as test binaries.
func TestGuestFrames(t *testing.T) {
	script := func(s string) []string { return []string{"sh", "-c", s} }
	const mark = "\x16" // starts a framework line in the output of -test.v=test2json
	jobs := []job{
		{Package: "p/good", Dir: "/", Args: script(`echo "` + mark + `=== RUN   TestVMA"; echo "cwd $PWD"; echo "` + mark + `--- PASS: TestVMA (0.00s)"; echo "` + mark + `PASS"`)},
		{Package: "p/bad", Dir: "/", Args: script(`echo "` + mark + `=== RUN   TestVMB"; echo "    b_test.go:1: odd"; echo "` + mark + `--- FAIL: TestVMB (0.10s)"; echo "` + mark + `FAIL"; exit 1`)},
		{Package: "p/dies", Dir: "/", Args: script(`echo "` + mark + `=== RUN   TestVMC"; kill -9 $$`)},
		{Package: "p/liar", Dir: "/", Args: script(`echo "` + mark + `PASS"; exit 9`)},
		{Package: "p/none", Dir: "/", Args: []string{"/nonexistent"}},
	}
	b, err := json.Marshal(jobs)
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(t.TempDir(), "jobs.json")
	if err := os.WriteFile(list, b, 0o644); err != nil {
		t.Fatal(err)
	}
	var frames bytes.Buffer
	if status := guest(list, &frames); status != 0 {
		t.Fatalf("guest returned %d", status)
	}
	whole := frames.Bytes()

	var out strings.Builder
	c := newCounter(&out)
	done, err := readFrames(context.Background(), bytes.NewReader(whole), jobs, c)
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range done {
		if !d {
			t.Errorf("job %d has no end", i)
		}
	}
	c.finish()
	if got, want := countLine(c.passed, c.failed, c.skipped), "1 passed, 4 failed, 0 skipped"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, want := range []string{"b_test.go:1: odd", "signal: killed", "exit status 9", "/nonexistent"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output has no %q", want)
		}
	}
	if t.Failed() {
		t.Log(out.String())
	}

	// The guest dies in the middle of the second job: nothing of it may be lost or pass.
	lines := bytes.SplitAfter(whole, []byte("\n"))
	n := 0
	for !bytes.Contains(lines[n], []byte(`"Job":1`)) {
		n++
	}
	out.Reset()
	c = newCounter(&out)
	done, err = readFrames(context.Background(), bytes.NewReader(bytes.Join(lines[:n+1], nil)), jobs, c)
	if err != nil || !done[0] || done[1] {
		t.Errorf("done %v, %v, want the first job only", done, err)
	}
	if c.passed != 1 || c.failed != 1 {
		t.Errorf("got %s, want 1 passed, 1 failed\n%s", countLine(c.passed, c.failed, c.skipped), out.String())
	}
}

func TestReadFramesGarbage(t *testing.T) {
	for _, in := range []string{"Kernel panic", `{"Job":7,"End":true}`, `{"Job":-1}`} {
		c := newCounter(&strings.Builder{})
		if _, err := readFrames(context.Background(), strings.NewReader(in), []job{{Package: "p"}}, c); err == nil {
			t.Errorf("%q is taken for a frame", in)
		}
	}
}
