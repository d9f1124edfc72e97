package overlay

import (
	"fmt"
	"os"
	goruntime "runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mountOption is the way for kernels before 6.7: mount(2) with all lower
// directories in one option string. That string is one page, and longer ones
// are cut without an error, so names must be short; and mount(2) attaches the
// mount somewhere, which must not be seen by anybody.
//
// Both are solved by a thread with a mount namespace of its own: on a tmpfs
// there it makes symbolic links 0, 1, 2 ... to the directories, has them as its
// working directory, mounts, and takes a detached copy of the mount. The thread
// ends with the goroutine that locked it and takes the namespace along.
func (st *stack) mountOption() (int, error) {
	fd := -1
	err := onThrowawayThread(func() (err error) {
		fd, err = st.mountShort()
		return err
	})
	return fd, err
}

// onThrowawayThread runs f on a thread that ends with it, so that f may leave
// shared namespaces.
func onThrowawayThread(f func() error) error {
	done := make(chan error)
	var run func()
	run = func() {
		goruntime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			// The first thread cannot end, and /proc/self is what it sees. Another
			// goroutine cannot run on it as long as this one holds it.
			again := make(chan struct{})
			go func() { defer close(again); run() }()
			<-again
			goruntime.UnlockOSThread()
			return
		}
		done <- f() // never unlocked: the thread must not be used again
	}
	go run()
	return <-done
}

func (st *stack) mountShort() (int, error) {
	// First a working directory of the thread's own; a new mount namespace then
	// takes it along to its copy of the mount. A descriptor would still lead to
	// the old namespace, where this thread may not mount.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return -1, os.NewSyscallError("unshare", err)
	}
	if err := unix.Fchdir(st.s.dir); err != nil {
		return -1, &os.PathError{Op: "chdir", Path: st.s.root, Err: err}
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return -1, os.NewSyscallError("unshare", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return -1, &os.PathError{Op: "make private", Path: "/", Err: err}
	}
	// The tmpfs covers staging, which no link points to.
	if err := unix.Mount("tmpfs", "staging", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700,size=4m"); err != nil {
		return -1, &os.PathError{Op: "mount tmpfs", Path: "staging", Err: err}
	}
	if err := unix.Chdir("staging"); err != nil {
		return -1, &os.PathError{Op: "chdir", Path: "staging", Err: err}
	}
	// The namespace goes away with the thread, but when is up to the kernel.
	defer unix.Unmount(".", unix.MNT_DETACH)
	data, err := st.optionString()
	if err != nil {
		return -1, err
	}
	if err := unix.Mkdir("m", 0o700); err != nil {
		return -1, &os.PathError{Op: "mkdir", Path: "m", Err: err}
	}
	flags := uintptr(0)
	if st.upper == "" {
		flags = unix.MS_RDONLY | unix.MS_NODEV | unix.MS_NOSUID
	}
	if err := unix.Mount("overlay", "m", "overlay", flags, data); err != nil {
		return -1, fmt.Errorf("mount overlay of %d layers (%s): %w", len(st.lowers), clip(data), err)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, "m", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, &os.PathError{Op: "open_tree", Path: "m", Err: err}
	}
	return fd, nil
}

// optionString makes the links in the working directory and returns the mount
// options that use them. 500 lower directories take 1,889 bytes.
func (st *stack) optionString() (string, error) {
	var b strings.Builder
	link := func(name, dir string) error {
		target := "../" + dir // up from the tmpfs is the store
		if err := unix.Symlink(target, name); err != nil {
			return &os.PathError{Op: "symlink", Path: target, Err: err}
		}
		return nil
	}
	b.WriteString("lowerdir=")
	for i, dir := range st.lowers {
		name := strconv.Itoa(i)
		if err := link(name, dir); err != nil {
			return "", err
		}
		if i > 0 {
			b.WriteByte(':')
		}
		b.WriteString(name)
	}
	if st.upper != "" {
		if err := link("u", st.upper); err != nil {
			return "", err
		}
		if err := link("w", st.work); err != nil {
			return "", err
		}
		b.WriteString(",upperdir=u,workdir=w")
	}
	for _, o := range options {
		b.WriteString("," + o[0] + "=" + o[1])
	}
	if st.volatile {
		b.WriteString(",volatile")
	}
	return b.String(), nil
}

func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "..."
	}
	return s
}
