package network

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/netip"
	"github.com/minirun/minirun/network/store"
	"golang.org/x/sys/unix"
)

// Files is what the user says about /etc/hosts, /etc/hostname and
// /etc/resolv.conf of a container.
type Files struct {
	Hostname string
	Hosts    []HostEntry
	DNS      []netip.Addr
	Search   []string
	Options  []string
}

// A HostEntry is a line for /etc/hosts. Without an address it is that of the host.
type HostEntry struct {
	Name string
	IP   netip.Addr
}

// ParseHost reads NAME:IP, where the IP may be host-gateway.
func ParseHost(s string) (e HostEntry, err error) {
	name, ip, ok := strings.Cut(s, ":")
	if n, i, eq := strings.Cut(s, "="); eq && !strings.Contains(n, ":") { // docker takes both
		name, ip, ok = n, i, true
	}
	if !ok || !nameOK(name) {
		return e, errors.New("want NAME:IP")
	}
	e.Name = name
	if ip == "host-gateway" {
		return e, nil
	}
	e.IP, err = netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(ip, "["), "]"))
	if err != nil {
		return e, errors.New("want NAME:IP or NAME:host-gateway")
	}
	return e, nil
}

// nameOK reports whether a name can stand in a line of /etc/hosts.
func nameOK(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_') {
			return false
		}
	}
	return true
}

func (f *Files) check(aliases []string) error {
	for _, a := range aliases {
		if !nameOK(a) {
			return fmt.Errorf("alias %q is no name of a host", a)
		}
	}
	for _, s := range append(f.Search, f.Options...) {
		if s == "" || strings.ContainsAny(s, " \t\n\x00") {
			return fmt.Errorf("%q cannot stand in a line of resolv.conf", s)
		}
	}
	return nil
}

// Names of the files, below the directory of the container's record.
const (
	HostsFile    = "hosts"
	HostnameFile = "hostname"
	ResolvFile   = "resolv.conf"
)

// maxPeers is how many containers of a network have each other in /etc/hosts.
// Beyond it a line for everybody in everybody's file costs more than it is worth.
const maxPeers = 64

// maxHosts bounds a file that is changed.
const maxHosts = 1 << 20

// writeFiles makes the files, and adds the container to those of its peers.
func (a *Attachment) writeFiles(f *Files) error {
	dir := a.host.Store.ContainerDir(a.record.Key)
	hosts := []byte("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	for i := range a.record.Endpoints {
		hosts = append(hosts, ownLines(a.record, i)...)
	}
	gateway := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if len(a.networks) > 0 {
		gateway = a.networks[0].Subnets[0].Gateway
	}
	for _, e := range f.Hosts {
		ip := e.IP
		if !ip.IsValid() {
			ip = gateway
		}
		hosts = append(hosts, ip.String()+"\t"+e.Name+"\n"...)
	}
	peers, err := a.host.peers(a.record)
	if err != nil {
		return err
	}
	for _, p := range peers {
		hosts = append(hosts, p.lines...)
	}
	if err := writeFile(dir+"/"+HostsFile, hosts); err != nil {
		return err
	}
	if err := writeFile(dir+"/"+HostnameFile, []byte(f.Hostname+"\n")); err != nil {
		return err
	}
	if err := writeFile(dir+"/"+ResolvFile, a.resolv(f)); err != nil {
		return err
	}
	for _, p := range peers {
		if err := appendLines(p.file, p.own); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// ownLines are the lines of a container for one of its networks.
func ownLines(c *store.Container, i int) []byte {
	var b []byte
	for _, ip := range c.Endpoints[i].Addresses {
		b = append(append(b, ip.String()...), '\t')
		b = append(b, hostLabel(c.Hostname)...)
		if c.ID != c.Hostname && nameOK(c.ID) {
			b = append(append(b, ' '), c.ID...)
		}
		for _, list := range [...][]string{c.Aliases, c.Endpoints[i].Aliases} {
			for _, alias := range list {
				b = append(append(b, ' '), alias...)
			}
		}
		b = append(b, '\n')
	}
	return b
}

// hostLabel is a hostname that cannot break a line.
func hostLabel(s string) string {
	if nameOK(s) {
		return s
	}
	return "container"
}

// A peer is another container of the same networks.
type peer struct {
	file  string // its /etc/hosts
	lines []byte // about it, for us
	own   []byte // about us, for it
}

func (h *Host) peers(c *store.Container) (list []peer, err error) {
	byKey := map[string]int{}
	for i := range c.Endpoints {
		n := c.Endpoints[i].Network
		most := maxPeers * max(len(c.Endpoints[i].Addresses), 1)
		leases, err := h.Store.SomeLeases(n, most)
		if err != nil {
			return nil, err
		}
		if len(leases) > most {
			continue
		}
		seen := map[string]bool{c.Key: true}
		for _, ip := range leases {
			key, err := h.Store.Holder(n, ip)
			if err != nil || seen[key] {
				continue
			}
			seen[key] = true
			other, err := h.Store.Container(key)
			if err != nil {
				continue // half a record: it has no file either
			}
			at, known := byKey[key]
			if !known {
				at = len(list)
				byKey[key] = at
				list = append(list, peer{file: h.Store.ContainerDir(key) + "/" + HostsFile})
			}
			p := &list[at]
			for j := range other.Endpoints {
				if other.Endpoints[j].Network == n {
					p.lines = append(p.lines, ownLines(other, j)...)
				}
			}
			p.own = append(p.own, ownLines(c, i)...)
		}
	}
	return list, nil
}

// dropPeer takes a container out of the files of its peers.
func (h *Host) dropPeer(c *store.Container) error {
	peers, err := h.peers(c)
	if err != nil {
		return err
	}
	for _, p := range peers {
		if err := dropLines(p.file, p.own); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// A hosts file is mounted into a container, so it stays the same file for good,
// and readers see each change at once. Lines are added at the end by one write,
// or in place of blank ones; a line that goes is overwritten with blanks.

func appendLines(file string, lines []byte) error {
	return changeLines(file, lines, func(fd int, text, line []byte) error {
		if bytes.Contains(append([]byte{'\n'}, text...), append([]byte{'\n'}, line...)) {
			return nil
		}
		for off := 0; off < len(text); {
			end := bytes.IndexByte(text[off:], '\n')
			if end < 0 {
				break
			}
			old := text[off : off+end]
			if len(old) >= len(line)-1 && len(bytes.TrimLeft(old, " ")) == 0 && len(old) > 0 {
				_, err := unix.Pwrite(fd, line[:len(line)-1], int64(off))
				return err
			}
			off += end + 1
		}
		_, err := unix.Pwrite(fd, line, int64(len(text)))
		return err
	})
}

func dropLines(file string, lines []byte) error {
	return changeLines(file, lines, func(fd int, text, line []byte) error {
		for off := 0; off < len(text); {
			end := bytes.IndexByte(text[off:], '\n')
			if end < 0 {
				break
			}
			if old := text[off : off+end]; bytes.Equal(bytes.TrimRight(old, " "), line[:len(line)-1]) {
				if _, err := unix.Pwrite(fd, bytes.Repeat([]byte{' '}, end), int64(off)); err != nil {
					return err
				}
			}
			off += end + 1
		}
		return nil
	})
}

func changeLines(file string, lines []byte, f func(fd int, text, line []byte) error) error {
	fd, err := linux.OpenAt(unix.AT_FDCWD, file, unix.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	for line := range bytes.Lines(lines) {
		if _, err := unix.Seek(fd, 0, 0); err != nil {
			return err
		}
		text, err := linux.ReadAll(fd, maxHosts)
		if err == nil {
			err = f(fd, text, line)
		}
		if err != nil {
			return fmt.Errorf("change %q: %w", file, err)
		}
	}
	return nil
}

// resolv is the container's resolv.conf: what the user says, or else the gateway of
// a network whose names are answered, or what the network says, or else the host's
// without the servers that only the host can reach.
func (a *Attachment) resolv(f *Files) []byte {
	servers := f.DNS
	given := len(servers) > 0
	for _, n := range a.networks {
		if len(servers) == 0 {
			servers = n.DNS
		}
	}
	var b []byte
	search, options := f.Search, f.Options
	raw, _ := linux.ReadFile("/etc/resolv.conf", 64<<10)
	lines := readResolv(raw)
	if len(servers) == 0 {
		servers = lines.servers
		if len(servers) == 0 && lines.local {
			// A resolver of the host on its loopback: systemd tells which servers it asks.
			more, _ := linux.ReadFile("/run/systemd/resolve/resolv.conf", 64<<10)
			servers = readResolv(more).servers
		}
	}
	if len(search) == 0 {
		search = lines.search
	}
	if len(options) == 0 {
		options = lines.options
	}
	gateway, answered := a.names()
	switch {
	case given || !gateway.IsValid():
		for _, s := range servers {
			b = append(b, "nameserver "+s.String()+"\n"...)
		}
	default:
		b = appendServer(b, gateway, answered)
		for _, s := range servers {
			if s != gateway {
				b = appendServer(b, s, !answered)
			}
		}
	}
	if len(search) > 0 && !(len(search) == 1 && search[0] == ".") {
		b = append(b, "search "+strings.Join(search, " ")+"\n"...)
	}
	if len(options) > 0 {
		b = append(b, "options "+strings.Join(options, " ")+"\n"...)
	}
	return b
}

type resolvConf struct {
	servers         []netip.Addr
	search, options []string
	local           bool // there were servers on the loopback
}

func readResolv(raw []byte) (r resolvConf) {
	for line := range strings.Lines(string(raw)) {
		w := strings.Fields(line)
		if len(w) < 2 {
			continue
		}
		switch w[0] {
		case "nameserver":
			ip, err := netip.ParseAddr(w[1])
			switch {
			case err != nil: // or of a link that the container does not have
			case ip.IsLoopback():
				r.local = true
			default:
				r.servers = append(r.servers, ip)
			}
		case "search", "domain":
			r.search = w[1:]
		case "options":
			r.options = append(r.options, w[1:]...)
		}
	}
	return r
}

// writeFile makes a file for a container to read.
func writeFile(path string, b []byte) error {
	fd, err := linux.OpenAt(unix.AT_FDCWD, path, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	err = linux.WriteAll(fd, b)
	if err == nil {
		err = unix.Fchmod(fd, 0o644) // whatever the umask is
	}
	linux.Close(fd)
	if err != nil {
		return fmt.Errorf("write %q: %w", path, err)
	}
	return nil
}
