// Package loopback lets ports of loopback addresses lead elsewhere.
//
// The kernel does not route what is for a loopback address, whatever nftables
// would make of it, and to allow it (route_localnet) opens to the network what
// listens there. So the address is changed earlier: programs of BPF at the root of
// the cgroups see it when a process connects or sends, and put another one in its
// place. No packet is translated and no process stands in between. The process
// sees the address that it asked for, by getpeername(2) and recvfrom(2) too.
//
// Programs are for one network namespace, whose cookie is in them and in their
// name; what other namespaces do, those of containers, is not touched. They are
// attached to the group itself and not by way of links, which would end with their
// last descriptor or need a file system for BPF that not every host has. So
// they need no process and no file: who wants to change what leads where finds them
// by their name. They are there as long as something leads somewhere.
//
// TCP and UDP; the kernel has no such hooks for SCTP.
package loopback

import (
	"errors"
	"os"
	"slices"

	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// An Entry leads one port. Addresses have the form of IPv6: ::ffff:127.0.0.1. From
// and To are of the same family.
type Entry struct {
	Protocol uint8    // unix.IPPROTO_TCP or UDP
	From     [16]byte // the loopback address; unspecified: all of that family
	Port     uint16
	To       [16]byte
	ToPort   uint16
}

// Owners of entries: each changes its own only.
const (
	Published = 1 // ports of containers
	NodePorts = 2 // of services
)

// Error reports what the kernel refused.
type Error struct {
	Op  string
	Err error
}

func (e *Error) Error() string { return "lead ports of loopback: " + e.Op + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Is makes everything but lack of memory an unsupported operation.
func (e *Error) Is(target error) bool {
	return target == errors.ErrUnsupported && e.Err != unix.ENOMEM
}

// Hint says what it takes.
func (e *Error) Hint() string {
	return "it takes cgroup v2, mounted in either way, a kernel with CONFIG_CGROUP_BPF, and CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN"
}

// A group is a cgroup with the programs of one network namespace.
type group struct {
	dir     int
	cookie  uint64
	name    [16]byte
	entries int // -1: there are no programs
	memory  int // with entries
}

// Root finds where cgroup v2 is mounted.
func Root() (string, error) {
	var st unix.Statfs_t
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir, nil
		}
	}
	return "", &Error{"find cgroup v2", unix.ENOENT}
}

// open locks the group: nobody else changes what is attached until it is closed.
// cgroup is its directory, or empty for the root.
func open(cgroup string) (g *group, err error) {
	if cgroup == "" {
		if cgroup, err = Root(); err != nil {
			return nil, err
		}
	}
	g = &group{dir: -1, entries: -1, memory: -1}
	if g.cookie, err = cookie(); err != nil {
		return nil, &Error{"find the network namespace's cookie", err}
	}
	copy(g.name[:15], "mr1_")
	for i, c := 14, g.cookie; i > 3; i, c = i-1, c>>4 {
		g.name[i] = "0123456789abcdef"[c&15]
	}
	if g.dir, err = linux.OpenAt(unix.AT_FDCWD, cgroup, unix.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
		return nil, err
	}
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Flock(g.dir, unix.LOCK_EX)
	}
	if err != nil {
		g.close()
		return nil, &os.PathError{Op: "flock", Path: cgroup, Err: err}
	}
	return g, nil
}

func (g *group) close() { closeAll(g.dir, g.entries, g.memory) }

// cookie is the number that the kernel has given the network namespace of the
// calling thread. No other gets it before a reboot.
func cookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == unix.EAFNOSUPPORT {
		fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	}
	if err != nil {
		return 0, err
	}
	defer linux.Close(fd)
	return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
}

// find sets g.entries if the programs are there that every port needs. What it looks
// at is the one of them that is attached last.
func (g *group) find() error {
	last := hooks()[common-1]
	prog, err := attached(g.dir, last.attach, g.name)
	if err != nil {
		return &Error{"look for attached programs", err}
	}
	if prog < 0 {
		return nil
	}
	defer linux.Close(prog)
	g.entries, g.memory, err = mapsOf(prog)
	if err != nil {
		return &Error{"look for attached programs", err}
	}
	return nil
}

// ensure makes the programs that are not there; those for UDP alone if they are
// needed. What somebody who was killed has left is taken away first: without the last
// one the others do nothing.
func (g *group) ensure(list []Entry) error {
	if err := g.find(); err != nil {
		return err
	}
	all := hooks()
	if g.entries < 0 {
		if err := g.detach(); err != nil {
			return err
		}
		if err := g.makeMaps(); err != nil {
			return err
		}
		if err := g.attach(all[:common]); err != nil {
			return errors.Join(err, g.detach())
		}
	}
	if !slices.ContainsFunc(list, func(e Entry) bool { return e.Protocol == unix.IPPROTO_UDP }) {
		return nil
	}
	prog, err := attached(g.dir, all[len(all)-1].attach, g.name)
	if err != nil {
		return &Error{"look for attached programs", err}
	}
	if prog >= 0 {
		linux.Close(prog)
		return nil
	}
	if err = g.detachFrom(common); err == nil {
		err = g.attach(all[common:])
	}
	if err != nil {
		return errors.Join(err, g.detachFrom(common), g.detachEmpty())
	}
	return nil
}

func (g *group) makeMaps() (err error) {
	if g.memory, err = newMemory(g.name); err != nil {
		return &Error{"make a map for sockets", err}
	}
	if g.entries, err = newEntries(g.name); err != nil {
		return &Error{"make a map", err}
	}
	return nil
}

// attach loads programs and attaches them.
func (g *group) attach(list []hook) error {
	for i := range list {
		h := &list[i]
		prog, err := load(g.name, h.attach, h.program(g.cookie, g.entries, g.memory), nil)
		if err != nil {
			return &Error{"load a program", err}
		}
		err = attach(g.dir, prog, h.attach)
		linux.Close(prog)
		if err != nil {
			return &Error{"attach a program", err}
		}
	}
	return nil
}

// detach takes the programs away, in the other order.
func (g *group) detach() error { return g.detachFrom(0) }

// detachFrom leaves the first ones where they are.
func (g *group) detachFrom(first int) error {
	all := hooks()
	for i := len(all) - 1; i >= first; i-- {
		prog, err := attached(g.dir, all[i].attach, g.name)
		if err != nil {
			return &Error{"look for attached programs", err}
		}
		if prog < 0 {
			continue
		}
		err = detach(g.dir, prog, all[i].attach)
		linux.Close(prog)
		if err != nil {
			return &Error{"detach a program", err}
		}
	}
	return nil
}

// detachEmpty does so if nothing leads anywhere any more.
func (g *group) detachEmpty() error {
	if _, err := next(g.entries, nil); err == unix.ENOENT {
		return g.detach()
	}
	return nil
}

func (e *Entry) key() (k key) {
	k.addr = e.From
	k.port[0], k.port[1] = byte(e.Port>>8), byte(e.Port)
	k.proto = uint32(e.Protocol)
	return k
}

func (e *Entry) value(owner uint32) (v value) {
	v.addr = e.To
	v.port[0], v.port[1] = byte(e.ToPort>>8), byte(e.ToPort)
	v.owner = owner
	return v
}

// Add leads ports of the loopback addresses of the calling thread's network
// namespace, for processes in a cgroup: its directory, or empty for all of them.
func Add(cgroup string, owner uint32, list []Entry) error {
	if len(list) == 0 {
		return nil
	}
	g, err := open(cgroup)
	if err != nil {
		return err
	}
	defer g.close()
	if err := g.ensure(list); err != nil {
		return err
	}
	return g.add(owner, list)
}

func (g *group) add(owner uint32, list []Entry) error {
	for i := range list {
		k, v := list[i].key(), list[i].value(owner)
		if err := update(g.entries, &k, &v); err != nil {
			return errors.Join(&Error{"add an entry", err}, g.detachEmpty())
		}
	}
	return nil
}

// Remove takes ports back that lead where the list says. Others are left alone.
func Remove(cgroup string, owner uint32, list []Entry) error {
	if len(list) == 0 {
		return nil
	}
	g, err := open(cgroup)
	if err != nil {
		return err
	}
	defer g.close()
	if err := g.find(); err != nil {
		return err
	}
	if g.entries < 0 {
		return g.detach() // what somebody who was killed has left
	}
	for i := range list {
		k := list[i].key()
		if have, err := lookup(g.entries, &k); err != nil || have != list[i].value(owner) {
			continue
		}
		if err := remove(g.entries, &k); err != nil {
			return &Error{"remove an entry", err}
		}
	}
	return g.detachEmpty()
}

// Replace makes the list all that the owner has.
func Replace(cgroup string, owner uint32, list []Entry) error {
	g, err := open(cgroup)
	if err != nil {
		return err
	}
	defer g.close()
	if len(list) > 0 {
		err = g.ensure(list)
	} else {
		err = g.find()
	}
	if err != nil {
		return err
	}
	if g.entries < 0 {
		return g.detach()
	}
	stale, err := g.keysOf(owner)
	if err != nil {
		return err
	}
	for i := range list {
		delete(stale, list[i].key())
	}
	if err := g.add(owner, list); err != nil {
		return err
	}
	for k := range stale {
		if err := remove(g.entries, &k); err != nil {
			return &Error{"remove an entry", err}
		}
	}
	return g.detachEmpty()
}

// keysOf lists what an owner has.
func (g *group) keysOf(owner uint32) (map[key]bool, error) {
	keys := map[key]bool{}
	var last *key
	for {
		k, err := next(g.entries, last)
		if err == unix.ENOENT {
			return keys, nil
		}
		if err != nil {
			return nil, &Error{"list entries", err}
		}
		if v, err := lookup(g.entries, &k); err == nil && v.owner == owner {
			keys[k] = true
		}
		last = &k
	}
}

// Check tries whether it would work: a program is loaded, and let go of.
func Check() error {
	if _, err := Root(); err != nil {
		return err
	}
	var name [16]byte
	copy(name[:], "mr_probe")
	memory, err := newMemory(name)
	if err != nil {
		return &Error{"make a map for sockets", err}
	}
	defer linux.Close(memory)
	entries, err := newEntries(name)
	if err != nil {
		return &Error{"make a map", err}
	}
	defer linux.Close(entries)
	for _, h := range hooks() {
		prog, err := load(name, h.attach, h.program(0, entries, memory), nil)
		if err != nil {
			return &Error{"load a program", err}
		}
		linux.Close(prog)
	}
	return nil
}
