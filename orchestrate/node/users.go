package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/runtime"
)

// With hostUsers: false the containers of a pod are in a user namespace of the
// pod's, with 65,536 ids that nobody else on the host has: root in the pod is an
// ordinary user of the host. The other namespaces of the pod belong to it, so root
// may do there what root does. Files in volumes have the owners that containers see:
// each mount is idmapped.

// userNamespace is the name of the pinned user namespace.
const userNamespace = "user"

// ownUsers tells whether a pod has a user namespace. What cannot have one has none,
// and its containers are refused.
func ownUsers(s *corev1.PodSpec) bool {
	return s.HostUsers != nil && !*s.HostUsers && checkUsers(s) == nil
}

// idsOf are the ids of a pod, which it has as long as it has a directory.
func (w *worker) idsOf(pod *corev1.Pod) ([]specs.LinuxIDMapping, error) {
	if !ownUsers(&pod.Spec) {
		return nil, nil
	}
	return container.TakeIDs(w.n.o.Images, w.dir)
}

// checkUsers refuses what a user namespace cannot go with.
func checkUsers(s *corev1.PodSpec) error {
	switch {
	case s.HostUsers == nil || *s.HostUsers:
		return nil
	case s.HostNetwork || s.HostPID || s.HostIPC:
		return badConfig("hostUsers: false does not go with hostNetwork, hostPID and hostIPC")
	case optional(s.ShareProcessNamespace):
		return badConfig("hostUsers: false together with shareProcessNamespace is not supported")
	}
	for _, list := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range list {
			if err := checkUsersOf(s, &list[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkUsersOf is checkUsers for one container.
func checkUsersOf(s *corev1.PodSpec, c *corev1.Container) error {
	if sc := c.SecurityContext; s.HostUsers != nil && !*s.HostUsers && sc != nil && optional(sc.Privileged) {
		return badConfig("container %s: privileged together with hostUsers: false is not supported", c.Name)
	}
	return nil
}

// makeUserNamespaces makes a user namespace with these ids, and others that belong
// to it, and pins them in dir. A process has to be in them meanwhile: no thread of
// ours can change its user namespace.
func makeUserNamespaces(dir string, list []pinned, ids []specs.LinuxIDMapping) error {
	user, err := runtime.OpenUserNS(ids, ids)
	if err != nil {
		return err
	}
	defer linux.Close(user)
	flags := uint64(0)
	for _, p := range list {
		if p.name != userNamespace {
			flags |= uint64(p.flag)
		}
	}
	b := initprog.NewBuilder(1)
	b.Phase("namespaces of the pod")
	b.Prctl(unix.PR_SET_DUMPABLE, 0)
	b.Setns(initprog.FD(0), unix.CLONE_NEWUSER)
	b.Unshare(flags)
	b.WriteWords(initprog.Sync(), b.Words(0, 1), 2)
	b.ReadWords(initprog.Sync(), b.Words(0), 1).Retry(unix.EINTR) // until we are done, or dead
	b.ExitGroup(0)
	image, err := b.Link()
	if err != nil {
		return err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	pid, pidfd, err := image.Start(initprog.Options{Files: []int{user, pair[1]}, CgroupFD: -1, Fallback: dir})
	linux.Close(pair[1])
	if err != nil {
		linux.Close(pair[0])
		return err
	}
	linux.Close(pidfd)
	err = awaitProgress(image, pair[0], "namespaces of the pod")
	for _, p := range list {
		if err == nil {
			err = pinAgain(pid, p.name, filepath.Join(dir, p.name))
		}
	}
	linux.Close(pair[0])
	reap(pid)
	return err
}

// awaitProgress waits for the word of a program that it is where it should be.
func awaitProgress(image *initprog.Image, fd int, what string) error {
	var buf [initprog.RecordSize]byte
	for {
		n, err := linux.Read(fd, buf[:])
		if err == unix.EINTR {
			continue
		}
		if err == nil && n < len(buf) {
			err = errors.New("the process was killed")
		}
		if err == nil {
			if r := initprog.ParseRecord(buf[:]); !r.Progress() {
				err = image.Failure(r)
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	}
}

// joinThread has the calling thread enter pinned namespaces, which it never leaves.
func joinThread(dir string, list []pinned) error {
	for _, p := range list {
		if p.name == userNamespace {
			continue
		}
		fd, err := linux.OpenAt(unix.AT_FDCWD, filepath.Join(dir, p.name), unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		err = unix.Setns(fd, p.flag)
		linux.Close(fd)
		if err != nil {
			return fmt.Errorf("join namespace %s: %w", strconv.Quote(p.name), err)
		}
	}
	return nil
}
