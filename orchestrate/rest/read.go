package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/minirun/minirun/orchestrate/api"
	"github.com/minirun/minirun/orchestrate/store"
)

// selector reads what a request chooses by.
func selector(q *request) (store.Selector, error) {
	sel := store.Selector{Namespace: q.namespace}
	query := q.URL.Query()
	l, err := labels.Parse(query.Get("labelSelector"))
	if err != nil {
		return sel, bad("labelSelector: %v", err)
	}
	if !l.Empty() {
		sel.Labels = l
	}
	f, err := fields.ParseSelector(query.Get("fieldSelector"))
	if err != nil {
		return sel, bad("fieldSelector: %v", err)
	}
	if f.Empty() {
		return sel, nil
	}
	var names []string
	for _, r := range f.Requirements() {
		if !selectable(q.kind, r.Field) {
			return sel, bad("field label not supported: %s", r.Field)
		}
		names = append(names, r.Field)
	}
	sel.Match = func(obj store.Object) bool { return f.Matches(values(obj, names)) }
	return sel, nil
}

// selectable are the fields that objects are chosen by.
func selectable(k *api.Kind, name string) bool {
	switch name {
	case "metadata.name", "metadata.namespace":
		return true
	case "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork", "status.podIP":
		return k.Resource == "pods"
	case "spec.unschedulable":
		return k.Resource == "nodes"
	case "status.phase":
		return k.Resource == "pods" || k.Resource == "namespaces"
	case "type":
		return k.Resource == "secrets" || k.Resource == "events"
	case "reason", "reportingComponent", "involvedObject.kind", "involvedObject.name", "involvedObject.namespace", "involvedObject.uid",
		"involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath":
		return k.Resource == "events"
	case "status.successful":
		return k.Resource == "jobs"
	case "spec.type", "spec.clusterIP":
		return k.Resource == "services"
	}
	return false
}

// values reads fields of an object by their path.
func values(obj store.Object, names []string) fields.Set {
	set := fields.Set{}
	var doc map[string]any
	for _, name := range names {
		switch name {
		case "metadata.name":
			set[name] = obj.GetName()
			continue
		case "metadata.namespace":
			set[name] = obj.GetNamespace()
			continue
		}
		if doc == nil {
			text, err := json.Marshal(obj)
			if err != nil || json.Unmarshal(text, &doc) != nil {
				return set
			}
		}
		path, otherwise := name, ""
		switch name {
		case "spec.hostNetwork", "spec.unschedulable":
			otherwise = "false"
		case "status.successful":
			path, otherwise = "status.succeeded", "0"
		}
		var at any = doc
		for part := range strings.SplitSeq(path, ".") {
			m, _ := at.(map[string]any)
			at = m[part]
		}
		if at == nil {
			at = otherwise
		}
		set[name] = fmt.Sprint(at)
	}
	return set
}

// listed is a list of any kind.
type listed struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        metav1.ListMeta `json:"metadata"`
	Items           []store.Object  `json:"items"`
}

func (s *Server) list(w http.ResponseWriter, q *request) error {
	sel, err := selector(q)
	if err != nil {
		return err
	}
	query := q.URL.Query()
	limit := 0
	if v := query.Get("limit"); v != "" {
		if limit, err = strconv.Atoi(v); err != nil || limit < 0 {
			return bad("limit %q is no number", v)
		}
	}
	l, err := s.s.List(q.kind.Name(), sel, limit, query.Get("continue"))
	var gone *store.GoneError
	if err != nil && !errors.As(err, &gone) {
		return bad("%v", err)
	}
	if err != nil {
		return err
	}
	return s.items(w, q, l, l.Remaining > 0 && sel.Labels == nil && sel.Match == nil)
}

// items answers with a list.
func (s *Server) items(w http.ResponseWriter, q *request, l store.List, count bool) error {
	meta := metav1.ListMeta{ResourceVersion: strconv.FormatUint(l.Revision, 10), Continue: l.Continue}
	if count {
		n := int64(l.Remaining)
		meta.RemainingItemCount = &n
	}
	if q.wantsTable() {
		t, err := s.table(q, meta, true, l.Items...)
		if err == nil {
			reply(w, http.StatusOK, t)
		}
		return err
	}
	out := listed{
		TypeMeta: metav1.TypeMeta{APIVersion: q.kind.GroupVersion().String(), Kind: q.kind.Kind + "List"},
		Metadata: meta,
		Items:    make([]store.Object, len(l.Items)),
	}
	for i, obj := range l.Items {
		out.Items[i] = typed(q.kind, obj)
	}
	reply(w, http.StatusOK, out)
	return nil
}

// bookmarkEvery is how often a quiet watch says how far it is.
const bookmarkEvery = time.Minute

// event is one line of a watch.
type event struct {
	Type   string `json:"type"`
	Object any    `json:"object"`
}

func (s *Server) watch(w http.ResponseWriter, q *request) error {
	sel, err := selector(q)
	if err != nil {
		return err
	}
	query := q.URL.Query()
	ctx := q.Context()
	if v := query.Get("timeoutSeconds"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			return bad("timeoutSeconds %q is no number", v)
		}
		if n > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, time.Duration(n)*time.Second)
			defer cancel()
		}
	}
	var first []store.Object
	after := uint64(0)
	if v := query.Get("resourceVersion"); v != "" && v != "0" {
		if after, err = strconv.ParseUint(v, 10, 64); err != nil {
			return bad("resourceVersion %q is no number", v)
		}
	} else { // from now on, after all there is
		l, err := s.s.List(q.kind.Name(), sel, 0, "")
		if err != nil {
			return err
		}
		first, after = l.Items, l.Revision
	}
	changes, err := s.s.Watch(q.kind.Name(), sel, after)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	titles := true
	line := func(kind string, obj any) error {
		if o, ok := obj.(store.Object); ok && q.wantsTable() {
			meta := metav1.ListMeta{ResourceVersion: o.GetResourceVersion()}
			items := []store.Object{o}
			if kind == "BOOKMARK" {
				items = nil
			}
			t, err := s.table(q, meta, titles, items...)
			if err != nil {
				return err
			}
			titles, obj = false, t
		}
		return json.NewEncoder(w).Encode(event{kind, obj})
	}
	for _, obj := range first {
		if line(string(store.Added), typed(q.kind, obj)) != nil {
			return errAnswered
		}
	}
	s.stream(ctx, w, q, changes, query.Get("allowWatchBookmarks") == "true", line)
	return nil
}

// stream sends changes until the client or the time is gone.
func (s *Server) stream(ctx context.Context, w http.ResponseWriter, q *request, changes *store.Watch, bookmarks bool, line func(string, any) error) {
	control := http.NewResponseController(w)
	for {
		control.Flush()
		wait, cancel := context.WithTimeout(ctx, bookmarkEvery)
		e, err := changes.Next(wait)
		cancel()
		switch {
		case err == nil:
			err = line(string(e.Type), typed(q.kind, e.Object))
		case ctx.Err() != nil || errors.Is(err, store.ErrClosed):
			return
		case errors.Is(err, context.DeadlineExceeded):
			if err = nil; bookmarks {
				mark := q.kind.New()
				mark.GetObjectKind().SetGroupVersionKind(q.kind.GroupVersionKind)
				mark.SetResourceVersion(strconv.FormatUint(changes.Revision(), 10))
				err = line("BOOKMARK", mark)
			}
		default:
			line("ERROR", api.StatusOf(nil, "", err))
			return
		}
		if err != nil {
			return
		}
	}
}
