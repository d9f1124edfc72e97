package rollout

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// StatefulSets and DaemonSets keep the templates they had as ControllerRevisions.
// The data of one is a patch that brings its template back, as kubectl sends it.
//
// Which revision a template is, is decided by comparing templates, not hashes: a
// later version of the types may write a template in other words, and then no
// pod may be replaced for it. The hash is only for names. It leaves out what says
// nothing, so that names stay too.

// revisionData is the patch that brings a template back.
func revisionData(t *corev1.PodTemplateSpec) []byte {
	var m map[string]any
	plain(t, &m)
	m["$patch"] = "replace"
	text, err := json.Marshal(map[string]any{"spec": map[string]any{"template": m}})
	if err != nil {
		panic(err) // it came from JSON
	}
	return text
}

// plain turns a template into maps and lists, without nulls.
func plain(t *corev1.PodTemplateSpec, to *map[string]any) {
	text, err := json.Marshal(t)
	if err != nil {
		panic(err) // plain data: no channels, no cycles
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(to); err != nil {
		panic(err)
	}
	*to, _ = prune(*to, false).(map[string]any)
}

// prune leaves out nulls, and if asked to, whatever is empty.
func prune(v any, empty bool) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, x := range v {
			if x = prune(x, empty); x != nil {
				out[k] = x
			}
		}
		if empty && len(out) == 0 {
			return nil
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = prune(x, empty) // a place in a list counts
		}
		if empty && len(out) == 0 {
			return nil
		}
		return out
	}
	return v
}

// revisionHash is the part of a revision's name that stands for its template.
func revisionHash(t *corev1.PodTemplateSpec, collisions int32) string {
	var m map[string]any
	plain(withoutHash(t), &m)
	text, err := json.Marshal(prune(m, true))
	if err != nil {
		panic(err)
	}
	h := fnv.New32a()
	h.Write(text)
	if collisions > 0 {
		h.Write(binary.LittleEndian.AppendUint32(nil, uint32(collisions)))
	}
	return letters(strconv.FormatUint(uint64(h.Sum32()), 10))
}

// RevisionTemplate is the template of a revision.
func RevisionTemplate(r *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var doc struct {
		Spec struct {
			Template *corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(r.Data.Raw, &doc); err != nil {
		return nil, fmt.Errorf("revision %q: %w", r.Name, err)
	}
	if doc.Spec.Template == nil {
		return nil, fmt.Errorf("revision %q: it has no template", r.Name)
	}
	return doc.Spec.Template, nil
}

// RevisionAction is one step with a revision.
type RevisionAction struct {
	Op       SetOp // Create, Update or Delete
	Revision *appsv1.ControllerRevision
}

// history is the revisions of a set.
type history struct {
	all       []*appsv1.ControllerRevision // oldest first
	templates map[string]*corev1.PodTemplateSpec
	// update is the one of the template as it is now.
	update     *appsv1.ControllerRevision
	collisions *int32
	actions    []RevisionAction
}

// newHistory finds the revision of a template, gives an old one that is wanted
// again the highest number, or makes a new one.
func newHistory(owner metav1.Object, ref metav1.OwnerReference, t *corev1.PodTemplateSpec, have []*appsv1.ControllerRevision, collisions *int32, taken func(string) bool) (*history, error) {
	h := &history{all: slices.Clone(have), templates: map[string]*corev1.PodTemplateSpec{}, collisions: collisions}
	slices.SortStableFunc(h.all, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	next, at := int64(1), -1
	for i, r := range h.all {
		old, err := RevisionTemplate(r)
		if err != nil {
			return nil, err
		}
		h.templates[r.Name] = old
		if next = max(next, r.Revision+1); SameTemplate(old, t) {
			at = i
		}
	}
	switch {
	case at >= 0 && at == len(h.all)-1:
		h.update = h.all[at]
	case at >= 0:
		h.update = h.all[at].DeepCopy()
		h.update.Revision = next
		h.all = append(slices.Delete(h.all, at, at+1), h.update)
		h.actions = append(h.actions, RevisionAction{Update, h.update})
	default:
		h.create(owner, ref, t, next, taken)
	}
	return h, nil
}

func (h *history) create(owner metav1.Object, ref metav1.OwnerReference, t *corev1.PodTemplateSpec, number int64, taken func(string) bool) {
	n := int32(0)
	if h.collisions != nil {
		n = *h.collisions
	}
	hash, name := "", ""
	for {
		hash = revisionHash(t, n)
		name = SetName(owner.GetName(), hash)
		if h.templates[name] == nil && (taken == nil || !taken(name)) {
			break
		}
		n++
		h.collisions = &n
	}
	l := maps.Clone(t.Labels)
	if l == nil {
		l = map[string]string{}
	}
	l[appsv1.ControllerRevisionHashLabelKey] = hash
	h.update = &appsv1.ControllerRevision{
		TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "ControllerRevision"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: owner.GetNamespace(), Name: name, Labels: l, Annotations: maps.Clone(owner.GetAnnotations()), OwnerReferences: []metav1.OwnerReference{ref},
		},
		Data: runtime.RawExtension{Raw: revisionData(t)}, Revision: number,
	}
	delete(h.update.Annotations, lastAppliedAnnotation)
	h.templates[name] = t
	h.all = append(h.all, h.update)
	h.actions = append(h.actions, RevisionAction{Create, h.update})
}

// named is the revision of that name; nil if there is none.
func (h *history) named(name string) *appsv1.ControllerRevision {
	for _, r := range h.all {
		if r.Name == name {
			return r
		}
	}
	return nil
}

// cleanUp deletes the oldest ones that nothing uses, beyond a limit.
func (h *history) cleanUp(limit *int32, inUse func(*appsv1.ControllerRevision) bool) {
	most := 10
	if limit != nil {
		most = int(*limit)
	}
	var idle []*appsv1.ControllerRevision
	for _, r := range h.all {
		if r != h.update && !inUse(r) && r.DeletionTimestamp == nil {
			idle = append(idle, r)
		}
	}
	for _, r := range idle[:max(len(idle)-most, 0)] {
		h.actions = append(h.actions, RevisionAction{Delete, r})
	}
}

func controllerRef(kind string, o metav1.Object) metav1.OwnerReference {
	yes := true
	return metav1.OwnerReference{APIVersion: "apps/v1", Kind: kind, Name: o.GetName(), UID: o.GetUID(), Controller: &yes, BlockOwnerDeletion: &yes}
}
