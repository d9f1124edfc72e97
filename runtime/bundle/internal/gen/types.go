package main

import (
	"encoding"
	"encoding/json"
	"log"
	"reflect"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// member is one JSON member of a struct.
type member struct {
	name      string // in JSON
	expr      string // Go expression of the field, from v
	omitEmpty bool
	typ       reflect.Type
}

// structType is a struct to generate functions for.
type structType struct {
	typ     reflect.Type
	members []member
	skipped []member // of other platforms
}

// foreign are the blocks of platforms other than Linux: their syntax is
// checked, their content is not looked at.
func foreign(t reflect.Type) bool {
	switch t {
	case reflect.TypeFor[*specs.Solaris](), reflect.TypeFor[*specs.Windows](), reflect.TypeFor[*specs.VM](),
		reflect.TypeFor[*specs.ZOS](), reflect.TypeFor[*specs.FreeBSD]():
		return true
	}
	return false
}

// collect returns every struct reachable from specs.Spec, in order of appearance.
func collect() []structType {
	var types []structType
	seen := map[reflect.Type]bool{}
	var visit func(reflect.Type)
	visit = func(t reflect.Type) {
		refuseCustom(t)
		switch t.Kind() {
		case reflect.Pointer, reflect.Slice:
			visit(t.Elem())
		case reflect.Map:
			if t.Key().Kind() != reflect.String {
				log.Fatalf("map with key %s", t.Key())
			}
			visit(t.Elem())
		case reflect.Struct:
			if seen[t] {
				return
			}
			seen[t] = true
			s := structType{typ: t}
			s.add(t, "v")
			s.check()
			types = append(types, s)
			for _, m := range s.members {
				visit(m.typ)
			}
		}
	}
	visit(reflect.TypeFor[specs.Spec]())
	return types
}

// add appends the members of t; those of embedded structs belong to the outer one.
func (s *structType) add(t reflect.Type, expr string) {
	for f := range t.Fields() {
		tag := f.Tag.Get("json")
		if tag == "-" {
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		if options != "" && options != "omitempty" {
			log.Fatalf("%s.%s: json option %q", t, f.Name, options)
		}
		if f.Anonymous && name == "" {
			s.add(f.Type, expr+"."+f.Name)
			continue
		}
		if !f.IsExported() {
			continue
		}
		if name == "" {
			name = f.Name
		}
		m := member{name: name, expr: expr + "." + f.Name, omitEmpty: options != "", typ: f.Type}
		if foreign(f.Type) {
			s.skipped = append(s.skipped, m)
		} else {
			s.members = append(s.members, m)
		}
	}
}

// check refuses names that differ only by case or depth: encoding/json has
// rules for these that the generated code does not know.
func (s *structType) check() {
	seen := map[string]bool{}
	for _, m := range s.members {
		fold := strings.ToLower(m.name)
		if seen[fold] || strings.Trim(fold, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
			log.Fatalf("%s: JSON name %q", s.typ, m.name)
		}
		seen[fold] = true
	}
}

func (s *structType) names() string {
	var names []string
	for _, m := range s.members {
		names = append(names, m.name)
	}
	return strings.Join(names, ",")
}

func refuseCustom(t reflect.Type) {
	for _, custom := range []reflect.Type{
		reflect.TypeFor[json.Unmarshaler](), reflect.TypeFor[json.Marshaler](),
		reflect.TypeFor[encoding.TextUnmarshaler](), reflect.TypeFor[encoding.TextMarshaler](),
	} {
		if t.Implements(custom) || reflect.PointerTo(t).Implements(custom) {
			log.Fatalf("%s has methods of its own for JSON", t)
		}
	}
}

// basic returns the Go name of the basic type under t, "" if it is another type.
func basic(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool, reflect.String, reflect.Int, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return t.Kind().String()
	case reflect.Struct, reflect.Map, reflect.Slice, reflect.Pointer:
		return ""
	}
	log.Fatalf("no reader for %s", t)
	return ""
}

// named reports whether t is not the basic type itself, so that a pointer to
// it needs a conversion.
func named(t reflect.Type) bool { return t.Name() != basic(t) }

// method returns the reader's method for a basic type.
func method(t reflect.Type) string {
	b := basic(t)
	return strings.ToUpper(b[:1]) + b[1:]
}
