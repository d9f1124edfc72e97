package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// lastNumber is the last complete line of a file of numbers.
func lastNumber(t testing.TB, path string) int {
	t.Helper()
	text := readFile(t, path)
	all := strings.Split(text[:strings.LastIndexByte(text, '\n')+1], "\n")
	if len(all) < 2 {
		return 0
	}
	n, err := strconv.Atoi(all[len(all)-2])
	if err != nil {
		t.Fatalf("%q in %s", all[len(all)-2], path)
	}
	return n
}

// attributes are those of the mounts of a process, by mount point.
func attributes(t testing.TB, pid int) map[string]string {
	t.Helper()
	m := map[string]string{}
	for line := range strings.Lines(readFile(t, "/proc/"+strconv.Itoa(pid)+"/mountinfo")) {
		f := strings.Fields(line)
		var keep []string
		for o := range strings.SplitSeq(f[5], ",") {
			if slices.Contains([]string{"ro", "nosuid", "nodev", "noexec"}, o) {
				keep = append(keep, o)
			}
		}
		m[f[4]] = strings.Join(keep, ",")
	}
	return m
}

// With the real criu: the container goes on counting where it was, in the same
// sandbox, under the same limits.
func TestVMCheckpoint(t *testing.T) {
	setup(t)
	testenv.Supervisor(t)
	host := t.TempDir()
	writeFile(t, filepath.Join(host, "data"), "of the host\n")
	b := newBox(t, script("trap 'exit 7' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done"), func(s *specs.Spec) {
		s.Root.Readonly = true
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/tmp", Type: "bind", Source: host, Options: []string{"bind", "ro", "nosuid", "nodev"}})
		limit := int64(64 << 20)
		pids := int64(20)
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
		s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids}
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"sethostname"}, Action: specs.ActErrno}}}
	})
	out := filepath.Join(t.TempDir(), "out")
	b.upWith(out)
	counts := func(than int) {
		t.Helper()
		eventually(t, "the container counts on", func() bool { return lastNumber(t, out) > than })
	}
	counts(2)
	before := attributes(t, b.pid())
	images := filepath.Join(t.TempDir(), "images")

	// It runs on after --pre-dump, and with --leave-running.
	b.must("checkpoint", "--image-path", filepath.Join(images, "parent"), "--pre-dump")
	b.wantStatus("running")
	b.must("checkpoint", "--image-path", filepath.Join(images, "copy"), "--leave-running")
	b.wantStatus("running")
	counts(lastNumber(t, out))

	b.must("checkpoint", "--image-path", filepath.Join(images, "full"), "--parent-path", "../parent", "--work-path", filepath.Join(images, "log"))
	b.gone()
	stopped := lastNumber(t, out)
	size := int64(len(readFile(t, out)))

	f, err := os.OpenFile(out, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	restore := func(flags ...string) testenv.Result {
		t.Helper()
		cmd := testenv.Command(t, append(append([]string{"restore", "--image-path", filepath.Join(images, "full"), "--work-path", filepath.Join(images, "log")}, b.at(flags)...), b.id)...)
		cmd.Stdout = f
		return testenv.RunCmd(t, cmd)
	}
	pidFile := filepath.Join(t.TempDir(), "pid")
	if r := restore("--detach", "--pid-file", pidFile); r.Code != 0 || r.Stderr != "" {
		t.Fatalf("restore: %+v", r)
	}
	b.wantStatus("running")
	if got := readFile(t, pidFile); got != strconv.Itoa(b.pid()) {
		t.Errorf("pid file %q, want %d", got, b.pid())
	}
	counts(stopped)
	text := readFile(t, out)
	if !strings.Contains(text, "\n"+strconv.Itoa(stopped)+"\n"+strconv.Itoa(stopped+1)+"\n") {
		t.Errorf("it does not go on at %d:\n%s", stopped, text)
	}
	after := attributes(t, b.pid())
	for point, want := range before {
		if after[point] != want {
			t.Errorf("mount %s has %q, had %q", point, after[point], want)
		}
	}
	if len(after) != len(before) {
		t.Errorf("mounts %v, were %v", after, before)
	}
	for _, tt := range []struct{ name, want string }{{"memory.max", "67108864\n"}, {"pids.max", "20\n"}} {
		if got := readFile(t, filepath.Join("/sys/fs/cgroup", b.cgroup, tt.name)); got != tt.want {
			t.Errorf("%s is %q, want %q", tt.name, got, tt.want)
		}
	}
	if got := readFile(t, "/proc/"+strconv.Itoa(b.pid())+"/cgroup"); !strings.HasSuffix(strings.TrimSpace(got), b.cgroup) {
		t.Errorf("it is in the cgroup %q, want %s", got, b.cgroup)
	}
	// exec works in what was restored, and the sandbox holds.
	r := b.exec("sh", "-c", "cat /tmp/data; touch /tmp/x /x; ls /sys/fs/cgroup/cgroup.procs; cat /proc/keys; cat /proc/1/cgroup; grep -E '^(Seccomp|NoNewPrivs)' /proc/1/status")
	if !strings.Contains(r.Stdout, "of the host\n") || strings.Count(r.Stderr, "Read-only file system") != 2 || !strings.Contains(r.Stdout, "/sys/fs/cgroup/cgroup.procs") ||
		!strings.Contains(r.Stdout, "NoNewPrivs:\t1\n") || !strings.Contains(r.Stdout, "Seccomp:\t2\n") {
		t.Errorf("exec: %+v", r)
	}
	if strings.Contains(r.Stdout, b.cgroup) {
		t.Errorf("the container sees the host's cgroups: %s", r.Stdout)
	}
	b.must("kill")
	b.stopped()
	b.must("delete")
	b.gone()

	// In the foreground its status is restore's, and nothing is left. criu wants
	// files as long as they were.
	done := make(chan testenv.Result, 1)
	if err := os.Truncate(out, size); err != nil {
		t.Fatal(err)
	}
	go func() { done <- restore() }()
	eventually(t, "the container runs", func() bool {
		select {
		case r := <-done:
			t.Fatalf("restore: %+v", r)
		default:
		}
		r := b.do("state")
		return r.Code == 0 && strings.Contains(r.Stdout, `"running"`)
	})
	signalPid(t, b.pid(), unix.SIGTERM)
	if r := <-done; r.Code != 7 || r.Stderr != "" {
		t.Errorf("restore in the foreground: %+v", r)
	}
	b.gone()
}
