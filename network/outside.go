package network

import (
	"errors"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/network/store"
	"golang.org/x/sys/unix"
)

// What package usernet needs of the host: its ports, and whom it asks for names.

// CheckPort reports a port of the host that cannot be published by binding to it. A
// port 0 becomes one that is free now.
func CheckPort(p *store.Port) error {
	if p.Host != 0 {
		return checkListeners(p)
	}
	const first, n = 49152, 65536 - 49152 // RFC 6335: for private use
	var b [2]byte
	_, _ = unix.Getrandom(b[:], 0)
	start := int(b[0])<<8 | int(b[1])
	for i := range n {
		number := uint16(first + (start+i)%n)
		if probe(p, number) == nil {
			p.Host = number
			return nil
		}
	}
	return errors.New("publish: no port is free")
}

// Bound reports whether somebody has all of the ports.
func Bound(p *store.Port) bool {
	for i := range p.Count {
		if !errors.Is(probe(p, p.Host+i), unix.EADDRINUSE) {
			return false
		}
	}
	return true
}

// LocalResolver reports whether the host has no name servers but on its loopback.
func LocalResolver() bool {
	raw, _ := linux.ReadFile("/etc/resolv.conf", 64<<10)
	lines := readResolv(raw)
	if len(lines.servers) > 0 || !lines.local {
		return false
	}
	more, _ := linux.ReadFile("/run/systemd/resolve/resolv.conf", 64<<10)
	return len(readResolv(more).servers) == 0
}

// ResolvConf is the text of a container's file that is in no network of ours.
func ResolvConf(f *Files) ([]byte, error) {
	if err := f.check(nil); err != nil {
		return nil, err
	}
	return new(Attachment).resolv(f), nil
}

// WriteFile makes a file for a container to read.
func WriteFile(path string, b []byte) error { return writeFile(path, b) }
