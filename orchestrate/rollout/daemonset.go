package rollout

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// DaemonState is what one sync of a DaemonSet looks at.
type DaemonState struct {
	Set *appsv1.DaemonSet
	// Node is the one there is; nil if it is not known yet.
	Node *corev1.Node
	// Pods are those that it controls, in every phase; Revisions too.
	Pods      []*corev1.Pod
	Revisions []*appsv1.ControllerRevision
	// Taken tells whether a revision of that name exists that is not among
	// Revisions.
	Taken func(name string) bool
	// Hold is true while a pod that failed is not replaced yet.
	Hold bool
	Now  time.Time
	Then Then
}

// DaemonPlan is what is to be done, in this order.
type DaemonPlan struct {
	Revisions []RevisionAction
	Delete    []*corev1.Pod
	// Failed tells that one of those to delete had ended by itself.
	Failed bool
	// Create, if not nil, is to be made. Its name is for the caller to choose.
	Create *corev1.Pod
	Status appsv1.DaemonSetStatus
	Events []Event
	Again  time.Time
}

type daemon struct {
	DaemonState
	h    *history
	hash string
	plan DaemonPlan
}

// DaemonSet is one sync: one pod on the one node, if the pod's selector and
// tolerations let it be there.
func DaemonSet(in DaemonState) (DaemonPlan, error) {
	set := in.Set
	s := &daemon{DaemonState: in}
	var err error
	if s.h, err = newHistory(set, controllerRef("DaemonSet", set), &set.Spec.Template, in.Revisions, set.Status.CollisionCount, in.Taken); err != nil {
		return DaemonPlan{}, err
	}
	s.hash = s.h.update.Labels[appsv1.ControllerRevisionHashLabelKey]
	surge, err := s.surge()
	if err != nil {
		return DaemonPlan{}, fmt.Errorf("daemon set %q: %w", set.Name, err)
	}
	run, stay := s.fits()
	s.count(run)
	if set.DeletionTimestamp == nil {
		s.act(run, stay, surge)
		s.h.cleanUp(set.Spec.RevisionHistoryLimit, func(r *appsv1.ControllerRevision) bool {
			return slices.ContainsFunc(in.Pods, func(p *corev1.Pod) bool { return s.hashOf(p) == r.Labels[appsv1.ControllerRevisionHashLabelKey] })
		})
		s.plan.Revisions = s.h.actions
	}
	return s.plan, nil
}

// surge tells whether a new pod comes before the old one goes.
func (s *daemon) surge() (bool, error) {
	r := s.Set.Spec.UpdateStrategy.RollingUpdate
	if r == nil || s.Set.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType || r.MaxSurge == nil {
		return false, nil
	}
	n, err := Share(r.MaxSurge, 1, math.Ceil)
	if err != nil {
		return false, fmt.Errorf("maxSurge: %w", err)
	}
	return n > 0, nil
}

func (s *daemon) hashOf(p *corev1.Pod) string { return p.Labels[appsv1.ControllerRevisionHashLabelKey] }

func (s *daemon) available(p *corev1.Pod) bool {
	return Active(p) && s.Then.available(p, s.Set.Spec.MinReadySeconds, s.Now)
}

// count brings the numbers into the status.
func (s *daemon) count(run bool) {
	st := s.Set.Status.DeepCopy()
	st.ObservedGeneration, st.CollisionCount = s.Set.Generation, s.h.collisions
	st.CurrentNumberScheduled, st.NumberMisscheduled, st.DesiredNumberScheduled = 0, 0, 0
	st.NumberReady, st.UpdatedNumberScheduled, st.NumberAvailable, st.NumberUnavailable = 0, 0, 0, 0
	var oldest *corev1.Pod
	for _, p := range s.Pods {
		if p.DeletionTimestamp != nil {
			continue
		}
		if oldest == nil || olderReady(p, oldest) < 0 {
			oldest = p
		}
		if PodReady(p) && !s.available(p) {
			if at := s.Then.readySince(p).Add(time.Duration(s.Set.Spec.MinReadySeconds) * time.Second); at.After(s.Now) && (s.plan.Again.IsZero() || at.Before(s.plan.Again)) {
				s.plan.Again = at
			}
		}
	}
	switch {
	case run:
		st.DesiredNumberScheduled = 1
		if oldest != nil {
			st.CurrentNumberScheduled = 1
			if PodReady(oldest) {
				st.NumberReady = 1
			}
			if s.available(oldest) {
				st.NumberAvailable = 1
			}
			if s.hashOf(oldest) == s.hash {
				st.UpdatedNumberScheduled = 1
			}
		}
		st.NumberUnavailable = 1 - st.NumberAvailable
	case oldest != nil:
		st.NumberMisscheduled = 1
	}
	s.plan.Status = *st
}

// olderReady orders pods: the ready one first, then the older.
func olderReady(a, b *corev1.Pod) int {
	return cmp.Or(first(PodReady(a), PodReady(b)), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.UID, b.UID))
}

// act decides about the pods.
func (s *daemon) act(run, stay, surge bool) {
	var old, updated []*corev1.Pod
	ending := 0
	for _, p := range s.Pods {
		switch {
		case p.DeletionTimestamp != nil:
			ending++
		case p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded:
			s.ended(p)
		case s.hashOf(p) == s.hash:
			updated = append(updated, p)
		default:
			old = append(old, p)
		}
	}
	if !stay {
		for _, p := range append(old, updated...) {
			s.remove(p)
		}
		return
	}
	slices.SortFunc(old, olderReady)
	slices.SortFunc(updated, olderReady)
	rolling := s.Set.Spec.UpdateStrategy.Type != appsv1.OnDeleteDaemonSetStrategyType
	if !rolling { // all are equal
		old, updated = nil, append(old, updated...)
		slices.SortFunc(updated, olderReady)
	}
	s.removeAllBut(1, updated)
	switch {
	case len(old) == 0 && len(updated) == 0:
		// Without surge a new one waits for the end of the last.
		if run && !s.Hold && (ending == 0 || surge) {
			s.create()
		}
	case !rolling, len(old) == 0:
	case len(updated) > 0 && (!surge || s.available(updated[0])):
		s.removeAllBut(0, old)
	case len(updated) > 0:
		s.removeAllBut(1, old) // the new one is not available yet
	case surge:
		if s.removeAllBut(1, old); run && !s.Hold {
			s.create()
		}
	default:
		s.removeAllBut(0, old)
	}
}

// ended has a pod replaced that should run for ever, and does not.
func (s *daemon) ended(p *corev1.Pod) {
	if s.Hold {
		return
	}
	s.plan.Failed = true
	s.plan.Delete = append(s.plan.Delete, p)
	node := p.Spec.NodeName
	if p.Status.Phase == corev1.PodFailed {
		s.event("Warning", "FailedDaemonPod", "Found failed daemon pod %s/%s on node %s, will try to kill it", p.Namespace, p.Name, node)
	} else {
		s.event("Normal", "SucceededDaemonPod", "Found succeeded daemon pod %s/%s on node %s, will try to delete it", p.Namespace, p.Name, node)
	}
}

func (s *daemon) removeAllBut(n int, sorted []*corev1.Pod) {
	for _, p := range sorted[min(n, len(sorted)):] {
		s.remove(p)
	}
}

func (s *daemon) remove(p *corev1.Pod) {
	s.plan.Delete = append(s.plan.Delete, p)
	s.event("Normal", "SuccessfulDelete", "Deleted pod: %s", p.Name)
}

func (s *daemon) create() {
	t := s.Set.Spec.Template.DeepCopy()
	p := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Set.Namespace, GenerateName: s.Set.Name + "-", Labels: with(t.Labels, appsv1.ControllerRevisionHashLabelKey, s.hash),
			Annotations: t.Annotations, Finalizers: t.Finalizers, OwnerReferences: []metav1.OwnerReference{controllerRef("DaemonSet", s.Set)},
		},
		Spec: t.Spec,
	}
	p.Spec.Tolerations = append(slices.Clone(t.Spec.Tolerations), daemonTolerations(t.Spec.HostNetwork)...)
	s.plan.Create = p
}

func (s *daemon) event(kind, reason, format string, args ...any) {
	s.plan.Events = append(s.plan.Events, Event{kind, reason, fmt.Sprintf(format, args...)})
}

// daemonTolerations let daemons be where others may not.
func daemonTolerations(hostNetwork bool) []corev1.Toleration {
	exists := func(key string, effect corev1.TaintEffect) corev1.Toleration {
		return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: effect}
	}
	out := []corev1.Toleration{
		exists(corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute),
		exists(corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute),
		exists(corev1.TaintNodeDiskPressure, corev1.TaintEffectNoSchedule),
		exists(corev1.TaintNodeMemoryPressure, corev1.TaintEffectNoSchedule),
		exists(corev1.TaintNodePIDPressure, corev1.TaintEffectNoSchedule),
		exists(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule),
	}
	if hostNetwork {
		out = append(out, exists(corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule))
	}
	return out
}

// fits tells whether a pod is to run on the node, and whether one that runs stays.
func (s *daemon) fits() (run, stay bool) {
	n, t := s.Node, &s.Set.Spec.Template.Spec
	if n == nil {
		return false, true // what runs is not ended for want of knowledge
	}
	if t.NodeName != "" && t.NodeName != n.Name || !labels.SelectorFromSet(t.NodeSelector).Matches(labels.Set(n.Labels)) || !s.affine(t.Affinity) {
		return false, false
	}
	tolerations := append(slices.Clone(t.Tolerations), daemonTolerations(t.HostNetwork)...)
	run, stay = true, true
	for i := range n.Spec.Taints {
		taint := &n.Spec.Taints[i]
		if taint.Effect == corev1.TaintEffectPreferNoSchedule || slices.ContainsFunc(tolerations, func(t corev1.Toleration) bool { return Tolerates(&t, taint) }) {
			continue
		}
		run = false
		stay = stay && taint.Effect != corev1.TaintEffectNoExecute
	}
	return run, stay
}

// Tolerates tells whether a toleration is for that taint.
func Tolerates(t *corev1.Toleration, taint *corev1.Taint) bool {
	if t.Effect != "" && t.Effect != taint.Effect || t.Key != "" && t.Key != taint.Key {
		return false
	}
	switch t.Operator {
	case "", corev1.TolerationOpEqual:
		return t.Key != "" && t.Value == taint.Value
	case corev1.TolerationOpExists:
		return true
	}
	return false
}

// affine tells whether the node is one of those that an affinity requires.
func (s *daemon) affine(a *corev1.Affinity) bool {
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return true
	}
	terms := a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	return slices.ContainsFunc(terms, func(t corev1.NodeSelectorTerm) bool {
		return len(t.MatchExpressions)+len(t.MatchFields) > 0 && matchAll(t.MatchExpressions, s.Node.Labels) &&
			matchAll(t.MatchFields, map[string]string{metav1.ObjectNameField: s.Node.Name})
	})
}

// matchAll tells whether values meet all requirements. One that means nothing is
// not met.
func matchAll(all []corev1.NodeSelectorRequirement, values map[string]string) bool {
	ops := map[corev1.NodeSelectorOperator]selection.Operator{
		corev1.NodeSelectorOpIn: selection.In, corev1.NodeSelectorOpNotIn: selection.NotIn, corev1.NodeSelectorOpExists: selection.Exists,
		corev1.NodeSelectorOpDoesNotExist: selection.DoesNotExist, corev1.NodeSelectorOpGt: selection.GreaterThan, corev1.NodeSelectorOpLt: selection.LessThan,
	}
	for _, q := range all {
		r, err := labels.NewRequirement(q.Key, ops[q.Operator], q.Values)
		if err != nil || !r.Matches(labels.Set(values)) {
			return false
		}
	}
	return true
}
