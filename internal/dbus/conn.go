package dbus

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// Conn is a connection. It is not for several goroutines.
type Conn struct {
	fd      int
	serial  uint32
	in      []byte
	signals []*Message // came while a reply was waited for
}

// Error is one that the other side has answered with.
type Error struct{ Name, Text string }

func (e *Error) Error() string {
	if e.Text == "" {
		return e.Name
	}
	return e.Text + " (" + e.Name + ")"
}

// Dial connects to the first unix socket of an address, "unix:path=/run/x" or a
// plain path, and authenticates as the user uid.
func Dial(address string, uid int, timeout time.Duration) (*Conn, error) {
	name, err := socketName(address)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	for {
		if err = unix.Connect(fd, &unix.SockaddrUnix{Name: name}); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		linux.Close(fd)
		return nil, &os.PathError{Op: "connect", Path: name, Err: err}
	}
	c := &Conn{fd: fd}
	if err := c.authenticate(uid, time.Now().Add(timeout)); err != nil {
		linux.Close(fd)
		return nil, errors.New("authenticate at " + name + ": " + err.Error())
	}
	return c, nil
}

// Close ends the connection. A nil Conn has none.
func (c *Conn) Close() {
	if c != nil {
		linux.Close(c.fd)
	}
}

// socketName takes the socket out of an address; see "Server Addresses" in the
// specification. "@" begins an abstract one.
func socketName(address string) (string, error) {
	if strings.HasPrefix(address, "/") {
		return address, nil
	}
	for one := range strings.SplitSeq(address, ";") {
		list, ok := strings.CutPrefix(one, "unix:")
		for kv := range strings.SplitSeq(list, ",") {
			k, v, _ := strings.Cut(kv, "=")
			if ok && (k == "path" || k == "abstract") {
				v, ok := unescape(v)
				if k == "abstract" {
					v = "@" + v
				}
				if ok && v != "" {
					return v, nil
				}
			}
		}
	}
	return "", errors.New("D-Bus address " + strconv.Quote(address) + " names no unix socket")
}

// unescape undoes %xx.
func unescape(s string) (string, bool) {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b = append(b, s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", false
		}
		n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
		if err != nil {
			return "", false
		}
		b = append(b, byte(n))
		i += 2
	}
	return string(b), true
}

// authenticate says who we are; the kernel has told the other side already.
func (c *Conn) authenticate(uid int, deadline time.Time) error {
	const digits = "0123456789abcdef"
	hello := []byte("\x00AUTH EXTERNAL ")
	for _, d := range []byte(strconv.Itoa(uid)) {
		hello = append(hello, digits[d>>4], digits[d&15])
	}
	// All at once, as systemd's own clients do it: its server would not notice a
	// call that it has read together with BEGIN, before something else comes.
	if err := c.send(append(hello, "\r\nBEGIN\r\n"...)); err != nil {
		return err
	}
	for {
		if line, rest, ok := bytes.Cut(c.in, []byte("\r\n")); ok {
			if !bytes.HasPrefix(line, []byte("OK ")) && string(line) != "OK" {
				return errors.New("refused: " + strconv.Quote(string(line[:min(len(line), 200)])))
			}
			c.in = rest
			return nil
		}
		if len(c.in) > 16<<10 {
			return errMalformed
		}
		if err := c.receive(deadline); err != nil {
			return err
		}
	}
}

func (c *Conn) send(b []byte) error {
	for len(b) > 0 {
		n, err := unix.SendmsgN(c.fd, b, nil, nil, unix.MSG_NOSIGNAL)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("sendmsg", err)
		}
		b = b[n:]
	}
	return nil
}

// receive reads more.
func (c *Conn) receive(deadline time.Time) error {
	for {
		left := time.Until(deadline)
		fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, max(int(left.Milliseconds()), 0))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return os.NewSyscallError("poll", err)
		case n == 0 && left <= 0:
			return &TimeoutError{}
		case n == 0:
			continue
		}
		var buf [4096]byte
		n, err = linux.Read(c.fd, buf[:])
		if err != nil {
			return os.NewSyscallError("read", err)
		}
		if n == 0 {
			return errClosed
		}
		c.in = append(c.in, buf[:n]...)
		return nil
	}
}

var errClosed = errors.New("the connection was closed")

// TimeoutError reports that nothing came in time.
type TimeoutError struct{}

func (*TimeoutError) Error() string { return "no answer in time" }

// Timeout marks the error as a time-out.
func (*TimeoutError) Timeout() bool { return true }

func (c *Conn) next(deadline time.Time) (*Message, error) {
	for {
		if len(c.in) >= 16 {
			_, whole, err := sizes(c.in)
			if err != nil {
				return nil, err
			}
			if len(c.in) >= whole {
				m, err := parse(bytes.Clone(c.in[:whole]))
				c.in = append(c.in[:0], c.in[whole:]...)
				return m, err
			}
		}
		if err := c.receive(deadline); err != nil {
			return nil, err
		}
	}
}

// maxSignals bounds what is kept of signals while a reply is waited for.
const maxSignals = 1024

// Call sends a method call and waits for its reply. An answer that is an error is
// an *Error.
func (c *Conn) Call(m *Message, timeout time.Duration) (*Message, error) {
	deadline := time.Now().Add(timeout)
	c.serial++
	m.kind = typeCall
	if err := c.send(m.encode(c.serial)); err != nil {
		return nil, err
	}
	for {
		r, err := c.next(deadline)
		if err != nil {
			return nil, err
		}
		switch {
		case r.kind == typeSignal && len(c.signals) < maxSignals:
			c.signals = append(c.signals, r)
		case r.replySerial != c.serial:
		case r.kind == typeReply:
			return r, nil
		case r.kind == typeError:
			e := &Error{Name: r.errorName}
			if strings.HasPrefix(r.Signature, "s") {
				e.Text = r.Decode().String()
			}
			return nil, e
		}
	}
}

// Signal waits for the next signal of the interface and name, also one that came
// before, for which match is true.
func (c *Conn) Signal(iface, member string, timeout time.Duration, match func(*Decoder) bool) error {
	deadline := time.Now().Add(timeout)
	for {
		var m *Message
		var err error
		if len(c.signals) > 0 {
			m, c.signals = c.signals[0], c.signals[1:]
		} else if m, err = c.next(deadline); err != nil {
			return err
		}
		if m.kind == typeSignal && m.Interface == iface && m.Member == member && match(m.Decode()) {
			return nil
		}
	}
}
