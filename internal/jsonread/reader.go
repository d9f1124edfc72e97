package jsonread

import (
	"bytes"
	"math/bits"
	"unicode/utf8"
	"unsafe"
)

// MaxDepth is how deep objects and arrays may nest, as in encoding/json.
const MaxDepth = 10000

// Reader reads one JSON document. After the first error every method does
// nothing and reports false, so that a caller may check once, at [Reader.End].
//
//	for key, ok := r.Object(); ok; key, ok = r.NextKey() {
//		switch key {
//		case "name":
//			r.String(&v.Name)
//		default:
//			r.Skip()
//		}
//	}
type Reader struct {
	b     []byte
	i     int // next byte to read; len(b) once err is set
	depth int // open objects and arrays
	err   *Error
}

// New returns a reader of the document b.
func New(b []byte) Reader { return Reader{b: b} }

// Err returns the first error, an *Error, or nil.
func (r *Reader) Err() error {
	if r.err == nil {
		return nil
	}
	return r.err
}

// End checks that nothing but white space is left and returns the first error,
// an *Error, or nil.
func (r *Reader) End() error {
	if r.err == nil {
		if r.peek(); r.i < len(r.b) {
			r.fail(r.i, "want nothing more after the document, got "+r.got())
		}
	}
	return r.Err()
}

// Offset returns the offset of the next token, white space skipped.
func (r *Reader) Offset() int {
	r.peek()
	return r.i
}

// Fail records an error of the caller's at the offset, unless there is one
// already: a value that is well-formed JSON and still not acceptable.
func (r *Reader) Fail(offset int, msg string) { r.fail(offset, msg) }

// Null reports whether the next value is null, and consumes it if so.
func (r *Reader) Null() bool {
	return r.peek() == 'n' && r.literal("null")
}

// Object enters an object and returns its first key. ok is false if it has
// none, and then it is left already, or if the next value is not an object.
func (r *Reader) Object() (key string, ok bool) {
	if r.peek() != '{' {
		r.want("an object")
		return "", false
	}
	if !r.enter() {
		return "", false
	}
	if r.peek() == '}' {
		r.leave()
		return "", false
	}
	return r.key()
}

// NextKey returns the next key of the object whose value was just read. ok is
// false at the end of the object, which is left.
func (r *Reader) NextKey() (key string, ok bool) {
	switch r.peek() {
	case ',':
		r.i++
		return r.key()
	case '}':
		r.leave()
	default:
		r.want("',' or '}'")
	}
	return "", false
}

// Array enters an array and reports whether it has a first element. An empty
// array is left already.
func (r *Reader) Array() bool {
	if r.peek() != '[' {
		r.want("an array")
		return false
	}
	if !r.enter() {
		return false
	}
	if r.peek() == ']' {
		r.leave()
		return false
	}
	return r.err == nil
}

// NextElem reports whether another element follows the one just read. At the
// end of the array it is left.
func (r *Reader) NextElem() bool {
	switch r.peek() {
	case ',':
		r.i++
		return true
	case ']':
		r.leave()
	default:
		r.want("',' or ']'")
	}
	return false
}

// Bool reads true or false into p; null leaves p alone.
func (r *Reader) Bool(p *bool) {
	switch r.peek() {
	case 't':
		if r.literal("true") {
			*p = true
		}
	case 'f':
		if r.literal("false") {
			*p = false
		}
	case 'n':
		r.literal("null")
	default:
		r.want("true or false")
	}
}

// String reads a string into p; null leaves p alone.
func (r *Reader) String(p *string) {
	switch r.peek() {
	case '"':
		if s, ok := r.str(); ok {
			*p = s
		}
	case 'n':
		r.literal("null")
	default:
		r.want("a string")
	}
}

// Skip reads over one value of any kind, checking its syntax.
func (r *Reader) Skip() {
	switch c := r.peek(); {
	case c == '{':
		for _, ok := r.Object(); ok; _, ok = r.NextKey() {
			r.Skip()
		}
	case c == '[':
		for ok := r.Array(); ok; ok = r.NextElem() {
			r.Skip()
		}
	case c == '"':
		if _, end, _, ok := r.scanString(); ok {
			r.i = end + 1
		}
	case c == 't':
		r.literal("true")
	case c == 'f':
		r.literal("false")
	case c == 'n':
		r.literal("null")
	case c == '-' || '0' <= c && c <= '9':
		if end, ok := r.scanNumber(); ok {
			r.i = end
		}
	default:
		r.want("a value")
	}
}

// Raw reads one value of any kind and returns its bytes, a part of the input.
func (r *Reader) Raw() []byte {
	r.peek()
	start := r.i
	r.Skip()
	if r.err != nil {
		return nil
	}
	return r.b[start:r.i]
}

// Once notes that the member whose bit is given has been met, and refuses it
// the second time: readers differ in which of two values they take, and one
// that checks a document would see another than the one that acts on it.
func (r *Reader) Once(seen, bit uint64) uint64 {
	if seen&bit != 0 {
		r.Twice()
	}
	return seen | bit
}

// Twice refuses the member whose value is next, because there was one of its name.
func (r *Reader) Twice() {
	r.peek()
	r.fail(r.i, "given twice: remove one")
}

// LenHint guesses the number of elements left in the array of strings or
// numbers just entered by counting commas up to the next ']'. It may be wrong
// when strings hold commas or brackets, but never exceeds the bytes left.
func (r *Reader) LenHint() int {
	rest := r.b[r.i:]
	if end := bytes.IndexByte(rest, ']'); end >= 0 {
		rest = rest[:end]
	}
	return bytes.Count(rest, []byte{','}) + 1
}

// peek skips white space and returns the next byte, 0 at the end.
func (r *Reader) peek() byte {
	for i := r.i; i < len(r.b); i++ {
		if c := r.b[i]; c > ' ' || c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			r.i = i
			return c
		}
	}
	r.i = len(r.b)
	return 0
}

func (r *Reader) enter() bool {
	if r.depth >= MaxDepth {
		r.fail(r.i, "objects and arrays nest deeper than 10000 levels")
		return false
	}
	r.depth++
	r.i++
	return true
}

func (r *Reader) leave() {
	r.depth--
	r.i++
}

func (r *Reader) literal(word string) bool {
	if end := r.i + len(word); end <= len(r.b) && string(r.b[r.i:end]) == word {
		r.i = end
		return true
	}
	r.want(word)
	return false
}

func (r *Reader) key() (string, bool) {
	if r.peek() != '"' {
		r.want("a key in double quotes")
		return "", false
	}
	s, ok := r.str()
	if !ok {
		return "", false
	}
	if r.peek() != ':' {
		r.want("':' after the key")
		return "", false
	}
	r.i++
	return s, true
}

// str reads the string at the cursor.
func (r *Reader) str() (string, bool) {
	start, end, plain, ok := r.scanString()
	if !ok {
		return "", false
	}
	r.i = end + 1
	if s := r.b[start:end]; !plain {
		return unquote(s), true
	} else if len(s) > 0 {
		return unsafe.String(&s[0], len(s)), true
	}
	return "", true
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// scanString checks the string at the cursor and returns the bounds of what is
// between its quotes. plain means that these bytes are the value: no escape
// and valid UTF-8.
func (r *Reader) scanString() (start, end int, plain, ok bool) {
	b, i := r.b, r.i+1
	start, plain = i, true
	ascii := true
	for {
		// Eight bytes at a time: the subtractions borrow into the top bit of
		// every byte that is zero after the xor (a quote, a backslash) or below
		// space. Borrows reach only upwards, so the lowest bit set is right.
		for i+8 <= len(b) {
			w := b[i : i+8 : i+8]
			x := uint64(w[0]) | uint64(w[1])<<8 | uint64(w[2])<<16 | uint64(w[3])<<24 |
				uint64(w[4])<<32 | uint64(w[5])<<40 | uint64(w[6])<<48 | uint64(w[7])<<56
			q, s := x^(ones*'"'), x^(ones*'\\')
			m := ((q-ones)&^q | (s-ones)&^s | (x-ones*' ')&^x | x) & highs
			if m != 0 {
				i += bits.TrailingZeros64(m) >> 3
				break
			}
			i += 8
		}
		if i >= len(b) {
			r.fail(len(b), "the file ends inside a string")
			return 0, 0, false, false
		}
		switch c := b[i]; {
		case c == '"':
			if !ascii && plain {
				plain = utf8.Valid(b[start:i])
			}
			return start, i, plain, true
		case c == '\\':
			plain = false
			n := escapeLen(b[i:])
			if n == 0 {
				r.failEscape(i)
				return 0, 0, false, false
			}
			i += n
		case c < ' ':
			r.failControl(i)
			return 0, 0, false, false
		default:
			ascii = ascii && c < utf8.RuneSelf
			i++
		}
	}
}

// escapeLen returns the length of the escape at the start of b, 0 if it is wrong.
func escapeLen(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		if hex4(b) >= 0 {
			return 6
		}
	}
	return 0
}
