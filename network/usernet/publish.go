package usernet

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/network/store"
	"golang.org/x/sys/unix"
)

// publish tells slirp4netns the ports: one request and answer of JSON for each
// connection to its socket. Nobody else gets to that socket.
func (h *Helper) publish(dir int) error {
	defer func() { _ = unix.Unlinkat(dir, socketFile, 0) }()
	for i := range h.Ports {
		p := &h.Ports[i]
		for n := range p.Count {
			if err := addPort(dir, p, n); err != nil {
				return fmt.Errorf("publish %s: %w", p.String(), err)
			}
		}
	}
	return nil
}

func addPort(dir int, p *store.Port, n uint16) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer linux.Close(fd)
	// The directory's own name may be too long for an address.
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(dir) + "/" + socketFile}); err != nil {
		return os.NewSyscallError("connect to "+socketFile, err)
	}
	ip := "0.0.0.0"
	if p.IP.IsValid() {
		ip = p.IP.String()
	}
	question := `{"execute":"add_hostfwd","arguments":{"proto":"` + p.Protocol + `","host_addr":"` + ip + `","host_port":` + strconv.Itoa(int(p.Host+n)) +
		`,"guest_addr":"` + slirpAddress + `","guest_port":` + strconv.Itoa(int(p.Container+n)) + `}}`
	if err := linux.WriteAll(fd, []byte(question)); err != nil {
		return os.NewSyscallError("write", err)
	}
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		return os.NewSyscallError("shutdown", err)
	}
	answer, err := linux.ReadAll(fd, 4096)
	if err != nil {
		return os.NewSyscallError("read", err)
	}
	if text := string(answer); strings.Contains(text, `"error"`) || !strings.Contains(text, `"return"`) {
		return errors.New(strings.TrimSpace(text))
	}
	return nil
}

// PrivilegedError reports a port that only root can listen at.
type PrivilegedError struct {
	Port string
	Err  error
}

func (e *PrivilegedError) Error() string { return "publish " + e.Port + ": " + e.Err.Error() }
func (e *PrivilegedError) Unwrap() error { return e.Err }

// Hint says what to do.
func (*PrivilegedError) Hint() string {
	return "an ordinary user gets ports from net.ipv4.ip_unprivileged_port_start on, 1024 unless root has changed it"
}

func privileged(p *store.Port, err error) error {
	if errors.Is(err, unix.EACCES) {
		return &PrivilegedError{p.String(), unix.EACCES}
	}
	return err
}
