package jsonread

import (
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Fold returns the name in names, a list separated by commas, that equals key
// under Unicode case folding, and "" if there is none. It is for keys that no
// field matches exactly: encoding/json then accepts any case.
func Fold(key, names string) string {
	for names != "" {
		name, rest, _ := strings.Cut(names, ",")
		if strings.EqualFold(key, name) {
			return name
		}
		names = rest
	}
	return ""
}

// unquote decodes the inside of a string whose escapes have been checked.
// Invalid UTF-8 and lone surrogates become U+FFFD.
func unquote(s []byte) string {
	out := make([]byte, 0, len(s)+utf8.UTFMax)
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '\\' && s[i+1] == 'u':
			u := hex4(s[i:])
			i += 6
			if utf16.IsSurrogate(u) {
				// DecodeRune answers U+FFFD unless the two are a pair. A second
				// half that does not fit is left to be read for itself.
				u = utf16.DecodeRune(u, hex4(s[i:]))
				if u != utf8.RuneError {
					i += 6
				}
			}
			out = utf8.AppendRune(out, u)
		case c == '\\':
			out = append(out, unescape(s[i+1]))
			i += 2
		case c < utf8.RuneSelf:
			out = append(out, c)
			i++
		default:
			u, n := utf8.DecodeRune(s[i:])
			out = utf8.AppendRune(out, u)
			i += n
		}
	}
	return string(out)
}

func unescape(c byte) byte {
	switch c {
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	}
	return c
}

// hex4 decodes the escape \uXXXX at the start of s, -1 if there is none.
func hex4(s []byte) rune {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return -1
	}
	var u rune
	for _, c := range s[2:6] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		u = u<<4 | rune(c)
	}
	return u
}
