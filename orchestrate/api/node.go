package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

type nodeKind int

const (
	null nodeKind = iota
	boolean
	number
	text
	list
	object
)

func (k nodeKind) String() string {
	return [...]string{"null", "a boolean", "a number", "a string", "a list", "a map"}[k]
}

// node is a value of a document that knows where it stands.
type node struct {
	kind      nodeKind
	line, col int
	value     string // of scalars: JSON
	items     []*node
	fields    []member
}

type member struct {
	key       string
	line, col int
	value     *node
}

// Bounds of what is read: documents come from users, aliases multiply.
const (
	maxNodes = 200000
	maxDepth = 100
)

// SyntaxError reports a document that is no YAML, or none that can be an object.
type SyntaxError struct {
	Line, Column int
	Err          error
}

func (e *SyntaxError) Error() string {
	if e.Line == 0 {
		return e.Err.Error()
	}
	if e.Column == 0 {
		return fmt.Sprintf("line %d: %v", e.Line, e.Err)
	}
	return fmt.Sprintf("line %d, column %d: %v", e.Line, e.Column, e.Err)
}

func (e *SyntaxError) Unwrap() error { return e.Err }

// documents reads all documents of a YAML stream, which JSON is too. Empty ones
// are left out.
func documents(data []byte) ([]*node, error) {
	var out []*node
	d := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var y yaml.Node
		err := d.Decode(&y)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, yamlError(d, err)
		}
		b := &builder{left: maxNodes}
		n, err := b.build(&y, 0)
		if err != nil {
			return nil, err
		}
		if n.kind != null {
			out = append(out, n)
		}
	}
}

// yamlError says where the decoder has stopped: its text has a line alone, "yaml: line
// 3: ...", and of some errors that of the line before.
func yamlError(d *yaml.Decoder, err error) error {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	if line, column, ok := stoppedAt(d); ok {
		if rest, ok := strings.CutPrefix(msg, "line "); ok {
			_, msg, _ = strings.Cut(rest, ": ")
		}
		return &SyntaxError{line, column, errors.New(msg)}
	}
	if rest, ok := strings.CutPrefix(msg, "line "); ok {
		n, what, _ := strings.Cut(rest, ": ")
		if line, e := strconv.Atoi(n); e == nil {
			return &SyntaxError{Line: line, Err: errors.New(what)}
		}
	}
	return &SyntaxError{Err: errors.New(msg)}
}

// stoppedAt reads the place of a problem from the decoder, which has no method for
// it. If it is built otherwise one day, there is no place, and a test says so.
func stoppedAt(d *yaml.Decoder) (line, column int, ok bool) {
	v := reflect.ValueOf(d).Elem()
	for _, name := range []string{"parser", "parser"} {
		if v = reflect.Indirect(v); v.Kind() != reflect.Struct {
			return 0, 0, false
		}
		if v = v.FieldByName(name); !v.IsValid() {
			return 0, 0, false
		}
	}
	if v.Kind() != reflect.Struct {
		return 0, 0, false
	}
	problem, mark := v.FieldByName("problem"), v.FieldByName("problem_mark")
	if problem.Kind() != reflect.String || problem.String() == "" || mark.Kind() != reflect.Struct {
		return 0, 0, false
	}
	l, c := mark.FieldByName("line"), mark.FieldByName("column")
	if l.Kind() != reflect.Int || c.Kind() != reflect.Int {
		return 0, 0, false
	}
	// Of bytes that are no text at all there is none either.
	return int(l.Int()) + 1, int(c.Int()) + 1, l.Int() > 0 || c.Int() > 0
}

type builder struct{ left int }

func (b *builder) build(y *yaml.Node, depth int) (*node, error) {
	fail := func(format string, args ...any) (*node, error) {
		return nil, &SyntaxError{y.Line, y.Column, fmt.Errorf(format, args...)}
	}
	if b.left--; b.left < 0 || depth > maxDepth {
		return fail("the document is too large")
	}
	n := &node{line: y.Line, col: y.Column}
	switch y.Kind {
	case 0:
		return n, nil
	case yaml.DocumentNode:
		return b.build(y.Content[0], depth)
	case yaml.AliasNode:
		return b.build(y.Alias, depth+1)
	case yaml.SequenceNode:
		n.kind = list
		for _, c := range y.Content {
			item, err := b.build(c, depth+1)
			if err != nil {
				return nil, err
			}
			n.items = append(n.items, item)
		}
		return n, nil
	case yaml.MappingNode:
		n.kind = object
		return n, b.members(n, y, depth)
	}
	return b.scalar(n, y)
}

func (b *builder) members(n *node, y *yaml.Node, depth int) error {
	seen := map[string]bool{}
	var merged []*node
	for i := 0; i+1 < len(y.Content); i += 2 {
		k := y.Content[i]
		v, err := b.build(y.Content[i+1], depth+1)
		if err != nil {
			return err
		}
		if k.Tag == "!!merge" {
			if v.kind == object {
				v = &node{items: []*node{v}}
			}
			merged = append(merged, v.items...)
			continue
		}
		if k.Kind != yaml.ScalarNode {
			return &SyntaxError{k.Line, k.Column, errors.New("a key must be a string")}
		}
		if seen[k.Value] {
			return &SyntaxError{k.Line, k.Column, fmt.Errorf("key %q is there twice", k.Value)}
		}
		seen[k.Value] = true
		n.fields = append(n.fields, member{k.Value, k.Line, k.Column, v})
	}
	for _, m := range merged { // what is written itself wins, then the first
		for _, f := range m.fields {
			if !seen[f.key] {
				seen[f.key] = true
				n.fields = append(n.fields, f)
			}
		}
	}
	return nil
}

func (b *builder) scalar(n *node, y *yaml.Node) (*node, error) {
	fail := func(err error) (*node, error) { return nil, &SyntaxError{y.Line, y.Column, err} }
	switch y.ShortTag() {
	case "!!null":
		n.kind, n.value = null, "null"
	case "!!bool":
		var v bool
		if err := y.Decode(&v); err != nil {
			return fail(err)
		}
		n.kind, n.value = boolean, strconv.FormatBool(v)
	case "!!int", "!!float":
		var v any
		if err := y.Decode(&v); err != nil {
			return fail(err)
		}
		j, err := json.Marshal(v)
		if err != nil {
			return fail(fmt.Errorf("%s is no number that JSON has", y.Value))
		}
		n.kind, n.value = number, string(j)
	case "!!str", "!!timestamp", "!!binary", "!":
		j, err := json.Marshal(y.Value)
		if err != nil {
			return fail(err)
		}
		n.kind, n.value = text, string(j)
	default:
		return fail(fmt.Errorf("tag %s is not known", y.Tag))
	}
	return n, nil
}

// field is the value of a key, or nil.
func (n *node) field(key string) *node {
	for _, f := range n.fields {
		if f.key == key {
			return f.value
		}
	}
	return nil
}

// str is the value of a key that should be a string.
func (n *node) str(key string) string {
	var s string
	if v := n.field(key); v != nil && v.kind == text {
		json.Unmarshal([]byte(v.value), &s)
	}
	return s
}

// json writes a value. Nulls are left out of maps: they mean that nothing is there.
func (n *node) json(b *bytes.Buffer) {
	switch n.kind {
	case list:
		b.WriteByte('[')
		for i, item := range n.items {
			if i > 0 {
				b.WriteByte(',')
			}
			item.json(b)
		}
		b.WriteByte(']')
	case object:
		b.WriteByte('{')
		first := true
		for _, f := range n.fields {
			if f.value.kind == null {
				continue
			}
			if !first {
				b.WriteByte(',')
			}
			first = false
			key, _ := json.Marshal(f.key)
			b.Write(key)
			b.WriteByte(':')
			f.value.json(b)
		}
		b.WriteByte('}')
	case null:
		b.WriteString("null")
	default:
		b.WriteString(n.value)
	}
}
