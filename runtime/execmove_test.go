package runtime

import (
	"errors"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/minirun/minirun/internal/testenv"
	"github.com/minirun/minirun/runtime/bundle"
)

// sleeper is a container that sleeps until the test ends, and streams for exec.
func sleeper(t *testing.T, mutate func(*specs.Spec)) (c *Container, stdio [3]int) {
	t.Helper()
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	b, err := bundle.Load(testenv.Bundle(t, func(s *specs.Spec) {
		s.Process.Args = []string{"sleep", "1000"}
		if mutate != nil {
			mutate(s)
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	store, err := OpenStore(testenv.StateRoot(t))
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { null.Close() })
	stdio = [3]int{int(null.Fd()), int(null.Fd()), int(null.Fd())}
	if c, err = store.Run(CreateOptions{ID: testenv.UniqueID(t), Bundle: b, Stdio: stdio}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Delete(Force, nil); err != nil {
			t.Error(err)
		}
		_, _ = c.Wait()
	})
	return c, stdio
}

func sleepMore(*specs.Process) (*specs.Process, error) {
	return &specs.Process{Args: []string{"sleep", "1000"}, Cwd: "/", Env: []string{"PATH=/bin"}}, nil
}

// A process that is moved and does not run, in a group that is frozen, does not stop this
// one: it can collect garbage, and start others.
func TestRootExecMove(t *testing.T) {
	c, stdio := sleeper(t, nil)
	group := filepath.Join(c.CgroupMount, c.Cgroup, "stuck")
	freeze := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(group, "cgroup.freeze"), []byte(text), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	freeze("1")
	done := make(chan error, 1)
	go func() {
		p, err := c.Exec(ExecOptions{Stdio: stdio, Cgroup: "stuck", Move: true, Process: sleepMore})
		if err == nil {
			_ = unix.PidfdSendSignal(p.PidFD, unix.SIGKILL, nil, 0)
			_, err = p.Wait()
		}
		done <- err
	}()
	for end := time.Now().Add(testenv.Timeout(20 * time.Second)); ; time.Sleep(time.Millisecond) {
		raw, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
		if err != nil {
			t.Fatal(err)
		}
		if len(raw) > 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("nothing comes into the group")
		}
	}
	others := make(chan error, 1)
	go func() {
		goruntime.GC()
		p, err := c.Exec(ExecOptions{Stdio: stdio, Move: true, Process: sleepMore})
		if err == nil {
			if in, _ := os.ReadFile(filepath.Join(c.CgroupMount, c.Cgroup, "cgroup.procs")); !slices.Contains(strings.Fields(string(in)), strconv.Itoa(p.Pid)) {
				err = errors.New("it is not in the container's group, which has " + string(in))
			}
			_ = unix.PidfdSendSignal(p.PidFD, unix.SIGKILL, nil, 0)
			_, _ = p.Wait()
		}
		others <- err
	}()
	select {
	case err := <-others:
		if err != nil {
			t.Errorf("another exec: %v", err)
		}
	case <-time.After(testenv.Timeout(20 * time.Second)):
		t.Error("garbage is not collected, or nothing else started")
	}
	select {
	case err := <-done:
		t.Errorf("the frozen one has ended: %v", err)
	default:
	}
	freeze("0")
	if err := <-done; err != nil {
		t.Errorf("thawed: %v", err)
	}
}

// A limit on processes holds for those that are moved too, with a pid namespace and without.
func TestVMExecMovePids(t *testing.T) {
	for name, mutate := range map[string]func(*specs.Spec){
		"pid namespace": func(*specs.Spec) {},
		"host's": func(s *specs.Spec) {
			s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, stdio := sleeper(t, func(s *specs.Spec) {
				one := int64(1)
				s.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &one}}
				mutate(s)
			})
			p, err := c.Exec(ExecOptions{Stdio: stdio, Move: true, Process: sleepMore})
			var limit *PidsError
			if !errors.As(err, &limit) {
				t.Errorf("%+v, %v, want the limit on processes", p, err)
			}
			if in, _ := os.ReadFile(filepath.Join(c.CgroupMount, c.Cgroup, "cgroup.procs")); len(strings.Fields(string(in))) != 1 {
				t.Errorf("the group has %q", in)
			}
		})
	}
}
