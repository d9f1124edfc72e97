package view

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
)

// Path is where something stands in an object, as --sort-by and custom columns
// name it: metadata.name, .metadata.name or {.metadata.name}.
type Path struct{ query string }

// ParsePath reads one.
func ParsePath(s string) (Path, error) {
	q := strings.TrimSpace(s)
	if strings.HasPrefix(q, "{") && closing(q) == len(q)-1 {
		q = strings.TrimSpace(q[1 : len(q)-1])
	}
	if q == "" || strings.ContainsAny(q, "{}") {
		return Path{}, fmt.Errorf("%q is no path, want one like .metadata.name", s)
	}
	if !strings.ContainsAny(q[:1], ".[$@") {
		q = "." + q
	}
	p := Path{q}
	_, err := p.In(map[string]any{})
	return p, err
}

// In gives what stands there.
func (p Path) In(doc any) ([]any, error) {
	found, err := find(p.query, doc, doc)
	if err != nil {
		return nil, fmt.Errorf("path %q: %w", p.query, err)
	}
	return found, nil
}

// Column is one that the user has thought of.
type Column struct {
	Title string
	Path  Path
}

// ParseColumns reads TITLE:PATH,TITLE:PATH as -o custom-columns has it.
func ParseColumns(spec string) (out []Column, err error) {
	for _, part := range split(spec) {
		title, path, ok := strings.Cut(part, ":")
		if !ok || title == "" || path == "" {
			return nil, fmt.Errorf("column %q: want TITLE:PATH", part)
		}
		p, err := ParsePath(path)
		if err != nil {
			return nil, fmt.Errorf("column %q: %w", title, err)
		}
		out = append(out, Column{title, p})
	}
	return out, nil
}

// Line is an object in such columns.
func Line(columns []Column, doc any) (out []string, err error) {
	for _, c := range columns {
		found, err := c.Path.In(doc)
		if err != nil {
			return nil, err
		}
		var texts []string
		for _, f := range found {
			texts = append(texts, Clean(fmt.Sprint(exact(f))))
		}
		if len(found) == 0 {
			texts = []string{none}
		}
		out = append(out, strings.Join(texts, ","))
	}
	return out, nil
}

// exact is a value whose numbers are printed as JSON has them, not as powers of
// ten.
func exact(v any) any {
	switch v := v.(type) {
	case float64:
		return json.Number(Text(v))
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = exact(e)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = exact(e)
		}
		return out
	}
	return v
}

// SortBy sorts objects by what stands at a path, as kubectl --sort-by does: numbers
// and quantities by their value, the rest as text.
// Objects that have nothing there come first; if none has anything, that is an
// error.
func SortBy[T any](p Path, items []T, doc func(T) any) error {
	keys := make([]any, len(items))
	order := make([]int, len(items))
	some := false
	for i, item := range items {
		order[i] = i
		found, err := p.In(doc(item))
		if err != nil {
			return err
		}
		if len(found) > 0 {
			keys[i], some = found[0], true
		}
	}
	if len(items) > 0 && !some {
		return fmt.Errorf("no object has anything at %q", p.query)
	}
	slices.SortStableFunc(order, func(a, b int) int { return compareValues(keys[a], keys[b]) })
	sorted := make([]T, len(items))
	for i, at := range order {
		sorted[i] = items[at]
	}
	copy(items, sorted)
	return nil
}

// compareValues compares two values.
func compareValues(a, b any) int {
	if a == nil || b == nil {
		return btoi(a != nil) - btoi(b != nil)
	}
	if x, ok := a.(float64); ok {
		if y, ok := b.(float64); ok {
			return btoi(x > y) - btoi(x < y)
		}
	}
	s, t := Text(a), Text(b)
	if x, err := resource.ParseQuantity(s); err == nil {
		if y, err := resource.ParseQuantity(t); err == nil {
			return x.Cmp(y)
		}
	}
	return strings.Compare(s, t)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
