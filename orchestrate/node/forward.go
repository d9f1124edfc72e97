package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/rtnetlink"
)

// forwardTimeout is how long a connection to a pod may take to be made.
const forwardTimeout = 30 * time.Second

// Dial connects with a TCP port of a pod from inside, so that what listens on its
// loopback alone is reached too.
func (n *Node) Dial(ctx context.Context, namespace, name string, port uint16) (net.Conn, error) {
	pod, err := get[*corev1.Pod](n, pods, namespace, name)
	if err != nil {
		return nil, err
	}
	if pod == nil {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: pods}, name)
	}
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	in := func(f func() error) error { return f() }
	if !pod.Spec.HostNetwork {
		fd, err := linux.OpenAt(unix.AT_FDCWD, filepath.Join(n.podsDir, string(pod.UID), nsDir, "net"), unix.O_RDONLY, 0)
		if err == nil {
			defer linux.Close(fd)
			var st unix.Statfs_t
			if e := unix.Fstatfs(fd, &st); e != nil || int64(st.Type) != nsfsMagic {
				err = os.ErrNotExist
			}
		}
		if err != nil {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("pod %q has no network: it is %s", name, pod.Status.Phase))
		}
		in = func(f func() error) error { return rtnetlink.In(fd, f) }
	}
	c, err := dialIn(ctx, in, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port))
	if err == nil || ctx.Err() != nil {
		return c, err
	}
	if c, e := dialIn(ctx, in, netip.AddrPortFrom(netip.IPv6Loopback(), port)); e == nil {
		return c, nil
	}
	return nil, err
}

// dialIn connects a socket that is made within in: it belongs to the network
// namespace of the thread that makes it, whoever connects it.
func dialIn(ctx context.Context, in func(func() error) error, to netip.AddrPort) (net.Conn, error) {
	family, addr := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(to.Port()), Addr: [4]byte{127, 0, 0, 1}})
	if to.Addr().Is6() {
		family, addr = unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	}
	fd := -1
	err := in(func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return os.NewSyscallError("socket", err)
	})
	if err != nil {
		if fd >= 0 {
			linux.Close(fd)
		}
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { f.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var failed error
	// connect(2) says how far it is each time it is called.
	err = raw.Write(func(fd uintptr) bool {
		switch failed = unix.Connect(int(fd), addr); failed {
		case unix.EINPROGRESS, unix.EALREADY, unix.EINTR:
			return false
		case unix.EISCONN:
			failed = nil
		}
		return true
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, fmt.Errorf("connect to %s in the pod: %w", to, err)
	}
	return net.FileConn(f)
}
