package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/testenv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// v2File is a file of the container's group, wherever the hierarchy is mounted.
func (b *ociBox) v2File(file string) string {
	b.t.Helper()
	for _, root := range cgroupMounts() {
		if path := filepath.Join(root, b.cgroup, file); exists(path) {
			return path
		}
	}
	b.t.Fatalf("no cgroup has %s/%s", b.cgroup, file)
	return ""
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func (b *ociBox) refused(code int, text, verb string, flags ...string) {
	b.t.Helper()
	if r := b.do(verb, flags...); r.Code != code || !strings.Contains(r.Stderr, text) || r.Stdout != "" {
		b.t.Errorf("%s %v: %+v, want status %d and %q", verb, flags, r, code, text)
	}
}

// kill sends a signal; it must succeed.
func (b *ociBox) kill(signal string, flags ...string) {
	b.t.Helper()
	if r := testenv.Run(b.t, append(append([]string{"kill"}, flags...), b.id, signal)...); r.Code != 0 || r.Stderr != "" {
		b.t.Fatalf("kill %v %s: %+v", flags, signal, r)
	}
}

// counter appends a line to a file all the time: what runs shows.
func counter(dir string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/out", Source: dir, Options: []string{"bind"}})
		script("while :; do echo x >>/out/count; usleep 1000; done")(s)
	}
}

func TestRootPause(t *testing.T) {
	setup(t)
	dir := t.TempDir()
	b := newBox(t, counter(dir)).up()
	size := func() int64 {
		st, err := os.Stat(filepath.Join(dir, "count"))
		if err != nil {
			return 0
		}
		return st.Size()
	}
	eventually(t, "it counts", func() bool { return size() > 3 })

	b.refused(1, "container not paused", "resume")
	b.must("pause")
	b.wantStatus("paused")
	if r := testenv.Run(t, "list"); !strings.Contains(r.Stdout, "paused") {
		t.Errorf("list of a paused container: %+v", r)
	}
	if got := readFile(t, b.v2File("cgroup.events")); !strings.Contains(got, "frozen 1") {
		t.Errorf("pause has returned, and cgroup.events says %q", got)
	}
	before := size()
	b.refused(1, "container not running", "pause")
	if r := b.exec("true"); r.Code != 255 || !strings.Contains(r.Stderr, "cannot exec in a paused container (use --ignore-paused to override)") {
		t.Errorf("exec in a paused container: %+v", r)
	}
	b.refused(1, "that is not stopped: paused", "delete")
	if after := size(); after != before {
		t.Errorf("a paused container has written %d bytes", after-before)
	}
	b.must("resume")
	b.wantStatus("running")
	eventually(t, "it counts again", func() bool { return size() > before })

	// A signal waits, and SIGKILL does not.
	b.must("pause")
	b.kill("KILL")
	b.stopped()
	b.refused(1, "container not running", "pause")
	b.refused(1, "container not paused", "resume")
	b.must("delete")
	b.gone()
	b.refused(1, "container does not exist", "pause")
	b.refused(1, "container does not exist", "resume")

	b.up()
	b.must("pause")
	b.must("delete", "--force")
	b.gone()
}

// As runc: a created container can be paused, and then does not start.
func TestRootPauseCreated(t *testing.T) {
	setup(t)
	b := newBox(t)
	b.create()
	b.must("pause")
	b.wantStatus("paused")
	b.refused(1, "cannot start a container in the paused state", "start")
	b.must("resume")
	b.wantStatus("created")
	b.must("start")
	b.stopped()
}

// Without a pid namespace of its own a container has to be killed process by
// process, also when it is paused.
func TestRootPauseHostPids(t *testing.T) {
	setup(t)
	hostPids := func(s *specs.Spec) {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
	}
	for _, end := range [][]string{{"kill"}, {"kill", "--all"}, {"delete", "--force"}} {
		b := newBox(t, hostPids, script("sleep 1000 & sleep 1000 & wait")).up()
		eventually(t, "it has its children", func() bool { return len(b.psPids()) == 3 })
		pids := b.psPids()
		b.must("pause")
		if end[0] == "kill" {
			b.kill("KILL", end[1:]...)
			b.stopped()
			b.must("delete")
		} else {
			b.must(end[0], end[1:]...)
		}
		b.gone()
		for _, pid := range pids {
			if alive(pid) {
				t.Errorf("%v: process %d lives", end, pid)
			}
		}
	}
}

// exec --ignore-paused waits in the container until that is resumed, and ends
// with it when it is killed: it must not stay behind in the frozen group.
func TestRootExecIgnorePaused(t *testing.T) {
	setup(t)
	b := newBox(t, script("exec sleep 1000")).up()
	in := func() int { return len(lines(readFile(t, b.v2File("cgroup.procs")))) }
	start := func() chan testenv.Result {
		cmd := testenv.Command(t, "exec", "--ignore-paused", b.id, "echo", "at last")
		done := make(chan testenv.Result, 1)
		go func() { done <- testenv.RunCmd(t, cmd) }()
		eventually(t, "the process is in the group", func() bool { return in() == 2 })
		return done
	}
	b.must("pause")
	done := start()
	select {
	case r := <-done:
		t.Fatalf("exec in a paused container came to an end: %+v", r)
	default:
	}
	b.must("resume")
	if r := <-done; r.Code != 0 || r.Stdout != "at last\n" {
		t.Errorf("exec after resume: %+v", r)
	}

	for _, verb := range []string{"kill", "delete"} {
		b.must("pause")
		done = start()
		if verb == "kill" {
			b.kill("KILL")
		} else {
			b.must("delete", "--force")
		}
		select {
		case r := <-done:
			// kill is for the init alone, and thaws: whoever else is in the
			// container goes on until the kernel has ended its pid namespace.
			raced := verb == "kill" && r.Code == 0 && r.Stdout == "at last\n"
			if !raced && (r.Code != 255 && r.Code != 137 || r.Stdout != "" && verb != "kill") {
				t.Errorf("exec into a container that met %s while it was paused: %+v", verb, r)
			}
		case <-time.After(testenv.Timeout(20 * time.Second)):
			t.Fatalf("exec hangs after %s", verb)
		}
		if verb == "kill" {
			b.stopped()
			b.must("delete")
			b.gone()
			b.up()
		}
	}
	b.gone()
}

// Many execs go into a container that is paused and resumed all the time, and
// killed in the end. Each has the right status or the right error, none hangs,
// nothing is left.
func TestRootExecStress(t *testing.T) {
	setup(t)
	const n = 100
	for _, killPaused := range []bool{false, true} {
		b := newBox(t, forever).up()
		results := make(chan testenv.Result, n)
		var started sync.WaitGroup
		for i := range n {
			args := []string{"exec", b.id, "true"}
			if i%3 == 0 {
				args = []string{"exec", "--ignore-paused", b.id, "true"}
			}
			cmd := testenv.Command(t, args...)
			started.Add(1)
			go func() {
				started.Done()
				results <- testenv.RunCmd(t, cmd)
			}()
		}
		started.Wait()
		seen := map[string]int{}
		count := func(r testenv.Result) {
			switch {
			case r.Code == 0 && r.Stderr == "":
				seen["ran"]++
			case r.Code == 137 && r.Stderr == "":
				seen["killed"]++
			case r.Code == 255 && strings.Contains(r.Stderr, "cannot exec in a paused container"):
				seen["paused"]++
			case r.Code == 255 && strings.Contains(r.Stderr, "cannot exec in a stopped container"):
				seen["stopped"]++
			case r.Code == 255 && strings.Contains(r.Stderr, "was killed before"):
				seen["killed on the way"]++
			default:
				t.Errorf("exec: %+v", r)
			}
		}
		// Half of them have to come to an end between pause and resume.
		left := n
		for left > n/2 {
			b.must("pause")
			b.must("resume")
			for drained := false; !drained; {
				select {
				case r := <-results:
					left--
					count(r)
				default:
					drained = true
				}
			}
		}
		if killPaused {
			b.must("pause")
		}
		b.kill("KILL")
		for ; left > 0; left-- {
			select {
			case r := <-results:
				count(r)
			case <-time.After(testenv.Timeout(60 * time.Second)):
				t.Fatalf("%d execs hang; so far %v", left, seen)
			}
		}
		t.Logf("killed while paused %v: %v", killPaused, seen)
		b.stopped()
		b.must("delete")
		b.gone()
	}
}

// psPids are the pids that ps --format json prints.
func (b *ociBox) psPids() []int {
	b.t.Helper()
	var pids []int
	if err := json.Unmarshal([]byte(b.must("ps", "--format", "json").Stdout), &pids); err != nil {
		b.t.Fatal(err)
	}
	return pids
}

func TestRootPs(t *testing.T) {
	setup(t)
	b := newBox(t, script("sleep 1234 & exec sleep 1235")).up()
	eventually(t, "it has its processes", func() bool { return len(b.psPids()) == 2 })
	pids := b.psPids()
	if !slices.Contains(pids, b.pid()) || !slices.IsSorted(pids) {
		t.Errorf("pids %v, the init is %d", pids, b.pid())
	}
	if got := b.must("ps", "--format=json").Stdout; got != "["+strconv.Itoa(pids[0])+","+strconv.Itoa(pids[1])+"]\n" {
		t.Errorf("ps --format=json: %q", got)
	}
	ps := func(args ...string) testenv.Result { return testenv.Run(t, append([]string{"ps", b.id}, args...)...) }
	for _, tt := range []struct {
		args []string
		head string
	}{{nil, "UID"}, {[]string{"-o", "pid,args"}, "PID"}, {[]string{"aux"}, "USER"}} {
		r := ps(tt.args...)
		got := lines(r.Stdout)
		if r.Code != 0 || len(got) != 3 || !strings.HasPrefix(strings.TrimSpace(got[0]), tt.head) || !strings.Contains(r.Stdout, "sleep 1234") || !strings.Contains(r.Stdout, "sleep 1235") {
			// Without -A, ps -o has only the processes of our terminal.
			if tt.head != "PID" || r.Code != 0 || !strings.HasPrefix(strings.TrimSpace(got[0]), "PID") {
				t.Errorf("ps %q: %+v", tt.args, r)
			}
		}
	}
	if r := ps("-o", "comm"); r.Code != 1 || !strings.Contains(r.Stderr, "couldn't find PID field in ps output") {
		t.Errorf("a table without pids: %+v", r)
	}
	if r := ps("--no-such-option"); r.Code != 1 || !strings.Contains(r.Stderr, "exit status 1") || r.Stdout != "" {
		t.Errorf("what ps does not know: %+v", r)
	}
	b.refused(1, "invalid format option", "ps", "--format", "xml")

	// The program is the host's and never what the working directory or the
	// container has under that name (CVE-2022-1227).
	trap := t.TempDir()
	writeFile(t, filepath.Join(trap, "ps"), "#!/bin/sh\necho PID TRAP\n")
	if err := os.Remove(b.rootfs("bin/ps")); err != nil { // busybox, under one more name
		t.Fatal(err)
	}
	writeFile(t, b.rootfs("bin/ps"), "#!/bin/sh\necho PID TRAP\n")
	for _, path := range []string{filepath.Join(trap, "ps"), b.rootfs("bin/ps")} {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"", ".:/usr/bin:/bin", ":/usr/bin:/bin"} {
		cmd := testenv.Command(t, "ps", b.id)
		cmd.Dir, cmd.Env = trap, append(os.Environ(), "PATH="+path)
		if r := testenv.RunCmd(t, cmd); r.Code != 0 || strings.Contains(r.Stdout, "TRAP") || len(lines(r.Stdout)) != 3 {
			t.Errorf("PATH=%q: %+v", path, r)
		}
	}
	cmd := testenv.Command(t, "ps", b.id)
	cmd.Env = append(os.Environ(), "PATH=/nowhere")
	if r := testenv.RunCmd(t, cmd); r.Code != 1 || !strings.Contains(r.Stderr, "program ps not found") {
		t.Errorf("without ps: %+v", r)
	}

	b.must("pause")
	if got := b.psPids(); !slices.Equal(got, pids) {
		t.Errorf("pids of a paused container %v, want %v", got, pids)
	}
	b.kill("KILL")
	b.stopped()
	eventually(t, "its processes have ended", func() bool { return b.must("ps", "--format", "json").Stdout == "null\n" })
	if r := ps(); r.Code != 0 || len(lines(r.Stdout)) != 1 {
		t.Errorf("ps of a stopped container: %+v", r)
	}
}

// Everything at once to one container, pauses included. Whatever wins, nothing
// hangs and every answer is one.
func TestRootHammerPaused(t *testing.T) {
	setup(t)
	testenv.Binary(t) // building it has children that must not be reaped below
	b := newBox(t, forever)
	known := []string{
		"already exists", "does not exist", "not running", "not paused", "already running", "that is not stopped", "has stopped",
		"in the creating state", "in the paused state", "does not wait for start", "container init ended", "was killed before",
		"cgroup is not empty", "cannot exec in a stopped container", "cannot exec in a paused container", "is not running",
	}
	verbs := [][]string{
		{"create", "--bundle", b.bundle, b.id},
		{"start", b.id},
		{"pause", b.id},
		{"exec", b.id, "true"},
		{"ps", "--format", "json", b.id},
		{"resume", b.id},
		{"update", "--cpu-share", "1024", b.id},
		{"events", "--stats", b.id},
		{"exec", "--ignore-paused", b.id, "true"},
		{"kill", b.id, "KILL"},
		{"delete", "--force", b.id},
	}
	stop := reapContainers(t)
	end := time.Now().Add(2 * time.Second)
	var mu sync.Mutex
	seen := map[string]int{}
	finished := make(chan bool, 5)
	for w := range cap(finished) {
		go func() {
			defer func() { finished <- true }()
			for i := 0; time.Now().Before(end); i++ {
				args := verbs[(i*7+w)%len(verbs)]
				r := testenv.Run(t, args...)
				mu.Lock()
				seen[args[0]+" "+strconv.Itoa(r.Code)]++
				mu.Unlock()
				ok := r.Code == 0 && r.Stderr == "" || args[0] == "exec" && r.Code == 137 && r.Stderr == ""
				for _, k := range known {
					ok = ok || strings.Contains(r.Stderr, k)
				}
				if !ok || args[0] == "delete" && r.Code != 0 {
					t.Errorf("%v: %+v", args, r)
				}
			}
		}()
	}
	for left := cap(finished); left > 0; {
		select {
		case <-finished:
			left--
		case <-time.After(50 * time.Millisecond):
			// An exec may wait in a container that nobody resumes any more.
			if time.Now().After(end) {
				testenv.Run(t, "delete", "--force", b.id)
			}
		}
	}
	stop()
	t.Logf("%v", seen)
	b.converge("after the hammer")
	b.usedAgain("after the hammer")
}
