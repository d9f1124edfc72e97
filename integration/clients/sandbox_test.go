// Package clients runs container engines and tools of others with minirun as
// their OCI runtime: podman, containerd, docker, buildah and conmon from Debian's
// packages. Each engine has one script; with runc as its runtime the same
// script has to pass too, which shows that it asks for what engines rely on and
// not for what minirun happens to do.
package clients

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
)

// sandbox is a set of namespaces for an engine, so that its daemons, networks,
// mounts and files are apart from the machine's and end with the test.
type sandbox struct {
	t     *testing.T
	dir   string // on a real file system, for storage
	group string // the cgroup that is the root inside
	leaf  int    // descriptor of the group that the engine's own processes are in
	pid   string // process 1 of the pid namespace
	env   []string
	told  bool // see tell
}

// inside prepares the namespaces. Engines write below /etc, /opt and /var whatever
// they are told; those writes land in a tmpfs. The shell stays as process 1 and
// reaps orphans while it waits for cat, which ends with the test.
const inside = `set -e
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir /sys/fs/cgroup/engine
echo 0 >/sys/fs/cgroup/engine/cgroup.procs
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mkdir /run/overlay
for d in etc opt var; do
	[ -d /$d ] || continue
	mkdir /run/overlay/$d /run/overlay/$d/upper /run/overlay/$d/work
	mount -t overlay -o lowerdir=/$d,upperdir=/run/overlay/$d/upper,workdir=/run/overlay/$d/work overlay /$d
done
# Docker would ask for apparmor_parser, which is no dependency of its package, and load profiles into the machine's kernel.
apparmor=/sys/module/apparmor/parameters/enabled
if [ -e $apparmor ]; then
	echo N >/run/no-apparmor
	mount --bind /run/no-apparmor $apparmor
fi
[ -e /run/lock ] || mkdir -m 1777 /run/lock
# Engines keep layers in overlays, which not every file system can be the upper one of.
mkdir "$1/try" "$1/try/upper" "$1/try/work" "$1/try/at"
if mount -t overlay -o "lowerdir=/opt,upperdir=$1/try/upper,workdir=$1/try/work" overlay "$1/try/at" 2>/dev/null; then
	umount "$1/try/at"
else
	for d in graph docker containerd; do
		mkdir "$1/$d"
		mount -t tmpfs tmpfs "$1/$d"
	done
fi
rm -rf "$1/try"
ip link set lo up
cd "$1"
echo ready
cat
exit 0
`

// newSandbox makes the namespaces and the control group.
func newSandbox(t *testing.T) *sandbox {
	t.Helper()
	s := &sandbox{t: t, dir: testenv.StateRoot(t)} // a short path: sockets lie below it
	s.group = filepath.Join(cgroupRoot(t), fmt.Sprintf("minirun-test-%d", os.Getpid()), testenv.UniqueID(t))
	if err := os.MkdirAll(s.group, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeGroups(t, s.group) })
	if err := os.Mkdir(filepath.Join(s.dir, "tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.env = []string{
		"PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + s.dir, "TMPDIR=" + s.dir + "/tmp", "TERM=vt100", "LC_ALL=C",
	}
	for _, e := range os.Environ() {
		if strings.HasPrefix(e, "MINIRUN_TEST_") {
			s.env = append(s.env, e)
		}
	}
	group, err := unix.Open(s.group, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(group)
	cmd := exec.Command("unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup", "--fork", "--mount-proc", "--propagation", "private",
		"--kill-child", "sh", "-c", inside, "sandbox", s.dir)
	cmd.Env = s.env
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: group}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Process 1 ends with its input, and all others with it.
		in.Close()
		timer := time.AfterFunc(testenv.Timeout(30*time.Second), func() {
			t.Error("the namespaces of the engine do not end; killed")
			cmd.Process.Kill()
		})
		cmd.Wait()
		timer.Stop()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		in.Close()
		cmd.Wait()
		t.Fatalf("make namespaces for an engine: %q, %v\n%s", line, err, stderr.String())
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	s.pid = strings.TrimSpace(string(children))
	// unshare itself is still in the group, which must be empty to have children with controllers.
	engine := filepath.Join(s.group, "engine")
	if err := os.WriteFile(filepath.Join(engine, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	if s.leaf, err = unix.Open(engine, unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(s.leaf) })
	t.Cleanup(s.tell)
	return s
}

// tell writes down what a sandbox in which a test has failed looks like, and the
// ends of its logs.
func (s *sandbox) tell() {
	s.t.Helper()
	if !s.t.Failed() || s.told {
		return
	}
	s.told = true
	cmd := s.command("sh", "-c", "ps -eo pid,ppid,stat,wchan:20,args --forest; mount | grep -c .; free -m; uptime")
	timer := time.AfterFunc(testenv.Timeout(20*time.Second), func() { cmd.Process.Kill() })
	out, err := cmd.CombinedOutput()
	timer.Stop()
	s.t.Logf("in the sandbox (%v):\n%s", err, out)
	logs, _ := filepath.Glob(filepath.Join(s.dir, "*.log"))
	for _, l := range append(logs, filepath.Join(s.dir, "argv")) {
		s.t.Logf("the end of %s:\n%s", filepath.Base(l), tail(l, 4000))
	}
}

// cgroupRoot is where the cgroup v2 hierarchy is mounted.
func cgroupRoot(t *testing.T) string {
	t.Helper()
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir
		}
	}
	t.Fatal("cgroup v2 is mounted neither on /sys/fs/cgroup nor on /sys/fs/cgroup/unified")
	return ""
}

// enableControllers gives the sandbox's group, and through it the engine, all
// controllers that there are.
func (s *sandbox) enableControllers() {
	s.t.Helper()
	for dir := filepath.Dir(s.group); ; dir = s.group {
		list, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
		if err != nil {
			s.t.Fatal(err)
		}
		for c := range strings.FieldsSeq(string(list)) {
			if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0); err != nil {
				s.t.Fatal(err)
			}
		}
		if dir == s.group {
			return
		}
	}
}

// removeGroups removes a group, all below it, and its parent when that is empty.
// What runs in them has been killed and may take its time to be gone.
func removeGroups(t *testing.T, group string) {
	deadline := time.Now().Add(testenv.Timeout(20 * time.Second))
	for {
		var dirs []string
		filepath.WalkDir(group, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		var err error
		for i := len(dirs) - 1; i >= 0; i-- {
			if e := os.Remove(dirs[i]); e != nil && !errors.Is(e, os.ErrNotExist) {
				err = e
			}
		}
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("remove the engine's control groups: %v", err)
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	os.Remove(filepath.Dir(group)) // fails when another test uses it
}

// command is a command in the sandbox, in the control group of the engine.
func (s *sandbox) command(args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"--target", s.pid, "--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup", "--wd=" + s.dir, "--"}, args...)...)
	cmd.Env = s.env
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: s.leaf}
	return cmd
}

// patience is how long a command of an engine may take. The programs are big and
// come from a cold disk the first time, on a machine that has more to do.
const patience = 4 * time.Minute

// run runs a command to its end.
func (s *sandbox) run(args ...string) testenv.Result {
	s.t.Helper()
	return testenv.RunCmdWithin(s.t, s.command(args...), patience)
}

// serve starts a daemon as [sandbox.daemon] does and waits until it answers. One
// that ends before that, because something else that it waits for was too slow,
// is started again.
func (s *sandbox) serve(log string, answers func() bool, args ...string) (stop func(syscall.Signal)) {
	s.t.Helper()
	for try := 1; ; try++ {
		d := s.daemon(log, args...)
		ended := false
		eventually(s.t, args[0]+" answers", func() bool {
			select {
			case <-d.done:
				ended = true
			default:
			}
			return ended || answers()
		})
		if !ended {
			return d.stop
		}
		if try == 3 {
			s.t.Fatalf("%s has ended %d times before it answered", args[0], try)
		}
		s.t.Logf("%s has ended before it answered; start it again", args[0])
	}
}

// daemon is a program that stays.
type daemon struct {
	stop func(syscall.Signal) // ends it with a signal and waits for it
	done chan struct{}        // closed when it has ended
}

// daemon starts a program that stays, with its output in a file.
func (s *sandbox) daemon(log string, args ...string) daemon {
	s.t.Helper()
	f, err := os.OpenFile(filepath.Join(s.dir, log), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	cmd := s.command(append([]string{"sh", "-c", `echo $$ >"$0"; exec "$@"`, filepath.Join(s.dir, log+".pid")}, args...)...)
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	d := daemon{done: make(chan struct{})}
	go func() { cmd.Wait(); close(d.done) }()
	d.stop = func(sig syscall.Signal) {
		select {
		case <-d.done:
			return
		default:
		}
		// nsenter is its parent; a signal to that would leave the daemon alone.
		pid, err := os.ReadFile(filepath.Join(s.dir, log+".pid"))
		if err == nil {
			s.command("kill", "-"+strconv.Itoa(int(sig)), strings.TrimSpace(string(pid))).Run()
		}
		timer := time.AfterFunc(testenv.Timeout(patience), func() { cmd.Process.Kill() })
		<-d.done
		timer.Stop()
	}
	s.t.Cleanup(func() { s.tell(); d.stop(unix.SIGKILL) })
	return d
}

// tail is the end of a file.
func tail(path string, n int64) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > n {
		f.Seek(-n, io.SeekEnd)
	}
	b, _ := io.ReadAll(f)
	return string(b)
}

// eventually waits for a condition that nothing announces.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testenv.Timeout(patience))
	defer cancel()
	for pause := 10 * time.Millisecond; !ok(); pause = min(2*pause, 500*time.Millisecond) {
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain for %v: %s", testenv.Timeout(patience), what)
		case <-time.After(pause):
		}
	}
}

// write makes a file below the sandbox's directory and returns its path.
func (s *sandbox) write(name, text string, mode os.FileMode) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		s.t.Fatal(err)
	}
	return path
}
