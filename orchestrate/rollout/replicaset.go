package rollout

import (
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// MaxBurst is how many pods of a set one sync creates or deletes at most.
const MaxBurst = 500

// SetState is what one sync of a ReplicaSet looks at.
type SetState struct {
	Set *appsv1.ReplicaSet
	// Pods are those that it controls, in every phase.
	Pods []*corev1.Pod
	// Failure is what the last attempt to create or delete pods ended with.
	Failure *Failure
	// Waiting is true while pods that were created or deleted on behalf of an
	// earlier plan have not been seen yet; see Expectations.
	Waiting bool
	Now     time.Time
	Then    Then
}

// Failure is why pods could not be created or deleted.
type Failure struct {
	// Deleting tells which of the two was tried.
	Deleting bool
	Err      error
}

// SetPlan is what is to be done with the pods of a set.
type SetPlan struct {
	// Create is how many pods to make from Pod, in batches; see SlowStart.
	Create int
	// Delete are pods to delete.
	Delete []*corev1.Pod
	Status appsv1.ReplicaSetStatus
	// Again is when to sync although nothing has changed; zero if never.
	Again time.Time
}

// ReplicaSet is one sync.
func ReplicaSet(in SetState) (SetPlan, error) {
	set := in.Set
	var plan SetPlan
	var act []*corev1.Pod
	terminating := int32(0)
	for _, p := range in.Pods {
		switch {
		case Active(p):
			act = append(act, p)
		case p.DeletionTimestamp != nil && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed:
			terminating++
		}
	}
	want := int(replicas(set.Spec.Replicas))
	if set.DeletionTimestamp == nil && !in.Waiting {
		switch excess := len(act) - want; {
		case excess < 0:
			if at := refusedUntil(in.Pods, in.Then); at.After(in.Now) {
				plan.Again = at
				break
			}
			plan.Create = min(-excess, MaxBurst)
		case excess > 0:
			victims := slices.Clone(act)
			if excess < len(victims) {
				SortVictims(victims, in.Now)
			}
			plan.Delete = victims[:min(excess, MaxBurst)]
		}
		plan.Delete = append(plan.Delete, endedTooMany(in.Pods)...)
	}

	st := set.Status.DeepCopy()
	st.ObservedGeneration = set.Generation
	st.Replicas, st.TerminatingReplicas = int32(len(act)), &terminating
	st.FullyLabeledReplicas, st.ReadyReplicas, st.AvailableReplicas = 0, 0, 0
	template := labels.SelectorFromSet(set.Spec.Template.Labels)
	for _, p := range act {
		if template.Matches(labels.Set(p.Labels)) {
			st.FullyLabeledReplicas++
		}
		if !PodReady(p) {
			continue
		}
		st.ReadyReplicas++
		if in.Then.available(p, set.Spec.MinReadySeconds, in.Now) {
			st.AvailableReplicas++
			continue
		}
		// It becomes available by waiting: nothing will tell us.
		if at := in.Then.readySince(p).Add(time.Duration(set.Spec.MinReadySeconds) * time.Second); plan.Again.IsZero() || at.Before(plan.Again) {
			plan.Again = at
		}
	}
	noteFailure(st, in)
	plan.Status = *st
	return plan, nil
}

// noteFailure keeps the condition ReplicaFailure.
func noteFailure(st *appsv1.ReplicaSetStatus, in SetState) {
	is := func(c appsv1.ReplicaSetCondition) bool { return c.Type == appsv1.ReplicaSetReplicaFailure }
	had := slices.IndexFunc(st.Conditions, is)
	switch {
	case in.Failure == nil:
		st.Conditions = slices.DeleteFunc(st.Conditions, is)
	case had < 0:
		reason := "FailedCreate"
		if in.Failure.Deleting {
			reason = "FailedDelete"
		}
		st.Conditions = append(st.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: reason,
			Message: in.Failure.Err.Error(), LastTransitionTime: metav1.NewTime(in.Now).Rfc3339Copy(),
		})
	}
}

// Pod is a new pod of a set.
func Pod(set *appsv1.ReplicaSet, random uint64) *corev1.Pod {
	yes := true
	t := set.Spec.Template.DeepCopy()
	return &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Name: PodName(set.Name, random), Namespace: set.Namespace, GenerateName: set.Name + "-",
			Labels: maps.Clone(t.Labels), Annotations: maps.Clone(t.Annotations), Finalizers: t.Finalizers,
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "apps/v1", Kind: "ReplicaSet", Name: set.Name, UID: set.UID, Controller: &yes, BlockOwnerDeletion: &yes,
			}},
		},
		Spec: t.Spec,
	}
}

// SlowStart calls create up to n times, in batches of 1, 2, 4, 8... After a
// batch with an error there is no other: when every pod is refused for the same
// reason, a few attempts are enough to know it.
func SlowStart(n int, create func() error) (created int, err error) {
	for batch := 1; n > 0; batch *= 2 {
		batch = min(batch, n)
		for range batch {
			if e := create(); e != nil {
				if err == nil {
					err = e
				}
				continue
			}
			created++
		}
		if err != nil {
			return created, fmt.Errorf("create pods, %d of %d made: %w", created, created+n, err)
		}
		n -= batch
	}
	return created, nil
}
