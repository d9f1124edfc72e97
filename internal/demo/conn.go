package demo

import (
	"bytes"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

const maxHeader = 8 << 10

// A connection reads a request head, writes an answer, and starts over or ends:
//
//	reading ──► writing ──► reading      keep-alive
//	   │           └──────► draining ──► closed
//	   └───────────────────────────────► closed      end of file, silence
//
// Draining reads and drops what the client still sends after an answer that
// ends the connection: closing a socket with unread data would reset it and
// could take the answer away from the client.
const (
	stateReading = iota
	stateWriting
	stateDraining
	stateClosed
)

type conn struct {
	fd       int
	state    int
	last     bool // the answer being written ends the connection
	more     bool // step stopped early: others get their turn first
	in       []byte
	answer   []byte
	deadline time.Time
}

// idle: connected, but no part of a request has come.
func (c *conn) idle() bool { return c.state == stateReading && len(c.in) == 0 }

func (c *conn) events() int16 {
	if c.state == stateWriting {
		return unix.POLLOUT
	}
	return unix.POLLIN
}

// expired is called when the deadline has passed.
func (c *conn) expired(s *server, now time.Time) {
	if c.state == stateReading && len(c.in) > 0 {
		c.respond(s, now, "408 Request Timeout", "", "", true)
		c.step(s, now)
		return
	}
	c.state = stateClosed
}

// step goes on as far as possible without waiting, but not for longer than a
// few requests: a client that pipelines without end must not starve the others.
func (c *conn) step(s *server, now time.Time) {
	c.more = true
	for range 32 {
		before := c.state
		again := false
		switch c.state {
		case stateReading:
			again = c.read(s, now)
		case stateWriting:
			again = c.write(s, now)
		case stateDraining:
			c.drain()
		}
		if !again && c.state == before {
			c.more = false
			return
		}
	}
}

// read takes bytes in and answers when the head of a request is complete. It
// returns true when it should be called again.
func (c *conn) read(s *server, now time.Time) bool {
	if head, rest, ok := cutHead(c.in); ok {
		c.in = rest
		c.request(s, now, string(head))
		return true
	}
	if len(c.in) > maxHeader {
		c.respond(s, now, "431 Request Header Fields Too Large", "", "", true)
		return true
	}
	var buf [4096]byte
	n, err := linux.Read(c.fd, buf[:])
	switch {
	case err == unix.EAGAIN:
		return false
	case err != nil:
		c.state = stateClosed
	case n == 0 && len(c.in) > 0:
		c.respond(s, now, "400 Bad Request", "", "", true)
	case n == 0:
		c.state = stateClosed
	default:
		if len(c.in) == 0 {
			c.deadline = now.Add(s.timeout)
		}
		c.in = append(c.in, buf[:n]...)
		return true
	}
	return false
}

// cutHead splits in after the empty line that ends a request's head. Empty
// lines before the request are dropped (RFC 9112, section 2.2).
func cutHead(in []byte) (head, rest []byte, ok bool) {
	for len(in) > 0 && (in[0] == '\r' || in[0] == '\n') {
		in = in[1:]
	}
	if i := bytes.Index(in, []byte("\r\n\r\n")); i >= 0 {
		return in[:i], in[i+4:], true
	}
	if i := bytes.Index(in, []byte("\n\n")); i >= 0 {
		return in[:i], in[i+2:], true
	}
	return nil, in, false
}

// request answers one request.
func (c *conn) request(s *server, now time.Time, head string) {
	line, fields, _ := strings.Cut(head, "\n")
	method, rest, ok1 := strings.Cut(strings.TrimSuffix(line, "\r"), " ")
	target, version, ok2 := strings.Cut(rest, " ")
	if !ok1 || !ok2 || method == "" || target == "" || target[0] != '/' || version != "HTTP/1.1" && version != "HTTP/1.0" {
		c.respond(s, now, "400 Bad Request", "", "", true)
		return
	}
	last := s.stopping || version == "HTTP/1.0"
	host := false
	for field := range strings.SplitSeq(fields, "\n") {
		field = strings.TrimSuffix(field, "\r")
		if field == "" {
			continue
		}
		name, value, ok := strings.Cut(field, ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			c.respond(s, now, "400 Bad Request", "", "", true)
			return
		}
		value = strings.TrimSpace(value)
		switch strings.ToLower(name) {
		case "host":
			host = true
		case "connection":
			last = last || strings.EqualFold(value, "close")
		case "content-length":
			last = last || value != "0" // a body is not read: what follows is no request
		case "transfer-encoding":
			last = true
		}
	}
	if version == "HTTP/1.1" && !host {
		c.respond(s, now, "400 Bad Request", "", "", true)
		return
	}
	path, _, _ := strings.Cut(target, "?")
	switch {
	case path != "/":
		c.respond(s, now, "404 Not Found", method, "", last)
	case method != "GET" && method != "HEAD":
		c.respond(s, now, "405 Method Not Allowed", method, "", last)
	default:
		c.respond(s, now, "200 OK", method, s.body, last)
	}
}

// respond queues an answer. Without a body the status is the body.
func (c *conn) respond(s *server, now time.Time, status, method, body string, last bool) {
	if body == "" {
		body = status + "\n"
	}
	o := &out{b: c.answer[:0]}
	o.s("HTTP/1.1 ", status, "\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: ", strconv.Itoa(len(body)), "\r\n")
	if strings.HasPrefix(status, "405") {
		o.s("Allow: GET, HEAD\r\n")
	}
	if last {
		o.s("Connection: close\r\n")
	}
	o.s("\r\n")
	if method != "HEAD" {
		o.s(body)
	}
	c.answer, c.last, c.state, c.deadline = o.b, last, stateWriting, now.Add(s.timeout)
}

func (c *conn) write(s *server, now time.Time) bool {
	n, err := linux.Write(c.fd, c.answer)
	if err == unix.EAGAIN {
		return false
	}
	if err != nil {
		c.state = stateClosed
		return false
	}
	if c.answer = c.answer[n:]; len(c.answer) > 0 {
		return true
	}
	c.deadline = now.Add(s.timeout)
	if !c.last {
		c.state = stateReading
		return false
	}
	c.state, c.in, c.deadline = stateDraining, nil, now.Add(drainGrace)
	if unix.Shutdown(c.fd, unix.SHUT_WR) != nil {
		c.state = stateClosed
	}
	return false
}

func (c *conn) drain() {
	var buf [4096]byte
	if n, err := linux.Read(c.fd, buf[:]); err != unix.EAGAIN && (err != nil || n == 0) {
		c.state = stateClosed
	}
}
