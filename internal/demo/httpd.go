package demo

import (
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// The server: one thread, one poll(2) loop, at most maxConns connections. Each
// connection is a small state machine (conn.go), so a client that sends one
// byte a second costs a buffer and not a thread.
const (
	maxConns   = 512
	stopGrace  = 5 * time.Second // how long requests in progress may take after SIGTERM
	drainGrace = time.Second     // how long a refused client may keep sending
)

type server struct {
	listener int
	wake     int // eventfd, readable after SIGTERM or SIGINT
	stopping bool
	stopBy   time.Time
	timeout  time.Duration
	body     string
	conns    []*conn
}

// httpd answers GET / with the host's name and a version: -p PORT (8080, 0 for
// any), -a ADDRESS (every address), -v VERSION ($VERSION), -t SECONDS for a
// request to arrive and for an answer to leave (10). It ends with 0 on SIGTERM,
// after the requests that are in progress.
func httpd(args []string) int {
	port, timeout := 8080, 10*time.Second
	address := ""
	version, _ := syscall.Getenv("VERSION")
	rest, ok := options(args, "pavt", "", func(o byte, v string) (ok bool) {
		switch o {
		case 'p':
			port, ok = number(v, 0, 65535)
		case 'a':
			address, ok = v, true
		case 'v':
			version, ok = v, true
		case 't':
			timeout, ok = seconds(v)
			ok = ok && timeout > 0
		}
		return ok
	})
	if !ok || len(rest) != 0 {
		return usage("httpd [-p PORT] [-a ADDRESS] [-v VERSION] [-t SECONDS]")
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fail("httpd", "uname: ", err.Error())
	}
	if version == "" {
		version = "none"
	}
	s := &server{timeout: timeout, body: "host: " + cstring(u.Nodename[:]) + "\nversion: " + version + "\n"}
	var err error
	if s.listener, err = listen(address, port); err != nil {
		return fail("httpd", "listen on ", address, ": ", err.Error())
	}
	if s.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		linux.Close(s.listener)
		return fail("httpd", "eventfd: ", err.Error())
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	go func() {
		for range signals {
			_ = linux.WriteAll(s.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		}
	}()
	o := &out{fd: 1}
	o.s("listening on port ").n(int64(localPort(s.listener))).s("\n").flush()
	code := s.serve()
	signal.Stop(signals)
	close(signals)
	for _, c := range s.conns {
		linux.Close(c.fd)
	}
	linux.Close(s.listener)
	// The eventfd stays open: the goroutine may still write to it, and the
	// process ends now.
	return code
}

// serve runs until SIGTERM and the end of what was in progress.
func (s *server) serve() int {
	var fds []unix.PollFd
	for {
		now := time.Now()
		s.conns = slices.DeleteFunc(s.conns, func(c *conn) bool {
			if !now.Before(c.deadline) {
				c.expired(s, now)
			}
			if c.state == stateClosed || s.stopping && (c.idle() || !now.Before(s.stopBy)) {
				linux.Close(c.fd)
				return true
			}
			return false
		})
		if s.stopping && len(s.conns) == 0 {
			return 0
		}
		fds = append(fds[:0], unix.PollFd{Fd: int32(s.wake), Events: unix.POLLIN})
		accepting := !s.stopping && len(s.conns) < maxConns
		if accepting {
			fds = append(fds, unix.PollFd{Fd: int32(s.listener), Events: unix.POLLIN})
		}
		first := len(fds)
		next := time.Time{}
		if s.stopping {
			next = s.stopBy
		}
		for _, c := range s.conns {
			fds = append(fds, unix.PollFd{Fd: int32(c.fd), Events: c.events()})
			if next.IsZero() || c.deadline.Before(next) {
				next = c.deadline
			}
		}
		wait := -1
		if !next.IsZero() {
			wait = int(min(max(0, next.Sub(now).Milliseconds()+1), 3600*1000))
		}
		for _, c := range s.conns {
			if c.more {
				wait = 0
			}
		}
		if _, err := unix.Poll(fds, wait); err == unix.EINTR {
			continue
		} else if err != nil {
			return fail("httpd", "poll: ", err.Error())
		}
		now = time.Now()
		for i, c := range s.conns {
			if fds[first+i].Revents != 0 || c.more {
				c.step(s, now)
			}
		}
		if accepting && fds[1].Revents != 0 {
			s.accept(now, maxConns)
		}
		if fds[0].Revents != 0 {
			var count [8]byte
			_, _ = linux.Read(s.wake, count[:])
		}
		if fds[0].Revents != 0 && !s.stopping {
			// Who is in the backlog has connected in time: take them in before
			// closing, or the kernel answers them with a reset.
			s.accept(now, 2*maxConns)
			linux.Close(s.listener)
			s.listener = -1
			s.stopping, s.stopBy = true, now.Add(stopGrace)
			for _, c := range s.conns {
				c.step(s, now)
			}
		}
	}
}

// accept takes connections in until none is waiting or there are limit of them.
func (s *server) accept(now time.Time, limit int) {
	for len(s.conns) < limit {
		fd, _, err := unix.Accept4(s.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch err {
		case nil:
			s.conns = append(s.conns, &conn{fd: fd, deadline: now.Add(s.timeout)})
		case unix.EINTR, unix.ECONNABORTED:
		default:
			return
		}
	}
}

// listen opens a listening TCP socket. An empty address is every address of
// both families, or of IPv4 where the kernel has no IPv6.
func listen(address string, port int) (int, error) {
	var sa unix.Sockaddr
	family := unix.AF_INET
	switch address {
	case "", "::":
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: port}
	case "::1":
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: port, Addr: [16]byte{15: 1}}
	default:
		ip, ok := ipv4(address)
		if !ok {
			return -1, unix.EINVAL
		}
		sa = &unix.SockaddrInet4{Port: port, Addr: ip}
	}
	fd, err := listenOn(family, sa)
	if err != nil && address == "" && (err == unix.EAFNOSUPPORT || err == unix.EADDRNOTAVAIL) {
		return listenOn(unix.AF_INET, &unix.SockaddrInet4{Port: port})
	}
	return fd, err
}

func listenOn(family int, sa unix.Sockaddr) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err == nil && family == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	}
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err == nil {
		err = unix.Listen(fd, maxConns)
	}
	if err != nil {
		linux.Close(fd)
		return -1, err
	}
	return fd, nil
}

// ipv4 parses a dotted quad.
func ipv4(text string) (ip [4]byte, ok bool) {
	start, part := 0, 0
	for i := 0; i <= len(text); i++ {
		if i < len(text) && text[i] != '.' {
			continue
		}
		v, good := number(text[start:i], 0, 255)
		if !good || part == 4 {
			return ip, false
		}
		ip[part] = byte(v)
		part, start = part+1, i+1
	}
	return ip, part == 4
}

func localPort(fd int) int {
	sa, _ := unix.Getsockname(fd)
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return a.Port
	case *unix.SockaddrInet6:
		return a.Port
	}
	return 0
}
