package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	bolt "go.etcd.io/bbolt"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Part is which part of an object a write is about.
type Part int

// Main is everything but the status, Status is the status alone.
const (
	Main Part = iota
	Status
)

// Create stores a new object and gives it as stored. A name is made from
// generateName if there is none.
func (s *Store) Create(kind string, obj Object) (Object, error) {
	t, err := s.table(kind)
	if err != nil {
		return nil, err
	}
	if obj.GetResourceVersion() != "" {
		return nil, fmt.Errorf("%s %q: resourceVersion must not be set on objects to be created", kind, obj.GetName())
	}
	n := obj.DeepCopyObject().(Object)
	s.write.Lock()
	defer s.write.Unlock()
	if n.GetName() == "" && n.GetGenerateName() != "" {
		n.SetName(s.freeName(t, n))
	}
	key := name{n.GetNamespace(), n.GetName()}
	if key.name == "" {
		return nil, fmt.Errorf("%s: an object without a name", kind)
	}
	if s.object(t, key) != nil {
		return nil, &ExistsError{kind, key.namespace, key.name}
	}
	n.SetUID(s.uid())
	n.SetCreationTimestamp(metav1.NewTime(s.now()).Rfc3339Copy())
	n.SetGeneration(1)
	n.SetDeletionTimestamp(nil)
	n.SetDeletionGracePeriodSeconds(nil)
	if t.Admit != nil {
		if err := t.Admit(s, nil, n); err != nil {
			return nil, err
		}
	}
	return s.commit(t, key, nil, n)
}

// freeName makes a name that no object has, as far as that can be had.
func (s *Store) freeName(t *table, obj Object) string {
	const letters = "bcdfghjklmnpqrstvwxz2456789"
	base := obj.GetGenerateName()
	if len(base) > 58 {
		base = base[:58]
	}
	n := ""
	for range 8 {
		suffix := randomBytes(5)
		for i, b := range suffix {
			suffix[i] = letters[int(b)%len(letters)]
		}
		if n = base + string(suffix); s.object(t, name{obj.GetNamespace(), n}) == nil {
			break
		}
	}
	return n
}

// Update stores a part of an object that exists; the other part stays as it is.
// If the object carries a resourceVersion, it must be the newest. When it is being
// deleted and its last finalizer goes, so does the object. A write that changes
// nothing is none.
func (s *Store) Update(kind string, obj Object, part Part) (Object, error) {
	t, err := s.table(kind)
	if err != nil {
		return nil, err
	}
	s.write.Lock()
	defer s.write.Unlock()
	key := name{obj.GetNamespace(), obj.GetName()}
	old := s.object(t, key)
	if old == nil {
		return nil, &NotFoundError{kind, key.namespace, key.name}
	}
	if v := obj.GetResourceVersion(); v != "" && v != old.GetResourceVersion() {
		return nil, &ConflictError{kind, key.namespace, key.name, "the object has been modified; please apply your changes to the latest version and try again"}
	}
	if uid := obj.GetUID(); uid != "" && uid != old.GetUID() {
		return nil, &ConflictError{kind, key.namespace, key.name, fmt.Sprintf("it has the uid %s, not %s", old.GetUID(), uid)}
	}
	n, changed, err := s.merge(t, old, obj, part)
	if err != nil || !changed {
		return old, err
	}
	if n.GetDeletionTimestamp() != nil && len(n.GetFinalizers()) == 0 && len(old.GetFinalizers()) > 0 && !graceful(n) {
		return n, s.remove(t, key, n)
	}
	return s.commit(t, key, old, n)
}

// graceful tells whether somebody has time to end what the object stands for.
func graceful(obj Object) bool {
	g := obj.GetDeletionGracePeriodSeconds()
	return g != nil && *g > 0
}

// fields is an object by its top-level fields.
type fields map[string]json.RawMessage

func fieldsOf(obj Object) (fields, error) {
	text, err := json.Marshal(obj)
	if err != nil {
		return nil, err
	}
	var f fields
	return f, json.Unmarshal(text, &f)
}

// merge puts a part of obj into old.
func (s *Store) merge(t *table, old, obj Object, part Part) (n Object, changed bool, err error) {
	was, err := fieldsOf(old)
	if err != nil {
		return nil, false, err
	}
	is, err := fieldsOf(obj)
	if err != nil {
		return nil, false, err
	}
	n = t.New()
	from, to := is, was
	if part == Main {
		from, to = was, is
	}
	// to is what stays, but for the status.
	out := fields{}
	for k, v := range to {
		out[k] = v
	}
	delete(out, "status")
	if st, ok := from["status"]; ok {
		out["status"] = st
	}
	text, err := json.Marshal(out)
	if err != nil {
		return nil, false, err
	}
	if err := json.Unmarshal(text, n); err != nil {
		return nil, false, err
	}
	// What only the store writes.
	n.SetUID(old.GetUID())
	n.SetCreationTimestamp(old.GetCreationTimestamp())
	n.SetResourceVersion(old.GetResourceVersion())
	n.SetGeneration(old.GetGeneration())
	n.SetDeletionTimestamp(old.GetDeletionTimestamp())
	n.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	if part == Main && t.Admit != nil {
		if err := t.Admit(s, old, n); err != nil {
			return nil, false, err
		}
		if is, err = fieldsOf(n); err != nil {
			return nil, false, err
		}
	}
	if part == Main && !sameSpec(was, is) {
		n.SetGeneration(old.GetGeneration() + 1)
	}
	a, err := json.Marshal(old)
	if err != nil {
		return nil, false, err
	}
	b, err := json.Marshal(n)
	return n, !bytes.Equal(a, b), err
}

// sameSpec compares all but metadata and status.
func sameSpec(a, b fields) bool {
	for _, f := range []fields{a, b} {
		for k := range f {
			if k != "metadata" && k != "status" && k != "kind" && k != "apiVersion" && !bytes.Equal(a[k], b[k]) {
				return false
			}
		}
	}
	return true
}

// DeleteOptions say how an object is deleted.
type DeleteOptions struct {
	// UID and Revision, if not empty, must be those of the object.
	UID      types.UID
	Revision string
	// Grace, if above zero, marks the object as being deleted and leaves it:
	// whoever ends what it stands for deletes it with none.
	Grace int64
	// Finalizers are added: the object stays until they are removed.
	Finalizers []string
}

// Delete removes an object, or marks it when it has finalizers or a grace
// period. It gives the object as it was, or as it is now.
func (s *Store) Delete(kind, namespace, objName string, o DeleteOptions) (Object, error) {
	t, err := s.table(kind)
	if err != nil {
		return nil, err
	}
	s.write.Lock()
	defer s.write.Unlock()
	key := name{namespace, objName}
	old := s.object(t, key)
	switch {
	case old == nil:
		return nil, &NotFoundError{kind, namespace, objName}
	case o.UID != "" && o.UID != old.GetUID():
		return nil, &ConflictError{kind, namespace, objName, fmt.Sprintf("it has the uid %s, not %s", old.GetUID(), o.UID)}
	case o.Revision != "" && o.Revision != old.GetResourceVersion():
		return nil, &ConflictError{kind, namespace, objName, fmt.Sprintf("it has the resource version %s, not %s", old.GetResourceVersion(), o.Revision)}
	}
	n := old.DeepCopyObject().(Object)
	for _, f := range o.Finalizers {
		if !slices.Contains(n.GetFinalizers(), f) && n.GetDeletionTimestamp() == nil {
			n.SetFinalizers(append(n.GetFinalizers(), f))
		}
	}
	if o.Grace <= 0 && len(n.GetFinalizers()) == 0 {
		return old, s.remove(t, key, old)
	}
	grace := max(o.Grace, 0)
	// A grace period can be made shorter, not longer.
	if had := old.GetDeletionGracePeriodSeconds(); old.GetDeletionTimestamp() != nil && had != nil && *had <= grace {
		return old, nil
	}
	if old.GetDeletionTimestamp() == nil {
		n.SetGeneration(old.GetGeneration() + 1)
	}
	at := metav1.NewTime(s.now().Add(seconds(grace))).Rfc3339Copy()
	n.SetDeletionTimestamp(&at)
	n.SetDeletionGracePeriodSeconds(&grace)
	return s.commit(t, key, old, n)
}

// commit writes one object, first to the disk, then for all to see.
func (s *Store) commit(t *table, key name, old, n Object) (Object, error) {
	revision := s.revision + 1
	n.SetResourceVersion(strconv.FormatUint(revision, 10))
	text, err := json.Marshal(n)
	if err != nil {
		return nil, fmt.Errorf("write %s %q: %w", t.Name, key.name, err)
	}
	err = s.update(revision, n.GetDeletionTimestamp() != nil, func(objects *bolt.Bucket) error {
		b, err := objects.CreateBucketIfNotExists([]byte(t.Name))
		if err != nil {
			return err
		}
		return b.Put(key.key(), s.wrap(t.Secret, diskKey(t.Name, key.key()), text))
	})
	if err != nil {
		return nil, fmt.Errorf("write %s %q: %w", t.Name, key.name, err)
	}
	// What is in memory is what a start would read: times without fractions,
	// empty lists that are nil.
	stored := t.New()
	if err := json.Unmarshal(text, stored); err != nil {
		return nil, fmt.Errorf("write %s %q: %w", t.Name, key.name, err)
	}
	s.mu.Lock()
	s.revision = revision
	s.put(t, old, stored)
	s.changes.add(change{revision: revision, kind: t.Name, old: old, new: stored})
	s.mu.Unlock()
	return stored, nil
}

// remove deletes one object. Watches see it with the revision of its deletion.
func (s *Store) remove(t *table, key name, last Object) error {
	revision := s.revision + 1
	err := s.update(revision, true, func(objects *bolt.Bucket) error {
		b := objects.Bucket([]byte(t.Name))
		if b == nil {
			return errors.New("no such bucket")
		}
		return b.Delete(key.key())
	})
	if err != nil {
		return fmt.Errorf("delete %s %q: %w", t.Name, key.name, err)
	}
	gone := last.DeepCopyObject().(Object)
	gone.SetResourceVersion(strconv.FormatUint(revision, 10))
	s.mu.Lock()
	s.revision = revision
	s.put(t, t.objects[key], nil)
	s.changes.add(change{revision: revision, kind: t.Name, old: gone})
	s.mu.Unlock()
	return nil
}

// update is a transaction that carries a revision. One that is a step to an object's end
// gets the reserve when the disk is full.
func (s *Store) update(revision uint64, ending bool, f func(objects *bolt.Bucket) error) error {
	try := func() error {
		return careful(func() error {
			return s.db.Update(func(tx *bolt.Tx) error {
				if err := f(tx.Bucket(objectsBucket)); err != nil {
					return err
				}
				return putRevision(tx, revision)
			})
		})
	}
	err := try()
	if ending && noRoom(err) {
		s.release()
		err = try()
	}
	if s.short {
		s.reserve()
	}
	return err
}

// put changes what is in memory; new is nil for what was deleted.
func (s *Store) put(t *table, old, n Object) {
	if old != nil {
		ref := Ref{t.Name, old.GetNamespace(), old.GetName()}
		for _, o := range old.GetOwnerReferences() {
			delete(s.owned[o.UID], ref)
			if len(s.owned[o.UID]) == 0 {
				delete(s.owned, o.UID)
			}
		}
		delete(t.objects, name{ref.Namespace, ref.Name})
	}
	if n != nil {
		ref := Ref{t.Name, n.GetNamespace(), n.GetName()}
		for _, o := range n.GetOwnerReferences() {
			if s.owned[o.UID] == nil {
				s.owned[o.UID] = map[Ref]bool{}
			}
			s.owned[o.UID][ref] = true
		}
		t.objects[name{ref.Namespace, ref.Name}] = n
	}
}
