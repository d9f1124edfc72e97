package merge

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Fields is a set of fields as metav1.FieldsV1 has it: "f:name" is a member,
// `k:{"name":"c"}` an element of a list that is merged by key, `v:"x"` one of a
// set, "." that the element itself is meant.
type Fields map[string]Fields

// ParseFields reads one.
func ParseFields(raw []byte) (Fields, error) {
	f := Fields{}
	if len(raw) == 0 {
		return f, nil
	}
	return f, json.Unmarshal(raw, &f)
}

// Owned are the fields that a configuration of type t sets. What every object has
// is nobody's.
func Owned(config map[string]any, t reflect.Type) Fields {
	out := owned(config, t)
	for _, k := range []string{"f:apiVersion", "f:kind", "f:status"} {
		delete(out, k)
	}
	if m := out["f:metadata"]; m != nil {
		for _, k := range []string{"name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink"} {
			delete(m, "f:"+k)
		}
		delete(m["f:annotations"], "f:"+corev1.LastAppliedConfigAnnotation)
		if a, ok := m["f:annotations"]; ok && len(a) == 0 {
			delete(m, "f:annotations")
		}
		if len(m) == 0 {
			delete(out, "f:metadata")
		}
	}
	return out
}

func owned(v map[string]any, t reflect.Type) Fields {
	out := Fields{}
	for k, e := range v {
		f := lookup(t, k)
		switch e := e.(type) {
		case nil:
		case map[string]any:
			if atomic(f.typ) {
				out["f:"+k] = Fields{}
			} else {
				out["f:"+k] = owned(e, f.typ)
			}
		case []any:
			out["f:"+k] = ownedItems(e, f)
		default:
			out["f:"+k] = Fields{}
		}
	}
	return out
}

func ownedItems(list []any, f field) Fields {
	out := Fields{}
	if !f.merge {
		return out
	}
	for _, e := range list {
		m, ok := e.(map[string]any)
		switch {
		case ok && f.key != "":
			own := owned(m, f.typ)
			own["."] = Fields{}
			out[elementKey(m, f)] = own
		case !ok:
			text, _ := json.Marshal(e)
			out["v:"+string(text)] = Fields{}
		}
	}
	return out
}

// atomic tells a type that is one value: a selector in parts selects something
// that nobody asked for.
func atomic(t reflect.Type) bool {
	return t == reflect.TypeFor[metav1.LabelSelector]() || t == reflect.TypeFor[corev1.NodeSelector]()
}

// elementKey identifies an element. A patch finds ports by their number alone,
// which makes one of 53/UDP and 53/TCP; here the protocol belongs to it.
func elementKey(m map[string]any, f field) string {
	key := map[string]any{f.key: m[f.key]}
	if f.typ == reflect.TypeFor[corev1.ContainerPort]() || f.typ == reflect.TypeFor[corev1.ServicePort]() {
		key["protocol"] = m["protocol"]
		if key["protocol"] == nil {
			key["protocol"] = "TCP"
		}
	}
	text, _ := json.Marshal(key)
	return "k:" + string(text)
}

// Apply makes doc what config says: sets all that it sets, and takes away what is
// in had, which is what the same manager set before, and in neither config nor
// others, which are the fields of other managers. doc is changed.
func Apply(doc, config map[string]any, t reflect.Type, had, others Fields) error {
	remove(doc, t, had, Owned(config, t), others, true)
	return apply(doc, config, t, others)
}

// remove takes away the fields that are not wanted any more. A struct goes whole,
// with the defaults that it got; of a map, such as labels, only what was set.
func remove(doc map[string]any, t reflect.Type, had, now, others Fields, top bool) {
	for k, was := range had {
		name, ok := strings.CutPrefix(k, "f:")
		if !ok {
			continue
		}
		f := lookup(t, name)
		is, still := now[k]
		theirs, shared := others[k]
		switch v := doc[name].(type) {
		case map[string]any:
			isMap := f.typ != nil && f.typ.Kind() == reflect.Map
			switch {
			case atomic(f.typ) || len(was) == 0:
				if !still && !shared {
					delete(doc, name)
				}
			case !still && !shared && !isMap && !top:
				delete(doc, name)
			default:
				remove(v, f.typ, was, is, theirs, false)
				if !still && len(v) == 0 {
					delete(doc, name)
				}
			}
		case []any:
			switch {
			case f.merge && (still || shared || len(was) > 0):
				if left := removeItems(v, f, was, is, theirs); len(left) > 0 || still {
					doc[name] = left
				} else {
					delete(doc, name)
				}
			case !still && !shared:
				delete(doc, name)
			}
		default:
			if !still && !shared {
				delete(doc, name)
			}
		}
	}
}

func removeItems(list []any, f field, had, now, others Fields) []any {
	out := []any{}
	for _, e := range list {
		m, isMap := e.(map[string]any)
		var key string
		if isMap && f.key != "" {
			key = elementKey(m, f)
		} else {
			text, _ := json.Marshal(e)
			key = "v:" + string(text)
		}
		was, did := had[key]
		is, still := now[key]
		theirs, shared := others[key]
		if did && !still && !shared {
			continue
		}
		if did && isMap {
			remove(m, f.typ, was, is, theirs, false)
		}
		out = append(out, e)
	}
	return out
}

// apply sets what config says.
func apply(doc, config map[string]any, t reflect.Type, others Fields) error {
	for _, k := range sorted(config) {
		f := lookup(t, k)
		switch c := config[k].(type) {
		case nil:
			delete(doc, k)
		case map[string]any:
			have, ok := doc[k].(map[string]any)
			if !ok || atomic(f.typ) {
				doc[k] = Copy(c)
				continue
			}
			if f.retain {
				keep(have, c, others["f:"+k])
			}
			if err := apply(have, c, f.typ, others["f:"+k]); err != nil {
				return fmt.Errorf("%s: %w", k, err)
			}
		case []any:
			have, ok := doc[k].([]any)
			if !ok || !f.merge {
				doc[k] = Copy(c)
				continue
			}
			list, err := applyItems(have, c, f, others["f:"+k])
			if err != nil {
				return fmt.Errorf("%s: %w", k, err)
			}
			doc[k] = list
		default:
			doc[k] = c
		}
	}
	return nil
}

// keep leaves only the members of a union that somebody wants.
func keep(doc, config map[string]any, others Fields) {
	for k := range doc {
		if _, ok := config[k]; !ok && others["f:"+k] == nil {
			delete(doc, k)
		}
	}
}

func applyItems(doc, config []any, f field, others Fields) ([]any, error) {
	id := func(e any) (string, error) {
		m, ok := e.(map[string]any)
		if !ok || f.key == "" {
			if _, err := keyOf(e, ""); err != nil || f.key != "" {
				return "", fmt.Errorf("an element of a list that is merged by %q is a %s", f.key, kindOf(e))
			}
			text, err := json.Marshal(e)
			return "v:" + string(text), err
		}
		if _, err := keyOf(e, f.key); err != nil {
			return "", err
		}
		return elementKey(m, f), nil
	}
	at := map[string]int{}
	for i, e := range doc {
		k, err := id(e)
		if err != nil {
			return nil, err
		}
		at[k] = i
	}
	used := make([]bool, len(doc))
	seen := map[string]bool{}
	var out []any
	for _, c := range config {
		k, err := id(c)
		if err != nil {
			return nil, err
		}
		if seen[k] {
			return nil, fmt.Errorf("two elements are %s", k[2:])
		}
		seen[k] = true
		i, ok := at[k]
		m, isMap := c.(map[string]any)
		if !ok || !isMap {
			out = append(out, Copy(c))
			if ok {
				used[i] = true
			}
			continue
		}
		used[i] = true
		have := doc[i].(map[string]any)
		if f.retain {
			keep(have, m, others[k])
		}
		if err := apply(have, m, f.typ, others[k]); err != nil {
			return nil, fmt.Errorf("%s: %w", k[2:], err)
		}
		out = append(out, have)
	}
	for i, e := range doc {
		if !used[i] {
			out = append(out, e)
		}
	}
	return out, nil
}

// Union is what is in one of both.
func Union(a, b Fields) Fields {
	out := Fields{}
	for k, v := range a {
		out[k] = Union(v, b[k])
	}
	for k, v := range b {
		if _, ok := out[k]; !ok {
			out[k] = Union(v, nil)
		}
	}
	return out
}
