package compose

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Error is something wrong at a place of the file.
type Error struct {
	Line, Column int
	Path         string
	Err          error
}

func (e *Error) Error() string {
	return fmt.Sprintf("line %d, column %d: %s: %v", e.Line, e.Column, e.Path, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// reader reads a document and collects what is wrong with it.
type reader struct {
	errs  []error
	notes []string
	env   func(string) (string, bool)
	file  func(string) ([]byte, error)
}

// value is a part of the document.
type value struct {
	r    *reader
	n    *yaml.Node
	path string
}

func (v value) fail(format string, args ...any) {
	v.r.errs = append(v.r.errs, &Error{v.n.Line, v.n.Column, v.path, fmt.Errorf(format, args...)})
}

func (v value) note(format string, args ...any) {
	v.r.notes = append(v.r.notes, fmt.Sprintf("line %d: %s: ", v.n.Line, v.path)+fmt.Sprintf(format, args...))
}

// resolved follows aliases.
func resolved(n *yaml.Node) *yaml.Node {
	for i := 0; n.Kind == yaml.AliasNode && i < 10; i++ {
		n = n.Alias
	}
	return n
}

func (v value) null() bool { return v.n.Kind == yaml.ScalarNode && v.n.Tag == "!!null" }

// str is a scalar, with variables in it.
func (v value) str() string {
	if v.n.Kind != yaml.ScalarNode {
		v.fail("want a string")
		return ""
	}
	if v.null() {
		return ""
	}
	s, err := interpolate(v.n.Value, v.r.env)
	if err != nil {
		v.fail("%w", err)
	}
	return s
}

func (v value) boolean() bool {
	b, err := strconv.ParseBool(v.str())
	if err != nil {
		v.fail("want true or false")
	}
	return b
}

func (v value) integer() int64 {
	n, err := strconv.ParseInt(v.str(), 10, 32)
	if err != nil {
		v.fail("want a number")
	}
	return n
}

func (v value) isMap() bool  { return v.n.Kind == yaml.MappingNode }
func (v value) isList() bool { return v.n.Kind == yaml.SequenceNode }

// each calls f with the members of a map, with those of merge keys first.
func (v value) each(f func(key string, e value)) {
	if v.null() {
		return
	}
	if !v.isMap() {
		v.fail("want a map")
		return
	}
	own := map[string]bool{}
	for i := 0; i+1 < len(v.n.Content); i += 2 {
		own[v.n.Content[i].Value] = true
	}
	for i := 0; i+1 < len(v.n.Content); i += 2 {
		k, e := v.n.Content[i], resolved(v.n.Content[i+1])
		if k.Tag != "!!merge" {
			continue
		}
		from := []*yaml.Node{e}
		if e.Kind == yaml.SequenceNode {
			from = e.Content
		}
		for _, m := range from {
			(value{v.r, resolved(m), v.path}).each(func(key string, e value) {
				if !own[key] {
					own[key] = true
					f(key, e)
				}
			})
		}
	}
	for i := 0; i+1 < len(v.n.Content); i += 2 {
		k := v.n.Content[i]
		if k.Tag == "!!merge" {
			continue
		}
		at := *resolved(v.n.Content[i+1])
		if at.Kind == yaml.ScalarNode && at.Tag == "!!null" {
			at.Line, at.Column = k.Line, k.Column
		}
		path := k.Value
		if v.path != "" {
			path = v.path + "." + k.Value
		}
		f(k.Value, value{v.r, &at, path})
	}
}

// key is where a member's name stands: unknown ones are reported there.
func (v value) unknown(key string) {
	for i := 0; i+1 < len(v.n.Content); i += 2 {
		if k := v.n.Content[i]; k.Value == key {
			v.r.errs = append(v.r.errs, &Error{k.Line, k.Column, strings.TrimPrefix(v.path+"."+key, "."), fmt.Errorf("unknown key %q", key)})
			return
		}
	}
	v.fail("unknown key %q", key)
}

// items are the elements of a list; a single scalar is a list of one.
func (v value) items() (out []value) {
	if v.null() {
		return nil
	}
	if v.n.Kind == yaml.ScalarNode {
		return []value{v}
	}
	if !v.isList() {
		v.fail("want a list")
		return nil
	}
	for i, e := range v.n.Content {
		out = append(out, value{v.r, resolved(e), fmt.Sprintf("%s[%d]", v.path, i)})
	}
	return out
}

func (v value) strings() (out []string) {
	for _, e := range v.items() {
		out = append(out, e.str())
	}
	return out
}

// words are a command: a list, or text that is split as a shell does.
func (v value) words() []string {
	if v.n.Kind != yaml.ScalarNode {
		return v.strings()
	}
	out, err := split(v.str())
	if err != nil {
		v.fail("%w", err)
	}
	return out
}

// split splits a command line at spaces, with quotes and backslashes.
func split(s string) (out []string, err error) {
	var b strings.Builder
	open, quote := false, rune(0)
	escaped := false
	for _, r := range s {
		switch {
		case escaped:
			b.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, open = true, true
		case quote != 0:
			if r == quote {
				quote = 0
			} else {
				b.WriteRune(r)
			}
		case r == '\'' || r == '"':
			quote, open = r, true
		case r == ' ' || r == '\t' || r == '\n':
			if open {
				out = append(out, b.String())
			}
			b.Reset()
			open = false
		default:
			b.WriteRune(r)
			open = true
		}
	}
	if quote != 0 || escaped {
		return nil, errors.New("a quote is not closed")
	}
	if open {
		out = append(out, b.String())
	}
	return out, nil
}

// pairs are NAME=VALUE lines or a map. A name without a value takes that of the
// environment.
func (v value) pairs() map[string]string {
	out := map[string]string{}
	take := func(name string) {
		if s, ok := v.r.env(name); ok {
			out[name] = s
		}
	}
	if v.isMap() {
		v.each(func(key string, e value) {
			if e.null() {
				take(key)
			} else {
				out[key] = e.str()
			}
		})
		return out
	}
	for _, e := range v.items() {
		name, s, ok := strings.Cut(e.str(), "=")
		if ok {
			out[name] = s
		} else {
			take(name)
		}
	}
	return out
}

func isName(c byte, first bool) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || !first && c >= '0' && c <= '9'
}

// interpolate replaces $NAME, ${NAME}, ${NAME:-DEFAULT}, ${NAME-DEFAULT},
// ${NAME:+THEN}, ${NAME+THEN}, ${NAME:?WHY}, ${NAME?WHY} and $$.
func interpolate(s string, env func(string) (string, bool)) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' {
			b.WriteByte(s[i])
			continue
		}
		i++
		switch {
		case i < len(s) && s[i] == '$':
			b.WriteByte('$')
		case i < len(s) && s[i] == '{':
			end := matching(s, i)
			if end < 0 {
				return "", errors.New("${ is not closed")
			}
			text, err := expansion(s[i+1:end], env)
			if err != nil {
				return "", err
			}
			b.WriteString(text)
			i = end
		case i < len(s) && isName(s[i], true):
			from := i
			for i < len(s) && isName(s[i], false) {
				i++
			}
			v, _ := env(s[from:i])
			b.WriteString(v)
			i--
		default:
			return "", errors.New("a single $; $$ is one of the text")
		}
	}
	return b.String(), nil
}

// matching finds the brace that closes the one at s[i].
func matching(s string, i int) int {
	depth := 0
	for ; i < len(s); i++ {
		switch s[i] {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

func expansion(s string, env func(string) (string, bool)) (string, error) {
	n := 0
	for n < len(s) && isName(s[n], n == 0) {
		n++
	}
	name, rest := s[:n], s[n:]
	if name == "" {
		return "", fmt.Errorf("${%s} has no name", s)
	}
	v, ok := env(name)
	if rest == "" {
		return v, nil
	}
	if rest[0] == ':' {
		ok = ok && v != ""
		rest = rest[1:]
	}
	if rest == "" || !strings.ContainsRune("-+?", rune(rest[0])) {
		return "", fmt.Errorf("${%s} is no form that there is", s)
	}
	word, err := interpolate(rest[1:], env)
	switch {
	case err != nil:
		return "", err
	case rest[0] == '-' && ok, rest[0] == '?' && ok:
		return v, nil
	case rest[0] == '-', rest[0] == '+' && ok:
		return word, nil
	case rest[0] == '+':
		return "", nil
	}
	return "", fmt.Errorf("the variable %s must be set: %s", name, word)
}

// envFile reads NAME=VALUE lines.
func envFile(text string) (map[string]string, error) {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, v, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		if !ok {
			return nil, fmt.Errorf("%q: want NAME=VALUE", line)
		}
		v = strings.TrimSpace(v)
		if len(v) > 1 && (v[0] == '"' || v[0] == '\'') && v[len(v)-1] == v[0] {
			v = v[1 : len(v)-1]
		} else if i := strings.Index(v, " #"); i >= 0 {
			v = strings.TrimSpace(v[:i])
		}
		out[strings.TrimSpace(name)] = v
	}
	return out, nil
}

func one(s string, of ...string) bool { return slices.Contains(of, s) }
