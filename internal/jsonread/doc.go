// Package jsonread reads and writes JSON without reflection.
//
// The first use of encoding/json in a process builds reflection tables for the
// type at hand, which for an OCI config.json costs more than everything else
// that is done with it. A [Reader] is a cursor over a byte slice: the caller
// asks for what it expects (an object, a string, an integer) and the reader
// answers or remembers the first error. What is accepted, and what a value
// decodes to, equals encoding/json: syntax, nesting limit, replacement of
// invalid UTF-8, integers only where integers are wanted, null leaving a value
// alone.
//
// Errors name the place: the JSON path, line and column. Nothing is tracked
// for that while reading; the path is found by scanning the input again, up to
// the offset of the error.
//
// Strings without escapes point into the input. The input must therefore not
// change as long as anything read from it lives.
//
// The Append functions are the opposite direction, in the manner of
// strconv.AppendInt.
package jsonread
