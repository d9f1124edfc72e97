package stream

import (
	"bufio"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Subprotocols of programs' streams: the older one cannot say that the input ends.
const (
	Protocol    = "v5.channel.k8s.io"
	OldProtocol = "v4.channel.k8s.io"
)

// Tunnel is a subprotocol without channels: the bytes are a connection of SPDY,
// which Session speaks.
const Tunnel = SPDY + "+portforward.k8s.io"

// Channels.
const (
	Stdin  = 0
	Stdout = 1
	Stderr = 2
	// Error carries one Status at the end.
	Error = 3
	// Resize carries sizes of the terminal, as JSON.
	Resize = 4
	// Close says that nothing more comes on the channel that is its only byte.
	Close = 255
)

// maxMessage bounds what the other side may send at once.
const maxMessage = 1 << 20

// Opcodes of frames.
const (
	opContinue = 0
	opText     = 1
	opBinary   = 2
	opClose    = 8
	opPing     = 9
	opPong     = 10
)

// Conn is one end of a connection. Read is for one goroutine, Write for any.
type Conn struct {
	// Protocol is what both sides have agreed on.
	Protocol string

	c      net.Conn
	r      *bufio.Reader
	client bool // who is, masks

	mu     sync.Mutex
	closed bool
}

func accept(key string) string {
	h := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(h[:])
}

func has(h http.Header, name, want string) bool {
	for _, v := range h.Values(name) {
		for p := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(p), want) {
				return true
			}
		}
	}
	return false
}

// Wanted tells whether a request asks for a WebSocket.
func Wanted(r *http.Request) bool {
	return has(r.Header, "Connection", "upgrade") && has(r.Header, "Upgrade", "websocket")
}

// Accept answers a request for a WebSocket with the first of protocols that it
// offers. An error means that nothing was answered.
func Accept(w http.ResponseWriter, r *http.Request, protocols ...string) (*Conn, error) {
	key := r.Header.Get("Sec-WebSocket-Key")
	i := slices.IndexFunc(protocols, func(p string) bool { return has(r.Header, "Sec-WebSocket-Protocol", p) })
	switch {
	case !Wanted(r):
		return nil, errors.New("the request does not ask for a WebSocket")
	case r.Header.Get("Sec-WebSocket-Version") != "13" || key == "":
		return nil, errors.New("the request asks for a version of WebSocket that is not 13")
	case i < 0:
		return nil, fmt.Errorf("the request does not offer the protocol %s", strings.Join(protocols, " or "))
	}
	c, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	buf.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept(key) +
		"\r\nSec-WebSocket-Protocol: " + protocols[i] + "\r\n\r\n")
	if err := buf.Flush(); err != nil {
		c.Close()
		return nil, err
	}
	return &Conn{c: c, r: buf.Reader, Protocol: protocols[i]}, nil
}

// AnswerError is an answer that is no WebSocket; its body is the reason.
type AnswerError struct {
	Code int
	Body []byte
}

func (e *AnswerError) Error() string {
	return fmt.Sprintf("the server answered with status %d", e.Code)
}

// Dial asks for a WebSocket on a connection, which it closes when that fails.
func Dial(c net.Conn, path, protocol string) (*Conn, error) {
	ws, err := dial(c, path, protocol)
	if err != nil {
		c.Close()
	}
	return ws, err
}

func dial(c net.Conn, path, protocol string) (*Conn, error) {
	var raw [16]byte
	rand.Read(raw[:])
	key := base64.StdEncoding.EncodeToString(raw[:])
	r, err := http.NewRequest(http.MethodGet, "http://minirund"+path, nil)
	if err != nil {
		return nil, err
	}
	for _, h := range [][2]string{
		{"Connection", "Upgrade"}, {"Upgrade", "websocket"}, {"Sec-WebSocket-Version", "13"}, {"Sec-WebSocket-Key", key}, {"Sec-WebSocket-Protocol", protocol},
	} {
		r.Header.Set(h[0], h[1])
	}
	if err := r.Write(c); err != nil {
		return nil, err
	}
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		text, err := io.ReadAll(io.LimitReader(resp.Body, maxMessage))
		resp.Body.Close()
		if err != nil {
			return nil, err
		}
		return nil, &AnswerError{resp.StatusCode, text}
	}
	if resp.Header.Get("Sec-WebSocket-Accept") != accept(key) || resp.Header.Get("Sec-WebSocket-Protocol") != protocol {
		return nil, errors.New("the server answers with another protocol")
	}
	return &Conn{c: c, r: br, client: true, Protocol: protocol}, nil
}

// Write sends a message on a channel.
func (c *Conn) Write(channel byte, data []byte) error {
	return c.frame(opBinary, append([]byte{channel}, data...))
}

func (c *Conn) frame(op byte, data []byte) error {
	b := make([]byte, 0, len(data)+14)
	b = append(b, 0x80|op)
	mask := byte(0)
	if c.client {
		mask = 0x80
	}
	switch n := len(data); {
	case n < 126:
		b = append(b, mask|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, mask|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, mask|127), uint64(n))
	}
	if c.client {
		var key [4]byte
		rand.Read(key[:])
		b = append(b, key[:]...)
		for i, d := range data {
			b = append(b, d^key[i%4])
		}
	} else {
		b = append(b, data...)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	_, err := c.c.Write(b)
	return err
}

var errProtocol = errors.New("the other side does not speak the protocol")

// Read gives the next message. The end is io.EOF, however it came.
func (c *Conn) Read() (channel byte, data []byte, err error) {
	message, err := c.message()
	if err != nil {
		return 0, nil, err
	}
	return message[0], message[1:], nil
}

// message reads the next one that is not empty.
func (c *Conn) message() ([]byte, error) {
	var message []byte
	started := false
	for {
		op, final, payload, err := c.next()
		if err != nil {
			return nil, err
		}
		switch op {
		case opPing:
			if err := c.frame(opPong, payload); err != nil {
				return nil, io.EOF
			}
			continue
		case opPong:
			continue
		case opClose:
			return nil, io.EOF
		case opText, opBinary:
			if started {
				return nil, errProtocol
			}
			started = true
		case opContinue:
			if !started {
				return nil, errProtocol
			}
		default:
			return nil, errProtocol
		}
		if len(message)+len(payload) > maxMessage {
			return nil, errProtocol
		}
		message = append(message, payload...)
		if !final {
			continue
		}
		if len(message) == 0 {
			started = false
			continue
		}
		return message, nil
	}
}

// Bytes is the connection without channels: messages are parts of a stream of bytes.
func (c *Conn) Bytes() io.ReadWriteCloser { return &plain{c: c} }

type plain struct {
	c    *Conn
	rest []byte
}

func (p *plain) Read(b []byte) (n int, err error) {
	if len(p.rest) == 0 {
		if p.rest, err = p.c.message(); err != nil {
			return 0, err
		}
	}
	n = copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func (p *plain) Write(b []byte) (n int, err error) {
	for part := range slices.Chunk(b, 32<<10) {
		if err := p.c.frame(opBinary, part); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

func (p *plain) Close() error { return p.c.Close() }

// next reads a frame.
func (c *Conn) next() (op byte, final bool, data []byte, err error) {
	var head [14]byte
	if _, err := io.ReadFull(c.r, head[:2]); err != nil {
		return 0, false, nil, io.EOF
	}
	op, final = head[0]&15, head[0]&0x80 != 0
	masked, n := head[1]&0x80 != 0, uint64(head[1]&0x7f)
	if head[0]&0x70 != 0 || masked == c.client || op >= opClose && (!final || n > 125) {
		return 0, false, nil, errProtocol
	}
	more := 0
	switch n {
	case 126:
		more = 2
	case 127:
		more = 8
	}
	rest := more
	if masked {
		rest += 4
	}
	if _, err := io.ReadFull(c.r, head[2:2+rest]); err != nil {
		return 0, false, nil, io.EOF
	}
	switch more {
	case 2:
		n = uint64(binary.BigEndian.Uint16(head[2:]))
	case 8:
		n = binary.BigEndian.Uint64(head[2:])
	}
	if n > maxMessage {
		return 0, false, nil, errProtocol
	}
	data = make([]byte, n)
	if _, err := io.ReadFull(c.r, data); err != nil {
		return 0, false, nil, io.EOF
	}
	if masked {
		key := slices.Clone(head[2+more : 6+more])
		for i := range data {
			data[i] ^= key[i%4]
		}
	}
	return op, final, data, nil
}

// Close ends the connection, also when the other side reads nothing.
func (c *Conn) Close() error {
	c.c.SetWriteDeadline(time.Now().Add(time.Second))
	c.frame(opClose, []byte{3, 232}) // 1000, the normal end
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return c.c.Close()
}

// Writer writes to a channel.
func (c *Conn) Writer(channel byte) io.Writer { return writer{c, channel} }

type writer struct {
	c       *Conn
	channel byte
}

func (w writer) Write(p []byte) (n int, err error) {
	for part := range slices.Chunk(p, 32<<10) {
		if err := w.c.Write(w.channel, part); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}
