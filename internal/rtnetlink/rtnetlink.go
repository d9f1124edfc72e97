// Package rtnetlink asks the kernel for network interfaces and moves them between
// namespaces: the few requests of rtnetlink(7) that a runtime needs. A library
// for all of them would cost every start more than this does.
package rtnetlink

import (
	"encoding/binary"
	"os"
	goruntime "runtime"
	"sync"

	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// A Conn is a socket in one network namespace.
type Conn struct {
	fd  int
	seq uint32
	buf []byte // for answers
}

// Dial opens a socket in the network namespace of the calling thread.
func Dial() (*Conn, error) {
	fd, err := linux.Netlink(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	return &Conn{fd: fd}, nil
}

// DialIn opens a socket in the network namespace that netns is open on.
func DialIn(netns int) (c *Conn, err error) {
	goruntime.LockOSThread()
	own, err := linux.OpenAt(unix.AT_FDCWD, "/proc/thread-self/ns/net", unix.O_RDONLY, 0)
	if err != nil {
		goruntime.UnlockOSThread()
		return nil, err
	}
	defer linux.Close(own)
	if err := unix.Setns(netns, unix.CLONE_NEWNET); err != nil {
		goruntime.UnlockOSThread()
		return nil, os.NewSyscallError("setns", err)
	}
	c, err = Dial()
	if back := unix.Setns(own, unix.CLONE_NEWNET); back != nil {
		// Not unlocked: the thread must not run anything else any more.
		c.Close()
		return nil, os.NewSyscallError("setns", back)
	}
	goruntime.UnlockOSThread()
	return c, err
}

// Close closes the socket.
func (c *Conn) Close() {
	if c != nil {
		linux.Close(c.fd)
		if buf := c.buf; buf != nil {
			c.buf = nil
			buffers.Put(&buf)
		}
	}
}

// A Link is a network interface.
type Link struct {
	Index int
	Name  string
	Flags uint32 // IFF_*
	// Master is the index of the bridge that it is in; 0: of none.
	Master int
}

// An Address is one of an interface, in the kernel's words.
type Address struct {
	Family, Prefix, Scope byte
	Flags                 uint32 // IFA_F_*
	// Attributes are those that say what it is: IFA_ADDRESS, IFA_LOCAL,
	// IFA_BROADCAST and IFA_RT_PRIORITY, as the kernel sent them.
	attributes []byte
}

// LinkByName finds an interface; unix.ENODEV if there is none.
func (c *Conn) LinkByName(name string) (*Link, error) {
	m := newMessage(unix.RTM_GETLINK, 0)
	m.link(0, 0, 0)
	m.str(unix.IFLA_IFNAME, name)
	return c.getLink(m)
}

// LinkByIndex finds an interface; unix.ENODEV if there is none.
func (c *Conn) LinkByIndex(index int) (*Link, error) {
	m := newMessage(unix.RTM_GETLINK, 0)
	m.link(index, 0, 0)
	return c.getLink(m)
}

func (c *Conn) getLink(m *message) (l *Link, err error) {
	err = c.do(m, func(typ uint16, body []byte) {
		if typ != unix.RTM_NEWLINK || len(body) < unix.SizeofIfInfomsg {
			return
		}
		l = &Link{Index: int(int32(binary.NativeEndian.Uint32(body[4:]))), Flags: binary.NativeEndian.Uint32(body[8:])}
		linux.NetlinkAttributes(body[unix.SizeofIfInfomsg:], func(typ uint16, value, _ []byte) {
			switch typ {
			case unix.IFLA_IFNAME:
				l.Name = unix.ByteSliceToString(value)
			case unix.IFLA_MASTER:
				if len(value) == 4 {
					l.Master = int(int32(binary.NativeEndian.Uint32(value)))
				}
			}
		})
	})
	if err == nil && l == nil {
		err = unix.ENODEV
	}
	return l, err
}

// Addresses lists the addresses of an interface.
func (c *Conn) Addresses(index int) (list []Address, err error) {
	m := newMessage(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	m.add(make([]byte, unix.SizeofIfAddrmsg))
	err = c.do(m, func(typ uint16, body []byte) {
		if typ != unix.RTM_NEWADDR || len(body) < unix.SizeofIfAddrmsg || int(binary.NativeEndian.Uint32(body[4:])) != index {
			return
		}
		a := Address{Family: body[0], Prefix: body[1], Flags: uint32(body[2]), Scope: body[3]}
		linux.NetlinkAttributes(body[unix.SizeofIfAddrmsg:], func(typ uint16, value, whole []byte) {
			switch typ {
			case unix.IFA_FLAGS:
				a.Flags = binary.NativeEndian.Uint32(value)
			case unix.IFA_ADDRESS, unix.IFA_LOCAL, unix.IFA_BROADCAST, unix.IFA_RT_PRIORITY:
				a.attributes = append(a.attributes, whole...)
			}
		})
		list = append(list, a)
	})
	return list, err
}

// AddAddress gives an interface an address of another one.
func (c *Conn) AddAddress(index int, a *Address) error {
	m := newMessage(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK)
	body := make([]byte, unix.SizeofIfAddrmsg)
	body[0], body[1], body[3] = a.Family, a.Prefix, a.Scope
	binary.NativeEndian.PutUint32(body[4:], uint32(index))
	m.add(body)
	m.add(a.attributes)
	// What describes the state of an address is not set; what was asked for is.
	if f := a.Flags & (unix.IFA_F_NODAD | unix.IFA_F_HOMEADDRESS | unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_MCAUTOJOIN); f != 0 {
		m.num(unix.IFA_FLAGS, f)
	}
	return c.do(m, nil)
}

// Move moves an interface into the namespace that netns is open on, where it is
// called name.
func (c *Conn) Move(index, netns int, name string) error {
	m := newMessage(unix.RTM_SETLINK, unix.NLM_F_ACK)
	m.link(index, 0, 0)
	m.num(unix.IFLA_NET_NS_FD, uint32(netns))
	m.str(unix.IFLA_IFNAME, name)
	return c.do(m, nil)
}

// Rename changes the name of an interface that is down. For %d in it the kernel
// chooses a number.
func (c *Conn) Rename(index int, name string) error {
	m := newMessage(unix.RTM_SETLINK, unix.NLM_F_ACK)
	m.link(index, 0, 0)
	m.str(unix.IFLA_IFNAME, name)
	return c.do(m, nil)
}

// Up sets the flag IFF_UP of an interface.
func (c *Conn) Up(index int) error {
	m := newMessage(unix.RTM_SETLINK, unix.NLM_F_ACK)
	m.link(index, unix.IFF_UP, unix.IFF_UP)
	return c.do(m, nil)
}

// message is a request in the making.
type message struct{ b []byte }

func newMessage(typ, flags uint16) *message {
	m := &message{make([]byte, unix.SizeofNlMsghdr, 256)}
	binary.NativeEndian.PutUint16(m.b[4:], typ)
	binary.NativeEndian.PutUint16(m.b[6:], flags|unix.NLM_F_REQUEST)
	return m
}

func (m *message) add(p []byte) { m.b = append(m.b, p...) }

// link is a struct ifinfomsg.
func (m *message) link(index int, flags, change uint32) {
	var b [unix.SizeofIfInfomsg]byte
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], flags)
	binary.NativeEndian.PutUint32(b[12:], change)
	m.add(b[:])
}

func (m *message) attribute(typ uint16, value []byte) {
	m.b = linux.AppendNetlinkAttribute(m.b, typ, value)
}

func (m *message) str(typ uint16, v string) { m.attribute(typ, append([]byte(v), 0)) }

func (m *message) num(typ uint16, v uint32) {
	m.attribute(typ, binary.NativeEndian.AppendUint32(nil, v))
}

// buffers are those of connections that were closed: who looks at the namespaces of
// hundreds of pods makes as many connections.
var buffers sync.Pool

// do sends a request and passes each part of the answer to f.
func (c *Conn) do(m *message, f func(typ uint16, body []byte)) error {
	c.seq++
	binary.NativeEndian.PutUint32(m.b, uint32(len(m.b)))
	binary.NativeEndian.PutUint32(m.b[8:], c.seq)
	if _, err := linux.Write(c.fd, m.b); err != nil {
		return os.NewSyscallError("write", err)
	}
	flags := binary.NativeEndian.Uint16(m.b[6:])
	if c.buf == nil {
		if b, ok := buffers.Get().(*[]byte); ok {
			c.buf = *b
		} else {
			c.buf = make([]byte, 64<<10) // the kernel sends no larger parts than a reader takes
		}
	}
	buf := c.buf
	for {
		n, err := linux.Read(c.fd, buf)
		if err != nil {
			return os.NewSyscallError("read", err)
		}
		done, err := linux.NetlinkMessages(buf[:n], func(seq uint32, typ uint16, body []byte) (bool, error) {
			switch {
			case seq != c.seq:
				return false, nil
			case typ == unix.NLMSG_ERROR:
				return true, linux.NetlinkErrno(body)
			case typ == unix.NLMSG_DONE:
				return true, nil
			}
			if f != nil {
				f(typ, body)
			}
			return flags&(unix.NLM_F_DUMP|unix.NLM_F_ACK) == 0, nil
		})
		if done || err != nil {
			return err
		}
	}
}
