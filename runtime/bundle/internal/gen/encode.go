package main

import (
	"fmt"
	"log"
	"reflect"
	"strings"
)

// encoder returns the source of the function that writes one struct.
func encoder(s structType) string {
	var b strings.Builder
	name := s.typ.Name()
	fmt.Fprintf(&b, "\nfunc encode%s(b []byte, v *specs.%s) []byte {\n\tb = append(b, '{')\n", name, name)
	for _, m := range s.members {
		key := fmt.Sprintf("jsonread.AppendKey(b, %q)", m.name)
		write := fmt.Sprintf("b = %s\n", encodeValue(key, m.expr, m.typ))
		if cond := notEmpty(m.expr, m.typ); m.omitEmpty && cond != "" {
			write = fmt.Sprintf("if %s {\n%s}\n", cond, write)
		}
		b.WriteString(write)
	}
	b.WriteString("\treturn append(b, '}')\n}\n")
	return b.String()
}

// encodeValue returns the expression that appends the value of expr to dst.
func encodeValue(dst, expr string, t reflect.Type) string {
	switch t.Kind() {
	case reflect.Struct:
		return fmt.Sprintf("encode%s(%s, &%s)", t.Name(), dst, expr)
	case reflect.Pointer:
		elem := t.Elem()
		if elem.Kind() == reflect.Struct {
			return fmt.Sprintf("encode%s(%s, %s)", elem.Name(), dst, expr)
		}
		return encodeValue(dst, "*"+expr, elem)
	case reflect.Slice:
		elem := t.Elem()
		switch {
		case elem.Kind() == reflect.String:
			return fmt.Sprintf("encodeStrings(%s, %s)", dst, expr)
		case elem.Kind() == reflect.Struct:
			return fmt.Sprintf("encodeSlice(%s, %s, encode%s)", dst, expr, elem.Name())
		case elem.Kind() == reflect.Uint32:
			return fmt.Sprintf("encodeSlice(%s, %s, encodeUint32)", dst, expr)
		}
	case reflect.Map:
		elem := t.Elem()
		switch {
		case elem.Kind() == reflect.String:
			return fmt.Sprintf("encodeMap(%s, %s, encodeString)", dst, expr)
		case elem.Kind() == reflect.Struct:
			return fmt.Sprintf("encodeMap(%s, %s, encode%s)", dst, expr, elem.Name())
		}
	case reflect.String:
		return fmt.Sprintf("jsonread.AppendString(%s, string(%s))", dst, expr)
	case reflect.Bool:
		return fmt.Sprintf("jsonread.AppendBool(%s, %s)", dst, expr)
	case reflect.Int, reflect.Int32, reflect.Int64:
		return fmt.Sprintf("jsonread.AppendInt(%s, int64(%s))", dst, expr)
	case reflect.Uint, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return fmt.Sprintf("jsonread.AppendUint(%s, uint64(%s))", dst, expr)
	}
	log.Fatalf("no writer for %s", t)
	return ""
}

// notEmpty returns the condition under which omitempty writes a member; a
// struct is never empty.
func notEmpty(expr string, t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return expr + " != nil"
	case reflect.Slice, reflect.Map:
		return "len(" + expr + ") > 0"
	case reflect.String:
		return expr + ` != ""`
	case reflect.Bool:
		return expr
	case reflect.Struct:
		return ""
	}
	return expr + " != 0"
}
