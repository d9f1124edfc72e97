package rollout

import (
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// Reasons of the condition Progressing.
const (
	reasonCreated     = "NewReplicaSetCreated"
	reasonFound       = "FoundNewReplicaSet"
	reasonUpdated     = "ReplicaSetUpdated"
	reasonAvailable   = "NewReplicaSetAvailable"
	reasonCreateError = "ReplicaSetCreateError"
	reasonDeadline    = "ProgressDeadlineExceeded"
	reasonPaused      = "DeploymentPaused"
	reasonResumed     = "DeploymentResumed"
)

// hasDeadline tells whether progress is watched.
func (s *sync) hasDeadline() bool {
	return s.d.Spec.ProgressDeadlineSeconds == nil || *s.d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

func (s *sync) deadline() time.Duration {
	if s.d.Spec.ProgressDeadlineSeconds == nil {
		return 600 * time.Second
	}
	return time.Duration(*s.d.Spec.ProgressDeadlineSeconds) * time.Second
}

// notePause keeps the clock of the deadline from running while paused. A
// deadline that was exceeded before stays so.
func (s *sync) notePause() {
	if !s.hasDeadline() {
		return
	}
	c := condition(&s.status, appsv1.DeploymentProgressing)
	if c != nil && c.Reason == reasonDeadline {
		return
	}
	noted := c != nil && c.Reason == reasonPaused
	switch {
	case s.d.Spec.Paused && !noted:
		s.setCondition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonPaused, "Deployment is paused")
	case !s.d.Spec.Paused && noted:
		s.setCondition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonResumed, "Deployment is resumed")
	}
}

// count brings the numbers and the condition Available into the status.
func (s *sync) count() {
	st := &s.status
	st.ObservedGeneration = s.d.Generation
	st.Replicas, st.ReadyReplicas, st.AvailableReplicas, st.UpdatedReplicas = 0, 0, 0, 0
	var terminating *int32
	for _, set := range s.all() {
		st.Replicas += set.Status.Replicas
		st.ReadyReplicas += set.Status.ReadyReplicas
		st.AvailableReplicas += set.Status.AvailableReplicas
		if n := set.Status.TerminatingReplicas; n != nil {
			if terminating == nil {
				terminating = new(int32)
			}
			*terminating += *n
		}
	}
	st.TerminatingReplicas = terminating
	st.UnavailableReplicas = max(st.Replicas-st.AvailableReplicas, 0)
	if s.target != nil {
		st.UpdatedReplicas = s.target.Status.Replicas
	}
	if st.AvailableReplicas >= s.bounds.Floor() {
		s.setCondition(appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability.")
	} else {
		s.setCondition(appsv1.DeploymentAvailable, corev1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
	}
}

// complete tells whether the rollout is done, by the numbers as observed.
func (s *sync) complete() bool {
	if s.target == nil {
		return false
	}
	n, total := s.bounds.Replicas, int32(0)
	for _, set := range s.all() {
		total += set.Status.Replicas
	}
	return s.target.Status.Replicas == n && total == n && available(s.all()) == n
}

// progress is count, and what the numbers say about the rollout.
func (s *sync) progress() {
	before := s.status
	s.count()
	s.copyFailure()
	if !s.hasDeadline() {
		s.removeCondition(appsv1.DeploymentProgressing)
		s.markComplete()
		return
	}
	had := condition(&s.status, appsv1.DeploymentProgressing)
	// A rollout that was complete stays so while it has no other pods: those
	// that crash later are not a matter of the rollout.
	if had != nil && had.Reason == reasonAvailable && s.status.Replicas == s.status.UpdatedReplicas {
		s.markComplete()
		return
	}
	name := s.d.Name
	if s.target != nil {
		name = s.target.Name
	}
	switch {
	case s.complete():
		s.setCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonAvailable, fmt.Sprintf("ReplicaSet %q has successfully progressed.", name))
		s.markComplete()
	case moved(&before, &s.status):
		c := appsv1.DeploymentCondition{
			Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: reasonUpdated,
			Message: fmt.Sprintf("ReplicaSet %q is progressing.", name), LastUpdateTime: s.now, LastTransitionTime: s.now,
		}
		if had != nil && had.Status == corev1.ConditionTrue {
			c.LastTransitionTime = had.LastTransitionTime
		}
		s.removeCondition(appsv1.DeploymentProgressing)
		s.status.Conditions = append(s.status.Conditions, c)
	case had != nil && (had.Reason == reasonDeadline || s.then.At(s.d.UID, had.LastUpdateTime.Time).Add(s.deadline()).Before(s.now.Time)):
		s.setCondition(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonDeadline, timedOut(name))
	}
	if c := condition(&s.status, appsv1.DeploymentProgressing); c != nil && c.Reason != reasonDeadline && c.Reason != reasonAvailable {
		s.plan.Again = s.then.At(s.d.UID, c.LastUpdateTime.Time).Add(s.deadline() + time.Second)
	}
}

func timedOut(set string) string {
	return fmt.Sprintf("ReplicaSet %q has timed out progressing.", set)
}

// moved tells progress: more new pods, less old ones, more that are ready or
// available.
func moved(before, after *appsv1.DeploymentStatus) bool {
	return after.UpdatedReplicas > before.UpdatedReplicas ||
		after.Replicas-after.UpdatedReplicas < before.Replicas-before.UpdatedReplicas ||
		after.ReadyReplicas > before.ReadyReplicas || after.AvailableReplicas > before.AvailableReplicas
}

// copyFailure shows what keeps a set from having its pods, the target's first.
func (s *sync) copyFailure() {
	sets := slices.Clone(s.old)
	if s.target != nil {
		sets = slices.Insert(sets, 0, s.target)
	}
	for _, set := range sets {
		for _, c := range set.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure {
				s.putCondition(appsv1.DeploymentCondition{
					Type: appsv1.DeploymentReplicaFailure, Status: c.Status, Reason: c.Reason, Message: c.Message,
					LastUpdateTime: c.LastTransitionTime, LastTransitionTime: c.LastTransitionTime,
				})
				return
			}
		}
	}
	s.removeCondition(appsv1.DeploymentReplicaFailure)
}

// CreateFailed is the status of a deployment whose plan could not be carried
// out because its target set cannot be created.
func CreateFailed(d *appsv1.Deployment, set string, cause error, now time.Time) appsv1.DeploymentStatus {
	s := &sync{d: d, status: *d.Status.DeepCopy()}
	s.now.Time = now.UTC().Truncate(time.Second)
	s.setCondition(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonCreateError, fmt.Sprintf("Failed to create new replica set %q: %v", set, cause))
	return s.status
}

func condition(st *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range st.Conditions {
		if st.Conditions[i].Type == t {
			return &st.Conditions[i]
		}
	}
	return nil
}

func (s *sync) setCondition(t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	s.putCondition(appsv1.DeploymentCondition{
		Type: t, Status: status, Reason: reason, Message: message, LastUpdateTime: s.now, LastTransitionTime: s.now,
	})
}

// putCondition does nothing if status and reason are there already: times
// then keep saying since when.
func (s *sync) putCondition(c appsv1.DeploymentCondition) {
	if had := condition(&s.status, c.Type); had != nil {
		if had.Status == c.Status && had.Reason == c.Reason {
			return
		}
		if had.Status == c.Status {
			c.LastTransitionTime = had.LastTransitionTime
		}
	}
	s.removeCondition(c.Type)
	s.status.Conditions = append(s.status.Conditions, c)
}

func (s *sync) removeCondition(t appsv1.DeploymentConditionType) {
	s.status.Conditions = slices.DeleteFunc(s.status.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == t })
}
