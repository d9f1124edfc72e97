package rollout

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// Annotations of deployments and sets. Those of Kubernetes have its names: other
// programs read them.
const (
	RevisionAnnotation    = "deployment.kubernetes.io/revision"
	HistoryAnnotation     = "deployment.kubernetes.io/revision-history"
	DesiredAnnotation     = "deployment.kubernetes.io/desired-replicas"
	MaxAnnotation         = "deployment.kubernetes.io/max-replicas"
	RestartedAtAnnotation = "kubectl.kubernetes.io/restartedAt"
	ChangeCauseAnnotation = "kubernetes.io/change-cause"

	lastAppliedAnnotation = "kubectl.kubernetes.io/last-applied-configuration"
	rollbackToAnnotation  = "deprecated.deployment.rollback.to"
)

// maxHistory bounds the text of HistoryAnnotation.
const maxHistory = 2000

// ownAnnotation tells annotations that belong to a deployment or to a set alone
// and are not copied between them.
func ownAnnotation(key string) bool {
	switch key {
	case RevisionAnnotation, HistoryAnnotation, DesiredAnnotation, MaxAnnotation,
		lastAppliedAnnotation, rollbackToAnnotation, completeAnnotation, rolledBackAnnotation:
		return true
	}
	return false
}

// Revision is the number of a set, or of a deployment's current one; 0 if none
// was given yet.
func Revision(annotations map[string]string) int64 {
	n, err := strconv.ParseInt(annotations[RevisionAnnotation], 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// setRevision gives the target set the number that follows those of the old
// sets, unless it has a higher one. The number it loses goes into its history:
// that is a rollback.
func setRevision(set *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) {
	next := int64(1)
	for _, o := range old {
		next = max(next, Revision(o.Annotations)+1)
	}
	had := Revision(set.Annotations)
	if had >= next {
		return
	}
	set.Annotations[RevisionAnnotation] = strconv.FormatInt(next, 10)
	if had == 0 {
		return
	}
	history := set.Annotations[HistoryAnnotation]
	if history != "" {
		history += ","
	}
	history += strconv.FormatInt(had, 10)
	for len(history) > maxHistory {
		_, history, _ = strings.Cut(history, ",")
	}
	set.Annotations[HistoryAnnotation] = history
}

// copyAnnotations copies those of from that are not its own alone.
func copyAnnotations(to, from map[string]string) {
	for k, v := range from {
		if !ownAnnotation(k) {
			to[k] = v
		}
	}
}

// remember notes in a set what size of deployment it was made part of, from
// which the next sync recognizes a change of size.
func remember(set *appsv1.ReplicaSet, b Bounds) {
	set.Annotations[DesiredAnnotation] = strconv.Itoa(int(b.Replicas))
	set.Annotations[MaxAnnotation] = strconv.Itoa(int(b.Ceiling()))
}

// remembered reads what remember wrote.
func remembered(set *appsv1.ReplicaSet, key string) (int32, bool) {
	n, err := strconv.ParseInt(set.Annotations[key], 10, 32)
	return int32(n), err == nil && n >= 0
}

// Errors of Undo. The texts are those of kubectl.
var (
	ErrNoHistory    = errors.New("no rollout history found for deployment")
	ErrPaused       = errors.New("you cannot rollback a paused deployment; resume it first with 'rollout resume' and try again")
	ErrSameTemplate = errors.New("skipped rollback: current template already matches the revision")
)

// RevisionError is a revision that there is no set of.
type RevisionError struct{ Revision int64 }

func (e *RevisionError) Error() string {
	return fmt.Sprintf("unable to find specified revision %d in history", e.Revision)
}

// Undo is the deployment with the template and annotations of a revision; 0 is
// the one before the current.
func Undo(d *appsv1.Deployment, sets []*appsv1.ReplicaSet, revision int64) (*appsv1.Deployment, error) {
	if d.Spec.Paused {
		return nil, ErrPaused
	}
	byRevision := History(sets)
	var set *appsv1.ReplicaSet
	if revision == 0 {
		if len(byRevision) < 2 {
			return nil, fmt.Errorf("%w %q", ErrNoHistory, d.Name)
		}
		set = byRevision[len(byRevision)-2]
	} else {
		i := slices.IndexFunc(byRevision, func(s *appsv1.ReplicaSet) bool { return Revision(s.Annotations) == revision })
		if i < 0 {
			return nil, &RevisionError{revision}
		}
		set = byRevision[i]
	}
	if SameTemplate(&set.Spec.Template, &d.Spec.Template) {
		return nil, fmt.Errorf("%w %d", ErrSameTemplate, Revision(set.Annotations))
	}
	return withTemplateOf(d, set), nil
}

// withTemplateOf is the deployment as it was when the set was its target.
func withTemplateOf(d *appsv1.Deployment, set *appsv1.ReplicaSet) *appsv1.Deployment {
	d = d.DeepCopy()
	d.Spec.Template = *withoutHash(set.Spec.Template.DeepCopy())
	annotations := map[string]string{}
	for k, v := range d.Annotations {
		if ownAnnotation(k) {
			annotations[k] = v
		}
	}
	copyAnnotations(annotations, set.Annotations)
	d.Annotations = annotations
	return d
}

// History is the sets that have a revision, lowest first.
func History(sets []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	var with []*appsv1.ReplicaSet
	for _, s := range sets {
		if Revision(s.Annotations) > 0 {
			with = append(with, s)
		}
	}
	sortByRevision(with)
	return with
}

func sortByRevision(sets []*appsv1.ReplicaSet) {
	slices.SortStableFunc(sets, func(a, b *appsv1.ReplicaSet) int {
		return int(Revision(a.Annotations) - Revision(b.Annotations))
	})
}

// Restart is the template changed in nothing but the time of the restart.
func Restart(t *corev1.PodTemplateSpec, now time.Time) *corev1.PodTemplateSpec {
	t = t.DeepCopy()
	t.Annotations = maps.Clone(t.Annotations)
	if t.Annotations == nil {
		t.Annotations = map[string]string{}
	}
	t.Annotations[RestartedAtAnnotation] = now.UTC().Format(time.RFC3339)
	return t
}

// beyondHistory are the old sets that a finished rollout deletes: those of the
// lowest revisions above the limit, as far as they have no pods and want none.
func beyondHistory(d *appsv1.Deployment, old []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	limit := int32(10)
	if d.Spec.RevisionHistoryLimit != nil {
		limit = *d.Spec.RevisionHistoryLimit
	}
	var kept []*appsv1.ReplicaSet
	for _, s := range old {
		if s.DeletionTimestamp == nil {
			kept = append(kept, s)
		}
	}
	excess := len(kept) - int(limit)
	if excess <= 0 {
		return nil
	}
	sortByRevision(kept)
	var gone []*appsv1.ReplicaSet
	for _, s := range kept[:excess] {
		if replicas(s.Spec.Replicas) == 0 && s.Status.Replicas == 0 && s.Status.ObservedGeneration >= s.Generation {
			gone = append(gone, s)
		}
	}
	return gone
}
