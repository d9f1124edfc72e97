package kfeature

import (
	"strings"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// probeOverlay reads the list of file systems and of modules, and asks the
// kernel only if both are silent: asking loads the module.
func probeOverlay() error {
	if registered("overlay") || loadable("overlay") {
		return nil
	}
	return fsOpenAnswer("overlay")
}

// registered: the file system's driver is in the kernel now.
func registered(fs string) bool {
	b, err := linux.ReadFile("/proc/filesystems", 0)
	return err == nil && strings.Contains(string(b), "\t"+fs+"\n")
}

// loadable: there is a module of that name, and the kernel still loads modules.
func loadable(module string) bool {
	var u unix.Utsname
	if sysctl("kernel/modules_disabled", 0) != 0 || unix.Uname(&u) != nil {
		return false
	}
	b, err := linux.ReadFile("/lib/modules/"+unix.ByteSliceToString(u.Release[:])+"/modules.dep", 0)
	return err == nil && strings.Contains(string(b), "/"+module+".ko")
}

// fsOpenAnswer asks fsopen(2).
func fsOpenAnswer(fs string) error {
	fd, err := unix.Fsopen(fs, unix.FSOPEN_CLOEXEC)
	switch err {
	case nil:
		linux.Close(fd)
		return nil
	case unix.ENODEV:
		return no("the kernel has no driver for " + fs + " and cannot load one")
	}
	return bySyscall(err, nil)
}

func probeOverlayAppend() error { return overlayParameter(false) }

func probeOverlayAppendFD() error { return overlayParameter(true) }

// overlayParameter gives "/" as a layer to an overlay that is never mounted.
func overlayParameter(descriptor bool) error {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err == unix.ENODEV {
		return no("the kernel has no overlayfs")
	}
	if err != nil {
		return bySyscall(err, nil)
	}
	defer linux.Close(fs)
	// Before Linux 6.5 overlayfs had no parameters of its own: everything was
	// taken, to be understood, or not, at mount time.
	if unix.FsconfigSetString(fs, "no-such-parameter", "x") == nil {
		return no("")
	}
	discardLog(fs)
	if descriptor {
		// O_PATH, as it is used; older kernels refuse such a descriptor with EBADF.
		root, openErr := linux.OpenAt(unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY, 0)
		if openErr != nil {
			return openErr
		}
		err = unix.FsconfigSetFd(fs, "lowerdir+", root)
		linux.Close(root)
	} else {
		err = unix.FsconfigSetString(fs, "lowerdir+", "/")
	}
	switch {
	case err == nil:
		return nil
	case err == unix.EBADF:
		return no("")
	case err == unix.EINVAL:
		// The parameter is unknown or not of this kind, or it was understood and "/" cannot be a layer.
		log := discardLog(fs)
		if strings.Contains(log, "Unknown parameter") || strings.Contains(log, "Bad value") {
			return no("")
		}
		return nil
	}
	return denied(err)
}

// probeOverlayData mounts, detached, an overlay of two empty directories, of which one
// is for data only.
func probeOverlayData() error {
	if err := OverlayAppendFD.Supported(); err != nil {
		return err
	}
	top, err := emptyTmpfs()
	if err != nil {
		return denied(err)
	}
	defer linux.Close(top)
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return bySyscall(err, nil)
	}
	defer linux.Close(fs)
	for _, key := range [...]string{"lowerdir+", "datadir+"} {
		if err := unix.Mkdirat(top, key, 0o700); err != nil {
			return err
		}
		dir, err := linux.OpenAt(top, key, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		err = unix.FsconfigSetFd(fs, key, dir)
		linux.Close(dir)
		if err == unix.EINVAL {
			return no("overlayfs does not take " + key)
		}
		if err != nil {
			return denied(err)
		}
	}
	if err := unix.FsconfigSetString(fs, "metacopy", "off"); err != nil {
		return denied(err)
	}
	switch err := unix.FsconfigCreate(fs); err {
	case nil:
		return nil
	case unix.EINVAL:
		return no("")
	default:
		return denied(err)
	}
}

// emptyTmpfs is a detached mount.
func emptyTmpfs() (int, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer linux.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID)
}

// discardLog reads the messages of a file system context.
func discardLog(fs int) string {
	var log strings.Builder
	var b [512]byte
	for {
		n, err := linux.Read(fs, b[:])
		if err != nil || n == 0 {
			return log.String()
		}
		log.Write(b[:n])
	}
}
