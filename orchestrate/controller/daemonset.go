package controller

import (
	"math/rand/v2"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/minirun/minirun/orchestrate/rollout"
	"github.com/minirun/minirun/orchestrate/store"
)

const daemonSets = "daemonsets.apps"

// A daemon that ends by itself is replaced after a second, then after twice as
// long each time.
const (
	firstDaemonWait = time.Second
	lastDaemonWait  = 15 * time.Minute
)

// wait is when the next replacement may be, and how long the one after waits.
type wait struct {
	until time.Time
	next  time.Duration
}

// daemonSet syncs one.
func (c *Controller) daemonSet(ref store.Ref) (again time.Time, err error) {
	obj, err := c.s.Get(daemonSets, ref.Namespace, ref.Name)
	if err != nil {
		delete(c.waits, ref)
		return again, err
	}
	set := obj.(*appsv1.DaemonSet)
	owner := ownerRef("DaemonSet", set)
	have, taken, err := c.revisionsOf(set, owner, set.Spec.Selector)
	if err != nil {
		return again, err
	}
	all, err := list[*corev1.Pod](c.s, pods, ref.Namespace)
	if err != nil {
		return again, err
	}
	mine, err := claim(c, pods, set, owner, set.Spec.Selector, all)
	if err != nil {
		return again, err
	}
	state := rollout.DaemonState{Set: set, Pods: mine, Revisions: have, Taken: taken, Now: c.now(), Then: c.then}
	state.Hold = state.Now.Before(c.waits[ref].until)
	there, err := list[*corev1.Node](c.s, nodes, "")
	if err != nil {
		return again, err
	}
	if len(there) > 0 {
		state.Node = there[0]
	}
	plan, err := rollout.DaemonSet(state)
	if err != nil {
		return again, err
	}
	if err := c.history(plan.Revisions); err != nil {
		return again, err
	}
	for _, p := range plan.Delete {
		if err := c.end(p); err != nil {
			return again, err
		}
	}
	if plan.Failed {
		w := c.waits[ref]
		if state.Now.Sub(w.until) > lastDaemonWait {
			w.next = 0 // the last one lived long enough
		}
		w.next = max(w.next, firstDaemonWait)
		c.waits[ref] = wait{state.Now.Add(w.next), min(2*w.next, lastDaemonWait)}
	} else if plan.Create != nil {
		plan.Create.Name = rollout.PodName(set.Name, rand.Uint64())
		if _, err := c.s.Create(pods, plan.Create); err != nil {
			c.record(set, "DaemonSet", rollout.Event{Type: "Warning", Reason: "FailedCreate", Message: "Error creating: " + err.Error()})
			return again, err
		}
		c.record(set, "DaemonSet", rollout.Event{Type: "Normal", Reason: "SuccessfulCreate", Message: "Created pod: " + plan.Create.Name})
	}
	for _, e := range plan.Events {
		c.record(set, "DaemonSet", e)
	}
	n := set.DeepCopy()
	n.Status = plan.Status
	_, err = c.s.Update(daemonSets, n, store.Status)
	if w := c.waits[ref].until; w.After(state.Now) && (plan.Again.IsZero() || w.Before(plan.Again)) {
		plan.Again = w
	}
	return plan.Again, err
}
