package rootfs

import (
	"fmt"
	"strings"
	"syscall"

	"github.com/minirun/minirun/internal/initprog"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// node is a device node to make.
type node struct {
	path     string // below the root
	mode     uint32 // type and permissions, as mknod(2) takes them
	dev      uint64
	uid, gid uint32
}

// defaultNodes are the devices every container has (runtime-spec, config-linux,
// "Default Devices"); console and ptmx are made elsewhere.
var defaultNodes = [...]node{
	{path: "dev/null", mode: unix.S_IFCHR | 0o666, dev: 1<<8 | 3},
	{path: "dev/random", mode: unix.S_IFCHR | 0o666, dev: 1<<8 | 8},
	{path: "dev/full", mode: unix.S_IFCHR | 0o666, dev: 1<<8 | 7},
	{path: "dev/tty", mode: unix.S_IFCHR | 0o666, dev: 5 << 8},
	{path: "dev/zero", mode: unix.S_IFCHR | 0o666, dev: 1<<8 | 5},
	{path: "dev/urandom", mode: unix.S_IFCHR | 0o666, dev: 1<<8 | 9},
}

// planDevices are the default nodes and those of linux.devices; a node of the
// spec replaces the default one at the same path.
func planDevices(extra []specs.LinuxDevice) ([]node, error) {
	nodes := make([]node, 0, len(defaultNodes)+len(extra))
	nodes = append(nodes, defaultNodes[:]...)
	for i := range extra {
		d := &extra[i]
		n := node{path: clean(d.Path)}
		switch d.Type {
		case "c", "u":
			n.mode = unix.S_IFCHR
		case "b":
			n.mode = unix.S_IFBLK
		case "p":
			n.mode = unix.S_IFIFO
		default:
			return nil, fmt.Errorf("linux.devices[%d].type: unknown type %q of %q; use c, b, u or p", i, d.Type, d.Path)
		}
		if n.mode != unix.S_IFIFO {
			n.dev = unix.Mkdev(uint32(d.Major), uint32(d.Minor))
		}
		perm := uint32(0o666)
		if d.FileMode != nil {
			perm = uint32(*d.FileMode) & 0o7777
		}
		n.mode |= perm
		if d.UID != nil {
			n.uid = *d.UID
		}
		if d.GID != nil {
			n.gid = *d.GID
		}
		replaced := false
		for j := range nodes {
			if nodes[j].path == n.path {
				nodes[j], replaced = n, true
			}
		}
		if !replaced {
			nodes = append(nodes, n)
		}
	}
	return nodes, nil
}

// devices makes the device nodes.
type devices struct {
	t     *tree
	nodes []node
}

func (s *devices) Phase() string { return "devices" }
func (s *devices) String() string {
	names := make([]string, len(s.nodes))
	for i, n := range s.nodes {
		names[i] = "/" + n.path
	}
	how := "make device nodes "
	if s.t.userns {
		how = "bind the host's device nodes "
	}
	return how + strings.Join(names, " ")
}

func (s *devices) Why() string {
	if s.t.userns {
		return "mknod(2) is not permitted in a user namespace"
	}
	return ""
}

func (s *devices) Emit(b *initprog.Builder) {
	dev := s.t.resolve(b, "dev", directory)
	for i := range s.nodes {
		n := &s.nodes[i]
		b.Object("/" + n.path)
		if s.t.userns && n.mode&unix.S_IFMT != unix.S_IFIFO {
			m := b.OpenTree(initprog.CWD(), "/"+n.path, false).Result()
			s.t.attach(b, m, s.t.resolve(b, n.path, file))
			continue
		}
		parent, name := dev, strings.TrimPrefix(n.path, "dev/")
		if j := strings.LastIndexByte(name, '/'); j >= 0 || name == n.path {
			dir := "."
			if k := strings.LastIndexByte(n.path, '/'); k >= 0 {
				dir = n.path[:k]
			}
			name = n.path[strings.LastIndexByte(n.path, '/')+1:]
			parent = s.t.resolve(b, dir, directory)
		}
		b.Mknodat(parent, name, n.mode, n.dev).Ignore(syscall.EEXIST)
		if n.uid|n.gid != 0 {
			b.Fchownat(parent, name, n.uid, n.gid)
		}
	}
	s.t.release(b, dev)
}

// devLinks makes the symbolic links below /dev.
type devLinks struct {
	t    *tree
	core bool // the kernel has /proc/kcore
}

func (s *devLinks) Phase() string  { return "devices" }
func (s *devLinks) String() string { return "make the links /dev/fd, stdin, stdout, stderr, ptmx" }
func (s *devLinks) Why() string    { return "" }

func (s *devLinks) Emit(b *initprog.Builder) {
	dev := s.t.resolve(b, "dev", directory)
	for _, l := range [...]struct{ target, name string }{
		{"/proc/self/fd", "fd"},
		{"/proc/self/fd/0", "stdin"},
		{"/proc/self/fd/1", "stdout"},
		{"/proc/self/fd/2", "stderr"},
		{"/proc/kcore", "core"},
	} {
		if l.name == "core" && !s.core {
			continue
		}
		b.Object("/dev/" + l.name)
		b.Symlinkat(l.target, dev, l.name).Ignore(syscall.EEXIST)
	}
	// The image's own ptmx would be that of another devpts.
	b.Object("/dev/ptmx")
	again := b.NewLabel()
	done := b.NewLabel()
	b.Symlinkat("pts/ptmx", dev, "ptmx").OnSuccess(done).On(syscall.EEXIST, again)
	b.Place(again)
	b.Unlinkat(dev, "ptmx")
	b.Symlinkat("pts/ptmx", dev, "ptmx")
	b.Place(done)
	s.t.release(b, dev)
}
