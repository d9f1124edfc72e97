package view

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// JSONPath prints parts of a document as kubectl's -o jsonpath does: text, fields
// in braces ({.metadata.name}, {.items[*].metadata.name}, [0], [-1], [1:3], [::2],
// [0,2], quoted names, filters like [?(@.type=="Ready")], ..name for all of that
// name), {range ...}{end} and strings ({"\n"}).
func JSONPath(template string, doc any) (string, error) {
	if !strings.Contains(template, "{") {
		template = "{" + "." + strings.TrimPrefix(template, ".") + "}"
	}
	p := &path{}
	parts, rest, err := p.parse(template, false)
	if err != nil {
		return "", fmt.Errorf("jsonpath %q: %w", template, err)
	}
	if rest != "" {
		return "", fmt.Errorf("jsonpath %q: {end} without {range}", template)
	}
	var b strings.Builder
	if err := printParts(&b, parts, doc, doc); err != nil {
		return "", fmt.Errorf("jsonpath %q: %w", template, err)
	}
	return b.String(), nil
}

type path struct{}

// part is text, a query, or a range with parts of its own.
type part struct {
	text  string
	query string
	loop  []part
	isTxt bool
}

func (p *path) parse(s string, inside bool) (out []part, rest string, err error) {
	for s != "" {
		open := strings.IndexByte(s, '{')
		if open < 0 {
			out = append(out, part{text: s, isTxt: true})
			s = ""
			break
		}
		if open > 0 {
			out = append(out, part{text: s[:open], isTxt: true})
		}
		end := closing(s[open:])
		if end < 0 {
			return nil, "", fmt.Errorf("a brace is not closed")
		}
		inner := strings.TrimSpace(s[open+1 : open+end])
		s = s[open+end+1:]
		switch {
		case inner == "end":
			if !inside {
				return nil, "", fmt.Errorf("{end} without {range}")
			}
			return out, s, nil
		case strings.HasPrefix(inner, "range "):
			loop, after, err := p.parse(s, true)
			if err != nil {
				return nil, "", err
			}
			out = append(out, part{query: strings.TrimSpace(inner[6:]), loop: append([]part{}, loop...)})
			if loop == nil {
				out[len(out)-1].loop = []part{}
			}
			s = after
		case inner != "" && (inner[0] == '"' || inner[0] == '\''):
			text, err := unquote(inner)
			if err != nil {
				return nil, "", err
			}
			out = append(out, part{text: text, isTxt: true})
		default:
			out = append(out, part{query: inner})
		}
	}
	if inside {
		return nil, "", fmt.Errorf("{range} without {end}")
	}
	return out, "", nil
}

// closing finds the brace that ends s, which begins with one; braces within quotes
// are none.
func closing(s string) int {
	quote := byte(0)
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case quote != 0 && c == '\\':
			i++
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '}':
			return i
		}
	}
	return -1
}

func unquote(s string) (string, error) {
	if len(s) < 2 || s[len(s)-1] != s[0] {
		return "", fmt.Errorf("%s is not closed", s)
	}
	if s[0] == '\'' {
		s = `"` + strings.ReplaceAll(strings.ReplaceAll(s[1:len(s)-1], `\'`, `'`), `"`, `\"`) + `"`
	}
	return strconv.Unquote(s)
}

func printParts(b *strings.Builder, parts []part, root, at any) error {
	for _, p := range parts {
		if p.isTxt {
			b.WriteString(p.text)
			continue
		}
		found, err := find(p.query, root, at)
		if err != nil {
			return err
		}
		if p.loop != nil {
			for _, f := range found {
				if err := printParts(b, p.loop, root, f); err != nil {
					return err
				}
			}
			continue
		}
		for i, f := range found {
			if i > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(Text(f))
		}
	}
	return nil
}

// Text is a value as JSONPath prints it: strings bare, the rest as JSON.
func Text(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	t, _ := json.Marshal(v)
	return string(t)
}

func find(query string, root, at any) ([]any, error) {
	found := []any{at}
	s := query
	switch {
	case strings.HasPrefix(s, "$"):
		found, s = []any{root}, s[1:]
	case strings.HasPrefix(s, "@"):
		s = s[1:]
	}
	for s != "" {
		var next []any
		switch {
		case strings.HasPrefix(s, ".."):
			for _, f := range found {
				next = below(next, f)
			}
			s = s[2:]
			if s != "" && s[0] != '[' {
				s = "." + s
			}
		case s == ".":
			return found, nil
		case s[0] == '[':
			end := bracket(s)
			if end < 0 {
				return nil, fmt.Errorf("a bracket is not closed")
			}
			union := split(s[1:end])
			s = s[end+1:]
			for _, inner := range union {
				for _, f := range found {
					got, err := subscript(inner, root, f)
					if err != nil {
						return nil, err
					}
					next = append(next, got...)
				}
			}
		default:
			if s[0] == '.' {
				s = s[1:]
			}
			name, n := field(s)
			if n == 0 {
				return nil, fmt.Errorf("%q is no path", query)
			}
			s = s[n:]
			for _, f := range found {
				next = append(next, member(f, name)...)
			}
		}
		found = next
	}
	return found, nil
}

// field reads a name; a backslash takes the meaning of a dot.
func field(s string) (name string, n int) {
	var b strings.Builder
	for n < len(s) && s[n] != '.' && s[n] != '[' {
		if s[n] == '\\' && n+1 < len(s) {
			n++
		}
		b.WriteByte(s[n])
		n++
	}
	return b.String(), n
}

func member(v any, name string) []any {
	m, ok := v.(map[string]any)
	if name == "*" {
		if l, isList := v.([]any); isList {
			return l
		}
		var out []any
		for _, k := range sortedKeys(m) {
			out = append(out, m[k])
		}
		return out
	}
	if e, has := m[name]; ok && has {
		return []any{e}
	}
	return nil
}

// bracket finds the end of a subscript that s begins with.
func bracket(s string) int {
	depth, quote := 0, byte(0)
	for i := range len(s) {
		switch c := s[i]; {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '[':
			depth++
		case c == ']':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// below adds a value and all in it that has values itself, as .. finds them.
func below(out []any, v any) []any {
	children := member(v, "*")
	if len(children) == 0 {
		return out
	}
	out = append(out, v)
	for _, c := range children {
		out = below(out, c)
	}
	return out
}

// split separates what a subscript has between commas; those within quotes,
// brackets and filters separate nothing.
func split(s string) (out []string) {
	depth, quote, from := 0, byte(0), 0
	for i := range len(s) {
		switch c := s[i]; {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '(' || c == '[':
			depth++
		case c == ')' || c == ']':
			depth--
		case c == ',' && depth == 0:
			out = append(out, strings.TrimSpace(s[from:i]))
			from = i + 1
		}
	}
	return append(out, strings.TrimSpace(s[from:]))
}

func subscript(inner string, root, v any) ([]any, error) {
	switch {
	case inner == "*":
		return member(v, "*"), nil
	case strings.HasPrefix(inner, "?(") && strings.HasSuffix(inner, ")"):
		return filter(inner[2:len(inner)-1], root, v)
	case inner != "" && (inner[0] == '"' || inner[0] == '\''):
		name, err := unquote(inner)
		if got := member(v, name); err != nil || len(got) > 0 || name == "" {
			return got, err
		}
		return find("."+name, root, v) // what kubectl takes for a path
	}
	l, ok := v.([]any)
	if !ok {
		return nil, nil
	}
	from, to, isSlice := strings.Cut(inner, ":")
	to, by, _ := strings.Cut(to, ":")
	number := func(s string, otherwise int) (int, error) {
		if s == "" {
			return otherwise, nil
		}
		n, err := strconv.Atoi(s)
		if err != nil {
			return 0, fmt.Errorf("[%s] is no subscript", inner)
		}
		if n < 0 {
			n += len(l)
		}
		return n, nil
	}
	a, err := number(from, 0)
	if err != nil {
		return nil, err
	}
	if !isSlice {
		if from == "" {
			return nil, fmt.Errorf("[] is no subscript")
		}
		if a < 0 || a >= len(l) {
			return nil, fmt.Errorf("index %s is out of bounds, there are %d elements", from, len(l))
		}
		return l[a : a+1], nil
	}
	b, err := number(to, len(l))
	if err != nil {
		return nil, err
	}
	a, b = min(max(a, 0), len(l)), min(max(b, 0), len(l))
	step := 1
	if by != "" {
		if step, err = strconv.Atoi(by); err != nil || step < 1 {
			return nil, fmt.Errorf("[%s] is no subscript", inner)
		}
	}
	var out []any
	for i := a; i < b; i += step {
		out = append(out, l[i])
	}
	return out, nil
}

func filter(cond string, root, v any) (out []any, err error) {
	l, _ := v.([]any)
	left, op, right := cond, "", ""
	for _, o := range []string{"==", "!=", "<=", ">=", "<", ">"} {
		if a, b, ok := strings.Cut(cond, o); ok {
			left, op, right = strings.TrimSpace(a), o, strings.TrimSpace(b)
			break
		}
	}
	for _, e := range l {
		got, err := find(strings.TrimSpace(left), root, e)
		if err != nil {
			return nil, err
		}
		if op == "" {
			if len(got) > 0 {
				out = append(out, e)
			}
			continue
		}
		want := right
		if right != "" && (right[0] == '"' || right[0] == '\'') {
			if want, err = unquote(right); err != nil {
				return nil, err
			}
		}
		if len(got) > 0 && compare(Text(got[0]), op, want) {
			out = append(out, e)
		}
	}
	return out, nil
}

func compare(a, op, b string) bool {
	x, err1 := strconv.ParseFloat(a, 64)
	y, err2 := strconv.ParseFloat(b, 64)
	n := strings.Compare(a, b)
	if err1 == nil && err2 == nil {
		switch {
		case x < y:
			n = -1
		case x > y:
			n = 1
		default:
			n = 0
		}
	}
	switch op {
	case "==":
		return n == 0
	case "!=":
		return n != 0
	case "<":
		return n < 0
	case "<=":
		return n <= 0
	case ">":
		return n > 0
	}
	return n >= 0
}
