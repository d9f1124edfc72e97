package network

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/netip"
	"github.com/minirun/minirun/network/store"
	"golang.org/x/sys/unix"
)

// ParsePublish reads [IP:][HOST[-LAST]:]CONTAINER[-LAST][/PROTOCOL], as docker has
// it. Host 0 means any port.
func ParsePublish(s string) (p store.Port, err error) {
	fail := func(text string) (store.Port, error) {
		return p, fmt.Errorf("want [IP:][HOST[-LAST]:]CONTAINER[-LAST][/tcp|/udp|/sctp]: %s", text)
	}
	rest, protocol, ok := strings.Cut(s, "/")
	if !ok {
		protocol = "tcp"
	}
	if protocol != "tcp" && protocol != "udp" && protocol != "sctp" {
		return fail("unknown protocol " + strconv.Quote(protocol))
	}
	p.Protocol = protocol
	inside := rest
	if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		inside = rest[i+1:]
		host := rest[:i]
		ip, has := "", false
		if j := strings.LastIndexByte(host, ':'); j >= 0 {
			ip, host, has = host[:j], host[j+1:], true
		}
		if has {
			if strings.HasPrefix(ip, "[") && strings.HasSuffix(ip, "]") {
				ip = ip[1 : len(ip)-1]
			} else if strings.Contains(ip, ":") {
				return fail("an IPv6 address is written in brackets")
			}
			if p.IP, err = netip.ParseAddr(ip); err != nil || p.IP.Is4In6() {
				return fail("no address: " + strconv.Quote(ip))
			}
		}
		if host != "" {
			if p.Host, p.Count, ok = parseRange(host); !ok {
				return fail("no port: " + strconv.Quote(host))
			}
		} else if !has {
			return fail("nothing in front of the colon")
		}
	}
	n := p.Count
	if p.Container, p.Count, ok = parseRange(inside); !ok {
		return fail("no port: " + strconv.Quote(inside))
	}
	switch {
	case n != 0 && n != p.Count:
		return fail("as many ports of the host as of the container")
	case p.Host == 0 && p.Count > 1 && n == 0:
		return fail("a range of ports of the container needs one of the host")
	}
	return p, nil
}

func parseRange(s string) (first, count uint16, ok bool) {
	a, b, isRange := strings.Cut(s, "-")
	if !isRange {
		b = a
	}
	from, err1 := strconv.ParseUint(a, 10, 16)
	to, err2 := strconv.ParseUint(b, 10, 16)
	if err1 != nil || err2 != nil || from == 0 || to < from {
		return 0, 0, false
	}
	return uint16(from), uint16(to - from + 1), true
}

// PortError reports a port of the host that a program listens on.
type PortError struct {
	Port string
	Err  error
}

func (e *PortError) Error() string { return "publish " + e.Port + ": " + e.Err.Error() }
func (e *PortError) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *PortError) Hint() string {
	if errors.Is(e.Err, unix.EADDRINUSE) {
		return "a program of this host listens there: ss -lntu shows which; choose another port"
	}
	return "ip address lists the addresses of this host"
}

// checkListeners makes sure that nobody on the host listens on the ports: the
// rules would take his clients away.
func checkListeners(p *store.Port) error {
	if p.Host == 0 {
		return nil
	}
	for i := range p.Count {
		if err := probe(p, p.Host+i); err != nil {
			one := store.Port{IP: p.IP, Host: p.Host + i, Container: p.Host + i, Count: 1, Protocol: p.Protocol}
			return &PortError{one.String(), err}
		}
	}
	return nil
}

// probe binds a socket to a port and lets it go.
func probe(p *store.Port, number uint16) error {
	if p.IP.IsValid() {
		return tryBind(p.Protocol, p.IP, number)
	}
	err := tryBind(p.Protocol, netip.IPv4Unspecified(), number)
	if err == nil {
		err = tryBind(p.Protocol, netip.IPv6Unspecified(), number)
	}
	return err
}

func tryBind(protocol string, ip netip.Addr, number uint16) error {
	typ, proto := unix.SOCK_STREAM, unix.IPPROTO_TCP
	switch protocol {
	case "udp":
		typ, proto = unix.SOCK_DGRAM, unix.IPPROTO_UDP
	case "sctp":
		proto = unix.IPPROTO_SCTP
	}
	var sa unix.Sockaddr
	domain := unix.AF_INET
	if ip.Is6() {
		domain = unix.AF_INET6
		sa = &unix.SockaddrInet6{Port: int(number), Addr: ip.As16()}
	} else {
		sa = &unix.SockaddrInet4{Port: int(number), Addr: ip.As4()}
	}
	fd, err := unix.Socket(domain, typ|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return nil //nolint:nilerr // without the protocol nobody listens
	}
	defer linux.Close(fd)
	if protocol == "tcp" {
		// Connections that are over do not count, listeners do.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if ip.Is6() {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	return unix.Bind(fd, sa)
}

// anyPort takes a port that is free.
func (h *Host) anyPort(p *store.Port, key string) error {
	const first, n = 49152, 65536 - 49152 // RFC 6335: for private use
	var b [2]byte
	_, _ = unix.Getrandom(b[:], 0)
	start := (int(b[0])<<8 | int(b[1])) % n
	for i := range n {
		try := *p
		try.Host = uint16(first + (start+i)%n)
		if taken, err := h.Store.PortTaken(&try); err != nil || taken {
			if err != nil {
				return err
			}
			continue
		}
		if probe(&try, try.Host) != nil {
			continue
		}
		if err := h.Store.TakePort(&try, key); err != nil {
			return err
		}
		p.Host = try.Host
		return nil
	}
	return errors.New("publish: no port is free")
}
