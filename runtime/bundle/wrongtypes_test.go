package bundle

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestParse_WrongValuePath puts values that its type cannot hold into every
// field of the specification: the error must name that field.
func TestParse_WrongValuePath(t *testing.T) {
	n := 0
	var walk func(typ reflect.Type, wrap func(any) any, path string)
	try := func(wrap func(any) any, path string, values ...any) {
		t.Helper()
		for _, v := range values {
			n++
			raw, err := json.Marshal(wrap(v))
			if err != nil {
				t.Fatal(err)
			}
			var field *FieldError
			if _, err = Parse(raw); !errors.As(err, &field) || field.Path != path || field.Line != 1 || !strings.Contains(field.Msg, "want ") {
				t.Errorf("%s: got %v, want an error at %s", raw, err, path)
			}
		}
	}
	walk = func(typ reflect.Type, wrap func(any) any, path string) {
		for typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		switch typ.Kind() {
		case reflect.Struct:
			if path != "" {
				try(wrap, path, "x", 7, true, []any{})
			}
			for i := range typ.NumField() {
				f := typ.Field(i)
				name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				at := path + "." + name
				switch {
				case f.Anonymous && name == "":
					walk(f.Type, wrap, path)
					continue
				case path == "":
					at = name
				}
				if path == "" && f.Tag.Get("platform") != "" && !strings.Contains(f.Tag.Get("platform"), "linux") {
					continue // blocks of other platforms, see TestParse_ForeignBlocks
				}
				walk(f.Type, func(v any) any { return wrap(map[string]any{name: v}) }, at)
			}
		case reflect.Slice:
			try(wrap, path, "x", 7, true, map[string]any{})
			walk(typ.Elem(), func(v any) any { return wrap([]any{v}) }, path+"[0]")
		case reflect.Map:
			try(wrap, path, "x", 7, true, []any{})
			walk(typ.Elem(), func(v any) any { return wrap(map[string]any{"key": v}) }, path+".key")
		case reflect.String:
			try(wrap, path, 7, true, []any{}, map[string]any{})
		case reflect.Bool:
			try(wrap, path, "true", 1, []any{}, map[string]any{})
		case reflect.Int, reflect.Int32, reflect.Int64:
			try(wrap, path, "1", true, []any{}, map[string]any{}, 1.5, json.RawMessage("1e40"), json.RawMessage("9223372036854775808"), json.RawMessage("-9223372036854775809"))
		case reflect.Uint, reflect.Uint16, reflect.Uint32, reflect.Uint64:
			above := map[int]string{16: "65536", 32: "4294967296", 64: "18446744073709551616"}[typ.Bits()]
			try(wrap, path, "1", true, []any{}, map[string]any{}, 1.5, -1, json.RawMessage("1e40"), json.RawMessage(above))
		default:
			t.Fatalf("%s: what is a wrong %s?", path, typ)
		}
	}
	walk(reflect.TypeFor[specs.Spec](), func(v any) any { return v }, "")
	if n < 1000 {
		t.Errorf("only %d values tried", n)
	}
}
