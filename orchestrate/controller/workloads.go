package controller

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/minirun/minirun/orchestrate/rollout"
	"github.com/minirun/minirun/orchestrate/store"
)

// fingerprint is a short name for some words.
func fingerprint(words ...string) string {
	h := fnv.New64a()
	for _, w := range words {
		h.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(w))))
		h.Write([]byte(w))
	}
	return fmt.Sprintf("%016x", h.Sum64())
}

// list gives the objects of a kind in a namespace, with their type.
func list[P store.Object](s *store.Store, kind, namespace string) ([]P, error) {
	l, err := s.List(kind, store.Selector{Namespace: namespace}, 0, "")
	if err != nil {
		return nil, err
	}
	out := make([]P, len(l.Items))
	for i, o := range l.Items {
		out[i] = o.(P)
	}
	return out, nil
}

// claim gives the objects that belong to owner, after it took those that nobody
// has and let go those that it does not select any more.
func claim[P store.Object](c *Controller, kind string, owner store.Object, ref metav1.OwnerReference, selector *metav1.LabelSelector, all []P) ([]P, error) {
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return nil, err
	}
	mine, adopt, release := rollout.Claim(owner, s, all)
	for _, o := range adopt {
		n := o.DeepCopyObject().(P)
		n.SetOwnerReferences(append(n.GetOwnerReferences(), ref))
		stored, err := c.s.Update(kind, n, store.Main)
		if err != nil {
			return nil, err
		}
		mine = append(mine, stored.(P))
	}
	for _, o := range release {
		if err := c.letGo(kind, o, ref.UID); err != nil {
			return nil, err
		}
	}
	return mine, nil
}

// letGo takes an owner's uid out of an object.
func (c *Controller) letGo(kind string, obj store.Object, uid types.UID) error {
	n := obj.DeepCopyObject().(store.Object)
	n.SetOwnerReferences(slices.DeleteFunc(n.GetOwnerReferences(), func(o metav1.OwnerReference) bool { return o.UID == uid }))
	_, err := c.s.Update(kind, n, store.Main)
	return err
}

func ownerRef(kind string, obj store.Object) metav1.OwnerReference {
	yes := true
	return metav1.OwnerReference{APIVersion: "apps/v1", Kind: kind, Name: obj.GetName(), UID: obj.GetUID(), Controller: &yes, BlockOwnerDeletion: &yes}
}

// deployment syncs one.
func (c *Controller) deployment(ref store.Ref) (again time.Time, err error) {
	obj, err := c.s.Get(deployments, ref.Namespace, ref.Name)
	if err != nil {
		return again, err
	}
	d := obj.(*appsv1.Deployment)
	all, err := list[*appsv1.ReplicaSet](c.s, replicaSets, ref.Namespace)
	if err != nil {
		return again, err
	}
	sets, err := claim(c, replicaSets, d, ownerRef("Deployment", d), d.Spec.Selector, all)
	if err != nil {
		return again, err
	}
	mine := map[types.UID]bool{}
	for _, s := range sets {
		mine[s.UID] = true
	}
	state := rollout.DeploymentState{Deployment: d, Sets: sets, Now: c.now(), Then: c.then}
	every, err := list[*corev1.Pod](c.s, pods, ref.Namespace)
	if err != nil {
		return again, err
	}
	for _, p := range every {
		if o := metav1.GetControllerOfNoCopy(p); o != nil && mine[o.UID] {
			state.Pods = append(state.Pods, p)
		}
	}
	state.Taken = func(name string) bool {
		s, err := c.s.Get(replicaSets, ref.Namespace, name)
		return err == nil && !mine[s.GetUID()]
	}
	plan, err := rollout.Deployment(state)
	if err != nil {
		return again, err
	}
	if err := c.sets(d, plan.Sets); err != nil {
		return again, err
	}
	if plan.Deployment != nil {
		if obj, err = c.s.Update(deployments, plan.Deployment, store.Main); err != nil {
			return again, err
		}
	}
	n := obj.DeepCopyObject().(*appsv1.Deployment)
	n.Status = plan.Status
	if _, err := c.s.Update(deployments, n, store.Status); err != nil {
		return again, err
	}
	for _, e := range plan.Events {
		c.record(d, "Deployment", e)
	}
	return plan.Again, nil
}

// sets carries out what a plan does to sets: of several steps with one set the
// last one has them all.
func (c *Controller) sets(d *appsv1.Deployment, actions []rollout.SetAction) error {
	for i, a := range actions {
		if slices.ContainsFunc(actions[i+1:], func(b rollout.SetAction) bool { return b.Set.Name == a.Set.Name && a.Op != rollout.Create }) {
			continue
		}
		var err error
		switch a.Op {
		case rollout.Create:
			if _, err = c.s.Create(replicaSets, a.Set); err != nil {
				n := d.DeepCopy()
				n.Status = rollout.CreateFailed(d, a.Set.Name, err, c.now())
				_, also := c.s.Update(deployments, n, store.Status)
				err = errors.Join(err, also)
			}
		case rollout.Delete:
			_, err = c.s.Delete(replicaSets, a.Set.Namespace, a.Set.Name, store.DeleteOptions{UID: a.Set.UID, Revision: a.Set.ResourceVersion})
		default:
			_, err = c.s.Update(replicaSets, a.Set, store.Main)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// replicaSet syncs one.
func (c *Controller) replicaSet(ref store.Ref) (again time.Time, err error) {
	obj, err := c.s.Get(replicaSets, ref.Namespace, ref.Name)
	if err != nil {
		return again, err
	}
	set := obj.(*appsv1.ReplicaSet)
	all, err := list[*corev1.Pod](c.s, pods, ref.Namespace)
	if err != nil {
		return again, err
	}
	mine, err := claim(c, pods, set, ownerRef("ReplicaSet", set), set.Spec.Selector, all)
	if err != nil {
		return again, err
	}
	plan, err := rollout.ReplicaSet(rollout.SetState{Set: set, Pods: mine, Failure: c.failures[set.UID], Now: c.now(), Then: c.then})
	if err != nil {
		return again, err
	}
	if plan.Create > 0 {
		if err := c.shrinkOthers(set, all); err != nil {
			return again, err
		}
	}
	failure, err := c.pods(set, plan)
	changed := (failure == nil) != (c.failures[set.UID] == nil)
	if c.failures[set.UID] = failure; failure == nil {
		delete(c.failures, set.UID)
	}
	if changed {
		c.add(ref) // for the condition
	}
	n := set.DeepCopy()
	n.Status = plan.Status
	if _, e := c.s.Update(replicaSets, n, store.Status); e != nil && err == nil {
		err = e
	}
	return plan.Again, err
}

// shrinkOthers has the other sets of a deployment give up the pods that they are not to
// have any more, before this one makes new ones. Whoever was killed between deciding
// about sizes and both would otherwise leave more pods than the deployment may have.
func (c *Controller) shrinkOthers(set *appsv1.ReplicaSet, all []*corev1.Pod) error {
	o := metav1.GetControllerOfNoCopy(set)
	if o == nil {
		return nil
	}
	sets, err := list[*appsv1.ReplicaSet](c.s, replicaSets, set.Namespace)
	if err != nil {
		return err
	}
	for _, other := range sets {
		if by := metav1.GetControllerOfNoCopy(other); other.UID == set.UID || by == nil || by.UID != o.UID || other.Spec.Replicas == nil {
			continue
		}
		n := int32(0)
		for _, p := range all {
			if by := metav1.GetControllerOfNoCopy(p); by != nil && by.UID == other.UID && rollout.Active(p) {
				n++
			}
		}
		if n <= *other.Spec.Replicas {
			continue
		}
		_, err := c.replicaSet(store.Ref{Kind: replicaSets, Namespace: other.Namespace, Name: other.Name})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// pods makes and deletes what a plan says.
func (c *Controller) pods(set *appsv1.ReplicaSet, plan rollout.SetPlan) (*rollout.Failure, error) {
	if plan.Create > 0 {
		_, err := rollout.SlowStart(plan.Create, func() error {
			p, err := c.s.Create(pods, rollout.Pod(set, rand.Uint64()))
			if err == nil {
				c.record(set, "ReplicaSet", rollout.Event{Type: "Normal", Reason: "SuccessfulCreate", Message: "Created pod: " + p.GetName()})
			}
			return err
		})
		if err != nil {
			c.record(set, "ReplicaSet", rollout.Event{Type: "Warning", Reason: "FailedCreate", Message: err.Error()})
			return &rollout.Failure{Err: err}, err
		}
	}
	var all []error
	for _, p := range plan.Delete {
		if _, err := c.s.Delete(pods, p.Namespace, p.Name, store.DeleteOptions{UID: p.UID, Grace: grace(p)}); err != nil {
			all = append(all, err)
			continue
		}
		c.record(set, "ReplicaSet", rollout.Event{Type: "Normal", Reason: "SuccessfulDelete", Message: "Deleted pod: " + p.Name})
	}
	if err := errors.Join(all...); err != nil {
		return &rollout.Failure{Deleting: true, Err: err}, err
	}
	return nil, nil
}
