package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

const cgroupMount = "/sys/fs/cgroup"

// enter arranges the private mount namespace and returns whether the host's cgroup mount
// had to be replaced in it. It refuses to work in the namespace of its parent.
func enter(work string) (replaced bool, err error) {
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return false, err
	}
	parent, err := os.Readlink("/proc/" + strconv.Itoa(os.Getppid()) + "/ns/mnt")
	if err != nil {
		return false, err
	}
	if own == parent {
		return false, errors.New("-isolated: this is the mount namespace of the parent process")
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return false, fmt.Errorf("make mounts private: %w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(cgroupMount, &fs); err != nil {
		return false, fmt.Errorf("statfs %s: %w", cgroupMount, err)
	}
	if fs.Type != unix.CGROUP2_SUPER_MAGIC {
		// crun refuses a hybrid hierarchy, and the runtimes shall not measure different ones.
		if err := unix.Unmount(cgroupMount, unix.MNT_DETACH); err != nil {
			return false, fmt.Errorf("unmount %s: %w", cgroupMount, err)
		}
		if err := unix.Mount("cgroup2", cgroupMount, "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return false, fmt.Errorf("mount cgroup2 on %s: %w", cgroupMount, err)
		}
		replaced = true
	}
	// State directories live where they do on a real host, whose /run is a tmpfs: fsync on
	// the disk below /tmp would be measured otherwise.
	run := filepath.Join(work, "run")
	if err := unix.Mount("tmpfs", run, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0711"); err != nil {
		return false, fmt.Errorf("mount tmpfs on %s: %w", run, err)
	}
	return replaced, nil
}

// realTime gives the calling thread SCHED_FIFO 5; the processes it starts inherit it.
func realTime() error {
	runtime.LockOSThread()
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 5}
	if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
		return fmt.Errorf("sched_setattr SCHED_FIFO 5: %w", err)
	}
	return nil
}
