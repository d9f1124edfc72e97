package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/minirun/minirun/cgroups"
	"github.com/minirun/minirun/internal/initprog"
	"golang.org/x/sys/unix"
)

// What a failure becomes when the kernel has counted kills meanwhile.
func TestWhyKilled(t *testing.T) {
	g := cgroups.Open(t.TempDir(), "/g")
	if err := os.Mkdir(g.Dir(), 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(g.Dir(), file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const oom = `container "x": unable to start container process: killed by the kernel: the memory limit of 4096 bytes was reached (out of memory)`
	check := func(what string, err error, kills uint64, want string) {
		t.Helper()
		if got := whyKilled("x", err, g, cgroups.OOMCount{Kills: kills, Reached: 2}); got == nil || got.Error() != want {
			t.Errorf("%s: %v, want %s", what, got, want)
		}
	}
	check("no memory controller", errInitDied, 0, errInitDied.Error())
	put("memory.max", "4096\n")
	put("memory.events", "low 0\nhigh 0\nmax 7\noom 2\noom_kill 0\noom_group_kill 0\n")
	put("memory.events.local", "low 0\nhigh 0\nmax 7\noom 2\noom_kill 0\noom_group_kill 0\n")
	check("killed by somebody", errInitDied, 0, errInitDied.Error())
	put("memory.events", "low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\noom_group_kill 0\n")
	for _, err := range []error{
		errInitDied, errNotExecuted, errNotJoined, &ProcessError{ID: "x", Err: errInitDied}, os.NewSyscallError("read", unix.ECONNRESET),
		&os.PathError{Op: "write", Path: "/proc/7/uid_map", Err: unix.ENOENT}, fmt.Errorf("pidfd: %w", unix.ESRCH),
	} {
		check("killed: "+err.Error(), err, 0, oom)
		check("before: "+err.Error(), err, 3, err.Error())
		check("again: "+err.Error(), err, 2, oom)
	}
	for _, err := range []error{
		&ExecError{Name: "sh", Err: unix.ENOENT}, &initprog.StepError{Phase: "mounts", Err: unix.ENOENT}, unix.EPERM,
		&cgroups.WriteError{Group: "/g", File: "memory.nosuch", Err: unix.ENOENT},
	} {
		check("something else", err, 0, err.Error())
	}
	if err := whyKilled("x", errNotExecuted, g, cgroups.OOMCount{Kills: 3, Reached: 1}); err.Error() != oom {
		t.Errorf("execve without memory: %v", err)
	}
	var e *OOMError
	if err := whyKilled("x", errInitDied, g, cgroups.OOMCount{Kills: 1}); !errors.As(err, &e) || e.Kills != 2 || e.Group != "" {
		t.Errorf("%+v", e)
	}
}
