package merge

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Directives of a strategic merge patch.
const (
	patchDirective = "$patch"
	retainKeys     = "$retainKeys"
	elementOrder   = "$setElementOrder/"
	deleteFrom     = "$deleteFromPrimitiveList/"
)

// Strategic applies a strategic merge patch to a document of type t. Both may be
// changed.
func Strategic(doc, patch map[string]any, t reflect.Type) (map[string]any, error) {
	return object(doc, patch, t)
}

func object(doc, patch map[string]any, t reflect.Type) (map[string]any, error) {
	if d, ok := patch[patchDirective]; ok {
		switch d {
		case "replace":
			delete(patch, patchDirective)
			return patch, nil
		case "delete":
			return map[string]any{}, nil
		}
		return nil, fmt.Errorf("%s: there is no directive %v for a map", patchDirective, d)
	}
	if doc == nil {
		doc = map[string]any{}
	}
	if err := retain(doc, patch); err != nil {
		return nil, err
	}
	for _, k := range sorted(patch) {
		name, ok := strings.CutPrefix(k, elementOrder)
		if !ok {
			continue
		}
		if err := ordered(doc, patch, k, name, t); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, k := range sorted(patch) {
		var err error
		if name, ok := strings.CutPrefix(k, deleteFrom); ok {
			err = without(doc, patch[k], name)
		} else {
			err = member(doc, k, patch[k], t)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k, err)
		}
	}
	return doc, nil
}

// retain carries out $retainKeys.
func retain(doc, patch map[string]any) error {
	v, ok := patch[retainKeys]
	if !ok {
		return nil
	}
	delete(patch, retainKeys)
	list, ok := v.([]any)
	if !ok {
		return fmt.Errorf("%s is no list", retainKeys)
	}
	keep := map[any]bool{}
	for _, k := range list {
		if s, ok := k.(string); ok {
			keep[s] = true
		}
	}
	for k, v := range patch {
		if v != nil && !keep[k] && !strings.HasPrefix(k, deleteFrom) && !strings.HasPrefix(k, elementOrder) {
			return fmt.Errorf("%s does not have %q, which the patch sets", retainKeys, k)
		}
	}
	for k := range doc {
		if !keep[k] {
			delete(doc, k)
		}
	}
	return nil
}

// member applies one member of a patch.
func member(doc map[string]any, k string, patch any, t reflect.Type) (err error) {
	have, ok := doc[k]
	switch p := patch.(type) {
	case nil:
		delete(doc, k)
		return nil
	case map[string]any:
		if m, is := have.(map[string]any); ok && is {
			doc[k], err = object(m, p, lookup(t, k).typ)
			return err
		}
	case []any:
		if l, is := have.([]any); ok && is {
			f := lookup(t, k)
			if !f.merge {
				doc[k], _ = undirected(p)
				return nil
			}
			doc[k], err = elements(l, p, f)
			return err
		}
	}
	dropNulls(patch)
	if v, keep := undirected(patch); keep {
		doc[k] = v
	} else {
		delete(doc, k)
	}
	return nil
}

// dropNulls takes away members that are null, which say that there shall be none.
func dropNulls(v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if e == nil {
				delete(v, k)
			} else {
				dropNulls(e)
			}
		}
	case []any:
		for _, e := range v {
			dropNulls(e)
		}
	}
}

// undirected is a value without what was a directive, and whether it stays.
func undirected(v any) (any, bool) {
	switch v := v.(type) {
	case map[string]any:
		if _, ok := v[patchDirective]; ok {
			return nil, false
		}
		for k, e := range v {
			n, keep := undirected(e)
			if keep && !strings.HasPrefix(k, "$") {
				v[k] = n
			} else {
				delete(v, k)
			}
		}
	case []any:
		out := []any{}
		for _, e := range v {
			if n, keep := undirected(e); keep {
				out = append(out, n)
			}
		}
		return out, true
	}
	return v, true
}

// without carries out $deleteFromPrimitiveList.
func without(doc map[string]any, list any, name string) error {
	gone, ok := list.([]any)
	if !ok {
		return fmt.Errorf("it is no list")
	}
	have, ok := doc[name].([]any)
	if !ok {
		return nil
	}
	for _, v := range gone {
		if _, err := keyOf(v, ""); err != nil {
			return err
		}
	}
	out := []any{}
	for _, v := range have {
		if _, err := keyOf(v, ""); err != nil {
			return err
		}
		if !slices.Contains(gone, v) {
			out = append(out, v)
		}
	}
	doc[name] = out
	return nil
}

// elements merges a list. What the patch names comes in the patch's order, the
// rest where it stood.
func elements(doc, patch []any, f field) ([]any, error) {
	if len(doc) == 0 && len(patch) == 0 {
		return doc, nil
	}
	_, maps := first(patch, doc).(map[string]any)
	if !maps && f.key != "" {
		return nil, fmt.Errorf("an element of a list that is merged by %q is a %s", f.key, kindOf(first(patch, doc)))
	}
	if maps && f.key == "" {
		return nil, fmt.Errorf("maps in a list without a merge key")
	}
	before := slices.Clone(doc)
	merged, wanted := slices.Clone(doc), []any{}
	replace := false
	for _, p := range patch {
		m, _ := p.(map[string]any)
		switch d := m[patchDirective]; d {
		case nil:
			wanted = append(wanted, p)
		case "replace":
			replace = true
		case "delete":
			key, err := keyOf(p, f.key)
			if err != nil {
				return nil, err
			}
			merged = slices.DeleteFunc(merged, func(e any) bool {
				k, err := keyOf(e, f.key)
				return err == nil && k == key
			})
		default:
			return nil, fmt.Errorf("%s: there is no directive %v for an element", patchDirective, d)
		}
	}
	if replace {
		v, _ := undirected(wanted)
		return v.([]any), nil
	}
	for _, p := range wanted {
		key, err := keyOf(p, f.key)
		if err != nil {
			return nil, err
		}
		i, err := index(merged, key, f.key)
		switch {
		case err != nil:
			return nil, err
		case i < 0 && f.key != "":
			v, _ := undirected(p)
			merged = append(merged, v)
		case i < 0:
			merged = append(merged, p)
		case f.key != "":
			if merged[i], err = object(merged[i].(map[string]any), p.(map[string]any), f.typ); err != nil {
				return nil, err
			}
		}
	}
	return arrange(merged, wanted, before, f.key)
}

func first(lists ...[]any) any {
	for _, l := range lists {
		if len(l) > 0 {
			return l[0]
		}
	}
	return nil
}

// index finds an element by its key.
func index(list []any, key any, by string) (int, error) {
	for i, e := range list {
		if by == "" {
			if k, err := keyOf(e, by); err != nil {
				return 0, err
			} else if k == key {
				return i, nil
			}
			continue
		}
		m, ok := e.(map[string]any)
		if !ok {
			return 0, fmt.Errorf("an element of a list that is merged by %q is a %s", by, kindOf(e))
		}
		if k, ok := m[by]; ok {
			if _, err := keyOf(e, by); err == nil && k == key {
				return i, nil
			}
		}
	}
	return -1, nil
}

// arrange puts a merged list in order: what order names as it is there, the rest
// as before, each of the rest in front of what it was in front of.
func arrange(merged, order, before []any, by string) ([]any, error) {
	position := func(in []any, e any) (int, error) {
		k, err := keyOf(e, by)
		if err != nil {
			return 0, err
		}
		return index(in, k, by)
	}
	type placed struct {
		value       any
		wanted, was int
	}
	var named, rest []placed
	for _, e := range merged {
		w, err := position(order, e)
		if err != nil {
			return nil, err
		}
		b, err := position(before, e)
		if err != nil {
			return nil, err
		}
		if w >= 0 {
			named = append(named, placed{e, w, b})
		} else {
			rest = append(rest, placed{e, w, b})
		}
	}
	slices.SortStableFunc(named, func(a, b placed) int { return a.wanted - b.wanted })
	slices.SortStableFunc(rest, func(a, b placed) int { return a.was - b.was })
	out := []any{}
	for len(named)+len(rest) > 0 {
		if len(named) == 0 || len(rest) > 0 && rest[0].was >= 0 && named[0].was >= 0 && rest[0].was < named[0].was {
			out, rest = append(out, rest[0].value), rest[1:]
		} else {
			out, named = append(out, named[0].value), named[1:]
		}
	}
	return out, nil
}

// ordered carries out $setElementOrder, together with the patch of its list.
func ordered(doc, patch map[string]any, directive, name string, t reflect.Type) error {
	order, ok := patch[directive].([]any)
	if !ok {
		return fmt.Errorf("%s is no list", elementOrder)
	}
	delete(patch, directive)
	have, inDoc := doc[name]
	change, inPatch := patch[name]
	list, ok := have.([]any)
	if inDoc && !ok {
		return fmt.Errorf("it is no list but a %s", kindOf(have))
	}
	changes, ok := change.([]any)
	if inPatch && !ok {
		return fmt.Errorf("in the patch it is no list but a %s", kindOf(change))
	}
	f := lookup(t, name)
	if err := agrees(changes, order, f.key); err != nil {
		return err
	}
	before := slices.Clone(list)
	merged := list
	switch {
	case !inDoc && !inPatch:
		return nil
	case !inDoc:
		v, _ := undirected(changes)
		merged = v.([]any)
	case inPatch && f.merge:
		var err error
		if merged, err = elements(list, changes, f); err != nil {
			return err
		}
	case inPatch:
		v, _ := undirected(changes)
		merged = v.([]any)
	}
	delete(patch, name)
	out, err := arrange(merged, order, before, f.key)
	doc[name] = out
	return err
}

// agrees tells whether an order has all that the patch sets, in the same order.
func agrees(changes, order []any, by string) error {
	if len(order) == 0 {
		return nil
	}
	at := 0
	for _, c := range changes {
		if m, ok := c.(map[string]any); ok && m[patchDirective] != nil {
			continue
		}
		key, err := keyOf(c, by)
		if err != nil {
			return err
		}
		i, err := index(order[at:], key, by)
		if err != nil {
			return err
		}
		if i < 0 {
			return fmt.Errorf("%s has another order than the patch, or lacks %v", elementOrder, key)
		}
		at += i + 1
	}
	return nil
}
