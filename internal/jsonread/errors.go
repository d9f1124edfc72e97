package jsonread

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Error is the first thing wrong with a document.
type Error struct {
	Path   string // JSON path of the value, such as mounts[3].options[0]; "" is the document itself
	Offset int    // bytes before it
	Line   int    // counted from 1
	Column int    // counted from 1, in characters
	Msg    string // want ..., got ...
}

// Error returns line:column: path: message.
func (e *Error) Error() string {
	at := strconv.Itoa(e.Line) + ":" + strconv.Itoa(e.Column) + ": "
	if e.Path != "" {
		at += e.Path + ": "
	}
	return at + e.Msg
}

// fail records the first error and moves to the end, where nothing more can
// be read.
func (r *Reader) fail(offset int, msg string) {
	if r.err == nil {
		r.err = &Error{Path: pathAt(r.b, offset), Offset: offset, Msg: msg}
		r.err.Line, r.err.Column = Position(r.b, offset)
	}
	r.i = len(r.b)
}

// want records that something else stands at the cursor.
func (r *Reader) want(what string) {
	if r.err == nil {
		r.fail(r.i, "want "+what+", got "+r.got())
	}
}

// got describes the token at the cursor.
func (r *Reader) got() string {
	if r.i >= len(r.b) {
		return "the end of the file"
	}
	rest := r.b[r.i:]
	switch c := rest[0]; {
	case c == '"':
		return "a string"
	case c == '{':
		return "an object"
	case c == '[':
		return "an array"
	case c == '-' || '0' <= c && c <= '9':
		return "a number"
	case hasWord(rest, "true"), hasWord(rest, "false"):
		return "a bool"
	case hasWord(rest, "null"):
		return "null"
	case strings.HasPrefix(string(rest[:min(3, len(rest))]), "\ufeff"):
		return "a byte order mark"
	default:
		u, n := utf8.DecodeRune(rest)
		if u == utf8.RuneError && n == 1 {
			return "byte 0x" + strconv.FormatUint(uint64(c), 16)
		}
		return strconv.QuoteRune(u)
	}
}

// hasWord reports whether b begins with the word and nothing that would make
// it a longer one.
func hasWord(b []byte, word string) bool {
	if len(b) < len(word) || string(b[:len(word)]) != word {
		return false
	}
	return len(b) == len(word) || b[len(word)] < 'a' || b[len(word)] > 'z'
}

func (r *Reader) failControl(i int) {
	r.fail(i, "control character "+strconv.QuoteRune(rune(r.b[i]))+" in a string: write it as an escape, or close the string")
}

func (r *Reader) failEscape(i int) {
	end := min(i+2, len(r.b))
	if end == i+2 && r.b[i+1] == 'u' {
		end = min(i+6, len(r.b))
	}
	quoted := strconv.Quote(string(r.b[i+1 : end])) // without the backslash, which would be doubled
	r.fail(i, "invalid escape \\"+quoted[1:len(quoted)-1]+" in a string")
}

func (r *Reader) failNumber(i int) bool {
	r.i = i
	r.want("a digit")
	return false
}

func (r *Reader) failRange(start, end, bits int, signed bool) {
	var low, high string
	if signed {
		low = strconv.FormatInt(-1<<(bits-1), 10)
		high = strconv.FormatInt(1<<(bits-1)-1, 10)
	} else {
		low = "0"
		high = strconv.FormatUint(1<<bits-1, 10)
	}
	r.fail(start, "want an integer between "+low+" and "+high+", got "+string(r.b[start:min(end, start+40)]))
}

// Position returns the line and the column, in characters, of an offset; both
// count from 1.
func Position(b []byte, offset int) (line, column int) {
	line, start := 1, 0
	for i, c := range b[:offset] {
		if c == '\n' {
			line, start = line+1, i+1
		}
	}
	return line, utf8.RuneCount(b[start:offset]) + 1
}
