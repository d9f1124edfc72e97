package store

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

var kinds = []Kind{
	{Name: "configmaps", New: func() Object { return &corev1.ConfigMap{} }},
	{Name: "deployments.apps", New: func() Object { return &appsv1.Deployment{} }},
	{Name: "pods", New: func() Object { return &corev1.Pod{} }},
	{Name: "secrets", New: func() Object { return &corev1.Secret{} }, Secret: true},
}

var epoch = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

func open(t testing.TB, path string, o Options) *Store {
	t.Helper()
	s, err := Open(path, kinds, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func file(t testing.TB) string { return filepath.Join(t.TempDir(), "store.db") }

func configMap(name string, data ...string) *corev1.ConfigMap {
	c := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"name": name}}, Data: map[string]string{}}
	for i, d := range data {
		c.Data[fmt.Sprint("k", i)] = d
	}
	return c
}

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestStore(t *testing.T) {
	path := file(t)
	now := epoch.Add(300 * time.Millisecond)
	s := open(t, path, Options{Now: func() time.Time { return now }})
	obj := must[Object](t)

	given := configMap("a", "1")
	a := obj(s.Create("configmaps", given))
	if a.GetResourceVersion() != "1" || a.GetUID() == "" || a.GetGeneration() != 1 || !a.GetCreationTimestamp().Time.Equal(epoch) || given.UID != "" {
		t.Errorf("created %+v", a)
	}
	if _, err := s.Create("configmaps", configMap("a")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second one: %v", err)
	}
	if _, err := s.Create("configmaps", a); err == nil || !strings.Contains(err.Error(), "resourceVersion") {
		t.Errorf("with a resource version: %v", err)
	}

	// A status is one thing, the rest another.
	three := int32(3)
	d := obj(s.Create("deployments.apps", &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: appsv1.DeploymentSpec{Replicas: &three}}))
	change := d.DeepCopyObject().(*appsv1.Deployment)
	change.Status.Replicas, change.Spec.Replicas = 7, nil
	d = obj(s.Update("deployments.apps", change, Status))
	if got := d.(*appsv1.Deployment); got.Status.Replicas != 7 || *got.Spec.Replicas != 3 || got.Generation != 1 {
		t.Errorf("after a change of the status: %+v", got)
	}
	change = d.DeepCopyObject().(*appsv1.Deployment)
	change.Status.Replicas, change.Labels = 0, map[string]string{"l": "1"}
	d = obj(s.Update("deployments.apps", change, Main))
	if got := d.(*appsv1.Deployment); got.Status.Replicas != 7 || got.Generation != 1 || got.Labels["l"] != "1" {
		t.Errorf("after a change of labels: %+v", got)
	}
	change = d.DeepCopyObject().(*appsv1.Deployment)
	five := int32(5)
	change.Spec.Replicas, change.CreationTimestamp, change.Generation = &five, metav1.Time{}, 77
	d = obj(s.Update("deployments.apps", change, Main))
	if got := d.(*appsv1.Deployment); got.Generation != 2 || got.CreationTimestamp.IsZero() || got.ResourceVersion != "5" {
		t.Errorf("after a change of the spec: %+v", got)
	}
	if again := obj(s.Update("deployments.apps", d, Main)); again.GetResourceVersion() != "5" || s.Revision() != 5 {
		t.Errorf("a write that changes nothing gives version %s", again.GetResourceVersion())
	}

	// Not based on the newest version, or on another object of the name.
	var conflict *ConflictError
	if _, err := s.Update("deployments.apps", change, Main); !errors.As(err, &conflict) {
		t.Errorf("an old version: %v", err)
	}
	change.ResourceVersion, change.UID = "", "other"
	if _, err := s.Update("deployments.apps", change, Main); !errors.As(err, &conflict) {
		t.Errorf("another uid: %v", err)
	}
	for _, o := range []DeleteOptions{{UID: "other"}, {Revision: "1"}} {
		if _, err := s.Delete("deployments.apps", "default", "web", o); !errors.As(err, &conflict) {
			t.Errorf("delete %+v: %v", o, err)
		}
	}
	if _, err := s.Update("configmaps", configMap("b"), Main); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what does not exist: %v", err)
	}
	obj(s.Delete("configmaps", "default", "a", DeleteOptions{}))
	if _, err := s.Get("configmaps", "default", "a"); !errors.Is(err, fs.ErrNotExist) || s.Revision() != 6 {
		t.Errorf("what was deleted: %v", err)
	}
	g := configMap("")
	g.GenerateName = "g-"
	if n := obj(s.Create("configmaps", g)).GetName(); len(n) != 7 || n[:2] != "g-" {
		t.Errorf("a generated name: %q", n)
	}

	// All of it is there after a start.
	before := must[List](t)(s.List("deployments.apps", Selector{}, 0, ""))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path, Options{})
	after := must[List](t)(s.List("deployments.apps", Selector{}, 0, ""))
	if fmt.Sprint(before.Items) != fmt.Sprint(after.Items) || after.Revision != 7 {
		t.Errorf("after a start %v at %d, before %v", after.Items, after.Revision, before.Items)
	}
	if c := obj(s.Create("configmaps", configMap("a"))); c.GetResourceVersion() != "8" {
		t.Errorf("the first version after a start is %s", c.GetResourceVersion())
	}
	if _, err := Open(path, kinds, Options{}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second one: %v", err)
	}
}

func TestDelete(t *testing.T) {
	now := epoch
	s := open(t, file(t), Options{Now: func() time.Time { return now }})
	obj := must[Object](t)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p"}}
	obj(s.Create("pods", pod))
	p := obj(s.Delete("pods", "n", "p", DeleteOptions{Grace: 30}))
	if at := p.GetDeletionTimestamp(); at == nil || !at.Equal(&metav1.Time{Time: epoch.Add(30 * time.Second)}) {
		t.Fatalf("to be deleted at %v", at)
	}
	if q := obj(s.Delete("pods", "n", "p", DeleteOptions{Grace: 60})); q.GetResourceVersion() != p.GetResourceVersion() {
		t.Error("a grace period was made longer")
	}
	now = now.Add(5 * time.Second)
	if q := obj(s.Delete("pods", "n", "p", DeleteOptions{Grace: 10})); *q.GetDeletionGracePeriodSeconds() != 10 {
		t.Error("a grace period cannot be made shorter")
	}
	// Nobody takes the mark back.
	q := p.DeepCopyObject().(Object)
	q.SetDeletionTimestamp(nil)
	q.SetResourceVersion("")
	if q = obj(s.Update("pods", q, Main)); q.GetDeletionTimestamp() == nil {
		t.Error("an update takes the deletion back")
	}
	obj(s.Delete("pods", "n", "p", DeleteOptions{}))
	if _, err := s.Get("pods", "n", "p"); err == nil {
		t.Error("it stays after the end")
	}

	// Finalizers hold an object.
	c := configMap("c")
	c.Finalizers = []string{"example/a", "example/b"}
	c = obj(s.Create("configmaps", c)).DeepCopyObject().(*corev1.ConfigMap)
	if x := obj(s.Delete("configmaps", "default", "c", DeleteOptions{})); x.GetDeletionTimestamp() == nil {
		t.Fatal("not marked")
	}
	for i, f := range [][]string{{"example/b"}, nil} {
		c.ResourceVersion, c.Finalizers = "", f
		obj(s.Update("configmaps", c, Main))
		if _, err := s.Get("configmaps", "default", "c"); (err != nil) != (i == 1) {
			t.Errorf("with finalizers %v: %v", f, err)
		}
	}
	obj(s.Create("configmaps", configMap("d")))
	obj(s.Delete("configmaps", "default", "d", DeleteOptions{Finalizers: []string{"foregroundDeletion"}}))
	if d := obj(s.Get("configmaps", "default", "d")); d.GetDeletionTimestamp() == nil || len(d.GetFinalizers()) != 1 {
		t.Errorf("with a finalizer of the deletion: %+v", d)
	}
}

func TestOwned(t *testing.T) {
	path := file(t)
	s := open(t, path, Options{})
	obj := must[Object](t)
	owned := func(name string, owners ...types.UID) *corev1.ConfigMap {
		c := configMap(name)
		for _, o := range owners {
			c.OwnerReferences = append(c.OwnerReferences, metav1.OwnerReference{UID: o})
		}
		return c
	}
	obj(s.Create("configmaps", owned("a", "x", "y")))
	obj(s.Create("configmaps", owned("b", "x")))
	obj(s.Create("configmaps", owned("c", "x")))
	obj(s.Delete("configmaps", "default", "b", DeleteOptions{}))
	obj(s.Update("configmaps", owned("c", "y"), Main))
	s.Close()
	s = open(t, path, Options{})
	if got := fmt.Sprint(s.Owned("x"), s.Owned("y"), s.Owned("z")); got != "[{configmaps default a}] [{configmaps default a} {configmaps default c}] []" {
		t.Error(got)
	}
}

func TestList(t *testing.T) {
	now := epoch
	s := open(t, file(t), Options{Now: func() time.Time { return now }})
	list := must[List](t)
	for i := range 10 {
		c := configMap(fmt.Sprint("c", i))
		c.Namespace = fmt.Sprint("n", i%2)
		must[Object](t)(s.Create("configmaps", c))
	}
	names := func(l List) (out []string) {
		for _, o := range l.Items {
			out = append(out, o.GetNamespace()+"/"+o.GetName())
		}
		return out
	}
	all := names(list(s.List("configmaps", Selector{}, 0, "")))
	if !slices.IsSorted(all) || len(all) != 10 {
		t.Errorf("all: %q", all)
	}
	odd := list(s.List("configmaps", Selector{Namespace: "n1"}, 0, ""))
	if got := names(odd); fmt.Sprint(got) != "[n1/c1 n1/c3 n1/c5 n1/c7 n1/c9]" || odd.Revision != 10 {
		t.Errorf("one namespace: %q", got)
	}
	in, err := labels.Parse("name in (c1,c2),name!=c2,!other")
	if err != nil {
		t.Fatal(err)
	}
	if got := names(list(s.List("configmaps", Selector{Labels: in}, 0, ""))); fmt.Sprint(got) != "[n1/c1]" {
		t.Errorf("by labels: %q", got)
	}
	if got := names(list(s.List("configmaps", Selector{Match: func(o Object) bool { return o.GetName() == "c4" }}, 0, ""))); fmt.Sprint(got) != "[n0/c4]" {
		t.Errorf("by fields: %q", got)
	}

	// Pages are of one moment, whatever happens in between.
	l := list(s.List("configmaps", Selector{}, 4, ""))
	first, got := l, names(l)
	for l.Continue != "" {
		must[Object](t)(s.Delete("configmaps", l.Items[0].GetNamespace(), l.Items[0].GetName(), DeleteOptions{}))
		must[Object](t)(s.Create("configmaps", configMap("new"+l.Continue[:1]+fmt.Sprint(len(got)))))
		l = list(s.List("configmaps", Selector{}, 4, l.Continue))
		if l.Revision != first.Revision {
			t.Errorf("a page of revision %d", l.Revision)
		}
		got = append(got, names(l)...)
	}
	if !slices.Equal(got, all) || first.Remaining != 6 {
		t.Errorf("in pages %q, %d remaining after the first", got, first.Remaining)
	}
	if again := list(s.List("configmaps", Selector{}, 4, first.Continue)); len(again.Items) != 4 {
		t.Errorf("the same page again has %d", len(again.Items))
	}
	now = now.Add(time.Hour)
	var gone *GoneError
	if _, err := s.List("configmaps", Selector{}, 4, first.Continue); !errors.As(err, &gone) {
		t.Errorf("an hour later: %v", err)
	}
	for _, bad := range []string{"x", "%%", "MS8y"} {
		if _, err := s.List("configmaps", Selector{}, 4, bad); err == nil {
			t.Errorf("continue %q is taken", bad)
		}
	}
	for range 3 * maxPages {
		list(s.List("configmaps", Selector{}, 1, ""))
	}
	if len(s.pages) > maxPages {
		t.Errorf("%d unfinished lists are kept", len(s.pages))
	}
	if _, err := s.List("nothing", Selector{}, 0, ""); err == nil {
		t.Error("an unknown kind is listed")
	}
}
