package rollout

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// Pods that the node has refused are replaced ever later; others that have failed are
// replaced at once. Of both, some stay.
func TestReplicaSet_Refused(t *testing.T) {
	now := epoch.Add(time.Hour)
	n := int32(1)
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "web-x", UID: "s"}, Spec: appsv1.ReplicaSetSpec{Replicas: &n, Template: template(1)}}
	var pods []*corev1.Pod
	made := 0
	for at := now; at.Before(now.Add(time.Hour)); at = at.Add(100 * time.Millisecond) {
		plan, err := ReplicaSet(SetState{Set: set, Pods: pods, Now: at})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range plan.Delete {
			pods = slices.DeleteFunc(pods, func(q *corev1.Pod) bool { return q == p })
		}
		if len(pods) > 10 {
			t.Fatalf("%d pods stay", len(pods))
		}
		for range plan.Create {
			p := readyPod("p", at.Truncate(time.Second))
			p.CreationTimestamp = metav1.NewTime(at.Truncate(time.Second))
			p.Status.Phase, p.Status.Reason = corev1.PodFailed, "SysctlForbidden"
			pods = append(pods, p)
			made++
		}
		if plan.Create == 0 && !plan.Again.After(at) {
			t.Fatalf("at %v it waits until %v", at, plan.Again)
		}
	}
	if made < 15 || made > 22 {
		t.Errorf("%d pods in an hour", made)
	}
	// The clock was set back since the last one.
	then := func(_ types.UID, at time.Time) time.Time { return at.Add(-400 * 24 * time.Hour) }
	if plan, err := ReplicaSet(SetState{Set: set, Pods: pods, Now: now.Add(2*time.Hour - 400*24*time.Hour), Then: then}); err != nil || plan.Create != 1 {
		t.Errorf("after the clock was set: %+v, %v", plan, err)
	}
	for n := range 20 {
		p := readyPod(fmt.Sprint("p", n), epoch)
		p.CreationTimestamp = metav1.NewTime(epoch.Add(-time.Duration(n) * time.Second))
		p.Status.Phase = corev1.PodFailed
		if n < 12 {
			p.Status.Reason = "Evicted"
		}
		pods = append(pods[:n:n], p)
	}
	plan, err := ReplicaSet(SetState{Set: set, Pods: pods, Now: now})
	if err != nil || plan.Create != 1 || len(plan.Delete) != 2 || plan.Delete[0].Name != "p11" || plan.Delete[1].Name != "p10" {
		t.Errorf("%+v, %v", plan, err)
	}
}

func TestReplicaSet(t *testing.T) {
	now := epoch.Add(time.Hour)
	gone := metav1.NewTime(now)
	n := int32(3)
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web-x", UID: "s", Generation: 4},
		Spec:       appsv1.ReplicaSetSpec{Replicas: &n, MinReadySeconds: 10, Template: template(1)},
	}
	old, fresh, failed, leaving, waiting := readyPod("old", epoch), readyPod("fresh", now.Add(-4*time.Second)), readyPod("failed", epoch), readyPod("leaving", epoch), readyPod("waiting", epoch)
	old.Labels = map[string]string{"app": "web"}
	failed.Status.Phase = corev1.PodFailed
	leaving.DeletionTimestamp = &gone
	waiting.Status.Conditions = nil
	plan, err := ReplicaSet(SetState{Set: set, Pods: []*corev1.Pod{old, fresh, failed, leaving}, Now: now})
	if err != nil || plan.Create != 1 || len(plan.Delete) != 0 {
		t.Errorf("creates %d, deletes %d, %v", plan.Create, len(plan.Delete), err)
	}
	st := plan.Status
	if st.Replicas != 2 || st.ReadyReplicas != 2 || st.AvailableReplicas != 1 || st.FullyLabeledReplicas != 1 || *st.TerminatingReplicas != 1 || st.ObservedGeneration != 4 {
		t.Errorf("status %+v", st)
	}
	if want := now.Add(6 * time.Second); !plan.Again.Equal(want) {
		t.Errorf("again at %v, want %v", plan.Again, want)
	}
	n = 1
	plan, _ = ReplicaSet(SetState{Set: set, Pods: []*corev1.Pod{old, fresh, waiting}, Now: now})
	if len(plan.Delete) != 2 || plan.Delete[0] != waiting || plan.Delete[1] != fresh {
		t.Errorf("deletes %v", plan.Delete)
	}
	plan, _ = ReplicaSet(SetState{Set: set, Pods: []*corev1.Pod{old, fresh, waiting}, Waiting: true, Now: now})
	if len(plan.Delete) != 0 || plan.Status.Replicas != 3 {
		t.Errorf("acts while it waits: %v", plan.Delete)
	}
	set.DeletionTimestamp = &gone
	if plan, _ = ReplicaSet(SetState{Set: set, Now: now}); plan.Create != 0 {
		t.Error("creates pods of a set that is being deleted")
	}
	set.DeletionTimestamp = nil

	for deleting, want := range map[bool]string{false: "FailedCreate", true: "FailedDelete"} {
		set.Status = appsv1.ReplicaSetStatus{}
		plan, _ = ReplicaSet(SetState{Set: set, Failure: &Failure{Deleting: deleting, Err: errors.New("no room")}, Now: now})
		if c := plan.Status.Conditions; len(c) != 1 || c[0].Reason != want || c[0].Message != "no room" {
			t.Errorf("conditions %+v", c)
		}
		set.Status = plan.Status
		if plan, _ = ReplicaSet(SetState{Set: set, Now: now}); len(plan.Status.Conditions) != 0 {
			t.Errorf("the condition stays: %+v", plan.Status.Conditions)
		}
	}
}

func TestPod(t *testing.T) {
	tmpl := template(1)
	tmpl.Annotations = map[string]string{"a": "b"}
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "web-x", Namespace: "shop", UID: "s"}, Spec: appsv1.ReplicaSetSpec{Template: tmpl}}
	p := Pod(set, 12345)
	if !regexp.MustCompile(`^web-x-[bcdfghjklmnpqrstvwxz2456789]{5}$`).MatchString(p.Name) || p.Namespace != "shop" || p.Labels["app"] != "web" || p.Annotations["a"] != "b" {
		t.Errorf("pod %+v", p.ObjectMeta)
	}
	if !controlledBy(p, "s") || p.Spec.Containers[0].Image != "example/app:1" {
		t.Errorf("pod %+v", p)
	}
	p.Labels["app"] = "changed"
	if set.Spec.Template.Labels["app"] != "web" {
		t.Error("shares maps with the template")
	}
}

func TestClaim(t *testing.T) {
	yes := true
	pod := func(name, app string, owner types.UID) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "n", Labels: map[string]string{"app": app}}}
		if owner != "" {
			p.OwnerReferences = []metav1.OwnerReference{{UID: owner, Controller: &yes}}
		}
		return p
	}
	leaving := pod("leaving", "web", "")
	leaving.DeletionTimestamp = &metav1.Time{Time: epoch}
	elsewhere := pod("elsewhere", "web", "")
	elsewhere.Namespace = "m"
	pods := []*corev1.Pod{pod("mine", "web", "s"), pod("orphan", "web", ""), pod("stray", "other", "s"), pod("theirs", "web", "t"), pod("foreign", "other", ""), leaving, elsewhere}
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "n", UID: "s"}}
	names := func(pods []*corev1.Pod) (out string) {
		for _, p := range pods {
			out += p.Name + " "
		}
		return out
	}
	mine, adopt, release := Claim(set, labels.SelectorFromSet(labels.Set{"app": "web"}), pods)
	if names(mine) != "mine " || names(adopt) != "orphan " || names(release) != "stray " {
		t.Errorf("mine %s, adopt %s, release %s", names(mine), names(adopt), names(release))
	}
	set.DeletionTimestamp = &metav1.Time{Time: epoch}
	mine, adopt, release = Claim(set, labels.SelectorFromSet(labels.Set{"app": "web"}), pods)
	if names(mine) != "mine " || len(adopt) != 0 || len(release) != 0 {
		t.Errorf("while deleted: mine %s, adopt %s, release %s", names(mine), names(adopt), names(release))
	}
}

func TestExpectations(t *testing.T) {
	var e Expectations
	if e.Waiting(epoch) {
		t.Error("waits for nothing")
	}
	e.Expect(2, []types.UID{"a", "b"}, epoch)
	for i, see := range []func(){e.Created, func() { e.Deleted("a") }, func() { e.Deleted("a") }, e.Created} {
		if see(); !e.Waiting(epoch) {
			t.Fatalf("waits no more after %d", i)
		}
	}
	if e.Deleted("b"); e.Waiting(epoch) {
		t.Error("still waits")
	}
	e.Expect(1, nil, epoch)
	if !e.Waiting(epoch.Add(4*time.Minute)) || e.Waiting(epoch.Add(5*time.Minute)) {
		t.Error("does not give up after five minutes")
	}
}

func TestNames(t *testing.T) {
	a, b := template(1), template(1)
	b.Labels = map[string]string{"app": "web", HashLabel: "x"}
	if TemplateHash(&a, 0) != TemplateHash(&b, 0) || !SameTemplate(&a, &b) || b.Labels[HashLabel] != "x" {
		t.Error("the hash label makes a difference")
	}
	c := template(2)
	if TemplateHash(&a, 0) == TemplateHash(&c, 0) || TemplateHash(&a, 0) == TemplateHash(&a, 1) {
		t.Error("template or collisions make no difference")
	}
	// What names of sets that exist were made from must not change.
	if got := TemplateHash(&a, 0); got != "57946fc8c6" {
		t.Errorf("hash %q", got)
	}
	long := strings.Repeat("x", 253)
	for _, name := range []string{SetName(long, "abc"), PodName(long, 1)} {
		if len(name) != 253 {
			t.Errorf("a name of %d characters", len(name))
		}
	}
	d, e := template(1), template(1)
	d.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"cpu": resource.MustParse("1000m")}
	e.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"cpu": resource.MustParse("1")}
	e.Spec.Volumes = []corev1.Volume{}
	if !SameTemplate(&d, &e) {
		t.Error("equal quantities make a difference")
	}
}

// Two templates whose sets would have the same name get different ones.
func TestCollision(t *testing.T) {
	w := newWorld(t, defaults)
	tmpl := template(1)
	first := SetName("web", TemplateHash(&tmpl, 0))
	plan, err := Deployment(DeploymentState{Deployment: w.d, Taken: func(name string) bool { return name == first }, Now: epoch})
	if err != nil || len(plan.Sets) != 1 || plan.Sets[0].Set.Name != SetName("web", TemplateHash(&tmpl, 1)) || *plan.Status.CollisionCount != 1 {
		t.Errorf("%v, %v", plan.Sets, err)
	}
	old := defaults.sets(t, []setVector{{Rev: 7, Spec: 3}})
	old[0].Name = first
	plan, _ = Deployment(DeploymentState{Deployment: w.d, Sets: old, Now: epoch})
	if got := plan.Sets[0].Set.Name; got == first || plan.Sets[0].Op != Create {
		t.Errorf("takes the name %s", got)
	}
}

// Of several sets with the template the oldest is the target, which makes undo
// use the set that there is.
func TestTargetIsOldest(t *testing.T) {
	w := newWorld(t, defaults)
	sets := defaults.sets(t, []setVector{{Rev: 1, Spec: 1}, {Rev: 1, Spec: 1}})
	sets[0].Name, sets[0].CreationTimestamp = "younger", metav1.NewTime(epoch.Add(time.Hour))
	plan, _ := Deployment(DeploymentState{Deployment: w.d, Sets: sets, Now: epoch})
	for _, a := range plan.Sets {
		if a.To > a.From && a.Set.Name != "web-1" {
			t.Errorf("%s", a)
		}
	}
}

// A set that was brought to the right size by hand does not keep the deployment
// from rolling out.
func TestScaledByHand(t *testing.T) {
	was := int32(1)
	w := newWorld(t, defaults)
	w.sets = defaults.sets(t, []setVector{{Rev: 1, Spec: 3, Available: 3, Desired: &was, Max: &was}})
	w.use(2).settle()
	if revOf(w.target()) != 2 {
		t.Errorf("the rollout is stuck at %v", sizes(w.sets))
	}
}

func TestBounds_Bad(t *testing.T) {
	for _, bad := range []string{"x", "-1", "-5%", "5%%", "%"} {
		if _, _, err := Resolve(number(t, bad), nil, 3); err == nil || !strings.Contains(err.Error(), "maxSurge") {
			t.Errorf("%q: %v", bad, err)
		}
		s := defaults
		s.MaxUnavailable = bad
		if _, err := Deployment(DeploymentState{Deployment: s.deployment(t), Now: epoch}); err == nil || !strings.Contains(err.Error(), `deployment "web": maxUnavailable`) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if s, u, err := Resolve(nil, nil, 10); s != 3 || u != 2 || err != nil {
		t.Error("the defaults are not 25 %:", s, u, err)
	}
}

func TestHistoryText(t *testing.T) {
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{}}}
	for i := 1; i < 5000; i += 2 {
		set.Annotations[RevisionAnnotation] = fmt.Sprint(i)
		setRevision(set, []*appsv1.ReplicaSet{{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{RevisionAnnotation: fmt.Sprint(i + 1)}}}})
	}
	h := set.Annotations[HistoryAnnotation]
	if len(h) > maxHistory || len(h) < maxHistory-10 || !strings.HasSuffix(h, ",4997,4999") {
		t.Errorf("%d characters, ends with %s", len(h), h[len(h)-20:])
	}
}
