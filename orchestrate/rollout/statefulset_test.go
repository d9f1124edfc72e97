package rollout

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// pets is a StatefulSet with what it made, and a node that pretends.
type pets struct {
	t         *testing.T
	r         *rand.Rand
	set       *appsv1.StatefulSet
	pods      map[string]*corev1.Pod
	revisions map[string]*appsv1.ControllerRevision
	claims    map[string]*corev1.PersistentVolumeClaim
	now       time.Time
	uid       int
}

func newPets(t *testing.T, r *rand.Rand, n int32) *pets {
	s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db", UID: "set", Generation: 1}}
	s.Spec.Replicas, s.Spec.ServiceName, s.Spec.PodManagementPolicy = &n, "db", appsv1.OrderedReadyPodManagement
	s.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}
	s.Spec.Template.Labels = map[string]string{"app": "db"}
	s.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "example/db:1"}}
	s.Spec.UpdateStrategy.Type = appsv1.RollingUpdateStatefulSetStrategyType
	zero := int32(0)
	s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: &zero}
	s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}
	return &pets{t, r, s, map[string]*corev1.Pod{}, map[string]*appsv1.ControllerRevision{}, map[string]*corev1.PersistentVolumeClaim{}, epoch, 0}
}

func values[T any](m map[string]T) (out []T) {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		out = append(out, m[k])
	}
	return out
}

func (w *pets) state() StatefulState {
	return StatefulState{
		Set: w.set, Pods: values(w.pods), Revisions: values(w.revisions), Now: w.now,
		Claim: func(name string) *corev1.PersistentVolumeClaim { return w.claims[name] },
	}
}

// plan is a sync that is not carried out; its promises are checked.
func (w *pets) plan() StatefulPlan {
	w.t.Helper()
	in := w.state()
	before := in.Set.DeepCopy()
	plan, err := StatefulSet(in)
	if err != nil {
		w.t.Fatal(err)
	}
	if again, _ := StatefulSet(in); !reflect.DeepEqual(plan, again) {
		w.t.Fatal("the same state gave another plan")
	}
	if !reflect.DeepEqual(in.Set, before) {
		w.t.Fatal("the state was changed")
	}
	n := int(*w.set.Spec.Replicas)
	start := startOrdinal(w.set)
	available := func(i int) bool {
		p := w.pods[fmt.Sprintf("db-%d", i)]
		return p != nil && Active(p) && PodAvailable(p, w.set.Spec.MinReadySeconds, w.now)
	}
	ordered := w.set.Spec.PodManagementPolicy == appsv1.OrderedReadyPodManagement
	for _, p := range plan.Create {
		i, ok := Ordinal("db", p.Name)
		if !ok || i < start || i >= start+n || w.pods[p.Name] != nil {
			w.t.Fatalf("creates %s", p.Name)
		}
		for k := start; k < i && ordered; k++ {
			if !available(k) {
				w.t.Fatalf("creates %s before db-%d is available", p.Name, k)
			}
		}
		if p.Spec.Hostname != p.Name || p.Spec.Subdomain != "db" || p.Labels[appsv1.PodIndexLabel] != fmt.Sprint(i) || p.Labels[appsv1.StatefulSetPodNameLabel] != p.Name ||
			p.Spec.Volumes[0].PersistentVolumeClaim.ClaimName != "data-"+p.Name {
			w.t.Fatalf("%+v", p)
		}
	}
	if ordered && len(plan.Create)+len(plan.Delete) > 1 {
		most, _ := (&stateful{StatefulState: in}).maxUnavailable()
		if len(plan.Create) > 0 || len(plan.Delete) > most {
			w.t.Fatalf("%d pods made and %d deleted at once", len(plan.Create), len(plan.Delete))
		}
	}
	// What an update takes away stays within its bounds.
	have, taken := 0, 0
	for i := start; i < start+n; i++ {
		if available(i) {
			have++
		}
	}
	for _, p := range plan.Delete {
		i, _ := Ordinal("db", p.Name)
		inside := i >= start && i < start+n
		if inside && available(i) {
			taken++
		}
		if r := w.set.Spec.UpdateStrategy.RollingUpdate; inside && Active(p) && (w.set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType || i-start < int(*r.Partition)) {
			w.t.Fatalf("deletes %s, which an update does not reach", p.Name)
		}
		if !inside && ordered && slices.ContainsFunc(values(w.pods), func(o *corev1.Pod) bool {
			k, _ := Ordinal("db", o.Name)
			return k > i
		}) {
			w.t.Fatalf("deletes %s before those above", p.Name)
		}
	}
	most, _ := (&stateful{StatefulState: in}).maxUnavailable()
	if taken > 0 && have-taken < n-most {
		w.t.Fatalf("%d of %d available, takes %d, may lack %d", have, n, taken, most)
	}
	return plan
}

// sync carries out a plan, all of it or as many steps as are given.
func (w *pets) sync(steps int) (did int) {
	w.t.Helper()
	plan := w.plan()
	do := func(f func()) {
		if did++; did <= steps {
			f()
		}
	}
	for _, a := range plan.Revisions {
		do(func() {
			if a.Op == Delete {
				delete(w.revisions, a.Revision.Name)
				return
			}
			if a.Op == Create && w.revisions[a.Revision.Name] != nil {
				w.t.Fatalf("%s is made twice", a.Revision.Name)
			}
			w.revisions[a.Revision.Name] = a.Revision.DeepCopy()
		})
	}
	for _, c := range plan.Claims {
		do(func() { w.claims[c.Name] = c.DeepCopy() })
	}
	for _, c := range plan.Owners {
		do(func() { w.claims[c.Name] = c.DeepCopy() })
	}
	for _, p := range plan.Update {
		do(func() { w.pods[p.Name] = p.DeepCopy() })
	}
	for _, p := range plan.Create {
		do(func() {
			n := p.DeepCopy()
			w.uid++
			n.UID, n.Status.Phase = types.UID(fmt.Sprint("pod", w.uid)), corev1.PodPending
			w.pods[n.Name] = n
		})
	}
	for _, p := range plan.Delete {
		do(func() {
			n := p.DeepCopy()
			at := metav1.NewTime(w.now)
			n.DeletionTimestamp = &at
			w.pods[n.Name] = n
		})
	}
	do(func() { w.set.Status = plan.Status })
	return did - 1
}

// node moves pods on, some of them or all.
func (w *pets) node(all bool) {
	w.now = w.now.Add(time.Second)
	for _, p := range values(w.pods) {
		if !all && w.r.IntN(2) == 0 {
			continue
		}
		switch {
		case p.DeletionTimestamp != nil:
			delete(w.pods, p.Name)
			for _, c := range values(w.claims) {
				if slices.ContainsFunc(c.OwnerReferences, func(o metav1.OwnerReference) bool { return o.UID == p.UID }) {
					delete(w.claims, c.Name)
				}
			}
		case p.Status.Phase == corev1.PodPending && !strings.Contains(p.Spec.Containers[0].Image, "broken"):
			p.Status.Phase = corev1.PodRunning
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(w.now)}}
		case w.r.IntN(40) == 0 && !all:
			p.Status.Phase, p.Status.Conditions = corev1.PodFailed, nil
		case w.r.IntN(20) == 0 && !all && p.Status.Phase == corev1.PodRunning:
			p.Status.Conditions[0].Status = corev1.ConditionFalse
		case p.Status.Phase == corev1.PodRunning && p.Status.Conditions[0].Status != corev1.ConditionTrue:
			p.Status.Conditions[0] = corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(w.now)}
		}
	}
}

// settle goes on until nothing is left to do.
func (w *pets) settle() {
	w.t.Helper()
	rest := 0
	for range 500 {
		before := w.set.Status.DeepCopy()
		if w.sync(1<<30) == 0 && reflect.DeepEqual(before, &w.set.Status) {
			rest++
		} else {
			rest = 0
		}
		if rest > 4 {
			return
		}
		w.node(true)
	}
	w.t.Fatalf("no end: %+v", w.set.Status)
}

func (w *pets) images() string {
	var b strings.Builder
	for _, p := range values(w.pods) {
		fmt.Fprintf(&b, "%s=%s ", p.Name, strings.TrimPrefix(p.Spec.Containers[0].Image, "example/db:"))
	}
	return strings.TrimSpace(b.String())
}

// Whatever is asked for, whatever pods do, and wherever the one who carries it
// out is killed: every plan keeps its promises, and in the end all is as wanted.
func TestStatefulSet_Property(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for range 25 {
		w := newPets(t, r, int32(r.IntN(6)))
		if r.IntN(2) == 0 {
			w.set.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
		}
		if r.IntN(3) == 0 {
			w.set.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: int32(r.IntN(3))}
		}
		w.set.Spec.MinReadySeconds = int32(r.IntN(3))
		policies := []appsv1.PersistentVolumeClaimRetentionPolicyType{appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType}
		w.set.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: policies[r.IntN(2)], WhenScaled: policies[r.IntN(2)]}
		for range 50 {
			switch r.IntN(12) {
			case 0:
				n := int32(r.IntN(6))
				w.set.Spec.Replicas = &n
			case 1:
				w.set.Spec.Template.Spec.Containers[0].Image = fmt.Sprint("example/db:", r.IntN(4))
			case 2:
				w.set.Spec.Template.Spec.Containers[0].Image = "example/db:broken"
			case 3:
				m := intstr.FromInt32(int32(r.IntN(3)) + 1)
				p := int32(r.IntN(3))
				w.set.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable, w.set.Spec.UpdateStrategy.RollingUpdate.Partition = &m, &p
			}
			w.set.Generation++
			w.sync(r.IntN(6))
			if r.IntN(2) == 0 {
				w.node(false)
			}
		}
		zero := int32(0)
		w.set.Spec.UpdateStrategy.RollingUpdate.Partition = &zero
		w.set.Spec.Template.Spec.Containers[0].Image = "example/db:end"
		w.settle()
		n := *w.set.Spec.Replicas
		if st := w.set.Status; len(w.pods) != int(n) || st.Replicas != n || st.AvailableReplicas != n || st.UpdatedReplicas != n || st.CurrentRevision != st.UpdateRevision || strings.Count(w.images(), "=end") != int(n) {
			t.Fatalf("%d wanted: %s, %+v", n, w.images(), st)
		}
		for _, p := range w.pods {
			if w.claims["data-"+p.Name] == nil {
				t.Fatalf("%s has no claim", p.Name)
			}
		}
		if len(w.revisions) > 12 {
			t.Fatalf("%d revisions", len(w.revisions))
		}
	}
}

func TestStatefulSet_Partition(t *testing.T) {
	w := newPets(t, rand.New(rand.NewPCG(1, 1)), 4)
	w.settle()
	three := int32(3)
	w.set.Spec.UpdateStrategy.RollingUpdate.Partition = &three
	w.set.Spec.Template.Spec.Containers[0].Image = "example/db:2"
	w.settle()
	if got := w.images(); got != "db-0=1 db-1=1 db-2=1 db-3=2" || w.set.Status.CurrentRevision == w.set.Status.UpdateRevision || w.set.Status.UpdatedReplicas != 1 || w.set.Status.CurrentReplicas != 3 {
		t.Errorf("%s, %+v", got, w.set.Status)
	}
	// One below the partition that is lost comes back as it was, one above as new.
	for _, name := range []string{"db-1", "db-3"} {
		delete(w.pods, name)
	}
	w.settle()
	if got := w.images(); got != "db-0=1 db-1=1 db-2=1 db-3=2" {
		t.Errorf("%s", got)
	}
	one := int32(1)
	w.set.Spec.UpdateStrategy.RollingUpdate.Partition = &one
	w.settle()
	if got := w.images(); got != "db-0=1 db-1=2 db-2=2 db-3=2" {
		t.Errorf("%s", got)
	}
	// Back: the old revision gets the highest number, and no new one is made.
	was := len(w.revisions)
	w.set.Spec.Template.Spec.Containers[0].Image = "example/db:1"
	w.settle()
	if got := w.images(); got != "db-0=1 db-1=1 db-2=1 db-3=1" || len(w.revisions) != was || w.revisions[w.set.Status.UpdateRevision].Revision != 3 {
		t.Errorf("%s, %d revisions, %+v", got, len(w.revisions), w.revisions[w.set.Status.UpdateRevision])
	}
}

func TestStatefulSet_OnDelete(t *testing.T) {
	w := newPets(t, rand.New(rand.NewPCG(1, 1)), 2)
	w.set.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}
	w.settle()
	w.set.Spec.Template.Spec.Containers[0].Image = "example/db:2"
	w.settle()
	if got := w.images(); got != "db-0=1 db-1=1" {
		t.Errorf("%s", got)
	}
	delete(w.pods, "db-0")
	w.settle()
	if got := w.images(); got != "db-0=2 db-1=1" {
		t.Errorf("%s", got)
	}
}

// A revision that does not work stops at the first pod, and the next one repairs
// it.
func TestStatefulSet_Broken(t *testing.T) {
	w := newPets(t, rand.New(rand.NewPCG(1, 1)), 3)
	w.settle()
	w.set.Spec.Template.Spec.Containers[0].Image = "example/db:broken"
	w.settle()
	if got := w.images(); got != "db-0=1 db-1=1 db-2=broken" {
		t.Errorf("%s", got)
	}
	w.set.Spec.Template.Spec.Containers[0].Image = "example/db:3"
	w.settle()
	if got := w.images(); got != "db-0=3 db-1=3 db-2=3" {
		t.Errorf("%s", got)
	}
}

// A pod that the node has refused is tried again once in a while, and at once when the
// next revision may be better.
func TestStatefulSet_Refused(t *testing.T) {
	w := newPets(t, rand.New(rand.NewPCG(1, 1)), 1)
	refuse := func() {
		for _, p := range values(w.pods) {
			if p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodPending {
				p.CreationTimestamp = metav1.NewTime(w.now)
				p.Status.Phase, p.Status.Reason = corev1.PodFailed, "SysctlForbidden"
			}
		}
	}
	for range 100 {
		w.sync(1 << 30)
		refuse()
		if plan := w.plan(); len(plan.Delete) == 0 && w.pods["db-0"] != nil && w.pods["db-0"].DeletionTimestamp == nil && !plan.Again.After(w.now) {
			t.Fatalf("at %v it waits until %v", w.now, plan.Again)
		}
		w.node(true)
	}
	if w.uid < 5 || w.uid > 11 {
		t.Errorf("%d pods in 100 s", w.uid)
	}
	state := w.state()
	state.Now = state.Now.Add(-400 * 24 * time.Hour)
	state.Then = func(_ types.UID, at time.Time) time.Time { return at.Add(-400 * 24 * time.Hour) }
	if plan, err := StatefulSet(state); err != nil || plan.Again.After(state.Now.Add(refusedPodStays)) {
		t.Errorf("after the clock was set it waits until %v, it is %v, %v", plan.Again, state.Now, err)
	}
	w.set.Spec.Template.Spec.Containers[0].Image = "example/db:2"
	w.settle()
	if got := w.images(); got != "db-0=2" || w.pods["db-0"].Status.Phase != corev1.PodRunning {
		t.Errorf("%s", got)
	}
}

func TestStatefulSet_Retention(t *testing.T) {
	w := newPets(t, rand.New(rand.NewPCG(1, 1)), 3)
	w.set.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{
		WhenDeleted: appsv1.RetainPersistentVolumeClaimRetentionPolicyType, WhenScaled: appsv1.DeletePersistentVolumeClaimRetentionPolicyType,
	}
	w.settle()
	one, three := int32(1), int32(3)
	w.set.Spec.Replicas = &one
	w.settle()
	if len(w.claims) != 1 || w.claims["data-db-0"] == nil {
		t.Errorf("%d claims stay", len(w.claims))
	}
	w.set.Spec.PersistentVolumeClaimRetentionPolicy.WhenScaled = appsv1.RetainPersistentVolumeClaimRetentionPolicyType
	w.set.Spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	w.set.Spec.Replicas = &three
	w.settle()
	w.set.Spec.Replicas = &one
	w.settle()
	if len(w.claims) != 3 {
		t.Errorf("%d claims stay", len(w.claims))
	}
	for _, c := range w.claims {
		// Those of pods that were one too many are let go only when pods come back.
		if len(c.OwnerReferences) != 1 || c.OwnerReferences[0].UID != "set" {
			t.Errorf("%s: %v", c.Name, c.OwnerReferences)
		}
	}
}

// A limit of 1, with one in use and one before.
func TestHistory_Limit(t *testing.T) {
	w := newPets(t, rand.New(rand.NewPCG(1, 1)), 1)
	one := int32(1)
	w.set.Spec.RevisionHistoryLimit = &one
	for i := range 6 {
		w.set.Spec.Template.Spec.Containers[0].Image = fmt.Sprint("example/db:", i)
		w.settle()
	}
	if len(w.revisions) != 2 {
		t.Errorf("%d revisions", len(w.revisions))
	}
}

// Hashes are names: they must be the same in every version, or pods would be
// replaced by an update of the program. These were written by the first one.
func TestRevisionHash(t *testing.T) {
	grace, seconds := int64(30), int32(5)
	plain := corev1.PodTemplateSpec{}
	plain.Labels = map[string]string{"app": "db"}
	plain.Spec.Containers = []corev1.Container{{Name: "c", Image: "example/db:1"}}
	full := *plain.DeepCopy()
	full.Spec.TerminationGracePeriodSeconds = &grace
	full.Spec.SecurityContext = &corev1.PodSecurityContext{}
	full.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	full.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: seconds, ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(80)}}}
	for _, tt := range []struct {
		t          *corev1.PodTemplateSpec
		collisions int32
		want       string
	}{{&plain, 0, "f7694cd6d"}, {&plain, 1, "55f958f4b5"}, {&full, 0, "7984dbd64c"}} {
		if got := revisionHash(tt.t, tt.collisions); got != tt.want {
			t.Errorf("%s, want %s", got, tt.want)
		}
		r := &appsv1.ControllerRevision{}
		r.Data.Raw = revisionData(tt.t)
		if back, err := RevisionTemplate(r); err != nil || !SameTemplate(back, tt.t) {
			t.Errorf("%v: %s", err, r.Data.Raw)
		}
	}
	// Written in other words, by another version of the types, it is the same.
	w := newPets(t, rand.New(rand.NewPCG(1, 1)), 1)
	w.settle()
	for _, r := range w.revisions {
		r.Data.Raw = []byte(strings.Replace(string(r.Data.Raw), `"template":{`, `"template":{"unheardOf":{},`, 1))
		r.Data.Raw = []byte(strings.Replace(string(r.Data.Raw), `"metadata":{`, `"metadata":{"creationTimestamp":null,`, 1))
		r.Labels[appsv1.ControllerRevisionHashLabelKey] = "other"
	}
	if plan := w.plan(); len(plan.Revisions)+len(plan.Delete) > 0 {
		t.Errorf("%+v", plan)
	}
	for _, r := range w.revisions {
		r.Data.Raw = []byte("{}")
	}
	if _, err := StatefulSet(w.state()); err == nil {
		t.Error("a revision without a template is fine")
	}
}

func TestOrdinal(t *testing.T) {
	for name, want := range map[string]int{"db-0": 0, "db-12": 12, "db-01": -1, "db-": -1, "db--1": -1, "db-x": -1, "other-1": -1, "db-1-1": -1, "db-+1": -1} {
		n, ok := Ordinal("db", name)
		if ok != (want >= 0) || ok && n != want {
			t.Errorf("%s: %d, %v", name, n, ok)
		}
	}
}
