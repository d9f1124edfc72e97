package initprog

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

// A waiter is a process whose program says "." and waits for a byte.
type waiter struct {
	t          *testing.T
	pid, pidfd int
	in, out    int // our ends
}

// startWaiting starts build's ops, then a wait. Descriptor 0 is what it waits
// for, 3 where it writes.
func startWaiting(t *testing.T, o Options, build func(b *Builder)) *waiter {
	t.Helper()
	img := link(t, func(b *Builder) {
		build(b)
		b.Write(Sync(), ".")
		b.ReadWords(FD(0), b.Words(0), 1)
		b.ExitGroup(0)
	})
	w := &waiter{t: t}
	in, inW := pipe(t)
	outR, out := pipe(t)
	w.in, w.out = inW, outR
	o.Files = []int{in, -1, -1, out}
	var err error
	w.pid, w.pidfd, err = img.Start(o)
	linux.Close(in)
	linux.Close(out)
	if err != nil {
		t.Fatal(err)
	}
	var buf [64]byte
	if n, err := syscall.Read(outR, buf[:]); err != nil || string(buf[:n]) != "." {
		t.Errorf("the program said %q, %v", buf[:n], err)
	}
	t.Cleanup(w.end)
	return w
}

// end lets it go on and waits for its end.
func (w *waiter) end() {
	if w.in < 0 {
		return
	}
	linux.Close(w.in)
	w.in = -1
	if ws := wait(w.t, w.pid); ws != 0 {
		w.t.Errorf("the program ended with %#x", ws)
	}
	linux.Close(w.pidfd)
	linux.Close(w.out)
}

func (w *waiter) proc(name string) string { return "/proc/" + strconv.Itoa(w.pid) + "/" + name }

func (w *waiter) status(key string) string {
	w.t.Helper()
	b, err := os.ReadFile(w.proc("status"))
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if k, v, _ := strings.Cut(line, ":"); k == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func descriptors(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names
}

func TestStart_Process(t *testing.T) {
	testenv.CheckLeaks(t)
	before := descriptors(t, "/proc/self/fd")
	w := startWaiting(t, Options{CgroupFD: -1}, func(b *Builder) {
		b.Prctl(unix.PR_SET_DUMPABLE, 0)
		b.Prctl(unix.PR_GET_DUMPABLE).OnNonzero(b.Here())
	})
	if got := len(descriptors(t, "/proc/self/fd")); got != len(before)+3 { // pidfd and two pipe ends
		t.Errorf("%d descriptors before, %d while it runs; want 3 more", len(before), got)
	}
	if flags, err := unix.FcntlInt(uintptr(w.pidfd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("the pidfd is not close-on-exec: %#x, %v", flags, err)
	}
	if got := descriptors(t, w.proc("task")); len(got) != 1 {
		t.Errorf("threads %v", got)
	}
	if env, err := os.ReadFile(w.proc("environ")); os.Geteuid() == 0 && (err != nil || len(env) != 0) {
		t.Errorf("environment %q, %v", env, err)
	}
	if b, _ := os.ReadFile(w.proc("cmdline")); string(b) != Name+"\x00" {
		t.Errorf("command line %q", b)
	}
	maps, err := os.ReadFile(w.proc("maps"))
	if err != nil || !strings.Contains(string(maps), "00400000-") || !strings.Contains(string(maps), "[stack]") {
		t.Errorf("mappings %q, %v", maps, err)
	}
	for line := range strings.Lines(string(maps)) {
		if perm := strings.Fields(line)[1]; strings.Contains(perm, "w") && strings.Contains(perm, "x") {
			t.Errorf("memory that is writable and executable: %s", line)
		}
	}
	rss, err := strconv.Atoi(strings.TrimSuffix(w.status("VmRSS"), " kB"))
	if err != nil || rss >= 256 {
		t.Errorf("resident: %d KiB, %v; want less than 256", rss, err)
	}
	t.Logf("resident while waiting: %d KiB", rss)
	poll := []unix.PollFd{{Fd: int32(w.pidfd), Events: unix.POLLIN}}
	if n, err := unix.Poll(poll, 0); n != 0 || err != nil {
		t.Errorf("the pidfd is readable while the process runs: %v", err)
	}
	linux.Close(w.in)
	if n, err := unix.Poll(poll, 10_000); n != 1 || err != nil {
		t.Errorf("the pidfd does not tell the end: %d, %v", n, err)
	}
	w.in, _ = syscall.Dup(w.out)
	w.end()
	if after := descriptors(t, "/proc/self/fd"); !slices.Equal(before, after) {
		t.Errorf("descriptors before %v, after %v", before, after)
	}
}

func TestStart_Dumpable(t *testing.T) {
	_, out, _ := run(t, func(b *Builder) {
		got := b.Slot(99)
		b.Prctl(unix.PR_GET_DUMPABLE).To(got)
		b.WriteWords(Sync(), AddressOf(got), 1)
		b.Prctl(unix.PR_SET_DUMPABLE, 0)
		b.Prctl(unix.PR_GET_DUMPABLE).To(got)
		b.WriteWords(Sync(), AddressOf(got), 1)
		b.ExitGroup(0)
	})
	if want := words(1, 0); string(out) != want {
		t.Errorf("got %q, want %q", out, want)
	}
}

// inode names the file that a link below /proc leads to.
func inode(t *testing.T, path string) string {
	t.Helper()
	s, err := os.Readlink(path)
	if err != nil {
		t.Error(err)
	}
	return s
}

// fork makes room for itself among the descriptors of Files, but not among the
// others that are open. Whatever those are, every descriptor must be the right
// one and the program must be found.
func TestStart_Files(t *testing.T) {
	var pipes []int
	for range 12 {
		r, w := pipe(t)
		defer linux.Close(r)
		defer linux.Close(w)
		pipes = append(pipes, w)
	}
	in, inW := pipe(t)
	defer linux.Close(in)
	low := pipes[0]
	layouts := [][]int{
		{in},
		{in, -1, -1},
		{in, low, low + 2, low + 4, low + 2, -1},
		{in, low + 20, -1, low, low, low, low, low, low},
		{in, 0, 1, 2, 0, 1, 2, 0, 1, 2}, // each moved to just above in
		{in, -1, 0, -1, 1, -1, 2},
		{in, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, low},
	}
	// Descending numbers are moved most.
	down := []int{in}
	for i := range pipes {
		down = append(down, pipes[len(pipes)-1-i])
	}
	layouts = append(layouts, down)
	img := link(t, func(b *Builder) {
		b.ReadWords(FD(0), b.Words(0), 1)
		b.ExitGroup(0)
	})
	for _, files := range layouts {
		// Free numbers at different places decide where the image's descriptor lands.
		for extra := range 12 {
			var more []int
			for range extra {
				fd, err := linux.OpenAt(unix.AT_FDCWD, "/dev/null", unix.O_RDONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				more = append(more, fd)
			}
			valid := slices.Clone(files)
			for i, f := range valid {
				if f >= 0 {
					if _, err := unix.FcntlInt(uintptr(f), unix.F_GETFD, 0); err != nil {
						valid[i] = -1
					}
				}
			}
			checkFiles(t, img, valid, inW)
			for _, fd := range more {
				linux.Close(fd)
			}
		}
	}
	linux.Close(inW)
}

func checkFiles(t *testing.T, img *Image, files []int, release int) {
	t.Helper()
	pid, pidfd, err := img.Start(Options{Files: files, CgroupFD: -1})
	if err != nil {
		t.Errorf("files %v: %v", files, err)
		return
	}
	defer linux.Close(pidfd)
	var want []string
	dir := "/proc/" + strconv.Itoa(pid) + "/fd"
	for i, f := range files {
		if f < 0 {
			continue
		}
		n := strconv.Itoa(i)
		want = append(want, n)
		if got, ours := inode(t, dir+"/"+n), inode(t, "/proc/self/fd/"+strconv.Itoa(f)); got != ours {
			t.Errorf("files %v: descriptor %d is %s, want %s", files, i, got, ours)
		}
	}
	slices.Sort(want)
	if got := descriptors(t, dir); !slices.Equal(got, want) {
		t.Errorf("files %v: the process has %v", files, got)
	}
	if _, err := syscall.Write(release, make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	if ws := wait(t, pid); ws != 0 {
		t.Errorf("files %v: status %#x", files, ws)
	}
}

// Whoever gets hold of the executable through /proc can do nothing with it
// (CVE-2019-5736), during the process's life and after.
func TestStart_ExecutableIsSealed(t *testing.T) {
	testenv.CheckLeaks(t)
	w := startWaiting(t, Options{CgroupFD: -1}, func(*Builder) {})
	if got, want := inode(t, w.proc("exe")), "/memfd:minirun:init (deleted)"; got != want {
		t.Errorf("executable %q, want %q", got, want)
	}
	fd, err := linux.OpenAt(unix.AT_FDCWD, w.proc("exe"), unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer linux.Close(fd)
	const want = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	if got, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0); got&want != want || err != nil {
		t.Errorf("seals %#x, %v; want %#x", got, err, want)
	}
	attack := func(when string) {
		for _, flags := range []int{unix.O_WRONLY, unix.O_RDWR, unix.O_WRONLY | unix.O_TRUNC} {
			wfd, err := linux.OpenAt(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), flags, 0)
			if err != nil {
				continue
			}
			if n, err := syscall.Pwrite(wfd, []byte("evil"), 0); err == nil {
				t.Errorf("%s, flags %#x: wrote %d bytes to the executable", when, flags, n)
			}
			if err := syscall.Ftruncate(wfd, 0); err == nil {
				t.Errorf("%s, flags %#x: truncated the executable", when, flags)
			}
			if err := syscall.Ftruncate(wfd, 1<<20); err == nil {
				t.Errorf("%s, flags %#x: grew the executable", when, flags)
			}
			linux.Close(wfd)
		}
	}
	attack("running")
	w.end()
	attack("after its end") // it is not busy any more
	var head [4]byte
	if _, err := syscall.Pread(fd, head[:], 0); err != nil || string(head[:]) != "\x7fELF" {
		t.Errorf("the executable begins with %q, %v", head, err)
	}
}

func TestStart_Fallback(t *testing.T) {
	testenv.CheckLeaks(t)
	dir := t.TempDir()
	stale := dir + "/init." + strconv.Itoa(os.Getpid()) + ".0"
	if err := os.WriteFile(stale, nil, 0o600); err != nil { // of a killed process with our pid
		t.Fatal(err)
	}
	w := startWaiting(t, Options{CgroupFD: -1, Fallback: dir, noMemfd: true}, func(*Builder) {})
	if got := inode(t, w.proc("exe")); !strings.HasPrefix(got, dir+"/init.") || !strings.HasSuffix(got, " (deleted)") {
		t.Errorf("executable %q, want a deleted file in %s", got, dir)
	}
	if got := descriptors(t, dir); len(got) != 1 {
		t.Errorf("names in the directory: %v, want only the stale one", got)
	}
	if got := descriptors(t, w.proc("fd")); !slices.Equal(got, []string{"0", "3"}) {
		t.Errorf("descriptors %v", got)
	}
	w.end()

	fd, err := link(t, func(b *Builder) { b.ExitGroup(0) }).file(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer linux.Close(fd)
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_ACCMODE != unix.O_RDONLY {
		t.Errorf("flags %#x, %v; want read-only", flags, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Nlink != 0 || st.Mode&0o777 != 0o500 {
		t.Errorf("links %d, mode %o, %v", st.Nlink, st.Mode, err)
	}
}

func TestStart_FallbackConcurrently(t *testing.T) {
	dir := t.TempDir()
	img := link(t, func(b *Builder) { b.ExitGroup(9) })
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			pid, pidfd, err := img.Start(Options{Files: []int{0, 1, 2}, CgroupFD: -1, Fallback: dir, noMemfd: true})
			if err != nil {
				t.Error(err)
				return
			}
			linux.Close(pidfd)
			if ws := wait(t, pid); ws.ExitStatus() != 9 {
				t.Errorf("status %#x", ws)
			}
		})
	}
	wg.Wait()
	if got := descriptors(t, dir); len(got) != 0 {
		t.Errorf("names left: %v", got)
	}
}

func TestStart_Errors(t *testing.T) {
	testenv.CheckLeaks(t)
	before := descriptors(t, "/proc/self/fd")
	img := link(t, func(b *Builder) { b.ExitGroup(0) })
	_, pidfd, err := img.Start(Options{CgroupFD: -1, noMemfd: true})
	if !errors.Is(err, unix.EACCES) || pidfd != -1 {
		t.Errorf("no fallback: got %d, %v", pidfd, err)
	}
	_, pidfd, err = img.Start(Options{CgroupFD: -1, noMemfd: true, Fallback: t.TempDir() + "/missing"})
	if !errors.Is(err, unix.ENOENT) || pidfd != -1 {
		t.Errorf("missing fallback: got %d, %v", pidfd, err)
	}
	null, err := linux.OpenAt(unix.AT_FDCWD, "/dev/null", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, pidfd, err = img.Start(Options{CgroupFD: null}) // no cgroup
	var start *StartError
	if !errors.As(err, &start) || pidfd != -1 || !strings.HasPrefix(err.Error(), "start container init: ") {
		t.Errorf("cgroup: got %d, %v", pidfd, err)
	}
	linux.Close(null)
	_, pidfd, err = img.Start(Options{CgroupFD: -1, Files: []int{1 << 20}})
	if err == nil || pidfd != -1 {
		t.Errorf("files: got %d, %v", pidfd, err)
	}
	if after := descriptors(t, "/proc/self/fd"); !slices.Equal(before, after) {
		t.Errorf("descriptors before %v, after %v", before, after)
	}
}

func TestStart_Args(t *testing.T) {
	w := startWaiting(t, Options{CgroupFD: -1, Args: []string{"a", "b c"}}, func(*Builder) {})
	if b, _ := os.ReadFile(w.proc("cmdline")); string(b) != "a\x00b c\x00" {
		t.Errorf("command line %q", b)
	}
}

func Example_program() {
	b := NewBuilder(2)
	b.Phase("greeting")
	b.Write(FD(1), "hello\n")
	b.ExitGroup(0)
	img, err := b.Link()
	if err != nil {
		panic(err)
	}
	fmt.Print(img.Listing())
	// Output:
	// greeting
	//      0  write(1, "hello\n", 6)
	//      1  exit_group(0)
}
