package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/testenv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// converge checks what must hold after any crash: delete --force works and
// leaves nothing, and the ID can be used again.
func (b *ociBox) converge(what string) {
	b.t.Helper()
	stop := reapContainers(b.t)
	defer stop()
	for _, args := range [][]string{{"list"}, {"list", "-f", "json"}} {
		if r := testenv.Run(b.t, args...); r.Code != 0 {
			b.t.Errorf("%s: %v: %+v", what, args, r)
		}
	}
	if r := b.do("delete", "--force"); r.Code != 0 || r.Stderr != "" {
		b.t.Fatalf("%s: delete --force: %+v", what, r)
	}
	if !b.gone() {
		b.t.Fatalf("%s: not clean", what)
	}
}

// usedAgain creates and deletes a container under the same ID.
func (b *ociBox) usedAgain(what string) {
	b.t.Helper()
	if r := b.do("create", "--bundle", b.bundle); r.Code != 0 {
		b.t.Fatalf("%s: create again: %+v", what, r)
	}
	b.converge(what + ", again")
}

// complete reports what the record says: whether create had come to its end.
func (b *ociBox) complete() bool {
	raw, _ := os.ReadFile(filepath.Join(testenv.StateRoot(b.t), b.id, "state.json"))
	return strings.Contains(string(raw), `"complete":true`)
}

func withUser(s *specs.Spec) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	s.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
}

// minirun is killed at every system call of create. A container whose creator
// died before everything was in place must not start.
func TestRootCrashCreate(t *testing.T) {
	setup(t)
	for _, tt := range []struct {
		name   string
		mutate func(*specs.Spec)
	}{{"fast", func(*specs.Spec) {}}, {"user namespace", withUser}} {
		b := newBox(t, forever, tt.mutate)
		points := 0
		for n := 1; ; n++ {
			code, reached := tracedRun(t, minirunItself, n, []uint64{unix.SYS_MKDIRAT, sysMkdir}, "create", "--bundle", b.bundle, b.id)
			what := tt.name + ": killed at call " + strconv.Itoa(n)
			if !reached {
				if code != 0 {
					t.Fatalf("%s: create under trace: exit status %d", what, code)
				}
				b.wantStatus("created")
				b.converge(what)
				break
			}
			points++
			complete := b.complete()
			if r := b.do("state"); r.Code == 0 && !complete && !strings.Contains(r.Stdout, `"stopped"`) && !strings.Contains(r.Stdout, `"creating"`) {
				t.Errorf("%s: state %s", what, r.Stdout)
			}
			if r := b.do("start"); (r.Code == 0) != complete {
				t.Errorf("%s: complete %v, start: %+v", what, complete, r)
			}
			_, err := os.Stat(filepath.Join(testenv.StateRoot(t), b.id))
			if r := b.do("create", "--bundle", b.bundle); err == nil && (r.Code != 1 || !strings.Contains(r.Stderr, "already exists")) || err != nil && r.Code != 0 {
				t.Errorf("%s: state directory %v, create over it: %+v", what, err, r)
			}
			b.converge(what)
			if n%8 == 0 {
				b.usedAgain(what)
			}
		}
		b.usedAgain(tt.name)
		t.Logf("%s: %d crash points", tt.name, points)
		if points < 25 {
			t.Errorf("%s: only %d crash points", tt.name, points)
		}
	}
}

// The init is killed at every one of its operations: create says so and leaves
// nothing.
func TestRootCrashInit(t *testing.T) {
	setup(t)
	for _, tt := range []struct {
		name   string
		step   int
		mutate func(*specs.Spec)
	}{{"fast", 1, func(*specs.Spec) {}}, {"user namespace", 2, withUser}} {
		b := newBox(t, forever, tt.mutate)
		points := 0
		for n := 1; ; n += tt.step {
			code, reached := tracedRun(t, containerInit, n, nil, "create", "--bundle", b.bundle, b.id)
			what := tt.name + ": init killed at operation " + strconv.Itoa(n)
			if !reached {
				if code != 0 {
					t.Fatalf("%s: create under trace: exit status %d", what, code)
				}
				b.converge(what)
				break
			}
			points++
			switch {
			case code == 0 && tt.step > 1: // it was the first process, with nothing left to do
			case code == 0: // it had reported to be ready
				b.stopped()
			case code == 1:
				if !b.gone() {
					t.Fatal(what)
				}
			default:
				t.Errorf("%s: exit status %d, want 1", what, code)
			}
			if code == 0 || n%16 == 1 {
				b.converge(what)
				b.usedAgain(what)
			}
		}
		t.Logf("%s: %d crash points", tt.name, points)
		if points < 50 {
			t.Errorf("%s: only %d crash points", tt.name, points)
		}
	}
}

// delete and start are killed at every system call from the lock on.
func TestRootCrashDeleteAndStart(t *testing.T) {
	setup(t)
	b := newBox(t, forever)
	for _, verb := range []string{"delete", "delete --force", "start", "kill"} {
		points := 0
		for n := 1; ; n++ {
			what := verb + " killed at call " + strconv.Itoa(n)
			if r := b.do("create", "--bundle", b.bundle); r.Code != 0 {
				t.Fatalf("%s: %+v", what, r)
			}
			if verb == "delete --force" {
				b.must("start")
			}
			from := []uint64{unix.SYS_FLOCK}
			if verb == "kill" {
				from = []uint64{unix.SYS_PIDFD_OPEN}
			}
			code, reached := tracedRun(t, minirunItself, n, from, append(strings.Fields(verb), b.id)...)
			if !reached && code != 0 {
				t.Fatalf("%s: exit status %d under trace", what, code)
			}
			if verb == "start" {
				// Either it has not begun or it runs; start again says which.
				status := b.state().Status
				if status != "created" && status != "running" {
					t.Errorf("%s: status %s", what, status)
				}
				if r := b.do("start"); r.Code != 0 && !strings.Contains(r.Stderr, "already running") {
					t.Errorf("%s: start again: %+v", what, r)
				}
				eventually(t, what+": it runs", func() bool { return b.state().Status == "running" })
			}
			b.converge(what)
			if !reached {
				break
			}
			points++
		}
		t.Logf("%s: %d crash points", verb, points)
		if points < 2 {
			t.Errorf("%s: only %d crash points", verb, points)
		}
	}
}

// Several processes do everything to the same few IDs at once. Whatever wins,
// nothing hangs, nobody gets an answer that is no answer, and nothing is left.
func TestRootHammer(t *testing.T) {
	setup(t)
	boxes := []*ociBox{newBox(t, forever), newBox(t, forever)}
	end := time.Now().Add(3 * time.Second)
	known := []string{
		"already exists", "does not exist", "not running", "already running", "that is not stopped", "has stopped",
		"in the creating state", "does not wait for start", "container init ended", "was killed before", "cgroup is not empty",
		"cannot exec in a stopped container",
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]int{}
	stop := reapContainers(t)
	for w := range 6 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := w; time.Now().Before(end); i++ {
				b := boxes[i%2]
				args := [][]string{
					{"create", "--bundle", b.bundle, b.id},
					{"start", b.id},
					{"delete", "--force", b.id},
					{"state", b.id},
					{"create", "--bundle", b.bundle, b.id},
					{"kill", b.id, "KILL"},
					{"delete", b.id},
					{"list", "-f", "json"},
					{"exec", b.id, "true"},
				}[(i/2*7+w)%9]
				r := testenv.Run(t, args...)
				mu.Lock()
				seen[args[0]+" "+strconv.Itoa(r.Code)]++
				mu.Unlock()
				if r.Code == 0 && (r.Stderr == "" || args[0] == "list") {
					continue
				}
				if args[0] == "delete" && args[1] == "--force" || args[0] == "list" {
					t.Errorf("%v: %+v", args, r)
				}
				ok := args[0] == "exec" && r.Code == 137 && r.Stderr == ""
				for _, k := range known {
					ok = ok || strings.Contains(r.Stderr, k)
				}
				if !ok {
					t.Errorf("%v: %+v", args, r)
				}
			}
		}()
	}
	wg.Wait()
	stop()
	t.Logf("%v", seen)
	for _, b := range boxes {
		b.converge("after the hammer")
		b.usedAgain("after the hammer")
	}
}
