package controller

import (
	"errors"
	"io/fs"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/minirun/minirun/orchestrate/store"
)

// orphaned deletes what an object that is gone owned, unless it has another
// owner.
func (c *Controller) orphaned(owner types.UID) {
	for _, ref := range c.s.Owned(owner) {
		if err := c.dispose(ref, owner); err != nil && !errors.Is(err, fs.ErrNotExist) {
			c.log.Error("delete what belonged to an object that is gone", "kind", ref.Kind, "name", ref.Name, "error", err)
		}
	}
}

// dispose deletes an object on behalf of an owner that goes.
func (c *Controller) dispose(ref store.Ref, owner types.UID) error {
	obj, err := c.s.Get(ref.Kind, ref.Namespace, ref.Name)
	if err != nil {
		return err
	}
	if len(obj.GetOwnerReferences()) > 1 {
		return c.letGo(ref.Kind, obj, owner)
	}
	if obj.GetDeletionTimestamp() != nil {
		return nil
	}
	o := store.DeleteOptions{UID: obj.GetUID()}
	if p, ok := obj.(*corev1.Pod); ok {
		o.Grace = grace(p)
	}
	_, err = c.s.Delete(ref.Kind, ref.Namespace, ref.Name, o)
	return err
}

// held has an owner looked at that may wait for the end of what it owns.
func (c *Controller) held(o metav1.OwnerReference, namespace string) {
	for _, kind := range c.s.Kinds() {
		if obj, err := c.s.Get(kind, namespace, o.Name); err == nil && obj.GetUID() == o.UID {
			c.add(store.Ref{Kind: kind, Namespace: namespace, Name: o.Name})
		}
	}
}

// finalize does what the finalizers of an object that is being deleted are for:
// foreground, what it owns goes first; orphan, what it owns stays.
func (c *Controller) finalize(ref store.Ref) error {
	obj, err := c.s.Get(ref.Kind, ref.Namespace, ref.Name)
	if err != nil || obj.GetDeletionTimestamp() == nil {
		return err
	}
	owned := c.s.Owned(obj.GetUID())
	done := ""
	switch {
	case slices.Contains(obj.GetFinalizers(), metav1.FinalizerOrphanDependents):
		for _, r := range owned {
			o, err := c.s.Get(r.Kind, r.Namespace, r.Name)
			if err == nil {
				err = c.letGo(r.Kind, o, obj.GetUID())
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		done = metav1.FinalizerOrphanDependents
	case slices.Contains(obj.GetFinalizers(), metav1.FinalizerDeleteDependents):
		for _, r := range owned {
			if err := c.dispose(r, obj.GetUID()); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if len(c.s.Owned(obj.GetUID())) > 0 {
			return nil // their end brings us back
		}
		done = metav1.FinalizerDeleteDependents
	default:
		return nil
	}
	n := obj.DeepCopyObject().(store.Object)
	n.SetFinalizers(slices.DeleteFunc(n.GetFinalizers(), func(f string) bool { return f == done }))
	_, err = c.s.Update(ref.Kind, n, store.Main)
	return err
}

// grace is how long a pod has to end. One that was never given to a node, and one
// that has ended, have nothing to do.
func grace(p *corev1.Pod) int64 {
	if p.Spec.NodeName == "" || p.Spec.TerminationGracePeriodSeconds == nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return 0
	}
	return *p.Spec.TerminationGracePeriodSeconds
}
