package initprog

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

func TestRootStart_Cloneflags(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	const flags = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
	w := startWaiting(t, Options{CgroupFD: -1, Cloneflags: flags}, func(b *Builder) {})
	for _, ns := range []string{"mnt", "pid", "net", "ipc", "uts", "cgroup"} {
		if inode(t, w.proc("ns/"+ns)) == inode(t, "/proc/self/ns/"+ns) {
			t.Errorf("%s: the process is in our namespace", ns)
		}
	}
	if inode(t, w.proc("ns/user")) != inode(t, "/proc/self/ns/user") {
		t.Error("user: the process is not in our namespace")
	}
	if got := strings.Fields(w.status("NSpid")); got[len(got)-1] != "1" {
		t.Errorf("pids %v, want 1 in its own namespace", got)
	}
}

func cgroupMount(t *testing.T) string {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir
		}
	}
	t.Fatal("no cgroup v2 hierarchy is mounted")
	return ""
}

func TestRootStart_CgroupFD(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	mount := cgroupMount(t)
	name := "minirun-test-" + strconv.Itoa(os.Getpid()) + "-initprog"
	if err := os.Mkdir(filepath.Join(mount, name), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(filepath.Join(mount, name)); err != nil {
			t.Error(err)
		}
	})
	fd, err := linux.OpenAt(unix.AT_FDCWD, filepath.Join(mount, name), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer linux.Close(fd)
	w := startWaiting(t, Options{CgroupFD: fd, Cloneflags: unix.CLONE_NEWCGROUP}, func(*Builder) {})
	b, err := os.ReadFile(w.proc("cgroup"))
	if err != nil || !strings.Contains(string(b), "0::/"+name+"\n") && !strings.HasSuffix(strings.TrimSpace(string(b)), "/"+name) {
		t.Errorf("cgroups %q, %v; want %s", b, err, name)
	}
	w.end()
}

// Nobody unprivileged can open what the process has once it is not dumpable.
func TestRootStart_NotDumpableIsClosed(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	for _, dumpable := range []uint64{1, 0} {
		w := startWaiting(t, Options{CgroupFD: -1}, func(b *Builder) {
			b.Setresgid(65534)
			b.Setresuid(65534)
			b.Prctl(unix.PR_SET_DUMPABLE, dumpable)
		})
		cmd := exec.Command("/proc/self/exe", "-test.run=^$")
		cmd.Path = "/bin/cat"
		cmd.Args = []string{"cat", w.proc("environ")}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if denied := err != nil; denied != (dumpable == 0) {
			t.Errorf("dumpable %d: another process of the user got %q, %v", dumpable, out, err)
		}
		w.end()
	}
}

// vm.memfd_noexec=2 forbids executable memfds (Linux 6.3). It belongs to the pid
// namespace, so a helper in a new one sets it.
func TestRootStart_MemfdForbidden(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	if _, err := os.Stat("/proc/sys/vm/memfd_noexec"); err != nil {
		t.Skip("this kernel has no vm.memfd_noexec (Linux 6.3)")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command(exe)
	cmd.Args = []string{"memfd-forbidden", dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "hello" {
		t.Errorf("got %q, %v", out, err)
	}
	if got := descriptors(t, dir); len(got) != 0 {
		t.Errorf("names left: %v", got)
	}
}

// memfdForbidden is the helper's part; the result is its exit status.
func memfdForbidden(dir string) int {
	if err := os.WriteFile("/proc/sys/vm/memfd_noexec", []byte("2"), 0); err != nil {
		fmt.Println(err)
		return 1
	}
	b := NewBuilder(2)
	b.Write(FD(1), "hello")
	b.ExitGroup(0)
	img, err := b.Link()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	o := Options{Files: []int{0, 1, 2}, CgroupFD: -1}
	if _, _, err := img.Start(o); err == nil {
		fmt.Println("a memfd could be executed")
		return 1
	}
	o.Fallback = dir + "/noexec" // of this mount namespace
	if err := os.Mkdir(o.Fallback, 0o700); err != nil {
		fmt.Println(err)
		return 1
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		fmt.Println(err)
		return 1
	}
	if err := unix.Mount("tmpfs", o.Fallback, "tmpfs", unix.MS_NOEXEC, ""); err != nil {
		fmt.Println(err)
		return 1
	}
	if _, _, err := img.Start(o); !errors.Is(err, unix.EACCES) || !strings.Contains(err.Error(), "noexec") {
		fmt.Println("noexec:", err)
		return 1
	}
	if err := errors.Join(unix.Unmount(o.Fallback, 0), os.Remove(o.Fallback)); err != nil {
		fmt.Println(err)
		return 1
	}
	o.Fallback = dir
	pid, _, err := img.Start(o)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &ws, 0, nil); err != nil {
		fmt.Println(err)
		return 1
	}
	return ws.ExitStatus()
}
