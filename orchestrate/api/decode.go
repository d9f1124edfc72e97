package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/minirun/minirun/orchestrate/store"
)

// FieldError reports a field that the kind does not have, or a value of the
// wrong type.
type FieldError struct {
	Path         string
	Line, Column int
	Err          error
}

func (e *FieldError) Error() string {
	return fmt.Sprintf("line %d, column %d: %s: %v", e.Line, e.Column, e.Path, e.Err)
}

func (e *FieldError) Unwrap() error { return e.Err }

// UnknownError is the cause of a FieldError about a field that does not exist.
type UnknownError struct{ Field, Meant string }

func (e *UnknownError) Error() string {
	s := fmt.Sprintf("unknown field %q", e.Field)
	if e.Meant != "" {
		s += fmt.Sprintf(", did you mean %q", e.Meant)
	}
	return s
}

// Decoded is an object that was read.
type Decoded struct {
	Kind   *Kind
	Object store.Object
	// Line is where it begins.
	Line int
	// Unknown are fields that the type does not have and that were left out.
	Unknown []*FieldError
	// Unsupported are fields that mean nothing here; see Effective.
	Unsupported []*FieldError
	// JSON is what was written, without the unknown fields.
	JSON []byte
}

// Decode reads all objects of a YAML or JSON stream; a List gives its items.
// Errors of all objects come together. Unknown fields are not errors yet: see
// Strict.
func (r *Registry) Decode(data []byte) ([]Decoded, error) {
	docs, err := documents(data)
	if err != nil {
		return nil, err
	}
	var out []Decoded
	var all []error
	for _, d := range docs {
		items, err := r.items(d)
		all = append(all, err)
		for _, item := range items {
			one, err := r.decode(item)
			all = append(all, err)
			out = append(out, one)
		}
	}
	if err := errors.Join(all...); err != nil {
		return nil, err
	}
	return out, nil
}

// Strict makes errors of unknown fields.
func Strict(objects []Decoded) error {
	var all []error
	for _, o := range objects {
		for _, u := range o.Unknown {
			all = append(all, u)
		}
	}
	return errors.Join(all...)
}

func (r *Registry) items(d *node) ([]*node, error) {
	if d.kind != object {
		return nil, &SyntaxError{d.line, d.col, fmt.Errorf("want an object, have %v", d.kind)}
	}
	if d.str("kind") != "List" || d.str("apiVersion") != "v1" {
		return []*node{d}, nil
	}
	list := d.field("items")
	if list == nil {
		return nil, nil
	}
	for _, i := range list.items {
		if i.kind != object {
			return nil, &SyntaxError{i.line, i.col, fmt.Errorf("want an object, have %v", i.kind)}
		}
	}
	return list.items, nil
}

func (r *Registry) decode(d *node) (Decoded, error) {
	at := func(err error) error { return &SyntaxError{d.line, d.col, err} }
	v, name := d.str("apiVersion"), d.str("kind")
	if v == "" || name == "" {
		return Decoded{}, at(errors.New("apiVersion and kind must be set"))
	}
	k, err := r.Find(v, name)
	if err != nil {
		return Decoded{}, at(err)
	}
	out := Decoded{Kind: k, Object: k.New(), Line: d.line}
	c := &checker{}
	c.check(d, reflect.TypeOf(out.Object).Elem(), "")
	out.Unknown, out.Unsupported = c.unknown, c.unsupported
	if err := errors.Join(c.wrong...); err != nil {
		return out, err
	}
	var b bytes.Buffer
	d.json(&b)
	out.JSON = b.Bytes()
	if err := json.Unmarshal(out.JSON, out.Object); err != nil {
		return out, at(err) // of a type that reads itself: a quantity, a time
	}
	return out, nil
}

// checker compares a document with a type.
type checker struct {
	unknown     []*FieldError
	unsupported []*FieldError
	wrong       []error
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

func (c *checker) check(n *node, t reflect.Type, path string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if n.kind == null {
		return
	}
	if reflect.PointerTo(t).Implements(unmarshaler) {
		var b bytes.Buffer
		n.json(&b)
		if err := json.Unmarshal(b.Bytes(), reflect.New(t).Interface()); err != nil {
			c.bad(n, path, err)
		}
		return
	}
	var want nodeKind
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		want = object
	case reflect.Slice:
		want = list
		if t.Elem().Kind() == reflect.Uint8 {
			want = text
		}
	case reflect.String:
		want = text
	case reflect.Bool:
		want = boolean
	default:
		want = number
	}
	if n.kind != want {
		c.bad(n, path, fmt.Errorf("want %v, have %v", want, n.kind))
		return
	}
	switch {
	case t.Kind() == reflect.Struct:
		c.structure(n, t, path)
	case t.Kind() == reflect.Map:
		for _, f := range n.fields {
			c.check(f.value, t.Elem(), fmt.Sprintf("%s[%s]", path, f.key))
		}
	case want == list:
		for i, item := range n.items {
			c.check(item, t.Elem(), fmt.Sprintf("%s[%d]", path, i))
		}
	case want == number || want == text:
		if err := json.Unmarshal([]byte(n.value), reflect.New(t).Interface()); err != nil {
			c.bad(n, path, fmt.Errorf("%s does not fit", n.value))
		}
	}
}

// empty tells a value that says nothing.
func (n *node) empty() bool {
	return n.kind == null || n.kind == object && len(n.fields) == 0 || n.kind == list && len(n.items) == 0 || n.kind == text && n.value == `""`
}

func (c *checker) bad(n *node, path string, err error) {
	c.wrong = append(c.wrong, &FieldError{path, n.line, n.col, err})
}

func (c *checker) structure(n *node, t reflect.Type, path string) {
	known := map[string]reflect.Type{}
	collect(t, known)
	// Unknown ones go, so that what is decoded is what was checked: encoding/json
	// also takes keys in the wrong case.
	n.fields = slices.DeleteFunc(slices.Clone(n.fields), func(f member) bool {
		at := f.key
		if path != "" {
			at = path + "." + f.key
		}
		ft, ok := known[f.key]
		if !ok {
			c.unknown = append(c.unknown, &FieldError{at, f.line, f.col, &UnknownError{f.key, nearest(f.key, known)}})
			return true
		}
		if u := unsupported(t, f.key); u != nil && !f.value.empty() {
			c.unsupported = append(c.unsupported, &FieldError{at, f.line, f.col, u})
		}
		c.check(f.value, ft, at)
		return false
	})
}

// collect finds the JSON names of a struct's fields.
func collect(t reflect.Type, into map[string]reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-":
		case f.Anonymous && name == "" || strings.Contains(options, "inline"):
			ft := f.Type
			if ft.Kind() == reflect.Pointer {
				ft = ft.Elem()
			}
			collect(ft, into)
		case name != "":
			into[name] = f.Type
		}
	}
}

func nearest(key string, known map[string]reflect.Type) string {
	best, meant := 1+len(key)/3, ""
	for k := range known {
		if d := Distance(k, key); d < best || d == best && meant != "" && k < meant {
			best, meant = d, k
		}
	}
	return meant
}
