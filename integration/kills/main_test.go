// Package kills kills minirund, monitors, processes of containers and commands in
// them at random, while objects change at random, and compares what there is with
// what a model says: nothing that was acknowledged is lost, nothing runs twice, no
// exit status is lost or invented, and in the end nothing is left.
//
//	main_test.go    the test, and the namespaces that all of it happens in
//	hammer_test.go  rounds: changes, kills, looks
//	daemon_test.go  minirund, which is killed and started again
//	wanted_test.go  the objects: what was acknowledged
//	world_test.go   the pods: what the API says of them, checked with every change
//	scan_test.go    the processes: what the kernel says of them
//	settle_test.go  what must be true when nothing has been killed for a while
//	clean_test.go   what must be gone when everything was deleted
package kills

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

// insideVariable marks the process that is in its own namespaces.
const insideVariable = "MINIRUN_KILLS_INSIDE"

func TestMain(m *testing.M) {
	if os.Getenv(insideVariable) != "" {
		os.Exit(inside(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// prepare makes namespaces usable. The shell stays as process 1 and reaps orphans.
const prepare = `set -e
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /sys/fs/cgroup/own
echo 0 >/sys/fs/cgroup/own/cgroup.procs
ip link set lo up
ip address add 192.0.2.1/32 dev lo
ip route add default dev lo src 192.0.2.1
read go
set +e
"$@"
exit $?
`

// With the root tests some 30 processes are killed, as a fixed seed says; MINIRUN_TEST_HAMMER_KILLS=N kills N, and MINIRUN_TEST_HAMMER_SEED repeats a run
// as far as the machine lets it.
func TestRootSupervisorKills(t *testing.T) {
	testenv.RequireRoot(t)
	n, err := strconv.Atoi(os.Getenv("MINIRUN_TEST_HAMMER_KILLS"))
	seed, seedErr := strconv.ParseUint(os.Getenv("MINIRUN_TEST_HAMMER_SEED"), 10, 64)
	if seedErr != nil {
		seed = rand.Uint64N(1 << 32)
	}
	if err == nil {
		hammerRun(t, seed, n)
		return
	}
	hammerRun(t, 1, 30)
}

func hammerRun(t *testing.T, seed uint64, n int) {
	testenv.CheckLeaks(t)
	testenv.Supervisor(t)
	minirun := testenv.Binary(t)
	busybox := testenv.Busybox(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir: it is kept when something was found.
	dir, err := os.MkdirTemp("", "mrk")
	if err != nil {
		t.Fatal(err)
	}
	testenv.Own(t, dir)
	mount := cgroupRoot(t)
	group := filepath.Join(mount, fmt.Sprintf("minirun-test-%d", os.Getpid()), testenv.UniqueID(t))
	if err := os.MkdirAll(group, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeGroups(t, group) })
	fd, err := unix.Open(group, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	cmd := exec.Command("unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup", "--fork", "--mount-proc", "--propagation", "private",
		"--kill-child", "sh", "-c", prepare, "kills", self, minirun, busybox, dir, strconv.FormatUint(seed, 10), strconv.Itoa(n))
	cmd.Env = append(os.Environ(), insideVariable+"=1", "PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out := &output{t: t, long: n > 100}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(group, "own")
	deadline := time.Now().Add(testenv.Timeout(time.Minute))
	for {
		// unshare itself is still in the group, which must be empty to have children
		// with controllers.
		err := os.WriteFile(filepath.Join(own, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			cmd.Process.Kill()
			cmd.Wait()
			t.Fatalf("the namespaces are not there: %v\n%s", err, out.text())
		}
		time.Sleep(time.Millisecond)
	}
	if _, err := in.Write([]byte("go\n")); err != nil {
		t.Error(err)
	}
	err = cmd.Wait()
	in.Close()
	if err != nil {
		t.Errorf("%v; kept in %s\n%s", err, dir, out.text())
		return
	}
	t.Log(out.text())
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}

// output is what the hammer says; of a long run it is shown at once.
type output struct {
	t    *testing.T
	long bool
	b    []byte
}

func (o *output) Write(p []byte) (int, error) {
	if o.long {
		os.Stderr.Write(p)
	}
	o.b = append(o.b, p...)
	return len(p), nil
}

func (o *output) text() string {
	if o.long {
		return ""
	}
	return string(o.b)
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

// removeGroups removes a group and all below it, whose processes have ended with
// their pid namespace.
func removeGroups(t *testing.T, group string) {
	t.Helper()
	deadline := time.Now().Add(testenv.Timeout(20 * time.Second))
	for {
		var dirs []string
		_ = filepath.WalkDir(group, func(path string, e os.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			_ = os.Remove(dirs[i])
		}
		if _, err := os.Stat(group); err != nil {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("cgroups are left: %s", strings.Join(dirs, " "))
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}
