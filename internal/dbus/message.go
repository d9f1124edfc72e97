// Package dbus is a client of D-Bus as far as talking to systemd takes it: the
// wire format, the handshake, calls and signals. It exists because the libraries
// for it initialize more than minirun may, connect with the net package, and use
// reflection; see the D-Bus specification, "Message Protocol".
//
// What the other side sends is not trusted to be well-formed.
package dbus

import (
	"encoding/binary"
	"errors"
)

// Types of messages.
const (
	typeCall   = 1
	typeReply  = 2
	typeError  = 3
	typeSignal = 4
)

// Fields of a header.
const (
	fieldPath        = 1
	fieldInterface   = 2
	fieldMember      = 3
	fieldErrorName   = 4
	fieldReplySerial = 5
	fieldDestination = 6
	fieldSignature   = 8
)

// maxMessage bounds what is read: answers of systemd are short, 128 MiB is the
// limit of the specification.
const maxMessage = 1 << 20

// Message is a call to be sent, or what was received.
type Message struct {
	Destination, Path, Interface, Member string
	Signature                            string // of Body
	Body                                 []byte

	kind        byte
	errorName   string
	serial      uint32
	replySerial uint32
}

// Encoder writes values, aligned as the wire format wants it. Its zero value is
// an empty body.
type Encoder struct{ b []byte }

// Bytes is what was written.
func (e *Encoder) Bytes() []byte { return e.b }

func (e *Encoder) align(n int) {
	for len(e.b)%n != 0 {
		e.b = append(e.b, 0)
	}
}

// Byte writes a y.
func (e *Encoder) Byte(v byte) { e.b = append(e.b, v) }

// Uint32 writes a u.
func (e *Encoder) Uint32(v uint32) { e.align(4); e.b = binary.LittleEndian.AppendUint32(e.b, v) }

// Uint64 writes a t.
func (e *Encoder) Uint64(v uint64) { e.align(8); e.b = binary.LittleEndian.AppendUint64(e.b, v) }

// Bool writes a b.
func (e *Encoder) Bool(v bool) {
	n := uint32(0)
	if v {
		n = 1
	}
	e.Uint32(n)
}

// String writes an s or an o.
func (e *Encoder) String(s string) {
	e.Uint32(uint32(len(s)))
	e.b = append(append(e.b, s...), 0)
}

// Signature writes a g, which is also how a variant begins.
func (e *Encoder) Signature(s string) { e.b = append(append(append(e.b, byte(len(s))), s...), 0) }

// Struct begins a struct.
func (e *Encoder) Struct() { e.align(8) }

// Array writes an array with elements of the alignment, that write writes.
func (e *Encoder) Array(alignment int, write func()) {
	e.Uint32(0)
	at := len(e.b) - 4
	e.align(alignment)
	start := len(e.b)
	write()
	binary.LittleEndian.PutUint32(e.b[at:], uint32(len(e.b)-start))
}

// encode writes the whole message.
func (m *Message) encode(serial uint32) []byte {
	e := &Encoder{b: make([]byte, 0, 256+len(m.Body))}
	e.b = append(e.b, 'l', m.kind, 0, 1)
	e.Uint32(uint32(len(m.Body)))
	e.Uint32(serial)
	e.Array(8, func() {
		text := func(field byte, signature, v string) {
			if v != "" {
				e.Struct()
				e.Byte(field)
				e.Signature(signature)
				if signature == "g" {
					e.Signature(v)
				} else {
					e.String(v)
				}
			}
		}
		text(fieldPath, "o", m.Path)
		text(fieldInterface, "s", m.Interface)
		text(fieldMember, "s", m.Member)
		text(fieldErrorName, "s", m.errorName)
		text(fieldDestination, "s", m.Destination)
		text(fieldSignature, "g", m.Signature)
		if m.replySerial != 0 {
			e.Struct()
			e.Byte(fieldReplySerial)
			e.Signature("u")
			e.Uint32(m.replySerial)
		}
	})
	e.align(8)
	return append(e.b, m.Body...)
}

// errMalformed is all that is said about bytes that are no message.
var errMalformed = errors.New("malformed D-Bus message")

// Decoder reads values; the first that is not there makes all others empty.
type Decoder struct {
	b    []byte
	i    int
	fail bool
}

// Decode reads a message's body.
func (m *Message) Decode() *Decoder { return &Decoder{b: m.Body} }

// Err is nil if everything that was read was there.
func (d *Decoder) Err() error {
	if d.fail {
		return errMalformed
	}
	return nil
}

func (d *Decoder) take(n int) []byte {
	if d.fail || n < 0 || n > len(d.b)-d.i {
		d.fail = true
		return nil
	}
	b := d.b[d.i : d.i+n]
	d.i += n
	return b
}

func (d *Decoder) align(n int) { d.take((n - d.i%n) % n) }

// Byte reads a y.
func (d *Decoder) Byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

// Uint32 reads a u.
func (d *Decoder) Uint32() uint32 {
	d.align(4)
	if b := d.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// String reads an s or an o.
func (d *Decoder) String() string { return d.text(int(d.Uint32())) }

// Signature reads a g.
func (d *Decoder) Signature() string { return d.text(int(d.Byte())) }

func (d *Decoder) text(n int) string {
	b := d.take(n)
	if end := d.take(1); end == nil || end[0] != 0 {
		d.fail = true
		return ""
	}
	return string(b)
}

// Text reads a v that holds an s or an o.
func (d *Decoder) Text() string {
	if s := d.Signature(); s != "s" && s != "o" {
		d.fail = true
	}
	return d.String()
}

// sizes tells from the first 16 bytes how long header and message are.
func sizes(b []byte) (header, whole int, err error) {
	if len(b) < 16 || b[0] != 'l' || b[3] != 1 {
		return 0, 0, errMalformed
	}
	body, fields := binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[12:])
	if body > maxMessage || fields > maxMessage {
		return 0, 0, errMalformed
	}
	header = (16 + int(fields) + 7) &^ 7
	return header, header + int(body), nil
}

// parse reads a message that is complete.
func parse(b []byte) (*Message, error) {
	header, whole, err := sizes(b)
	if err != nil || whole != len(b) {
		return nil, errMalformed
	}
	m := &Message{kind: b[1], serial: binary.LittleEndian.Uint32(b[8:]), Body: b[header:]}
	d := &Decoder{b: b[:16+int(binary.LittleEndian.Uint32(b[12:]))], i: 16}
	for d.i < len(d.b) && !d.fail {
		d.align(8)
		field := d.Byte()
		var text string
		var number uint32
		switch d.Signature() {
		case "s", "o":
			text = d.String()
		case "g":
			text = d.Signature()
		case "u":
			number = d.Uint32()
		default: // nothing that the specification has
			d.fail = true
		}
		switch field {
		case fieldPath:
			m.Path = text
		case fieldInterface:
			m.Interface = text
		case fieldMember:
			m.Member = text
		case fieldErrorName:
			m.errorName = text
		case fieldReplySerial:
			m.replySerial = number
		case fieldDestination:
			m.Destination = text
		case fieldSignature:
			m.Signature = text
		}
	}
	if d.fail {
		return nil, errMalformed
	}
	return m, nil
}
