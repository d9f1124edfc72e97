package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
)

// sbRuntime is one of the two runtimes whose sandboxes are compared.
type sbRuntime struct {
	name, path, root string
}

// sbRuntimes returns runc, the reference, and minirun.
func sbRuntimes(t testing.TB) [2]sbRuntime {
	testenv.KeepControllers(t)
	t.Helper()
	runc := ""
	for _, p := range []string{"/usr/sbin/runc", "/usr/bin/runc", "/sbin/runc"} {
		if _, err := os.Stat(p); err == nil {
			runc = p
			break
		}
	}
	if runc == "" {
		t.Fatal("runc is not installed: apt-get install runc")
	}
	return [2]sbRuntime{
		{"runc", runc, filepath.Join(testenv.StateRoot(t), "runc")},
		{"minirun", testenv.Binary(t), filepath.Join(testenv.StateRoot(t), "minirun")},
	}
}

// sbIsolate replaces a hybrid or v1 cgroup mount by cgroup2: runc takes what it
// finds at /sys/fs/cgroup, and both runtimes shall find the same.
const sbIsolate = `if [ "$(stat -fc %T /sys/fs/cgroup)" != cgroup2fs ]; then
	umount -l /sys/fs/cgroup && mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /sys/fs/cgroup || exit 99
fi
exec "$@"`

// command runs the runtime in a private mount namespace. The commands of one
// container may each have their own: containers are entered by pid.
func (r *sbRuntime) command(args ...string) *exec.Cmd {
	cmd := exec.Command("sh", append([]string{"-c", sbIsolate, "sh", r.path, "--root", r.root}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	return cmd
}

// run fails the test unless the command succeeds.
func (r *sbRuntime) run(t testing.TB, cmd *exec.Cmd) testenv.Result {
	t.Helper()
	result := testenv.RunCmd(t, cmd)
	if result.Code != 0 {
		t.Fatalf("%s %s: status %d\n%s%s", r.name, strings.Join(cmd.Args[6:], " "), result.Code, result.Stdout, result.Stderr)
	}
	return result
}

// delete removes the container, whatever its state, and is no error without one.
func (r *sbRuntime) delete(t testing.TB, id string) {
	testenv.RunCmd(t, r.command("delete", "--force", id))
	reapAll()
}

// sbProbe is where test root filesystems have the program that prints its sandbox.
const sbProbe = "/bin/sandbox"

// sbInstallProbe puts a static program that prints its sandbox into the rootfs.
func sbInstallProbe(t testing.TB, rootfs string) {
	t.Helper()
	b, err := os.ReadFile(testenv.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(rootfs, sbProbe), b, 0o755); err != nil {
		t.Fatal(err)
	}
}

// sbFacts are the lines of the probe, by key.
type sbFacts map[string]string

func sbParse(t testing.TB, text string) sbFacts {
	t.Helper()
	f := sbFacts{}
	for line := range strings.Lines(strings.ReplaceAll(text, "\r\n", "\n")) {
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		if !ok {
			t.Fatalf("no \"key: value\" line: %q in\n%s", line, text)
		}
		f[key] = value
	}
	// Nothing of a probe that broke off may look like agreement.
	for _, key := range []string{"uid", "status CapEff", "mount /", "rlimit stack_size", "writable /tmp"} {
		if f[key] == "" {
			t.Fatalf("the probe does not say %q:\n%s", key, text)
		}
	}
	return f
}

// sbDifference is a difference between the runtimes that is meant to be. runc
// and minirun are regular expressions for the whole value; "" is no such line.
type sbDifference struct {
	cases   string // regular expression for the whole name of the case
	key     string // regular expression for the whole key
	runc    string
	minirun string
	reason  string
	racy    bool // not met in every run
	used    bool
}

// sbCompare fails the test for every line that differs and is not accounted for.
func sbCompare(t testing.TB, name string, runc, minirun sbFacts, allowed []sbDifference) {
	t.Helper()
	keys := []string{}
	for k := range runc {
		keys = append(keys, k)
	}
	for k := range minirun {
		if _, both := runc[k]; !both {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	full := func(pattern, s string) bool {
		return regexp.MustCompile("^(?:" + pattern + ")$").MatchString(s)
	}
	for _, k := range keys {
		if runc[k] == minirun[k] {
			continue
		}
		justified := false
		for i := range allowed {
			d := &allowed[i]
			if full(d.cases, name) && full(d.key, k) && full(d.runc, runc[k]) && full(d.minirun, minirun[k]) {
				d.used, justified = true, true
			}
		}
		if !justified {
			t.Errorf("%s\n\trunc:    %q\n\tminirun: %q", k, runc[k], minirun[k])
		}
	}
}

// sbWait waits for the end of the process in the pid file.
func sbWait(t testing.TB, pidFile string) {
	t.Helper()
	b, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	deadline := time.Now().Add(testenv.Timeout(20 * time.Second))
	for time.Now().Before(deadline) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if n == 1 {
			// A process of exec is our orphan, and holds up the end of the
			// container's pid namespace until it is reaped.
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
			return
		}
		if err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
	}
	t.Fatalf("process %d runs on", pid)
}

// sbStdio gives a command descriptors that are the same files for both
// runtimes, and returns what was written in the end.
func sbStdio(t testing.TB, cmd *exec.Cmd, path string) (read func() string) {
	t.Helper()
	out, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	cmd.Stdout, cmd.Stderr = out, out
	return func() string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
}

// sbWriteConfig writes the configuration of a bundle.
func sbWriteConfig(t testing.TB, bundle string, spec *specs.Spec) {
	t.Helper()
	b, err := json.MarshalIndent(spec, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// sbTerminal runs cmd with a new terminal as its standard streams and its
// controlling terminal, and returns what was written to it.
func sbTerminal(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	// Blocking mode: Fd would otherwise change it under the reader below.
	mfd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(mfd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	sfd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(mfd), unix.TIOCGPTPEER, uintptr(unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC))
	if errno != 0 {
		t.Fatal(errno)
	}
	slave := os.NewFile(sfd, "terminal")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = true, true
	if err := cmd.Start(); err != nil {
		slave.Close()
		t.Fatal(err)
	}
	slave.Close()
	var out strings.Builder
	done := make(chan struct{})
	go func() { // ends with EIO when the last slave is closed
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := unix.Read(mfd, buf)
			if n > 0 {
				out.Write(buf[:n])
			}
			if n <= 0 && !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}()
	late := time.AfterFunc(testenv.Timeout(30*time.Second), func() { unix.Kill(-cmd.Process.Pid, unix.SIGKILL) })
	defer late.Stop()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%s: %v\n%s", fmt.Sprint(cmd.Args), err, out.String())
	}
	<-done
	return out.String()
}
