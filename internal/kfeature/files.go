package kfeature

import (
	goruntime "runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// probePSI reads: with psi=0 the files are there and cannot be read.
func probePSI() error {
	fd, err := unix.Open("/proc/pressure/cpu", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		var b [16]byte
		_, err = linux.Read(fd, b[:])
		linux.Close(fd)
	}
	switch err {
	case unix.EOPNOTSUPP:
		return no("switched off at boot: add psi=1 to the kernel's command line")
	case unix.ENOENT:
		return exists("/proc/", "pressure/cpu")
	}
	return denied(err)
}

// probeCgroupKill looks for the file in a cgroup that is not a root: the own
// one, or any child of the mounted hierarchy.
func probeCgroupKill() error {
	mounts, err := linux.ReadFile("/proc/self/mountinfo", 0)
	if err != nil {
		return err
	}
	point := ""
	for line := range strings.Lines(string(mounts)) {
		if before, after, ok := strings.Cut(line, " - "); ok && strings.HasPrefix(after, "cgroup2 ") {
			if f := strings.Fields(before); len(f) > 4 {
				point = f[4]
				break
			}
		}
	}
	if point == "" {
		return inconclusive("cgroup v2 is not mounted")
	}
	if own, err := linux.ReadFile("/proc/self/cgroup", 0); err == nil {
		for line := range strings.Lines(string(own)) {
			if path, ok := strings.CutPrefix(line, "0::"); ok {
				if known, answer := cgroupHasKill(point + strings.TrimSuffix(path, "\n")); known {
					return answer
				}
			}
		}
	}
	if known, answer := cgroupHasKill(point); known {
		return answer
	}
	dir, err := linux.OpenAt(unix.AT_FDCWD, point, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer linux.Close(dir)
	buf := make([]byte, 16<<10)
	for {
		n, err := unix.ReadDirent(dir, buf)
		if err != nil || n <= 0 {
			return inconclusive("there is no cgroup below the root to look at")
		}
		_, _, names := unix.ParseDirent(buf[:n], -1, nil)
		for _, name := range names {
			if known, answer := cgroupHasKill(point + "/" + name); known {
				return answer
			}
		}
	}
}

// cgroupHasKill: known is false if dir is no cgroup or the root, which has
// neither cgroup.events nor cgroup.kill.
func cgroupHasKill(dir string) (known bool, answer error) {
	if unix.Access(dir+"/cgroup.events", unix.F_OK) != nil {
		return false, nil
	}
	return true, exists(dir+"/", "cgroup.kill")
}

// keepAlive keeps what a structure refers to by number until after the call.
func keepAlive(p ...any) { goruntime.KeepAlive(p) }
