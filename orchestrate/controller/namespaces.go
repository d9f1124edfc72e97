package controller

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/orchestrate/store"
)

const namespaces = "namespaces"

// contentFinalizer holds a namespace while something is in it.
const contentFinalizer = "minirun.dev/content"

// firstNamespaces are there from the start.
func firstNamespaces() []string { return []string{metav1.NamespaceDefault, metav1.NamespaceSystem} }

// prepareNamespace is what a new one gets.
func prepareNamespace(n *corev1.Namespace) {
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	n.Labels[corev1.LabelMetadataName] = n.Name
	if !slices.Contains(n.Finalizers, contentFinalizer) {
		n.Finalizers = append(n.Finalizers, contentFinalizer)
	}
	if !slices.Contains(n.Spec.Finalizers, corev1.FinalizerKubernetes) {
		n.Spec.Finalizers = append(n.Spec.Finalizers, corev1.FinalizerKubernetes)
	}
}

// EnsureNamespaces makes those that must be there.
func EnsureNamespaces(s *store.Store) error {
	for _, name := range firstNamespaces() {
		n := &corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: name}}
		prepareNamespace(n)
		n.Status.Phase = corev1.NamespaceActive
		if _, err := s.Create(namespaces, n); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// namespace syncs one. Of one that is being deleted everything goes first.
func (c *Controller) namespace(ref store.Ref) error {
	obj, err := c.s.Get(namespaces, "", ref.Name)
	if err != nil {
		return err
	}
	ns := obj.(*corev1.Namespace)
	if ns.DeletionTimestamp == nil {
		n := ns.DeepCopy()
		if prepareNamespace(n); len(n.Finalizers) != len(ns.Finalizers) {
			obj, err = c.s.Update(namespaces, n, store.Main)
			if err != nil {
				return err
			}
			ns = obj.(*corev1.Namespace)
		}
		if ns.Status.Phase != corev1.NamespaceActive {
			n := ns.DeepCopy()
			n.Status.Phase = corev1.NamespaceActive
			_, err = c.s.Update(namespaces, n, store.Status)
		}
		return err
	}
	n := ns.DeepCopy()
	n.Status.Phase = corev1.NamespaceTerminating
	if obj, err = c.s.Update(namespaces, n, store.Status); err != nil {
		return err
	}
	left, failed := c.emptyOut(ns.Name)
	n = obj.DeepCopyObject().(*corev1.Namespace)
	c.terminating(n, left, failed)
	if obj, err = c.s.Update(namespaces, n, store.Status); err != nil || len(left) > 0 || failed != nil {
		return errors.Join(err, failed)
	}
	n = obj.DeepCopyObject().(*corev1.Namespace)
	n.Spec.Finalizers = nil
	n.Finalizers = slices.DeleteFunc(n.Finalizers, func(f string) bool { return f == contentFinalizer })
	_, err = c.s.Update(namespaces, n, store.Main)
	return err
}

// emptyOut deletes what is in a namespace and says what is still there.
func (c *Controller) emptyOut(namespace string) (left []string, err error) {
	var failed []error
	for _, kind := range c.s.Kinds() {
		l, err := c.s.List(kind, store.Selector{Namespace: namespace}, 0, "")
		if err != nil {
			return nil, err
		}
		for _, o := range l.Items {
			if o.GetDeletionTimestamp() != nil {
				continue
			}
			opts := store.DeleteOptions{UID: o.GetUID()}
			if p, ok := o.(*corev1.Pod); ok {
				opts.Grace = grace(p)
			}
			if _, err := c.s.Delete(kind, namespace, o.GetName(), opts); err != nil && !errors.Is(err, fs.ErrNotExist) {
				failed = append(failed, err)
			}
		}
		if l, err = c.s.List(kind, store.Selector{Namespace: namespace}, 0, ""); err != nil {
			return nil, err
		}
		if len(l.Items) > 0 {
			left = append(left, fmt.Sprintf("%s has %d resource instances", kind, len(l.Items)))
		}
	}
	return left, errors.Join(failed...)
}

// terminating notes in the conditions what a namespace waits for.
func (c *Controller) terminating(n *corev1.Namespace, left []string, failed error) {
	say := func(t corev1.NamespaceConditionType, bad bool, badReason, badMessage, goodReason, goodMessage string) {
		cond := corev1.NamespaceCondition{Type: t, Status: corev1.ConditionFalse, Reason: goodReason, Message: goodMessage, LastTransitionTime: metav1.NewTime(c.now()).Rfc3339Copy()}
		if bad {
			cond.Status, cond.Reason, cond.Message = corev1.ConditionTrue, badReason, badMessage
		}
		i := slices.IndexFunc(n.Status.Conditions, func(x corev1.NamespaceCondition) bool { return x.Type == t })
		if i < 0 {
			n.Status.Conditions = append(n.Status.Conditions, cond)
			return
		}
		if n.Status.Conditions[i].Status == cond.Status {
			cond.LastTransitionTime = n.Status.Conditions[i].LastTransitionTime
		}
		n.Status.Conditions[i] = cond
	}
	why := ""
	if failed != nil {
		why = failed.Error()
	}
	say(corev1.NamespaceDeletionContentFailure, failed != nil, "ContentDeletionFailed", why, "ContentDeleted", "All content successfully deleted, may be waiting on finalization")
	say(corev1.NamespaceContentRemaining, len(left) > 0, "SomeResourcesRemain", "Some resources are remaining: "+strings.Join(left, ", "), "ContentRemoved", "All content successfully removed")
}

// inTerminating has a namespace that goes looked at: something in it went.
func (c *Controller) inTerminating(obj store.Object) {
	if obj.GetNamespace() == "" {
		return
	}
	if ns, err := c.s.Get(namespaces, "", obj.GetNamespace()); err == nil && ns.GetDeletionTimestamp() != nil {
		c.add(store.Ref{Kind: namespaces, Name: ns.GetName()})
	}
}
