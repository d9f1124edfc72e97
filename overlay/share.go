package overlay

import (
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// Containers over the same image read the same file system, and share what of it is in
// memory, if the image was mounted once for all of them. A mount that is attached
// nowhere lives as long as somebody has it open: so one of them keeps it, and a link in
// the layer's directory says which process that is. Whoever comes later takes the mount
// out of that process. If that fails, for whatever reason, the image is mounted anew.

// holderName is a symbolic link in the directory of an indexed layer.
const holderName = "holder"

// erofsMagic is what statfs(2) says of the file system of an image.
const erofsMagic = 0xe0f5e1e2

// Share is an image's mount that nobody else keeps yet.
type Share struct {
	// Mount is the detached mount. Whoever keeps it open is to be announced.
	Mount int
	layer int    // its directory, O_PATH
	which string // see image.which
}

// Share returns the mount of the image that the snapshot was mounted over, if it is new
// and of use to others; else nil. The caller closes it.
func (sn *Snapshot) Share() *Share {
	sh := sn.share
	sn.share = nil
	return sh
}

// Announce says that a process has the mount open as descriptor number fd until its
// end. start is the time of its start, field 22 of proc_pid_stat(5).
func (sh *Share) Announce(pid int, start uint64, fd int) {
	var st unix.Stat_t
	if unix.Fstat(sh.Mount, &st) != nil {
		return
	}
	text := strconv.Itoa(pid) + " " + strconv.FormatUint(start, 10) + " " + strconv.Itoa(fd) + " " + strconv.FormatUint(st.Dev, 10) + " " + sh.which
	// Without it nothing is shared, and of two one is enough.
	_ = unix.Unlinkat(sh.layer, holderName, 0)
	_ = unix.Symlinkat(text, sh.layer, holderName)
}

// Close closes the mount here.
func (sh *Share) Close() {
	linux.Close(sh.Mount)
	linux.Close(sh.layer)
}

// newShare is of a mount that was just made; nil if that cannot be shared. It
// duplicates the descriptor.
func (s *Store) newShare(img *image, mount int) *Share {
	sh := &Share{Mount: -1, layer: -1, which: img.which}
	var err error
	if sh.layer, err = linux.OpenAt(s.dir, img.dir(), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err == nil {
		sh.Mount, err = unix.FcntlInt(uintptr(mount), unix.F_DUPFD_CLOEXEC, 3)
	}
	if err != nil {
		sh.Mount = -1
		sh.Close()
		return nil
	}
	return sh
}

// sharedMount is a clone of the mount of the image that another container's process
// keeps; -1 if there is none.
func (s *Store) sharedMount(img *image) int {
	var buf [160]byte
	n, err := unix.Readlinkat(s.dir, img.dir()+"/"+holderName, buf[:])
	if err != nil {
		return -1
	}
	pid, rest := cutWord(string(buf[:n]))
	start, rest := cutWord(rest)
	fd, rest := cutWord(rest)
	dev, which := cutWord(rest)
	if which != img.which || !isNumber(pid) || !isNumber(fd) {
		return -1
	}
	// The directory is of this process for good, whoever gets its number.
	proc, err := linux.OpenAt(unix.AT_FDCWD, "/proc/"+pid, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return -1
	}
	defer linux.Close(proc)
	if startOf(proc) != start {
		return -1
	}
	at, err := linux.OpenAt(proc, "fd/"+fd, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1
	}
	defer linux.Close(at)
	var st unix.Stat_t
	var fs unix.Statfs_t
	if unix.Fstat(at, &st) != nil || strconv.FormatUint(st.Dev, 10) != dev || unix.Fstatfs(at, &fs) != nil || uint64(fs.Type) != erofsMagic {
		return -1
	}
	// EINVAL if it is gone by now, or of another mount namespace (Linux 6.15).
	mount, err := unix.OpenTree(at, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return -1
	}
	return mount
}

// startOf is when the process of a directory of procfs was started, field 22 of its
// stat; "" if it has ended.
func startOf(proc int) string {
	fd, err := linux.OpenAt(proc, "stat", unix.O_RDONLY, 0)
	if err != nil {
		return ""
	}
	defer linux.Close(fd)
	var buf [512]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return ""
	}
	rest := string(buf[:n])
	for i := len(rest) - 1; i >= 0; i-- { // its name may have parentheses, and anything else
		if rest[i] == ')' {
			rest = rest[i+1:]
			break
		}
	}
	if len(rest) == 0 {
		return ""
	}
	word, rest := "", rest[1:]
	for range 22 - 2 {
		word, rest = cutWord(rest)
	}
	return word
}

func cutWord(s string) (word, rest string) {
	for i := range len(s) {
		if s[i] == ' ' {
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

func isNumber(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
