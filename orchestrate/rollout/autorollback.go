package rollout

import (
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// Annotations of automatic rollback.
const (
	// AutoRollbackAnnotation on a deployment, "true": a rollout that fails is
	// undone.
	AutoRollbackAnnotation = "minirun.dev/auto-rollback"
	// AutoRollbackRestartsAnnotation on a deployment: a rollout has failed when a
	// pod of it was restarted more often than this before it was available.
	AutoRollbackRestartsAnnotation = "minirun.dev/auto-rollback-restarts"

	// completeAnnotation on a set: a rollout to it was complete once. Those are
	// what is rolled back to, and what is never rolled back from.
	completeAnnotation = "minirun.dev/rollout-complete"
	// rolledBackAnnotation on a set: it was rolled back from. Once is enough:
	// who asks for the same template again gets it.
	rolledBackAnnotation = "minirun.dev/rolled-back"
)

// RolledBack is the condition of a deployment whose template was taken back. It
// goes with the next new template.
const RolledBack appsv1.DeploymentConditionType = "RolledBack"

const defaultRestarts = 3

// markComplete notes in the target that it has proved itself.
func (s *sync) markComplete() {
	if s.complete() && s.target.Annotations[completeAnnotation] == "" {
		s.target.Annotations[completeAnnotation] = "true"
		s.act(Update, s.target, s.size(s.target), s.size(s.target))
	}
}

// rollBack undoes a rollout that has failed, if that is wanted, and there is
// something to return to. It then does nothing else: what the sets are to
// become, the next sync says.
func (s *sync) rollBack() bool {
	if s.target == nil || s.d.Spec.Paused || s.d.Annotations[AutoRollbackAnnotation] != "true" ||
		s.target.Annotations[completeAnnotation] != "" || s.target.Annotations[rolledBackAnnotation] != "" {
		return false
	}
	why := s.failed()
	if why == "" {
		return false
	}
	var to *appsv1.ReplicaSet
	for _, set := range History(s.old) {
		if set.Annotations[completeAnnotation] != "" && set.DeletionTimestamp == nil {
			to = set
		}
	}
	if to == nil {
		return false
	}
	from := Revision(s.target.Annotations)
	s.target.Annotations[rolledBackAnnotation] = s.now.UTC().Format(time.RFC3339)
	s.act(Update, s.target, s.size(s.target), s.size(s.target))
	d := withTemplateOf(s.d, to)
	// The wish for it belongs to the deployment, whatever the set was made with.
	for _, key := range []string{AutoRollbackAnnotation, AutoRollbackRestartsAnnotation} {
		delete(d.Annotations, key)
		if v, ok := s.d.Annotations[key]; ok {
			d.Annotations[key] = v
		}
	}
	s.plan.Deployment = d
	message := "revision " + strconv.FormatInt(from, 10) + " rolled back to revision " + strconv.FormatInt(Revision(to.Annotations), 10) + ": " + why
	s.removeCondition(RolledBack)
	s.setCondition(RolledBack, corev1.ConditionTrue, "RolloutFailed", message)
	s.event("Warning", "RolledBack", "%s", message)
	return true
}

// failed says why the rollout to the target has failed, or nothing.
func (s *sync) failed() string {
	// The condition may still be about the set before: it stays until something
	// moves.
	if c := condition(&s.status, appsv1.DeploymentProgressing); c != nil && c.Reason == reasonDeadline && c.Message == timedOut(s.target.Name) {
		return "no progress within " + s.deadline().String()
	}
	most := int32(defaultRestarts)
	if n, err := strconv.ParseInt(strings.TrimSpace(s.d.Annotations[AutoRollbackRestartsAnnotation]), 10, 32); err == nil && n >= 0 {
		most = int32(n)
	}
	for _, p := range s.pods {
		if !controlledBy(p, s.target.UID) || s.then.available(p, s.d.Spec.MinReadySeconds, s.now.Time) {
			continue
		}
		if n := restarts(p); n > most {
			return "pod " + p.Name + " was restarted " + strconv.Itoa(int(n)) + " times"
		}
	}
	return ""
}
