package main

import (
	"fmt"
	"log"
	"reflect"
	"strings"
)

// decoder returns the source of the function that reads one struct.
func decoder(s structType) string {
	var b strings.Builder
	name := s.typ.Name()
	fmt.Fprintf(&b, "\nfunc decode%s(r *jsonread.Reader, v *specs.%s) {\n\tif r.Null() {\n\t\treturn\n\t}\n", name, name)
	fmt.Fprintf(&b, "\tvar seen uint64\n\tfor key, ok := r.Object(); ok; key, ok = r.NextKey() {\n\tmatch:\n\t\tswitch key {\n")
	if len(s.members) > 64 {
		log.Fatalf("%s: more fields than bits to remember them", name)
	}
	for i, m := range s.members {
		fmt.Fprintf(&b, "\t\tcase %q:\n\t\t\tseen = r.Once(seen, 1<<%d)\n%s", m.name, i, decodeMember(m.expr, m.typ))
	}
	fmt.Fprintf(&b, "\t\tdefault:\n\t\t\tif name := jsonread.Fold(key, %q); name != \"\" {\n", s.names())
	fmt.Fprintf(&b, "\t\t\t\tkey = name\n\t\t\t\tgoto match\n\t\t\t}\n\t\t\tr.Skip()\n\t\t}\n\t}\n}\n")
	return b.String()
}

// decodeMember returns the statements that read a value into expr.
func decodeMember(expr string, t reflect.Type) string {
	switch t.Kind() {
	case reflect.Struct:
		return fmt.Sprintf("decode%s(r, &%s)\n", t.Name(), expr)
	case reflect.Pointer:
		elem := t.Elem()
		read := fmt.Sprintf("r.%s(p)", method2(elem))
		switch {
		case elem.Kind() == reflect.Struct:
			read = fmt.Sprintf("decode%s(r, p)", elem.Name())
		case named(elem):
			read = fmt.Sprintf("r.%s((*%s)(p))", method(elem), basic(elem))
		}
		return fmt.Sprintf("if p := target(r, &%s); p != nil {\n%s\n}\n", expr, read)
	case reflect.Slice:
		elem := t.Elem()
		switch {
		case elem.Kind() == reflect.String:
			return fmt.Sprintf("decodeStrings(r, &%s)\n", expr)
		case elem.Kind() == reflect.Struct:
			return fmt.Sprintf("decodeSlice(r, &%s, decode%s)\n", expr, elem.Name())
		case basic(elem) != "" && !named(elem) && elem.Kind() != reflect.Uint8:
			return fmt.Sprintf("decodeSlice(r, &%s, (*jsonread.Reader).%s)\n", expr, method(elem))
		}
	case reflect.Map:
		elem := t.Elem()
		switch {
		case elem.Kind() == reflect.String && !named(elem):
			return fmt.Sprintf("decodeMap(r, &%s, (*jsonread.Reader).String)\n", expr)
		case elem.Kind() == reflect.Struct:
			return fmt.Sprintf("decodeMap(r, &%s, decode%s)\n", expr, elem.Name())
		}
	default:
		if named(t) {
			return fmt.Sprintf("r.%s((*%s)(&%s))\n", method(t), basic(t), expr)
		}
		return fmt.Sprintf("r.%s(&%s)\n", method(t), expr)
	}
	log.Fatalf("no reader for %s", t)
	return ""
}

// method2 is method for any type, "" where there is none.
func method2(t reflect.Type) string {
	if basic(t) == "" {
		return ""
	}
	return method(t)
}
