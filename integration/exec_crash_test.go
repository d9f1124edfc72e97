package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// execBox is a container whose process has one child.
type execBox struct {
	*ociBox
	child int
}

func (b *execBox) record() (names []string) {
	b.t.Helper()
	list, err := os.ReadDir(filepath.Join(testenv.StateRoot(b.t), b.id))
	if err != nil {
		b.t.Fatal(err)
	}
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// unaffected checks that a container runs as before an exec that came to grief:
// the same process, alone, and open for the next exec.
func (b *execBox) unaffected(what string, pid int, before []string) {
	b.t.Helper()
	stop := reapContainers(b.t) // what exec has started is ours when minirun is dead
	eventually(b.t, what+": only the container's own processes are left", func() bool {
		return slices.Equal(b.psPids(), []int{pid, b.child})
	})
	stop()
	if s := b.state(); s.Status != "running" || *s.Pid != pid {
		b.t.Fatalf("%s: %+v", what, s)
	}
	if after := b.record(); !slices.Equal(after, before) {
		b.t.Errorf("%s: the record has files %v, had %v", what, after, before)
	}
}

// minirun is killed at every system call of exec, and then what it starts at its
// operations. The container goes on as if nothing had been.
func TestRootCrashExec(t *testing.T) {
	setup(t)
	for _, tt := range []struct {
		name   string
		step   int
		mutate func(*specs.Spec)
	}{{"plain", 1, func(*specs.Spec) {}}, {"user namespace", 3, withUser}} {
		b := &execBox{ociBox: newBox(t, forever, tt.mutate)}
		b.up()
		pid := b.pid()
		eventually(t, "its child runs", func() bool { return len(b.psPids()) == 2 })
		b.child = b.psPids()[1]
		before := b.record()
		pidFile := filepath.Join(t.TempDir(), "pid")
		args := []string{"exec", "--pid-file", pidFile, b.id, "true"}
		for _, target := range []whom{minirunItself, containerInit} {
			points, idle := 0, 0
			for n := 1; ; n += tt.step {
				what := tt.name + ": minirun killed at call " + strconv.Itoa(n)
				from := []uint64{unix.SYS_PIDFD_OPEN}
				if target == containerInit {
					what, from = tt.name+": its process killed at operation "+strconv.Itoa(n), nil
				}
				code, reached := tracedRun(t, target, n, from, args...)
				b.unaffected(what, pid, before)
				if !reached {
					if code != 0 {
						t.Fatalf("%s: exit status %d under trace", what, code)
					}
					break
				}
				// 137: it was the process itself that was killed. 0: it was the one that
				// has only cloned it, and had nothing left to do.
				switch {
				case target == minirunItself || code == 255 || code == 137:
				case code == 0 && idle < 4:
					idle++
				default:
					t.Errorf("%s: exit status %d, want 255", what, code)
				}
				points++
			}
			t.Logf("%s: %d crash points", tt.name, points)
			if points < 10 {
				t.Errorf("%s: only %d crash points", tt.name, points)
			}
		}
		if out := b.execOut("echo", "still here"); out != "still here\n" {
			t.Errorf("%s: exec afterwards: %q", tt.name, out)
		}
	}
}
