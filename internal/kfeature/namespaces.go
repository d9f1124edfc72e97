package kfeature

import (
	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

func namespace(name string) error { return exists("/proc/self/ns/", name) }

// Named, because function literals would give the package an init function.
func probeMountNamespaces() error   { return namespace("mnt") }
func probePIDNamespaces() error     { return namespace("pid") }
func probeNetworkNamespaces() error { return namespace("net") }
func probeIPCNamespaces() error     { return namespace("ipc") }
func probeUTSNamespaces() error     { return namespace("uts") }
func probeCgroupNamespaces() error  { return namespace("cgroup") }
func probeTimeNamespaces() error    { return namespace("time") }

// probeUserNamespaces creates one. Errors of clone(2) and their meaning:
// user_namespaces(7) and clone(2).
func probeUserNamespaces() error {
	if err := namespace("user"); err != nil {
		return err
	}
	if MemfdExec.Supported() != nil { // or the child's error would be taken for clone's
		return inconclusive("needs an executable memfd to probe")
	}
	pidfd, err := runChild(unix.CLONE_NEWUSER)
	switch err {
	case nil:
		linux.Close(pidfd)
		return nil
	case unix.EINVAL, unix.ENOSYS:
		return no("")
	case unix.ENOSPC, unix.EUSERS:
		if sysctl("user/max_user_namespaces", -1) == 0 {
			return no("user.max_user_namespaces is 0")
		}
		return no("the limit of user namespaces or of their nesting is reached")
	case unix.EPERM, unix.EACCES:
		if reason := unprivilegedRefused(); reason != "" && unix.Geteuid() != 0 {
			return no(reason)
		}
		return no("creating them is denied: chroot, seccomp or another security policy")
	}
	return err
}

// probeUnprivilegedUserNamespaces reads what the kernel and its distribution
// say; root could not try it without becoming somebody else.
func probeUnprivilegedUserNamespaces() error {
	if err := namespace("user"); err != nil {
		return err
	}
	if reason := unprivilegedRefused(); reason != "" {
		return no(reason)
	}
	return nil
}

func unprivilegedRefused() string {
	switch {
	case sysctl("user/max_user_namespaces", -1) == 0:
		return "user.max_user_namespaces is 0"
	case sysctl("kernel/unprivileged_userns_clone", 1) == 0: // Debian's and Arch's kernels
		return "kernel.unprivileged_userns_clone is 0"
	case sysctl("kernel/apparmor_restrict_unprivileged_userns", 0) == 1: // Ubuntu 23.10
		return "kernel.apparmor_restrict_unprivileged_userns is 1"
	}
	return ""
}
