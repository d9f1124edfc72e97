package apply

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/overlay"
)

// What unpacking a row of the corpus may take. On a machine that does nothing
// else each row takes less than a third of the 2 s of processor time that are the
// goal; processor time grows several times where processors are shared or slow, and the
// allowance is for that. Memory does not depend on the machine.
const (
	maxRSS = 64 << 20
	maxCPU = 2 * time.Second * 5
)

// boundsEnv tells the test binary to unpack a chain and to say what that took.
const boundsEnv = "APPLY_TEST_BOUNDS"

type boundsTask struct {
	LargeFrom int64 // of its options
	Store     string
	Layers    []string // files
	Digest    []string
	First     Options // of all but the last
	Last      Options
	Root      bool
}

type boundsResult struct {
	RSS int64 // the largest, in bytes
	CPU time.Duration
	Err string
}

// boundsChild is the test binary as an unpacker; it does not return.
func boundsChild(task string) {
	var b boundsTask
	var r boundsResult
	err := json.Unmarshal([]byte(task), &b)
	var s *overlay.Store
	if err == nil {
		s, err = overlay.OpenStore(b.Store)
	}
	var c overlay.ChainID
	for i := 0; err == nil && i < len(b.Layers); i++ {
		o := b.First
		if i == len(b.Layers)-1 {
			o = b.Last
		}
		o.unprivileged, o.largeFrom = !b.Root, b.LargeFrom
		var f *os.File
		if f, err = os.Open(b.Layers[i]); err == nil {
			c, _, err = Layer(context.Background(), s, c, b.Digest[i], f, o)
			f.Close()
		}
	}
	if err != nil {
		r.Err = err.Error()
	}
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		r.Err = err.Error()
	}
	r.CPU = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	// Not ru_maxrss: that begins with the size of the process that started this one.
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmHWM:" {
			kib, _ := strconv.ParseInt(f[1], 10, 64)
			r.RSS = kib << 10
		}
	}
	_ = json.NewEncoder(os.Stdout).Encode(r)
	os.Exit(0)
}

// wantBounded unpacks a chain again, in a process of its own, which must not need
// more than a hostile archive may cost. fails says whether the last layer is refused.
func wantBounded(t *testing.T, layers [][]byte, first, last Options, fails bool) {
	t.Helper()
	dir := t.TempDir()
	task := boundsTask{Store: filepath.Join(dir, "store"), First: first, Last: last, LargeFrom: last.largeFrom, Root: os.Geteuid() == 0}
	for i, b := range layers {
		path := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		task.Layers, task.Digest = append(task.Layers, path), append(task.Digest, digest(b))
	}
	text, err := json.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), boundsEnv+"="+string(text))
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	var r boundsResult
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, words.String())
	}
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	if (r.Err != "") != fails {
		t.Errorf("in a process of its own: %q", r.Err)
	}
	if r.RSS <= 0 || r.RSS > maxRSS {
		t.Errorf("takes %d bytes of memory, want at most %d", r.RSS, maxRSS)
	}
	if r.CPU <= 0 || r.CPU > maxCPU {
		t.Errorf("takes %v of processor time, want at most %v", r.CPU, maxCPU)
	}
	if os.Getenv("MINIRUN_TEST_SHOW_BOUNDS") != "" {
		t.Logf("bounds %d MB %v", r.RSS>>20, r.CPU)
	}
}

// A layer that takes more is noticed: one that is not hostile, and large.
func TestBoundsAreMeasured(t *testing.T) {
	dir := t.TempDir()
	var names []ent
	for i := range 20_000 {
		names = append(names, file(fmt.Sprintf("%0100d", i), ""))
	}
	b := archive(t, names...)
	path := filepath.Join(dir, "layer")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(boundsTask{Store: filepath.Join(dir, "store"), Layers: []string{path}, Digest: []string{digest(b)}, Last: Options{Kind: Index}, Root: os.Geteuid() == 0})
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), boundsEnv+"="+string(text))
	out, err := cmd.Output()
	var r boundsResult
	if err != nil || json.Unmarshal(out, &r) != nil || r.Err != "" {
		t.Fatalf("%v: %s", err, out)
	}
	if r.RSS <= maxRSS/4 || r.CPU <= 0 {
		t.Errorf("%d bytes and %v for 20,000 names: not believable", r.RSS, r.CPU)
	}
}
