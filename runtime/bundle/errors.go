package bundle

import (
	"io/fs"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/minirun/minirun/internal/jsonread"
)

// FieldError is one thing wrong with a configuration.
type FieldError struct {
	File   string // config.json, or what else was read; "" if unknown
	Path   string // JSON path, such as linux.resources.cpu.quota; "" is the document itself
	Line   int    // counted from 1; 0 if unknown
	Column int    // counted from 1, in characters
	Msg    string // what is wrong and what would be right
}

// Error returns config.json:12:8: linux.resources.cpu.quota: want a number, got a string.
func (e *FieldError) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		b.WriteString(":" + strconv.Itoa(e.Line) + ":" + strconv.Itoa(e.Column))
	}
	for _, part := range [2]string{e.Path, e.Msg} {
		if part != "" {
			if b.Len() > 0 {
				b.WriteString(": ")
			}
			b.WriteString(part)
		}
	}
	return b.String()
}

// syntaxError turns the error of a reader, always a *jsonread.Error, into a
// *FieldError.
func syntaxError(file string, err error) error {
	e := err.(*jsonread.Error)
	return &FieldError{File: file, Path: e.Path, Line: e.Line, Column: e.Column, Msg: e.Msg}
}

// notUTF8 finds the first byte that belongs to no character. encoding/json puts
// another character in its place: the name of a file would be another one.
func notUTF8(file string, raw []byte) error {
	at := 0
	for at < len(raw) {
		r, n := utf8.DecodeRune(raw[at:])
		if r == utf8.RuneError && n == 1 {
			break
		}
		at += n
	}
	line, column := jsonread.Position(raw, at)
	return &FieldError{File: file, Line: line, Column: column, Msg: "byte " + strconv.Quote(string(raw[at:min(at+1, len(raw))])) + " is not UTF-8: JSON has no other encoding"}
}

// MissingError reports a bundle without config.json. It is fs.ErrNotExist.
type MissingError struct {
	Path string // of the config.json that is not there
	Err  error
}

// Error says what is missing and how to make one; the words "JSON
// specification file config.json not found" are runc's.
func (e *MissingError) Error() string {
	dir := strings.TrimSuffix(e.Path, "/"+ConfigFile)
	return "open " + strconv.Quote(e.Path) + ": JSON specification file config.json not found: write one with minirun spec --bundle " + dir
}

// Unwrap returns the cause.
func (e *MissingError) Unwrap() error { return e.Err }

// Is reports fs.ErrNotExist.
func (e *MissingError) Is(target error) bool { return target == fs.ErrNotExist }
