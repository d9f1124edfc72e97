// Package nfnetlink talks to nf_tables and to connection tracking, as far as
// networks of containers need it: batches of changes that the kernel makes all at
// once or not at all, and entries of connections that have to go. A library for
// all of nf_tables brings package net and reflection into every start.
package nfnetlink

import (
	"encoding/binary"
	"os"

	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// A Conn is a socket in one network namespace.
type Conn struct {
	fd   int
	seq  uint32
	buf  []byte // for answers
	owns bool   // a table that goes with the socket
}

// Dial opens a socket in the network namespace of the calling thread.
func Dial() (*Conn, error) {
	fd, err := linux.Netlink(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	return &Conn{fd: fd}, nil
}

// Close closes the socket. The kernel may take a while to free it; a table that goes
// with it has gone.
func (c *Conn) Close() {
	switch {
	case c == nil:
	case c.owns:
		linux.Close(c.fd)
	default:
		release(c.fd)
	}
}

// attrs is a growing message.
type attrs struct{ b []byte }

func (m *attrs) add(p ...byte) { m.b = append(m.b, p...) }

func (m *attrs) attribute(typ uint16, value []byte) {
	m.b = linux.AppendNetlinkAttribute(m.b, typ, value)
}

func (m *attrs) str(typ uint16, v string) { m.attribute(typ, append([]byte(v), 0)) }

// num is a number in network byte order, as nearly all are.
func (m *attrs) num(typ uint16, v uint32) { m.attribute(typ, binary.BigEndian.AppendUint32(nil, v)) }

func (m *attrs) nest(typ uint16, f func()) {
	at := len(m.b)
	m.b = binary.NativeEndian.AppendUint32(m.b, 0)
	f()
	binary.NativeEndian.PutUint16(m.b[at:], uint16(len(m.b)-at))
	binary.NativeEndian.PutUint16(m.b[at+2:], typ|unix.NLA_F_NESTED)
}

// header begins a message and returns where; end completes it.
func (m *attrs) header(typ, flags uint16, seq uint32, family byte, resource uint16) int {
	at := len(m.b)
	m.b = binary.NativeEndian.AppendUint32(m.b, 0)
	m.b = binary.NativeEndian.AppendUint16(m.b, typ)
	m.b = binary.NativeEndian.AppendUint16(m.b, flags|unix.NLM_F_REQUEST)
	m.b = binary.NativeEndian.AppendUint32(m.b, seq)
	m.b = binary.NativeEndian.AppendUint32(m.b, 0)
	m.b = append(m.b, family, unix.NFNETLINK_V0, byte(resource>>8), byte(resource))
	return at
}

func (m *attrs) end(at int) { binary.NativeEndian.PutUint32(m.b[at:], uint32(len(m.b)-at)) }

// receive passes the answers to f until it says that there are no more. Only
// those with a sequence number in [first, last] are looked at.
func (c *Conn) receive(first, last uint32, dontwait int, f func(seq uint32, typ uint16, body []byte) (done bool, err error)) error {
	if c.buf == nil {
		c.buf = make([]byte, 64<<10)
	}
	buf := c.buf
	for {
		n, _, err := unix.Recvfrom(c.fd, buf, dontwait)
		switch err {
		case nil:
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return nil
		default:
			return os.NewSyscallError("recvfrom", err)
		}
		done, err := linux.NetlinkMessages(buf[:n], func(seq uint32, typ uint16, body []byte) (bool, error) {
			if seq-first > last-first {
				return false, nil
			}
			return f(seq, typ, body)
		})
		if done || err != nil {
			return err
		}
	}
}

// request sends one message and passes each part of the answer to f.
func (c *Conn) request(m *attrs, f func(body []byte)) error {
	if _, err := linux.Write(c.fd, m.b); err != nil {
		return os.NewSyscallError("write", err)
	}
	flags := binary.NativeEndian.Uint16(m.b[6:])
	return c.receive(c.seq, c.seq, 0, func(_ uint32, typ uint16, body []byte) (bool, error) {
		switch typ {
		case unix.NLMSG_ERROR:
			return true, linux.NetlinkErrno(body)
		case unix.NLMSG_DONE:
			return true, nil
		}
		if f != nil {
			f(body)
		}
		return flags&(unix.NLM_F_DUMP|unix.NLM_F_ACK) == 0, nil
	})
}
