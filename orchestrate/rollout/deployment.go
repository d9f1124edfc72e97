package rollout

import (
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// DeploymentState is what one sync of a deployment looks at. Nothing in it is
// changed.
type DeploymentState struct {
	Deployment *appsv1.Deployment
	// Sets are those that it controls.
	Sets []*appsv1.ReplicaSet
	// Pods are those of its sets, in every phase; of terminating ones too.
	Pods []*corev1.Pod
	// Taken tells whether a set of that name exists that is not among Sets.
	Taken func(name string) bool
	Now   time.Time
	Then  Then
}

// DeploymentPlan is what is to be done, in this order: the sets, the
// deployment, its status.
type DeploymentPlan struct {
	Sets []SetAction
	// Deployment is to be stored in place of the one in the state; nil if that
	// is right as it is.
	Deployment *appsv1.Deployment
	Status     appsv1.DeploymentStatus
	Events     []Event
	// Again is when to sync although nothing has changed; zero if never.
	Again time.Time
}

// SetOp is what happens to a set.
type SetOp int

// Create makes a set, Scale changes the number of its pods, Update something
// else of it, Delete removes it.
const (
	Create SetOp = iota
	Scale
	Update
	Delete
)

func (o SetOp) String() string { return [...]string{"create", "scale", "update", "delete"}[o] }

// SetAction is one step. Several may concern one set; the last one's Set is what
// it is in the end.
type SetAction struct {
	Op SetOp
	// Set is what to store, or what to delete.
	Set      *appsv1.ReplicaSet
	From, To int32
}

func (a SetAction) String() string {
	switch a.Op {
	case Create:
		return fmt.Sprintf("create %s at %d", a.Set.Name, a.To)
	case Scale:
		return fmt.Sprintf("scale %s from %d to %d", a.Set.Name, a.From, a.To)
	}
	return fmt.Sprintf("%s %s", a.Op, a.Set.Name)
}

// Event is something that people want to be told.
type Event struct {
	// Type is Normal or Warning.
	Type, Reason, Message string
}

// sync is one call of Deployment. Its sets are copies that stand for what they
// will be once the plan so far is carried out.
type sync struct {
	d      *appsv1.Deployment
	status appsv1.DeploymentStatus
	bounds Bounds
	target *appsv1.ReplicaSet
	old    []*appsv1.ReplicaSet // oldest first
	pods   []*corev1.Pod
	taken  func(string) bool
	now    metav1.Time
	then   Then
	plan   DeploymentPlan
}

// Deployment is one sync.
func Deployment(in DeploymentState) (DeploymentPlan, error) {
	s := &sync{
		d: in.Deployment, status: *in.Deployment.Status.DeepCopy(), pods: in.Pods, taken: in.Taken, then: in.Then,
		// What is stored has seconds, so this does not change by being stored.
		now: metav1.NewTime(in.Now).Rfc3339Copy(),
	}
	var err error
	if s.bounds, err = BoundsOf(s.d); err != nil {
		return DeploymentPlan{}, fmt.Errorf("deployment %q: %w", s.d.Name, err)
	}
	s.divide(in.Sets)
	s.run()
	s.plan.Status = s.status
	return s.plan, nil
}

// divide finds the target among the sets: the oldest one with the template.
func (s *sync) divide(sets []*appsv1.ReplicaSet) {
	sorted := slices.Clone(sets)
	slices.SortStableFunc(sorted, func(a, b *appsv1.ReplicaSet) int {
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		// Times have seconds. Two sets of one second are told apart by revision.
		if c := Revision(a.Annotations) - Revision(b.Annotations); c != 0 {
			return int(c)
		}
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	for _, set := range sorted {
		c := *set
		if c.Annotations = maps.Clone(set.Annotations); c.Annotations == nil {
			c.Annotations = map[string]string{}
		}
		if s.target == nil && SameTemplate(&set.Spec.Template, &s.d.Spec.Template) {
			s.target = &c
		} else {
			s.old = append(s.old, &c)
		}
	}
}

func (s *sync) run() {
	if s.d.DeletionTimestamp != nil {
		s.count()
		return
	}
	s.notePause()
	if s.rollBack() {
		s.count()
		return
	}
	switch {
	case s.d.Spec.Paused:
		s.adoptTarget()
		s.scaleAll()
		s.cleanUp()
		s.count()
	// Recreate has no proportions: of several sets all but the target end anyway.
	case s.sizeChanged() && (s.d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType || len(active(s.all())) < 2):
		s.adoptTarget()
		s.scaleAll()
		s.count()
	case s.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		s.adoptTarget()
		s.recreate()
		s.progress()
	default:
		s.adoptTarget()
		s.roll()
		s.progress()
	}
	s.storeRevision()
}

// adoptTarget brings what the deployment says besides the template into a
// target that exists.
func (s *sync) adoptTarget() {
	if s.target == nil {
		return
	}
	before := maps.Clone(s.target.Annotations)
	copyAnnotations(s.target.Annotations, s.d.Annotations)
	setRevision(s.target, s.old)
	if s.target.Spec.MinReadySeconds != s.d.Spec.MinReadySeconds || !maps.Equal(before, s.target.Annotations) {
		s.target.Spec.MinReadySeconds = s.d.Spec.MinReadySeconds
		s.act(Update, s.target, s.size(s.target), s.size(s.target))
	}
	if s.hasDeadline() && condition(&s.status, appsv1.DeploymentProgressing) == nil {
		s.setCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonFound, fmt.Sprintf("Found new replica set %q", s.target.Name))
	}
}

// create makes the target.
func (s *sync) create() {
	hash := ""
	for {
		collisions := int32(0)
		if s.status.CollisionCount != nil {
			collisions = *s.status.CollisionCount
		}
		hash = TemplateHash(&s.d.Spec.Template, collisions)
		name := SetName(s.d.Name, hash)
		taken := s.taken != nil && s.taken(name)
		for _, o := range s.old {
			taken = taken || o.Name == name
		}
		if !taken {
			break
		}
		collisions++
		s.status.CollisionCount = &collisions
	}
	yes := true
	template := *withoutHash(s.d.Spec.Template.DeepCopy())
	template.Labels = with(template.Labels, HashLabel, hash)
	selector := s.d.Spec.Selector.DeepCopy()
	if selector == nil {
		selector = &metav1.LabelSelector{}
	}
	selector.MatchLabels = with(selector.MatchLabels, HashLabel, hash)
	zero := int32(0)
	s.target = &appsv1.ReplicaSet{
		TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "ReplicaSet"},
		ObjectMeta: metav1.ObjectMeta{
			Name: SetName(s.d.Name, hash), Namespace: s.d.Namespace,
			Labels:      maps.Clone(template.Labels),
			Annotations: map[string]string{},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "apps/v1", Kind: "Deployment", Name: s.d.Name, UID: s.d.UID, Controller: &yes, BlockOwnerDeletion: &yes,
			}},
		},
		Spec: appsv1.ReplicaSetSpec{Replicas: &zero, MinReadySeconds: s.d.Spec.MinReadySeconds, Selector: selector, Template: template},
	}
	copyAnnotations(s.target.Annotations, s.d.Annotations)
	setRevision(s.target, s.old)
	remember(s.target, s.bounds)
	n := s.targetSize()
	s.target.Spec.Replicas = &n
	s.act(Create, s.target, 0, n)
	if n > 0 {
		s.event("Normal", "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", s.target.Name, n)
	}
	s.removeCondition(RolledBack)
	if s.hasDeadline() {
		s.setCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonCreated, fmt.Sprintf("Created new replica set %q", s.target.Name))
	}
}

// with is the labels and one more.
func with(labels map[string]string, key, value string) map[string]string {
	labels = maps.Clone(labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[key] = value
	return labels
}

// storeRevision shows the target's revision on the deployment.
func (s *sync) storeRevision() {
	if s.target == nil {
		return
	}
	if r := s.target.Annotations[RevisionAnnotation]; r != s.d.Annotations[RevisionAnnotation] {
		d := s.d.DeepCopy()
		d.Annotations = with(d.Annotations, RevisionAnnotation, r)
		s.plan.Deployment = d
	}
}

// cleanUp deletes what exceeds the history.
func (s *sync) cleanUp() {
	for _, set := range beyondHistory(s.d, s.old) {
		s.act(Delete, set, 0, 0)
	}
}

// act notes a step, with the set as it is now.
func (s *sync) act(op SetOp, set *appsv1.ReplicaSet, from, to int32) {
	s.plan.Sets = append(s.plan.Sets, SetAction{Op: op, Set: set.DeepCopy(), From: from, To: to})
}

// resize changes the size of a set, and tells whether that was necessary.
func (s *sync) resize(set *appsv1.ReplicaSet, n int32) bool {
	from := s.size(set)
	if from == n {
		return false
	}
	set.Spec.Replicas = &n
	remember(set, s.bounds)
	s.act(Scale, set, from, n)
	way := "up"
	if n < from {
		way = "down"
	}
	s.event("Normal", "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", way, set.Name, from, n)
	return true
}

func (s *sync) event(kind, reason, format string, args ...any) {
	s.plan.Events = append(s.plan.Events, Event{kind, reason, fmt.Sprintf(format, args...)})
}

func (s *sync) size(set *appsv1.ReplicaSet) int32 { return replicas(set.Spec.Replicas) }

// all are the old sets, oldest first, and the target.
func (s *sync) all() []*appsv1.ReplicaSet {
	if s.target == nil {
		return s.old
	}
	return append(slices.Clone(s.old), s.target)
}

// wanted and available sum over sets. A set that has just become smaller still says
// what it had: no more of its pods than it is to have will stay. (Kubernetes counts all
// of them, and can take the last pods of a deployment that gets a new template
// and fewer replicas at once.)
func wanted(sets []*appsv1.ReplicaSet) (n int32) {
	for _, set := range sets {
		n += replicas(set.Spec.Replicas)
	}
	return n
}

func available(sets []*appsv1.ReplicaSet) (n int32) {
	for _, set := range sets {
		n += min(set.Status.AvailableReplicas, replicas(set.Spec.Replicas))
	}
	return n
}

// active are the sets that want pods.
func active(sets []*appsv1.ReplicaSet) (some []*appsv1.ReplicaSet) {
	for _, set := range sets {
		if replicas(set.Spec.Replicas) > 0 {
			some = append(some, set)
		}
	}
	return some
}
