package dbus

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSocketName(t *testing.T) {
	for address, want := range map[string]string{
		"/run/systemd/private":                           "/run/systemd/private",
		"unix:path=/run/dbus/system_bus_socket":          "/run/dbus/system_bus_socket",
		"unix:guid=12,path=/run/user/1/bus":              "/run/user/1/bus",
		"unix:abstract=/tmp/dbus-x":                      "@/tmp/dbus-x",
		"tcp:host=localhost,port=1;unix:path=/a%20b%2fc": "/a b/c",
		"unix:path=/a%zz":                                "",
		"unix:path=/a%2":                                 "",
		"unix:path=":                                     "",
		"tcp:host=localhost,path=/etc/passwd":            "",
		"":                                               "",
		"unixexec:path=/bin/sh":                          "",
	} {
		if got, err := socketName(address); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", address, got, err, want)
		}
	}
}

// Bytes as dbus-daemon has written them for a JobRemoved signal, from the
// specification's rules.
func TestWireFormat(t *testing.T) {
	var e Encoder
	e.Uint32(7)
	e.String("/job/7")
	e.Array(8, func() { e.Struct(); e.String("A"); e.Signature("t"); e.Uint64(1) })
	const want = "07000000" + "06000000" + "2f6a6f622f3700" + "00" + // u, o, padding
		"18000000" + "00000000" + // length of the array, padding to the struct
		"01000000" + "4100" + "017400" + "00000000000000" + "0100000000000000"
	if got := hex.EncodeToString(e.Bytes()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	m := &Message{Destination: "d.d", Path: "/p", Interface: "i.i", Member: "M", Signature: "uo", Body: e.Bytes()}
	m.kind = typeSignal
	raw := m.encode(9)
	back, err := parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if back.Destination != "d.d" || back.Path != "/p" || back.Interface != "i.i" || back.Member != "M" || back.Signature != "uo" || back.serial != 9 || !bytes.Equal(back.Body, m.Body) {
		t.Errorf("came back as %+v", back)
	}
	d := back.Decode()
	if d.Uint32() != 7 || d.String() != "/job/7" || d.Err() != nil {
		t.Error("the body reads otherwise")
	}
	// Whatever is missing of it is an error, and never a crash.
	for n := range raw {
		if _, err := parse(raw[:n]); err == nil {
			t.Errorf("%d bytes of %d are a message", n, len(raw))
		}
	}
}

func FuzzParse(f *testing.F) {
	m := &Message{Path: "/p", Interface: "i", Member: "M", Signature: "s", kind: typeError, errorName: "e", replySerial: 3}
	var e Encoder
	e.String("text")
	m.Body = e.Bytes()
	f.Add(m.encode(1))
	f.Add([]byte("l\x04\x00\x01\x00\x00\x00\x00\x01\x00\x00\x00\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parse(b)
		if err != nil {
			return
		}
		d := m.Decode()
		d.Uint32()
		_, _, _ = d.String(), d.Text(), d.Signature()
		if d.i > len(d.b) {
			t.Error("read beyond the end")
		}
	})
}

// serve answers one connection: what it reads up to BEGIN, then script.
func serve(t *testing.T, greeting string, script func(c net.Conn)) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		buf := make([]byte, 4096)
		n, err := c.Read(buf)
		if got := string(buf[:n]); err != nil || got != "\x00AUTH EXTERNAL 30\r\nBEGIN\r\n" {
			t.Errorf("greeted with %q, %v", got, err)
			return
		}
		for part := range strings.SplitAfterSeq(greeting, "K") { // in pieces
			_, _ = c.Write([]byte(part))
		}
		if script != nil {
			script(c)
		}
	}()
	return name
}

func message(kind byte, reply uint32, name, text string) []byte {
	m := &Message{kind: kind, replySerial: reply, errorName: name, Interface: "i", Member: name, Signature: "s"}
	if kind != typeError {
		m.errorName = ""
	}
	var e Encoder
	e.String(text)
	m.Body = e.Bytes()
	return m.encode(77)
}

const limit = 20 * time.Second

func TestCall(t *testing.T) {
	name := serve(t, "OK 1234\r\n", func(c net.Conn) {
		buf := make([]byte, 4096)
		_, _ = c.Read(buf)
		// A signal comes before the reply, and a reply to somebody else's call.
		out := append(message(typeSignal, 0, "Gone", "first"), message(typeReply, 99, "", "other")...)
		out = append(out, message(typeReply, 1, "", "mine")...)
		for _, b := range out {
			_, _ = c.Write([]byte{b})
		}
		_, _ = c.Read(buf)
		_, _ = c.Write(append(message(typeError, 2, "a.b.NoSuchUnit", "no such unit"), message(typeSignal, 0, "Gone", "second")...))
		_, _ = c.Read(buf)
	})
	c, err := Dial(name, 0, limit)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r, err := c.Call(&Message{Path: "/", Member: "M"}, limit)
	if err != nil || r.Decode().String() != "mine" {
		t.Fatalf("got %v, %v", r, err)
	}
	_, err = c.Call(&Message{Path: "/", Member: "M"}, limit)
	var e *Error
	if !errors.As(err, &e) || e.Name != "a.b.NoSuchUnit" || err.Error() != "no such unit (a.b.NoSuchUnit)" {
		t.Errorf("got %v", err)
	}
	for _, want := range []string{"first", "second"} {
		if err := c.Signal("i", "Gone", limit, func(d *Decoder) bool { return d.String() == want }); err != nil {
			t.Errorf("signal %s: %v", want, err)
		}
	}
	if err := c.Signal("i", "Gone", time.Millisecond, func(*Decoder) bool { return true }); err == nil || err.Error() != "no answer in time" {
		t.Errorf("a signal that does not come: %v", err)
	}
}

func TestHostileServer(t *testing.T) {
	for _, greeting := range []string{"REJECTED EXTERNAL\r\n", "ERROR\r\n", strings.Repeat("x", 20<<10), ""} {
		if c, err := Dial(serve(t, greeting, nil), 0, limit); err == nil {
			c.Close()
			t.Errorf("greeting %.20q is taken", greeting)
		}
	}
	for _, answer := range []string{
		"l\x02\x00\x01\xff\xff\xff\xff\x01\x00\x00\x00\x00\x00\x00\x00",
		"l\x02\x00\x01\x00\x00\x00\x00\x01\x00\x00\x00\xff\xff\xff\xff",
		"B\x02\x00\x01\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00",
		"HTTP/1.1 400 Bad Request\r\n\r\n",
		"l\x02\x00\x01",
		"",
	} {
		c, err := Dial(serve(t, "OK 1\r\n", func(c net.Conn) {
			buf := make([]byte, 4096)
			_, _ = c.Read(buf)
			_, _ = c.Write([]byte(answer))
		}), 0, limit)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Call(&Message{Path: "/", Member: "M"}, limit); err == nil {
			t.Errorf("answer %q is taken", answer)
		}
		c.Close()
	}
	if _, err := Dial("/nonexistent/socket", 0, limit); err == nil {
		t.Error("no socket, no error")
	}
}
