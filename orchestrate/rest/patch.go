package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/orchestrate/store"
)

// attempts is how often a patch that names no version is applied anew when
// somebody else was faster.
const attempts = 5

func (s *Server) patch(w http.ResponseWriter, q *request) error {
	kind, _, err := mime.ParseMediaType(q.Header.Get("Content-Type"))
	if err != nil {
		return bad("Content-Type: %v", err)
	}
	var apply func(doc any, patch []byte) (any, error)
	switch kind {
	case "application/merge-patch+json":
		apply = mergePatch
	case "application/json-patch+json":
		apply = jsonPatch
	case "application/strategic-merge-patch+json":
		apply = strategicPatch(q)
	case "application/apply-patch+yaml":
		return s.apply(w, q)
	default:
		return &problem{
			http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType,
			fmt.Sprintf("there are no patches of type %s, but merge-patch+json, json-patch+json, strategic-merge-patch+json and apply-patch+yaml", kind),
		}
	}
	text, err := s.body(q)
	if err != nil {
		return err
	}
	for i := 1; ; i++ {
		obj, err := s.patched(w, q, text, apply)
		var conflict *store.ConflictError
		if errors.As(err, &conflict) && i < attempts && !bytes.Contains(text, []byte("resourceVersion")) {
			continue
		}
		if err != nil {
			return err
		}
		return s.object(w, q, http.StatusOK, obj)
	}
}

func (s *Server) patched(w http.ResponseWriter, q *request, patch []byte, apply func(any, []byte) (any, error)) (store.Object, error) {
	old, err := s.s.Get(q.kind.Name(), q.namespace, q.name)
	if err != nil {
		return nil, err
	}
	var from any = typed(q.kind, old)
	if q.sub == "scale" {
		from = scaleOf(old)
	}
	text, err := json.Marshal(from)
	if err != nil {
		return nil, err
	}
	doc, err := document(text)
	if err != nil {
		return nil, err
	}
	if doc, err = apply(doc, patch); err != nil {
		return nil, err
	}
	if text, err = json.Marshal(doc); err != nil {
		return nil, err
	}
	var obj store.Object
	if q.sub == "scale" {
		obj, err = rescale(old, text)
	} else {
		obj, err = s.decode(w, q, text)
	}
	if err != nil {
		return nil, err
	}
	return s.update(q, obj, old, old.GetManagedFields())
}

// document decodes JSON; numbers stay as they are written.
func document(text []byte) (any, error) {
	var doc any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	return doc, d.Decode(&doc)
}

// mergePatch is RFC 7386.
func mergePatch(doc any, patch []byte) (any, error) {
	p, err := document(patch)
	if err != nil {
		return nil, bad("patch: %v", err)
	}
	if _, ok := p.(map[string]any); !ok {
		return nil, bad("patch: a merge patch of an object must be an object")
	}
	return mergeInto(doc, p), nil
}

func mergeInto(doc, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	d, ok := doc.(map[string]any)
	if !ok {
		d = map[string]any{}
	}
	for k, v := range p {
		if v == nil {
			delete(d, k)
		} else {
			d[k] = mergeInto(d[k], v)
		}
	}
	return d
}

// operation is one of RFC 6902.
type operation struct {
	Op, Path, From string
	Value          json.RawMessage
}

// jsonPatch is RFC 6902.
func jsonPatch(doc any, patch []byte) (any, error) {
	var ops []operation
	if err := json.Unmarshal(patch, &ops); err != nil {
		return nil, bad("patch: %v", err)
	}
	if len(ops) > 10000 {
		return nil, bad("patch: more than 10000 operations")
	}
	for i, o := range ops {
		var err error
		if doc, err = o.apply(doc); err != nil {
			return nil, &problem{http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, fmt.Sprintf("patch, operation %d, %s %s: %v", i, o.Op, o.Path, err)}
		}
	}
	return doc, nil
}

func (o operation) apply(doc any) (any, error) {
	var value any
	var err error
	switch o.Op {
	case "add", "replace", "test":
		if len(o.Value) == 0 {
			return nil, errors.New("it has no value")
		}
		if value, err = document(o.Value); err != nil {
			return nil, err
		}
	case "move", "copy":
		if o.Op == "move" && strings.HasPrefix(o.Path+"/", o.From+"/") && o.Path != o.From {
			return nil, errors.New("a value cannot move into itself")
		}
		if value, err = find(doc, o.From); err != nil {
			return nil, err
		}
		text, err := json.Marshal(value) // two places must not share it
		if err != nil {
			return nil, err
		}
		if value, err = document(text); err != nil {
			return nil, err
		}
		if o.Op == "move" {
			if doc, err = change(doc, o.From, "remove", nil); err != nil {
				return nil, err
			}
		}
		return change(doc, o.Path, "add", value)
	case "remove":
	default:
		return nil, errors.New("there is no such operation")
	}
	if o.Op == "test" {
		have, err := find(doc, o.Path)
		if err == nil && !reflect.DeepEqual(have, value) {
			err = errors.New("the value is another one")
		}
		return doc, err
	}
	return change(doc, o.Path, o.Op, value)
}

// pointer splits a JSON pointer.
func pointer(path string) ([]string, error) {
	if path == "" {
		return nil, nil
	}
	if path[0] != '/' {
		return nil, fmt.Errorf("path %q does not begin with a slash", path)
	}
	parts := strings.Split(path[1:], "/")
	for i, p := range parts {
		parts[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(p)
	}
	return parts, nil
}

var errNoPath = errors.New("there is nothing at this path")

func index(s string, n int) (int, error) {
	i, err := strconv.Atoi(s)
	if err != nil || i < 0 || i >= n || len(s) > 1 && s[0] == '0' {
		return 0, errNoPath
	}
	return i, nil
}

func find(doc any, path string) (any, error) {
	parts, err := pointer(path)
	if err != nil {
		return nil, err
	}
	for _, p := range parts {
		switch d := doc.(type) {
		case map[string]any:
			v, ok := d[p]
			if !ok {
				return nil, errNoPath
			}
			doc = v
		case []any:
			i, err := index(p, len(d))
			if err != nil {
				return nil, err
			}
			doc = d[i]
		default:
			return nil, errNoPath
		}
	}
	return doc, nil
}

func change(doc any, path, op string, value any) (any, error) {
	parts, err := pointer(path)
	if err != nil {
		return nil, err
	}
	return changeAt(doc, parts, op, value)
}

func changeAt(doc any, parts []string, op string, value any) (any, error) {
	if len(parts) == 0 {
		return value, nil
	}
	p, last := parts[0], len(parts) == 1
	switch d := doc.(type) {
	case map[string]any:
		old, ok := d[p]
		switch {
		case !last && ok:
			v, err := changeAt(old, parts[1:], op, value)
			d[p] = v
			return d, err
		case !last, op != "add" && !ok:
			return nil, errNoPath
		case op == "remove":
			delete(d, p)
		default:
			d[p] = value
		}
		return d, nil
	case []any:
		if last && op == "add" {
			i := len(d)
			if p != "-" {
				var err error
				if i, err = index(p, len(d)+1); err != nil {
					return nil, err
				}
			}
			return slices.Insert(d, i, value), nil
		}
		i, err := index(p, len(d))
		switch {
		case err != nil:
			return nil, err
		case !last:
			d[i], err = changeAt(d[i], parts[1:], op, value)
			return d, err
		case op == "remove":
			return slices.Delete(d, i, i+1), nil
		}
		d[i] = value
		return d, nil
	}
	return nil, errNoPath
}
