package rollout

import (
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// StatefulState is what one sync of a StatefulSet looks at.
type StatefulState struct {
	Set *appsv1.StatefulSet
	// Pods are those that it controls, in every phase; Revisions too.
	Pods      []*corev1.Pod
	Revisions []*appsv1.ControllerRevision
	// Claim gives a claim of the set's namespace; nil if there is none.
	Claim func(name string) *corev1.PersistentVolumeClaim
	// Taken tells whether a revision of that name exists that is not among
	// Revisions.
	Taken func(name string) bool
	Now   time.Time
	Then  Then
}

// StatefulPlan is what is to be done, in this order.
type StatefulPlan struct {
	Revisions []RevisionAction
	// Claims are to be made, Owners to be stored: who owns them changes.
	Claims, Owners []*corev1.PersistentVolumeClaim
	Update         []*corev1.Pod
	Create         []*corev1.Pod
	Delete         []*corev1.Pod
	Status         appsv1.StatefulSetStatus
	Events         []Event
	Again          time.Time
}

// stateful is one call of StatefulSet.
type stateful struct {
	StatefulState
	h       *history
	current *appsv1.ControllerRevision
	start   int
	slots   []*corev1.Pod // by ordinal; nil where there is none
	// condemned are the pods beyond, highest first.
	condemned []*corev1.Pod
	ordered   bool
	made      map[string]bool // claims that the plan makes
	plan      StatefulPlan
}

// StatefulSet is one sync. With OrderedReady it does one thing at a time: pods
// come in order, each when those before it are available, and go in the reverse
// order. With Parallel all come and go at once. Updates go from the highest
// ordinal down to the partition, and never make more pods unavailable than
// maxUnavailable.
func StatefulSet(in StatefulState) (StatefulPlan, error) {
	set := in.Set
	s := &stateful{StatefulState: in, start: startOrdinal(set), ordered: set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement, made: map[string]bool{}}
	var err error
	if s.h, err = newHistory(set, controllerRef("StatefulSet", set), &set.Spec.Template, in.Revisions, set.Status.CollisionCount, in.Taken); err != nil {
		return StatefulPlan{}, err
	}
	if s.current = s.h.named(set.Status.CurrentRevision); s.current == nil {
		s.current = s.h.update
	}
	most, err := s.maxUnavailable()
	if err != nil {
		return StatefulPlan{}, fmt.Errorf("stateful set %q: %w", set.Name, err)
	}
	s.divide()
	s.count()
	if set.DeletionTimestamp == nil {
		s.own()
		if s.grow() && s.shrink() && set.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType {
			s.roll(most)
		}
		s.h.cleanUp(set.Spec.RevisionHistoryLimit, s.inUse)
		s.plan.Revisions = s.h.actions
	}
	return s.plan, nil
}

// partition is how many pods, from the lowest ordinal, updates do not reach.
func (s *stateful) partition() int {
	if r := s.Set.Spec.UpdateStrategy.RollingUpdate; r != nil && r.Partition != nil {
		return int(*r.Partition)
	}
	return 0
}

func (s *stateful) maxUnavailable() (int, error) {
	r := s.Set.Spec.UpdateStrategy.RollingUpdate
	if r == nil || r.MaxUnavailable == nil {
		return 1, nil
	}
	n, err := Share(r.MaxUnavailable, replicas(s.Set.Spec.Replicas), math.Ceil)
	if err != nil {
		return 0, fmt.Errorf("maxUnavailable: %w", err)
	}
	return max(int(n), 1), nil
}

// divide puts every pod in its place.
func (s *stateful) divide() {
	s.slots = make([]*corev1.Pod, replicas(s.Set.Spec.Replicas))
	for _, p := range s.Pods {
		n, ok := Ordinal(s.Set.Name, p.Name)
		switch {
		case !ok:
		case n >= s.start && n < s.start+len(s.slots):
			s.slots[n-s.start] = p
		default:
			s.condemned = append(s.condemned, p)
		}
	}
	slices.SortFunc(s.condemned, func(a, b *corev1.Pod) int {
		n, _ := Ordinal(s.Set.Name, a.Name)
		m, _ := Ordinal(s.Set.Name, b.Name)
		return m - n
	})
}

func (s *stateful) revision(p *corev1.Pod) string {
	return p.Labels[appsv1.ControllerRevisionHashLabelKey]
}

// available tells whether a pod is there, works, and stays.
func (s *stateful) available(p *corev1.Pod) bool {
	return p != nil && Active(p) && p.Status.Phase == corev1.PodRunning && s.Then.available(p, s.Set.Spec.MinReadySeconds, s.Now)
}

// count brings the numbers into the status.
func (s *stateful) count() {
	st := s.Set.Status.DeepCopy()
	st.ObservedGeneration, st.CollisionCount = s.Set.Generation, s.h.collisions
	st.Replicas, st.ReadyReplicas, st.AvailableReplicas, st.CurrentReplicas, st.UpdatedReplicas = 0, 0, 0, 0, 0
	for _, p := range s.Pods {
		if _, ok := Ordinal(s.Set.Name, p.Name); !ok {
			continue
		}
		st.Replicas++
		if p.Status.Phase == corev1.PodRunning && PodReady(p) {
			st.ReadyReplicas++
			if s.Then.available(p, s.Set.Spec.MinReadySeconds, s.Now) {
				st.AvailableReplicas++
			} else if at := s.Then.readySince(p).Add(time.Duration(s.Set.Spec.MinReadySeconds) * time.Second); s.plan.Again.IsZero() || at.Before(s.plan.Again) {
				s.plan.Again = at // nothing else will tell us
			}
		}
		if p.DeletionTimestamp != nil {
			continue
		}
		switch s.revision(p) {
		case s.h.update.Name:
			st.UpdatedReplicas++
			if s.current == s.h.update {
				st.CurrentReplicas++
			}
		case s.current.Name:
			st.CurrentReplicas++
		}
	}
	n := replicas(s.Set.Spec.Replicas)
	if s.Set.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType && st.UpdatedReplicas == n && st.Replicas == n && st.AvailableReplicas == n {
		s.current, st.CurrentReplicas = s.h.update, st.UpdatedReplicas
	}
	st.CurrentRevision, st.UpdateRevision = s.current.Name, s.h.update.Name
	s.plan.Status = *st
}

// own settles who owns the claims there are.
func (s *stateful) own() {
	settle := func(p *corev1.Pod, condemned bool) {
		for _, c := range claims(s.Set, p.Name) {
			if have := s.claim(c.Name); have != nil {
				if n := retention(s.Set, p, condemned, have); n != nil {
					s.plan.Owners = append(s.plan.Owners, n)
				}
			}
		}
	}
	for _, p := range s.slots {
		if p != nil {
			settle(p, false)
		}
	}
	for _, p := range s.condemned {
		settle(p, true)
	}
}

func (s *stateful) claim(name string) *corev1.PersistentVolumeClaim {
	if s.Claim == nil {
		return nil
	}
	return s.Claim(name)
}

// grow makes what is missing, and tells whether to go on.
func (s *stateful) grow() bool {
	for i, p := range s.slots {
		if next := s.slot(i, p); !next && s.ordered {
			return false
		}
	}
	return true
}

// refusedPodStays is how long a pod that the node has refused is left alone before the
// next one of its name is tried.
const refusedPodStays = 10 * time.Second

// slot sees to one pod, and tells whether it is as it should be.
func (s *stateful) slot(i int, p *corev1.Pod) bool {
	ordinal := s.start + i
	switch {
	case p == nil:
		s.create(ordinal)
		return false
	case p.DeletionTimestamp != nil:
		return false
	case refused(p) && s.Now.Before(s.Then.created(p).Add(refusedPodStays)) && s.revision(p) == s.h.update.Name:
		if at := s.Then.created(p).Add(refusedPodStays); s.plan.Again.IsZero() || at.Before(s.plan.Again) {
			s.plan.Again = at
		}
		return false
	case p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded:
		why := "Failed"
		if p.Status.Phase == corev1.PodSucceeded {
			why = "Terminated"
		}
		s.event("Warning", "Recreating"+why+"Pod", "StatefulSet %s/%s is recreating %s Pod %s", s.Set.Namespace, s.Set.Name, why, p.Name)
		s.plan.Delete = append(s.plan.Delete, p)
		return false
	}
	if p.Labels[appsv1.StatefulSetPodNameLabel] != p.Name || p.Labels[appsv1.PodIndexLabel] == "" {
		n := p.DeepCopy()
		identify(s.Set, n, ordinal)
		s.plan.Update = append(s.plan.Update, n)
	}
	s.claimsOf(p.Name, p)
	if s.available(p) {
		return true
	}
	// One that does not work is not waited for when it is to be replaced anyway:
	// else a broken revision could not be repaired by the next one.
	if s.ordered && !PodReady(p) && s.outdated(p, ordinal) {
		s.plan.Delete = append(s.plan.Delete, p)
	}
	return false
}

// outdated tells whether an update is to replace a pod.
func (s *stateful) outdated(p *corev1.Pod, ordinal int) bool {
	return s.Set.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType && ordinal >= s.start+s.partition() && s.revision(p) != s.h.update.Name
}

// create makes a pod, once its claims can be.
func (s *stateful) create(ordinal int) {
	revision, t := s.h.update, &s.Set.Spec.Template
	if s.Set.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType && ordinal < s.start+s.partition() {
		revision, t = s.current, s.h.templates[s.current.Name]
	}
	p := statefulPod(s.Set, t, ordinal, revision.Name)
	if !s.claimsOf(p.Name, nil) {
		return // an old claim of that name is still going
	}
	s.plan.Create = append(s.plan.Create, p)
	s.event("Normal", "SuccessfulCreate", "create Pod %s in StatefulSet %s successful", p.Name, s.Set.Name)
}

// claimsOf makes the claims of a pod that are missing, and tells whether all of
// them will stay.
func (s *stateful) claimsOf(pod string, p *corev1.Pod) bool {
	stay := true
	for _, c := range claims(s.Set, pod) {
		have := s.claim(c.Name)
		if have != nil {
			if stay = stay && have.DeletionTimestamp == nil; p == nil {
				// It was to go with a pod that is gone: this one keeps it.
				if n := retention(s.Set, nil, false, have); n != nil {
					s.plan.Owners = append(s.plan.Owners, n)
				}
			}
			continue
		}
		if s.made[c.Name] {
			continue
		}
		s.made[c.Name] = true
		if n := retention(s.Set, p, false, c); n != nil {
			c = n
		}
		s.plan.Claims = append(s.plan.Claims, c)
		s.event("Normal", "SuccessfulCreate", "create Claim %s Pod %s in StatefulSet %s success", c.Name, pod, s.Set.Name)
	}
	return stay
}

// shrink deletes what is beyond the size, and tells whether to go on.
func (s *stateful) shrink() bool {
	for _, p := range s.condemned {
		if p.DeletionTimestamp == nil {
			s.remove(p)
		}
		if s.ordered {
			return false
		}
	}
	return true
}

func (s *stateful) remove(p *corev1.Pod) {
	s.plan.Delete = append(s.plan.Delete, p)
	s.event("Normal", "SuccessfulDelete", "delete Pod %s in StatefulSet %s successful", p.Name, s.Set.Name)
}

// roll replaces pods of other revisions.
func (s *stateful) roll(most int) {
	missing := 0
	for _, p := range s.slots {
		if !s.available(p) {
			missing++
		}
	}
	for i := len(s.slots) - 1; i >= s.partition(); i-- {
		p := s.slots[i]
		if p == nil || p.DeletionTimestamp != nil || slices.Contains(s.plan.Delete, p) || !s.outdated(p, s.start+i) {
			continue
		}
		if s.available(p) {
			if missing >= most {
				continue // below may be one that does not work: it costs nothing
			}
			missing++
		}
		s.remove(p)
	}
}

func (s *stateful) inUse(r *appsv1.ControllerRevision) bool {
	return r.Name == s.current.Name || slices.ContainsFunc(s.Pods, func(p *corev1.Pod) bool { return s.revision(p) == r.Name })
}

func (s *stateful) event(kind, reason, format string, args ...any) {
	s.plan.Events = append(s.plan.Events, Event{kind, reason, fmt.Sprintf(format, args...)})
}
