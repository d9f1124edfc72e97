package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

// projectLimit is a project of a file system with its limit and what counts for it.
type projectLimit struct {
	kib, space, inodes uint64
	id                 uint32
}

// projectLimits asks the file system of dir for all projects but 0.
func projectLimits(t *testing.T, dir string) (list []projectLimit) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	const next = 0x800009<<8 | 2 // QCMD(Q_GETNEXTQUOTA, PRJQUOTA)
	for id, seen := uint32(1), false; ; seen = true {
		var q struct { // struct if_nextdqblk
			hard, soft, space, ihard, isoft, inodes, btime, itime uint64
			valid, id                                             uint32
		}
		_, _, e := unix.Syscall6(unix.SYS_QUOTACTL_FD, uintptr(fd), next&(1<<32-1), uintptr(id), uintptr(unsafe.Pointer(&q)), 0, 0)
		if e == unix.ENOENT || e == unix.ESRCH && seen {
			return list
		}
		if e != 0 {
			t.Fatalf("quotactl_fd: %v", e)
		}
		// One without limit and use is none: the kernel forgets it a moment later.
		if q.hard|q.ihard|q.space|q.inodes != 0 {
			list = append(list, projectLimit{q.hard, q.space, q.inodes, q.id})
		}
		id = q.id + 1
	}
}

// quotaDisk mounts a new ext4 or XFS of its own with project quotas.
func quotaDisk(t *testing.T, kind string) (dir string, remount func(options string)) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "disk")
	image := dir + "." + kind
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, image, "")
	size, mkfs := int64(192<<20), []string{"/sbin/mkfs.ext4", "-q", "-F", "-O", "quota,project", "-E", "quotatype=prjquota"}
	if kind == "xfs" {
		size, mkfs = 320<<20, []string{"/sbin/mkfs.xfs", "-q", "-f"} // it makes no smaller ones
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	run(mkfs[0], append(mkfs[1:], image)...)
	mounted := false
	unmount := func() {
		if mounted {
			run("umount", dir)
			mounted = false
		}
	}
	t.Cleanup(unmount)
	return dir, func(options string) {
		t.Helper()
		unmount()
		run("mount", "-o", "loop"+options, image, dir)
		mounted = true
	}
}

// atProject takes a file and a directory out of the project that they count for.
func atProject([]string) int {
	const setXAttr, getFlags, setFlags, inherits = 0x401c5820, 0x80086601, 0x40086602, 0x20000000
	f, err1 := os.Create("/f")
	err2 := os.Mkdir("/d", 0o700)
	d, err3 := os.Open("/d")
	if err := errors.Join(err1, err2, err3); err != nil {
		fmt.Println(err)
		return 1
	}
	call := func(fd uintptr, request uintptr, arg unsafe.Pointer) {
		_, _, e := unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(arg))
		if e != 0 {
			fmt.Println(e)
		} else {
			fmt.Println("<nil>")
		}
	}
	var none [7]uint32 // struct fsxattr
	call(f.Fd(), setXAttr, unsafe.Pointer(&none))
	call(d.Fd(), setXAttr|0xabc<<32, unsafe.Pointer(&none)) // the kernel looks at 32 bits
	var flags uint32
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, d.Fd(), getFlags, uintptr(unsafe.Pointer(&flags))); e != 0 {
		fmt.Println(e)
		return 1
	}
	flags &^= inherits
	call(d.Fd(), setFlags, unsafe.Pointer(&flags))
	call(d.Fd(), setFlags|0xabc<<32, unsafe.Pointer(&flags))
	return 0
}

// wantProjects waits until the kernel knows so many projects: XFS counts removed files
// until a worker of its own has given their inodes back.
func wantProjects(t *testing.T, disk, what string, want int) []projectLimit {
	t.Helper()
	list := projectLimits(t, disk)
	for end := time.Now().Add(testenv.Timeout(10 * time.Second)); len(list) != want; list = projectLimits(t, disk) {
		if time.Now().After(end) {
			t.Errorf("%s: projects %+v, want %d", what, list, want)
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return list
}

const fill = "dd if=/dev/zero of=/f bs=1M count=20 2>&1 || echo failed; "

// full reports whether fill said that there was no room.
func full(said string) bool {
	return strings.Contains(said, "quota exceeded") || strings.Contains(said, "No space left")
}

// --storage-opt size= on a disk with project quotas: a container that writes more is
// stopped, others are not; it cannot get away; and nothing is left of the limit after
// a deletion, or a crash and a collection.
func TestVMImageSize(t *testing.T) {
	h := imageSetup(t)
	disk, mount := quotaDisk(t, "ext4")
	h.store = filepath.Join(disk, "store")

	// With the features, but not in force: counted, not limited.
	mount("")
	h.base()
	h.refused(`the ext4 file system at "`+disk+`" has no project quotas in force`, "run", "--storage-opt", "size=8m", "--image", "base", h.id(), "true")
	mount(",prjquota")
	limits := func(what string, want int) []projectLimit {
		t.Helper()
		return wantProjects(t, disk, what, want)
	}

	// It is held to its limit and sees it. Deleted files count no more.
	r := h.sh(fill+"stat -c %s /f; df -k / | tail -n 1; rm /f; dd if=/dev/zero of=/g bs=1M count=6 2>/dev/null && echo again", "--storage-opt", "size=8m")
	lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
	if n := len(lines); !full(r.Stdout) || n < 4 || lines[n-1] != "again" || strings.Fields(lines[n-2])[1] != "8192" {
		t.Errorf("20 MiB into 8: %+v", r)
	} else if size, err := strconv.Atoi(lines[n-3]); err != nil || size > 8<<20 || size < 6<<20 {
		t.Errorf("20 MiB into 8: the file has %q bytes", lines[n-3])
	}
	if r := h.sh(fill); full(r.Stdout) || strings.Contains(r.Stdout, "failed") {
		t.Errorf("without a limit: %+v", r)
	}
	limits("after both", 0)

	// Two have limits of their own, also against many small files.
	one, two := h.id(), h.id()
	h.must("run", "--storage-opt", "size=4m", "--image", "base", one, "sh", "-c", fill)
	if r := h.do("run", "--storage-opt=size=24m", "--image", "base", two, "sh", "-c", fill+"mkdir /d; i=0; while echo x >/d/$i; do i=$((i+1)); done; echo $i files"); strings.Contains(r.Stdout, "failed") || !full(r.Stderr) {
		t.Errorf("beside a full one: %+v", r)
	}
	list := limits("two containers", 2)
	for _, q := range list {
		if q.kib != 4096 && q.kib != 24576 || q.space > q.kib*1024 || q.space < q.kib*1024*3/4 {
			t.Errorf("%+v", q)
		}
	}
	h.must("delete", one)
	limits("one of two deleted", 1)
	h.must("delete", two)
	limits("both deleted", 0)

	// Root of the container owns the files and may take them out of the project.
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	escape := func(flags ...string) string {
		t.Helper()
		return h.out("exec /bin/attack-project", append(flags, "--storage-opt", "size=8m", "-v", exe+":/bin/attack-project:ro")...)
	}
	if got := escape(); got != strings.Repeat("permission denied\n", 4) {
		t.Errorf("an escape: %q", got)
	}
	if got := escape("--security-opt", "seccomp=unconfined"); got != strings.Repeat("<nil>\n", 4) {
		t.Errorf("the escape is none: %q", got)
	}

	// Killed around the calls that make the limit.
	id := h.id()
	points := 0
	for n := 1; n < 20; n += 4 {
		_, reached := tracedRun(t, minirunItself, n, []uint64{unix.SYS_QUOTACTL_FD}, h.command("create", "--storage-opt", "size=8m", "--image", "base", id, "true")...)
		if reached {
			points++
		}
		what := "create killed at call " + strconv.Itoa(n) + " of the limit"
		h.converge(what, id)
		h.must("image", "gc", "--quiet")
		limits(what, 0)
	}
	// And around those that give it back.
	for n := 1; n < 3; n++ {
		h.must("create", "--storage-opt", "size=8m", "--image", "base", id, "true")
		if _, reached := tracedRun(t, minirunItself, n, []uint64{unix.SYS_QUOTACTL_FD}, h.command("delete", "--force", id)...); reached {
			points++
			limits("a killed delete", 1)
		}
		h.converge("delete", id)
		h.must("image", "gc", "--quiet")
		limits("delete, and gc", 0)
	}
	if points < 6 {
		t.Errorf("only %d crash points", points)
	}
}

// The same on XFS, which counts in its own way.
func TestVMImageSize_XFS(t *testing.T) {
	h := imageSetup(t)
	disk, mount := quotaDisk(t, "xfs")
	h.store = filepath.Join(disk, "store")
	mount("")
	h.base()
	h.refused(`the xfs file system at "`+disk+`" has no project quotas in force`, "run", "--storage-opt", "size=8m", "--image", "base", h.id(), "true")
	mount(",prjquota")
	r := h.sh(fill+"df -k / | tail -n 1; rm /f; dd if=/dev/zero of=/g bs=1M count=6 2>/dev/null && echo again", "--storage-opt", "size=8m")
	lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
	if n := len(lines); !full(r.Stdout) || n < 3 || lines[n-1] != "again" || strings.Fields(lines[n-2])[1] != "8192" {
		t.Errorf("20 MiB into 8: %+v", r)
	}
	if r := h.sh(fill); full(r.Stdout) || strings.Contains(r.Stdout, "failed") {
		t.Errorf("without a limit: %+v", r)
	}
	wantProjects(t, disk, "after both", 0)
	id := h.id()
	if r := h.do("run", "--storage-opt", "size=4m", "--image", "base", id, "sh", "-c", fill); !full(r.Stdout) {
		t.Errorf("20 MiB into 4: %+v", r)
	}
	for _, q := range wantProjects(t, disk, "a full one", 1) {
		if q.kib != 4096 || q.space > 4<<20 || q.space < 3<<20 {
			t.Errorf("%+v", q)
		}
	}
	mount(",prjquota") // as after a reboot: the quotas are on the disk
	wantProjects(t, disk, "mounted again", 1)
	h.must("delete", id)
	wantProjects(t, disk, "deleted", 0)
}

// Where there are no project quotas, the error says where that is and what would do.
func TestRootImageSizeRefused(t *testing.T) {
	h := imageSetup(t)
	disk := filepath.Join(t.TempDir(), "disk")
	imageDisk(t, disk, "size=64m")
	h.store = filepath.Join(disk, "store")
	h.base()
	for _, command := range []string{"run", "create"} {
		h.refused(`the tmpfs file system at "`+disk+`" has no project quotas in force`, command, "--storage-opt", "size=8m", "--image", "base", h.id(), "true")
		h.refused("keep the store (--store) on ext4 or XFS mounted with the option prjquota", command, "--storage-opt", "size=8m", "--image", "base", h.id(), "true")
	}
	for _, bad := range []string{"size", "size=", "size=0", "size=-1", "size=8x", "inodes=5", "size=99999999t"} {
		h.refused("storage-opt", "run", "--storage-opt", bad, "--image", "base", h.id(), "true")
	}
	h.refused("--storage-opt needs --image", "run", "--storage-opt", "size=8m", h.id())
}
