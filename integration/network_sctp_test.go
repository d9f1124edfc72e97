package integration

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

// atSCTP answers with a word on port 80, at all addresses.
func atSCTP(args []string) int {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_SCTP)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet6{Port: 80})
	}
	if err == nil {
		err = unix.Listen(fd, 8)
	}
	for err == nil {
		var c int
		if c, _, err = unix.Accept(fd); err == nil {
			_, err = unix.Write(c, []byte(args[0]))
			err = errors.Join(err, unix.Close(c))
		}
	}
	fmt.Println(err)
	return 1
}

// answerSCTP is what a server of SCTP says, with the error of the last try if it says
// nothing.
func answerSCTP(t *testing.T, address string) (text string) {
	t.Helper()
	at := netip.MustParseAddrPort(address)
	ask := func() error {
		var to unix.Sockaddr
		family := unix.AF_INET
		if at.Addr().Is4() {
			to = &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}
		} else {
			to, family = &unix.SockaddrInet6{Addr: at.Addr().As16(), Port: int(at.Port())}, unix.AF_INET6
		}
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		limit := unix.NsecToTimeval(int64(testenv.Timeout(5 * time.Second)))
		for _, o := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
			if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, o, &limit); err != nil {
				return err
			}
		}
		if err := unix.Connect(fd, to); err != nil {
			return os.NewSyscallError("connect", err)
		}
		b := make([]byte, 100)
		n, err := unix.Read(fd, b)
		text = string(b[:max(n, 0)])
		return err
	}
	var last error
	eventually(t, address+" answers by SCTP", func() bool {
		if last = ask(); last != nil {
			t.Log(last)
		}
		return last == nil && text != ""
	})
	return text
}

// Published ports and services of SCTP carry associations, in a kernel that has it.
func TestVMNetworkSCTP(t *testing.T) {
	h := netSetup(t)
	h.tool("modprobe", "sctp")
	h.ip("route", "add", "default", "dev", "lo", "src", lanAddress)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h.must("network", "create", "--subnet", "10.77.0.0/24", "--subnet", "fd00:77::/64", "web")
	id := h.id()
	h.must("run", "--detach", "--image", "base", "--network", "web", "--ip", "10.77.0.9", "--ip", "fd00:77::9", "-p", "8080:80/sctp",
		"-v", exe+":/bin/attack-sctp:ro", id, "/bin/attack-sctp", "hello")
	h.must("network", "service", "add", "--address", "10.96.0.10", "--address", "fd00:96::10", "--port", "90/sctp", "--endpoint", "10.77.0.9:80", "--endpoint", "[fd00:77::9]:80", "web")
	for _, at := range []string{"10.77.0.9:80", "[fd00:77::9]:80", lanAddress + ":8080", "10.96.0.10:90"} {
		if got := answerSCTP(t, at); got != "hello" {
			t.Errorf("%s answers %q", at, got)
		}
	}
	h.must("network", "service", "rm", "web")
	h.must("delete", "--force", id)
	h.noNetwork("SCTP")
	h.must("network", "rm", "web")
}
