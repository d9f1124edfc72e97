package rest

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"slices"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/orchestrate/api"
	"github.com/minirun/minirun/orchestrate/merge"
	"github.com/minirun/minirun/orchestrate/store"
)

// strategicPatch is the third kind of patches, whose lists have keys.
func strategicPatch(q *request) func(any, []byte) (any, error) {
	t := reflect.TypeOf(q.kind.New())
	if q.sub == "scale" {
		t = reflect.TypeFor[autoscalingv1.Scale]()
	}
	return func(doc any, patch []byte) (any, error) {
		p, err := document(patch)
		if err != nil {
			return nil, bad("patch: %v", err)
		}
		change, ok := p.(map[string]any)
		if !ok {
			return nil, bad("patch: a strategic merge patch must be an object")
		}
		out, err := merge.Strategic(doc.(map[string]any), change, t)
		if err != nil {
			return nil, &problem{http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "patch: " + err.Error()}
		}
		return out, nil
	}
}

// apply makes an object what a configuration says, or creates it.
func (s *Server) apply(w http.ResponseWriter, q *request) error {
	text, err := s.body(q)
	if err != nil {
		return err
	}
	manager := q.URL.Query().Get("fieldManager")
	if manager == "" {
		return bad("an apply patch needs the parameter fieldManager")
	}
	if q.sub == "scale" || isEphemeral(q) {
		return errVerb
	}
	config, err := s.decoded(w, q, text)
	if err != nil {
		return err
	}
	for i := 1; ; i++ {
		obj, code, err := s.applied(q, config, manager)
		var conflict *store.ConflictError
		var exists *store.ExistsError
		if i < attempts && (errors.As(err, &exists) || errors.As(err, &conflict) && config.Object.GetResourceVersion() == "") {
			continue
		}
		if err != nil {
			return err
		}
		return s.object(w, q, code, obj)
	}
}

func (s *Server) applied(q *request, config *api.Decoded, manager string) (store.Object, int, error) {
	c, err := document(config.JSON)
	if err != nil {
		return nil, 0, err
	}
	want := c.(map[string]any)
	plainData(want)
	t := reflect.TypeOf(config.Object)
	own := merge.Owned(want, t)
	old, err := s.s.Get(q.kind.Name(), q.namespace, q.name)
	var missing *store.NotFoundError
	if errors.As(err, &missing) && q.sub == "" && config.Object.GetResourceVersion() == "" {
		managed, err := managedBy(nil, q, manager, own)
		if err != nil {
			return nil, 0, err
		}
		obj := config.Object.DeepCopyObject().(store.Object)
		obj.SetUID("")
		obj, err = s.createObject(q, obj, managed)
		return obj, http.StatusCreated, err
	}
	if err != nil {
		return nil, 0, err
	}
	obj, err := s.merged(q, old, want, t, manager)
	if err != nil {
		return nil, 0, err
	}
	managed, err := managedBy(old.GetManagedFields(), q, manager, own)
	if err != nil {
		return nil, 0, err
	}
	obj, err = s.update(q, obj, old, managed)
	return obj, http.StatusOK, err
}

// plainData makes data of a Secret's stringData, which is only a way to write it.
func plainData(doc map[string]any) {
	text, ok := doc["stringData"].(map[string]any)
	if !ok || doc["kind"] != "Secret" {
		return
	}
	data, ok := doc["data"].(map[string]any)
	if !ok {
		data = map[string]any{}
	}
	for k, v := range text {
		if s, ok := v.(string); ok {
			data[k] = base64.StdEncoding.EncodeToString([]byte(s))
		}
	}
	doc["data"] = data
	delete(doc, "stringData")
}

// merged is the object with what is wanted of it.
func (s *Server) merged(q *request, old store.Object, want map[string]any, t reflect.Type, manager string) (store.Object, error) {
	text, err := json.Marshal(typed(q.kind, old))
	if err != nil {
		return nil, err
	}
	d, err := document(text)
	if err != nil {
		return nil, err
	}
	doc := d.(map[string]any)
	had, others := merge.Fields{}, merge.Fields{}
	known := false
	for _, m := range old.GetManagedFields() {
		if m.Operation != metav1.ManagedFieldsOperationApply || m.FieldsV1 == nil || m.Subresource != q.sub {
			continue
		}
		f, err := merge.ParseFields(m.FieldsV1.GetRawBytes())
		if err != nil {
			return nil, err
		}
		if m.Manager == manager {
			had, known = f, true
		} else {
			others = merge.Union(others, f)
		}
	}
	last, annotated := old.GetAnnotations()[corev1.LastAppliedConfigAnnotation]
	if annotated && !known {
		// Until now a client has kept account.
		if before, err := document([]byte(last)); err == nil {
			if b, ok := before.(map[string]any); ok {
				had = merge.Owned(b, t)
			}
		}
	}
	if err := merge.Apply(doc, want, t, had, others); err != nil {
		return nil, &problem{http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "apply: " + err.Error()}
	}
	if text, err = json.Marshal(doc); err != nil {
		return nil, err
	}
	obj := q.kind.New()
	if err := json.Unmarshal(text, obj); err != nil {
		return nil, bad("apply: %v", err)
	}
	if annotated {
		now, err := json.Marshal(want)
		if err != nil {
			return nil, err
		}
		a := obj.GetAnnotations()
		a[corev1.LastAppliedConfigAnnotation] = string(now) + "\n"
		obj.SetAnnotations(a)
	}
	return obj, nil
}

// managedBy records what a manager applied. If that is the same as before, so is
// the record: nothing is written then.
func managedBy(all []metav1.ManagedFieldsEntry, q *request, manager string, own merge.Fields) ([]metav1.ManagedFieldsEntry, error) {
	all = slices.Clone(all)
	raw, err := json.Marshal(own)
	if err != nil {
		return nil, err
	}
	now := metav1.NewTime(time.Now()).Rfc3339Copy()
	entry := metav1.ManagedFieldsEntry{
		Manager: manager, Operation: metav1.ManagedFieldsOperationApply, APIVersion: q.kind.GroupVersion().String(), Time: &now,
		FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(string(raw)), Subresource: q.sub,
	}
	at := slices.IndexFunc(all, func(m metav1.ManagedFieldsEntry) bool {
		return m.Manager == manager && m.Operation == entry.Operation && m.Subresource == q.sub
	})
	if at < 0 {
		return append(all, entry), nil
	}
	if f := all[at].FieldsV1; f != nil {
		if was, err := merge.ParseFields(f.GetRawBytes()); err == nil && reflect.DeepEqual(was, own) {
			return all, nil
		}
	}
	all[at] = entry
	return all, nil
}
