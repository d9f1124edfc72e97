package rollout

import (
	"math"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// roll replaces old pods by new ones, within the bounds: first it makes room for
// new ones, and when there is none, it takes old ones away.
func (s *sync) roll() {
	if s.target == nil {
		// A target that is made has its size already, so old sets may shrink in
		// the same sync.
		s.create()
	} else if s.growTarget() {
		return
	}
	if s.shrinkOld() {
		return
	}
	if s.complete() {
		s.cleanUp()
	}
}

// growTarget brings the target towards its size.
func (s *sync) growTarget() bool {
	if s.size(s.target) > s.bounds.Replicas {
		return s.resize(s.target, s.bounds.Replicas)
	}
	return s.resize(s.target, s.targetSize())
}

// targetSize is how large the target may be now.
func (s *sync) targetSize() int32 {
	have := s.size(s.target)
	if s.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return s.bounds.Replicas
	}
	total := wanted(s.old) + have
	room := min(s.bounds.Ceiling()-total, s.bounds.Replicas-have)
	return have + max(room, 0)
}

// shrinkOld takes pods from old sets, first those that are no use.
func (s *sync) shrinkOld() bool {
	if wanted(s.old) == 0 {
		return false
	}
	// What the target still lacks counts against the budget: else pods that
	// never become available would replace those that work.
	lacking := s.size(s.target) - s.target.Status.AvailableReplicas
	budget := wanted(s.all()) - s.bounds.Floor() - lacking
	if budget <= 0 {
		return false
	}
	acted := false
	for _, set := range s.old {
		sick := s.size(set) - set.Status.AvailableReplicas
		if n := min(budget, sick, s.size(set)); n > 0 {
			budget -= n
			acted = s.resize(set, s.size(set)-n) || acted
		}
	}
	spare := available(s.all()) - s.bounds.Floor()
	for _, set := range s.old {
		if n := min(spare, s.size(set)); n > 0 {
			spare -= n
			acted = s.resize(set, s.size(set)-n) || acted
		}
	}
	return acted
}

// recreate lets the old pods end before there are new ones.
func (s *sync) recreate() {
	acted := false
	for _, set := range s.old {
		acted = s.resize(set, 0) || acted
	}
	if acted || s.oldPods() {
		return
	}
	if s.target == nil {
		s.create()
	} else {
		s.resize(s.target, s.bounds.Replicas)
	}
	if s.complete() {
		s.cleanUp()
	}
}

// oldPods tells whether pods of old sets may still run.
func (s *sync) oldPods() bool {
	for _, set := range s.old {
		if set.Status.Replicas > 0 {
			return true
		}
	}
	for _, p := range s.pods {
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		if s.target != nil && controlledBy(p, s.target.UID) {
			continue
		}
		return true
	}
	return false
}

// sizeChanged tells whether the deployment has another size than the one its
// active sets were made for.
func (s *sync) sizeChanged() bool {
	for _, set := range active(s.all()) {
		if n, ok := remembered(set, DesiredAnnotation); ok && n != s.bounds.Replicas {
			return true
		}
	}
	return false
}

// scaleAll brings the sets to another size without moving the rollout on.
func (s *sync) scaleAll() {
	sets := active(s.all())
	switch {
	case len(sets) == 1:
		s.scaleOne(sets[0])
	case len(sets) == 0:
		if s.target != nil {
			s.scaleOne(s.target)
		} else if len(s.old) > 0 {
			s.scaleOne(s.old[len(s.old)-1])
		}
	case s.saturated():
		for _, set := range active(s.old) {
			s.resize(set, 0)
		}
	case s.d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType:
		s.scaleInProportion(sets)
	}
}

func (s *sync) scaleOne(set *appsv1.ReplicaSet) {
	if !s.resize(set, s.bounds.Replicas) {
		s.refresh(set)
	}
}

// refresh corrects what a set of the right size remembers.
func (s *sync) refresh(set *appsv1.ReplicaSet) {
	desired, ok := remembered(set, DesiredAnnotation)
	most, also := remembered(set, MaxAnnotation)
	if !ok || !also || desired != s.bounds.Replicas || most != s.bounds.Ceiling() {
		remember(set, s.bounds)
		s.act(Update, set, s.size(set), s.size(set))
	}
}

// saturated tells whether the target alone is what the deployment was.
func (s *sync) saturated() bool {
	if s.target == nil {
		return false
	}
	n, ok := remembered(s.target, DesiredAnnotation)
	return ok && n == s.bounds.Replicas && s.size(s.target) == n && s.target.Status.AvailableReplicas == n
}

// scaleInProportion spreads what is to be added or removed over the sets, by
// their sizes. What rounding leaves goes to the largest.
func (s *sync) scaleInProportion(sets []*appsv1.ReplicaSet) {
	allowed := int32(0)
	if s.bounds.Replicas > 0 {
		allowed = s.bounds.Ceiling()
	}
	delta := allowed - wanted(sets)
	sizes := make(map[*appsv1.ReplicaSet]int32, len(sets))
	// sets come oldest first, and the target last though it may be older.
	slices.SortStableFunc(sets, func(a, b *appsv1.ReplicaSet) int {
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
	if delta > 0 {
		slices.Reverse(sets) // of equal ones the newer grows, the older shrinks
	}
	slices.SortStableFunc(sets, func(a, b *appsv1.ReplicaSet) int { return int(s.size(b) - s.size(a)) })
	left := delta
	for _, set := range sets {
		sizes[set] = s.size(set)
		share := s.fraction(set)
		if delta > 0 {
			share = min(share, left)
		} else {
			share = max(share, left)
		}
		if delta != 0 && left != 0 {
			sizes[set] += share
			left -= share
		}
	}
	for i, set := range sets {
		n := sizes[set]
		if i == 0 {
			n = max(n+left, 0)
		}
		if !s.resize(set, n) {
			s.refresh(set)
		}
	}
}

// fraction is by how much a set would change if it kept its part of the whole.
func (s *sync) fraction(set *appsv1.ReplicaSet) int32 {
	have := s.size(set)
	if s.bounds.Replicas == 0 {
		return -have
	}
	whole, ok := remembered(set, MaxAnnotation)
	if !ok || whole == 0 {
		if whole = s.d.Status.Replicas; whole == 0 {
			return 0
		}
	}
	// Rounded half away from zero.
	return int32(math.Round(float64(have)*float64(s.bounds.Ceiling())/float64(whole))) - have
}
