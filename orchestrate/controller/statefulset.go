package controller

import (
	"errors"
	"io/fs"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/orchestrate/rollout"
	"github.com/minirun/minirun/orchestrate/store"
)

const (
	statefulSets = "statefulsets.apps"
	revisions    = "controllerrevisions.apps"
	claimKind    = "persistentvolumeclaims"
)

// revisionsOf are the ControllerRevisions of a set.
func (c *Controller) revisionsOf(owner store.Object, ref metav1.OwnerReference, selector *metav1.LabelSelector) (mine []*appsv1.ControllerRevision, taken func(string) bool, err error) {
	all, err := list[*appsv1.ControllerRevision](c.s, revisions, owner.GetNamespace())
	if err != nil {
		return nil, nil, err
	}
	mine, err = claim(c, revisions, owner, ref, selector, all)
	names := map[string]bool{}
	for _, r := range mine {
		names[r.Name] = true
	}
	return mine, func(name string) bool {
		_, err := c.s.Get(revisions, owner.GetNamespace(), name)
		return err == nil && !names[name]
	}, err
}

// history carries out what a plan does to revisions.
func (c *Controller) history(actions []rollout.RevisionAction) (err error) {
	for _, a := range actions {
		switch r := a.Revision; a.Op {
		case rollout.Create:
			_, err = c.s.Create(revisions, r)
		case rollout.Delete:
			if _, err = c.s.Delete(revisions, r.Namespace, r.Name, store.DeleteOptions{UID: r.UID, Revision: r.ResourceVersion}); errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
		default:
			_, err = c.s.Update(revisions, r, store.Main)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// statefulSet syncs one.
func (c *Controller) statefulSet(ref store.Ref) (again time.Time, err error) {
	obj, err := c.s.Get(statefulSets, ref.Namespace, ref.Name)
	if err != nil {
		return again, err
	}
	set := obj.(*appsv1.StatefulSet)
	owner := ownerRef("StatefulSet", set)
	have, taken, err := c.revisionsOf(set, owner, set.Spec.Selector)
	if err != nil {
		return again, err
	}
	all, err := list[*corev1.Pod](c.s, pods, ref.Namespace)
	if err != nil {
		return again, err
	}
	// Only pods with such a name can be its own.
	var named []*corev1.Pod
	for _, p := range all {
		if _, ok := rollout.Ordinal(set.Name, p.Name); ok || metav1.IsControlledBy(p, set) {
			named = append(named, p)
		}
	}
	mine, err := claim(c, pods, set, owner, set.Spec.Selector, named)
	if err != nil {
		return again, err
	}
	plan, err := rollout.StatefulSet(rollout.StatefulState{
		Set: set, Pods: mine, Revisions: have, Taken: taken, Now: c.now(), Then: c.then,
		Claim: func(name string) *corev1.PersistentVolumeClaim {
			if obj, err := c.s.Get(claimKind, ref.Namespace, name); err == nil {
				return obj.(*corev1.PersistentVolumeClaim)
			}
			return nil
		},
	})
	if err != nil {
		return again, err
	}
	if err := c.carryOut(set, plan); err != nil {
		c.record(set, "StatefulSet", rollout.Event{Type: "Warning", Reason: "FailedCreate", Message: err.Error()})
		return again, err
	}
	n := set.DeepCopy()
	n.Status = plan.Status
	_, err = c.s.Update(statefulSets, n, store.Status)
	return plan.Again, err
}

// carryOut does what a plan says. Who owns claims is written before the pods that
// own them go.
func (c *Controller) carryOut(set *appsv1.StatefulSet, plan rollout.StatefulPlan) error {
	if err := c.history(plan.Revisions); err != nil {
		return err
	}
	for _, x := range plan.Claims {
		if _, err := c.s.Create(claimKind, x); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	for _, x := range plan.Owners {
		if _, err := c.s.Update(claimKind, x, store.Main); err != nil {
			return err
		}
	}
	for _, p := range plan.Update {
		if _, err := c.s.Update(pods, p, store.Main); err != nil {
			return err
		}
	}
	for _, p := range plan.Create {
		if _, err := c.s.Create(pods, p); err != nil {
			return err
		}
	}
	for _, p := range plan.Delete {
		if err := c.end(p); err != nil {
			return err
		}
	}
	for _, e := range plan.Events {
		c.record(set, "StatefulSet", e)
	}
	return nil
}

// end deletes a pod, with its time to end.
func (c *Controller) end(p *corev1.Pod) error {
	_, err := c.s.Delete(pods, p.Namespace, p.Name, store.DeleteOptions{UID: p.UID, Grace: grace(p)})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
