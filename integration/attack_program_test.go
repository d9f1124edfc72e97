package integration

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The attacks that need system calls busybox does not make are programs in this
// test binary. It is static, so a copy of it runs in any root filesystem; what
// it is to do is in its name.
const atPrefix = "attack-"

func init() {
	name, ok := strings.CutPrefix(filepath.Base(os.Args[0]), atPrefix)
	if !ok {
		return
	}
	attacks := map[string]func(args []string) int{
		"spy":     atSpy,
		"tiocsti": atTiocsti,
		"afalg":   atAFAlg,
		"hang":    func([]string) int { time.Sleep(time.Hour); return 0 },
		"read":    atRead,
		"fds":     atFds,
		"keys":    atKeys,
		"notify":  atNotify,
		"leader":  atLeader,
		"project": atProject,
		"sctp":    atSCTP,
	}
	f := attacks[name]
	if f == nil {
		fmt.Println("no such attack:", name)
		os.Exit(99)
	}
	os.Exit(f(os.Args[1:]))
}

// atInstall puts the attack programs into a root filesystem, below /bin.
func atInstall(t testing.TB, rootfs string, names ...string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	first := filepath.Join(rootfs, "bin", atPrefix+names[0])
	if err := os.WriteFile(first, b, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, n := range names[1:] {
		if err := os.Link(first, filepath.Join(rootfs, "bin", atPrefix+n)); err != nil {
			t.Fatal(err)
		}
	}
}

// atMounts are the ids of the mounts in our mount namespace.
func atMounts() map[uint64]bool {
	ids := map[uint64]bool{}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		panic(err)
	}
	for line := range strings.Lines(string(b)) {
		id, _ := strconv.ParseUint(strings.Fields(line)[0], 10, 64)
		ids[id] = true
	}
	return ids
}

// atForeign opens a link of procfs and says whether it leads out of the
// container: to a file on a mount that is none of ours. What cannot be opened
// for lack of permission or because the process is gone is "".
func atForeign(path string, mounts map[uint64]bool) string {
	var b [unix.PathMax]byte
	n, err := unix.Readlink(path, b[:])
	if err != nil {
		return ""
	}
	target := string(b[:n])
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	var fs unix.Statfs_t
	var st unix.Statx_t
	if unix.Fstatfs(fd, &fs) != nil || unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st) != nil {
		return ""
	}
	switch {
	case strings.HasPrefix(target, "/memfd:"):
		if atWrite(path) {
			return "WRITABLE " + target
		}
		return "memfd " + target
	case mounts[st.Mnt_id], target[0] != '/': // pipes, sockets, pidfds
		return ""
	}
	return "FOREIGN " + target
}

// atWrite tries to write to a memfd that a link of procfs leads to. That it can be
// opened says nothing: seals act on write(2), and in the middle of execve(2) nothing
// else keeps an open away. By then the link may also lead to the container's own
// program.
func atWrite(path string) bool {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var b [unix.PathMax]byte
	n, err := unix.Readlink("/proc/self/fd/"+strconv.Itoa(fd), b[:])
	if err != nil || !strings.HasPrefix(string(b[:n]), "/memfd:") {
		return false
	}
	_, err = unix.Pwrite(fd, []byte{0x7f}, 0) // what is there anyway
	return err == nil
}

// atSpy looks at every process that turns up in the pid namespace, as fast as it
// can: at what it has open, where it is and what it runs. Each finding is one
// line on standard output. It ends when /tmp/stop exists.
func atSpy([]string) int {
	runtime.LockOSThread()
	mounts := atMounts()
	seen := map[string]bool{}
	report := func(what string) {
		if !seen[what] {
			seen[what] = true
			fmt.Println(what)
		}
	}
	report("spying")
	last := os.Getpid()
	for rounds := 0; ; rounds++ {
		if rounds%200 == 0 {
			last = max(last, atNewestPid()-4) // do not fall behind
			if _, err := os.Stat("/tmp/stop"); err == nil {
				report("done")
				return 0
			}
		}
		for pid := last + 1; pid < last+8; pid++ {
			dir := "/proc/" + strconv.Itoa(pid)
			if unix.Access(dir, unix.F_OK) != nil {
				continue
			}
			if unix.Access("/proc/self/task/"+strconv.Itoa(pid), unix.F_OK) == nil {
				last = pid // one of our threads
				continue
			}
			// Until it is gone.
			for range 3000 {
				for _, link := range []string{"exe", "cwd", "root"} {
					if f := atForeign(dir+"/"+link, mounts); f != "" {
						report(link + " " + f)
					}
				}
				for fd := range 24 {
					if f := atForeign(dir+"/fd/"+strconv.Itoa(fd), mounts); f != "" {
						report("fd " + strconv.Itoa(fd) + " " + f)
					}
				}
				if unix.Access(dir, unix.F_OK) != nil {
					break
				}
			}
			last = pid
		}
	}
}

// atNewestPid is the highest pid in the pid namespace.
func atNewestPid() int {
	newest := 0
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			newest = max(newest, pid)
		}
	}
	return newest
}

// atTiocsti puts characters into the input of whoever shares its terminal.
func atTiocsti([]string) int {
	for fd := range 3 {
		pushed := 0
		for _, c := range []byte("touch /tmp/pwned\n") {
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCSTI, uintptr(unsafe.Pointer(&c)))
			if errno != 0 {
				fmt.Println(fd, errno)
				break
			}
			pushed++
		}
		if pushed > 0 {
			fmt.Println("pushed into", fd)
			return 1
		}
	}
	return 0
}

// atAFAlg asks for a socket of the kernel's crypto interface, in the 64-bit and
// in the 32-bit way; a socket of another family is the control.
func atAFAlg([]string) int {
	report := func(name string, family int) {
		fd, err := unix.Socket(family, unix.SOCK_SEQPACKET, 0)
		if err == nil {
			unix.Close(fd)
		}
		fmt.Println(name, err)
	}
	report("64 unix", unix.AF_UNIX)
	report("64 alg", unix.AF_ALG)
	for name, family := range map[string]uint32{"unix": unix.AF_UNIX, "alg": unix.AF_ALG} {
		fmt.Println("32 socket", name, atInt80(359, family, unix.SOCK_SEQPACKET, 0))
		fmt.Println("32 socketcall", name, atSocketcall(family))
	}
	return 0
}

// atMap32Bit is MAP_32BIT of amd64, which other architectures do not have.
const atMap32Bit = 0x40

// atLow is memory below 4 GiB, for 32-bit pointers.
func atLow(size int) []byte {
	addr, _, errno := unix.Syscall6(unix.SYS_MMAP, 0, uintptr(size), unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|atMap32Bit, ^uintptr(0), 0)
	if errno != 0 {
		panic(errno)
	}
	return unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(nil), addr)), size)
}

// atSocketcall is socketcall(2) with SYS_SOCKET.
func atSocketcall(family uint32) error {
	args := atLow(4096)
	binary.LittleEndian.PutUint32(args, family)
	binary.LittleEndian.PutUint32(args[4:], unix.SOCK_SEQPACKET)
	binary.LittleEndian.PutUint32(args[8:], 0)
	return atInt80(102, 1, uint32(uintptr(unsafe.Pointer(&args[0]))), 0)
}

// atInt80 makes a system call of the 32-bit ABI. nil is success.
func atInt80(nr, a, b, c uint32) error {
	code := atLow(4096)
	n := 0
	emit := func(p ...byte) { n += copy(code[n:], p) }
	imm := func(op byte, v uint32) { emit(op); binary.LittleEndian.PutUint32(code[n:], v); n += 4 }
	emit(0x53)       // push rbx
	imm(0xb8, nr)    // mov eax
	imm(0xbb, a)     // mov ebx
	imm(0xb9, b)     // mov ecx
	imm(0xba, c)     // mov edx
	emit(0xcd, 0x80) // int 0x80
	emit(0x5b)       // pop rbx
	emit(0x48, 0x98) // cdqe: sign extend
	emit(0xc3)       // ret
	entry := uintptr(unsafe.Pointer(&code[0]))
	f := &entry
	r := (*(*func() int64)(unsafe.Pointer(&f)))()
	if r < 0 {
		return syscall.Errno(-r)
	}
	unix.Close(int(r))
	return nil
}

// atFds lists what the process and process 1 have open, where they are and what
// they run, as far as it lies outside of the container.
func atFds([]string) int {
	mounts := atMounts()
	for _, pid := range []string{"1", "self"} {
		links := []string{"exe", "cwd", "root"}
		for fd := range 1024 {
			links = append(links, "fd/"+strconv.Itoa(fd))
		}
		for _, l := range links {
			if f := atForeign("/proc/"+pid+"/"+l, mounts); f != "" {
				fmt.Println(pid, l, f)
			}
		}
	}
	wd, err := unix.Getwd()
	fmt.Println("cwd", wd, err)
	return 0
}

// atRead tells its group and reads a file.
func atRead(args []string) int {
	fmt.Println("gid", os.Getegid())
	if _, err := os.ReadFile(args[0]); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("read", args[0])
	return 0
}

// atLines are the lines of a text.
func atLines(s string) (out []string) {
	for sc := bufio.NewScanner(strings.NewReader(s)); sc.Scan(); {
		out = append(out, sc.Text())
	}
	return out
}
