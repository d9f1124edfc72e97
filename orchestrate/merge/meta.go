package merge

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// field is what a type says of one of its fields.
type field struct {
	typ    reflect.Type // of an element, for a list
	merge  bool         // a list that is merged by key, or is a set
	key    string
	retain bool // of what the patch does not name nothing stays
}

// lookup finds a field of a type by its JSON name. Without a type there is no
// strategy: maps are merged and lists replaced.
func lookup(t reflect.Type, name string) field {
	t = plain(t)
	if t == nil {
		return field{}
	}
	if t.Kind() == reflect.Map {
		return field{typ: plain(t.Elem())}
	}
	if t.Kind() != reflect.Struct {
		return field{}
	}
	for i := range t.NumField() {
		f := t.Field(i)
		tag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case tag == "-":
		case f.Anonymous && tag == "" || strings.Contains(options, "inline"):
			if out := lookup(f.Type, name); out.typ != nil {
				return out
			}
		case tag == name:
			out := field{typ: plain(f.Type), key: f.Tag.Get("patchMergeKey")}
			for s := range strings.SplitSeq(f.Tag.Get("patchStrategy"), ",") {
				out.merge = out.merge || s == "merge"
				out.retain = out.retain || s == "retainKeys"
			}
			if out.typ.Kind() == reflect.Slice {
				out.typ = plain(out.typ.Elem())
			}
			return out
		}
	}
	return field{}
}

func plain(t reflect.Type) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

// Copy copies a document.
func Copy(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = Copy(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = Copy(e)
		}
		return out
	}
	return v
}

// keyOf is what identifies an element of a list.
func keyOf(item any, key string) (any, error) {
	if key == "" {
		switch item.(type) {
		case map[string]any, []any:
			return nil, fmt.Errorf("a list without a merge key has an element that is a %s", kindOf(item))
		}
		return item, nil
	}
	m, ok := item.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("an element of a list that is merged by %q is a %s", key, kindOf(item))
	}
	v, ok := m[key]
	if !ok {
		return nil, fmt.Errorf("an element of a list has no %q, which the list is merged by", key)
	}
	switch v.(type) {
	case map[string]any, []any:
		return nil, fmt.Errorf("%q of an element of a list is a %s", key, kindOf(v))
	}
	return v, nil
}

func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case map[string]any:
		return "map"
	case []any:
		return "list"
	case string:
		return "string"
	case bool:
		return "boolean"
	}
	return "number"
}

// sorted are the keys of a map in an order that is always the same.
func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
