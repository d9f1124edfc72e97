package rollout

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// world runs syncs one after the other, as a controller would.
type world struct {
	t    *testing.T
	d    *appsv1.Deployment
	sets []*appsv1.ReplicaSet
	pods []*corev1.Pod
	now  time.Time
	last DeploymentPlan
}

func newWorld(t *testing.T, s step) *world {
	return &world{t: t, d: s.deployment(t), now: epoch}
}

func (w *world) sync() *world {
	w.t.Helper()
	var err error
	w.last, err = Deployment(DeploymentState{Deployment: w.d, Sets: w.sets, Pods: w.pods, Now: w.now})
	if err != nil {
		w.t.Fatal(err)
	}
	w.sets = carryOut(w.sets, w.last, w.now)
	if w.last.Deployment != nil {
		w.d = w.last.Deployment.DeepCopy()
	}
	w.d.Status = w.last.Status
	w.now = w.now.Add(time.Second)
	return w
}

// settle syncs until nothing happens any more; every pod is available at once.
func (w *world) settle() *world {
	w.t.Helper()
	for range 100 {
		podModel("", w.sets)
		before := w.d.Status.DeepCopy()
		w.sync()
		if len(w.last.Sets) == 0 && w.last.Deployment == nil && fmt.Sprint(before) == fmt.Sprint(&w.d.Status) {
			return w
		}
	}
	w.t.Fatalf("does not settle: %v", w.last.Sets)
	return nil
}

// use gives the deployment another template.
func (w *world) use(rev int) *world {
	w.d.Spec.Template = template(rev)
	w.d.Generation++
	return w
}

// byRevision is revision -> template, of all sets.
func (w *world) byRevision() map[string]string {
	m := map[string]string{}
	for _, s := range w.sets {
		m[s.Annotations[RevisionAnnotation]] = string(rune('A' + revOf(s) - 1))
	}
	return m
}

func (w *world) condition(kind appsv1.DeploymentConditionType) string {
	if c := condition(&w.d.Status, kind); c != nil {
		return fmt.Sprintf("%s %s %s", c.Type, c.Status, c.Reason)
	}
	return ""
}

var defaults = step{Strategy: "RollingUpdate", Replicas: 3, MaxSurge: "25%", MaxUnavailable: "25%", Target: 1}

func TestVectorsProgress(t *testing.T) {
	const kind = appsv1.DeploymentProgressing
	// Each gives the condition of its row.
	do := map[string]func(t *testing.T) *world{
		"p1": func(t *testing.T) *world { return newWorld(t, defaults).sync() },
		"p2": func(t *testing.T) *world {
			w := newWorld(t, defaults)
			w.sets = defaults.sets(t, []setVector{{Rev: 1, Spec: 3, Available: 1}})
			w.d.Status = appsv1.DeploymentStatus{Replicas: 3, UpdatedReplicas: 3, ReadyReplicas: 1, AvailableReplicas: 1}
			return w.sync()
		},
		"p3": func(t *testing.T) *world {
			w := newWorld(t, defaults).sync()
			w.sets[0].Status.Replicas = 2
			w.sync()
			since := condition(&w.d.Status, kind).LastUpdateTime
			w.now = w.now.Add(599 * time.Second)
			w.sets[0].Status.ReadyReplicas = 1
			w.sync()
			c := condition(&w.d.Status, kind)
			if !c.LastUpdateTime.After(since.Time) || !c.LastTransitionTime.Before(&c.LastUpdateTime) {
				t.Errorf("the deadline's clock does not restart: %+v, before %v", c, since)
			}
			w.now = w.now.Add(599 * time.Second) // from the progress, not from the start
			return w.sync()
		},
		"p4": func(t *testing.T) *world {
			w := newWorld(t, defaults).settle()
			w.now = w.now.Add(time.Hour)
			w.sets[0].Status.AvailableReplicas = 0 // long after: a matter of the pods
			return w.sync()
		},
		"p5": func(t *testing.T) *world {
			w := newWorld(t, defaults).sync()
			if want := w.now.Add(600 * time.Second); w.last.Again.IsZero() || w.last.Again.After(want.Add(time.Second)) {
				t.Errorf("wants to be asked again at %v", w.last.Again)
			}
			w.now = w.now.Add(600 * time.Second)
			w.sync()
			if len(w.last.Sets) > 0 || !w.last.Again.IsZero() {
				t.Errorf("acts: %v, again %v", w.last.Sets, w.last.Again)
			}
			late := *w
			late.d, late.sets = w.d.DeepCopy(), []*appsv1.ReplicaSet{w.sets[0].DeepCopy()}
			late.sets[0].Status.Replicas = 1
			if got := late.sync().condition(kind); got != "Progressing True ReplicaSetUpdated" {
				t.Errorf("a later progress gives %q", got)
			}
			return w
		},
		"p6": func(t *testing.T) *world {
			w := newWorld(t, defaults).sync()
			w.now = w.now.Add(601 * time.Second)
			failed := *w
			failed.d = w.sync().d.DeepCopy()
			failed.d.Spec.Paused = true
			if got := failed.sync().condition(kind); got != "Progressing False ProgressDeadlineExceeded" {
				t.Errorf("pausing after the deadline gives %q", got)
			}
			w = newWorld(t, defaults).sync()
			w.d.Spec.Paused = true
			w.sync()
			w.now = w.now.Add(time.Hour)
			return w.sync()
		},
		"p7": func(t *testing.T) *world {
			w := newWorld(t, defaults).sync()
			w.d.Spec.Paused = true
			w.sync()
			w.now = w.now.Add(time.Hour)
			w.d.Spec.Paused = false
			w.sync()
			w.now = w.now.Add(595 * time.Second)
			return w.sync()
		},
		"p8": func(t *testing.T) *world {
			w := newWorld(t, defaults)
			w.d.Status = CreateFailed(w.d, "web-x", errors.New("no room"), w.now)
			return w
		},
		"p9": func(t *testing.T) *world {
			s := defaults
			s.Replicas = 4 // one may be missing
			w := newWorld(t, s)
			w.sets = s.sets(t, []setVector{{Rev: 1, Spec: 4, Available: 3}})
			return w.sync()
		},
		"p10": func(t *testing.T) *world {
			s := defaults
			s.Replicas = 4
			w := newWorld(t, s)
			w.sets = s.sets(t, []setVector{{Rev: 1, Spec: 4, Available: 2}})
			return w.sync()
		},
		"p11": func(t *testing.T) *world {
			w := newWorld(t, defaults).sync()
			w.sets[0].Status.Conditions = []appsv1.ReplicaSetCondition{{Type: appsv1.ReplicaSetReplicaFailure, Status: "True", Reason: "FailedCreate", Message: "no room"}}
			w.sync()
			cured := *w
			cured.d, cured.sets = w.d.DeepCopy(), []*appsv1.ReplicaSet{w.sets[0].DeepCopy()}
			cured.sets[0].Status.Conditions = nil
			if got := cured.sync().condition(appsv1.DeploymentReplicaFailure); got != "" {
				t.Errorf("the condition stays: %q", got)
			}
			return w
		},
		"p12": func(t *testing.T) *world {
			w := newWorld(t, defaults)
			never := int32(math.MaxInt32)
			w.d.Spec.ProgressDeadlineSeconds = &never
			w.settle()
			w.now = w.now.Add(1000 * time.Hour)
			return w.sync()
		},
	}
	rows := load(t).Progress
	if len(rows) != 13 {
		t.Fatalf("%d rows", len(rows))
	}
	for _, row := range rows {
		if row.ID == "p13" {
			continue // a matter of validation
		}
		t.Run(row.ID, func(t *testing.T) {
			f, ok := do[row.ID]
			if !ok {
				t.Fatalf("no test for %+v", row)
			}
			c, want := kind, ""
			if row.Type != "" {
				c = appsv1.DeploymentConditionType(row.Type)
				want = row.Type + " " + row.Status + " " + row.Reason
			}
			if got := f(t).condition(c); got != want {
				t.Errorf("%s: %q, want %q", row.Event, got, want)
			}
		})
	}
}

func TestVectorsRevisions(t *testing.T) {
	rows := load(t).Revisions
	if len(rows) != 13 {
		t.Fatalf("%d rows", len(rows))
	}
	for _, row := range rows {
		t.Run(row.ID, func(t *testing.T) { testRevision(t, row) })
	}
}

func testRevision(t *testing.T, row revision) {
	// made is a world with revisions A, B, ... up to the current.
	made := func(n int) *world {
		w := newWorld(t, defaults).settle()
		for rev := 2; rev <= n; rev++ {
			w.use(rev).settle()
		}
		return w
	}
	switch {
	case row.ID == "r6":
		w := made(2)
		w.d.Spec.Paused = true
		if _, err := Undo(w.d, w.sets, 0); !errors.Is(err, ErrPaused) {
			t.Errorf("error %v", err)
		}
	case row.ID == "r7":
		w := made(2).use(1).settle()
		if got := w.byRevision(); !maps.Equal(got, map[string]string{"2": "B", "3": "A"}) {
			t.Errorf("sets %v", got)
		}
	case row.ID == "r8":
		w := made(1)
		n := int32(7)
		w.d.Spec.Replicas = &n
		if got := w.settle().byRevision(); !maps.Equal(got, map[string]string{"1": "A"}) || *w.sets[0].Spec.Replicas != 7 {
			t.Errorf("sets %v", got)
		}
	case row.ID == "r9":
		w := made(1)
		w.d.Spec.Template = *Restart(&w.d.Spec.Template, w.now)
		if got := w.d.Spec.Template.Annotations[RestartedAtAnnotation]; got != w.now.Format(time.RFC3339) {
			t.Errorf("annotation %q", got)
		}
		if w.settle(); len(w.sets) != 2 || w.sets[0].Labels[HashLabel] == w.sets[1].Labels[HashLabel] || w.d.Annotations[RevisionAnnotation] != "2" {
			t.Errorf("sets %v", w.sets)
		}
	case row.ID == "r13":
		w := made(2).use(3)
		none := int32(0)
		w.d.Spec.RevisionHistoryLimit = &none
		if w.sync(); len(w.sets) != 3 {
			t.Errorf("an unfinished rollout has %d sets", len(w.sets))
		}
		if w.settle(); len(w.sets) != 1 {
			t.Errorf("a finished one has %d", len(w.sets))
		}
		w = made(2).use(3)
		w.d.Spec.RevisionHistoryLimit, w.d.Spec.Paused = &none, true
		if w.sync(); len(w.sets) != 1 || revOf(w.sets[0]) != 2 {
			t.Errorf("a paused one has %d", len(w.sets))
		}
	case row.Limit != nil:
		w := newWorld(t, defaults)
		w.d.Spec.RevisionHistoryLimit = row.Limit
		old := row.Old
		for range row.AtZero {
			old = append(old, [2]int32{})
		}
		var from []setVector
		for i, o := range old {
			from = append(from, setVector{Rev: i + 1, Spec: o[0], Running: &o[1]})
		}
		sets := defaults.sets(t, from)
		gone := beyondHistory(w.d, sets)
		if len(gone) != row.Deleted {
			t.Errorf("deletes %d, want %d", len(gone), row.Deleted)
		}
		for i, g := range gone {
			if row.AtZero > 0 && revOf(g) != i+1 {
				t.Errorf("deletes revision %d, want the lowest", revOf(g))
			}
		}
		// A set whose last change was not taken in yet may still get pods.
		for _, s := range sets {
			s.Generation = 1
		}
		if gone := beyondHistory(w.d, sets); len(gone) > 0 {
			t.Errorf("deletes %d sets that were just changed", len(gone))
		}
		if row.ID == "r12" {
			w := made(3)
			w.d.Spec.RevisionHistoryLimit = row.Limit
			if _, err := Undo(w.d, w.settle().sets, 0); !errors.Is(err, ErrNoHistory) {
				t.Errorf("undo: %v", err)
			}
		}
	default:
		w := made(row.Current)
		if got := w.byRevision(); !maps.Equal(got, row.Sets) {
			t.Fatalf("sets %v, want %v", got, row.Sets)
		}
		to := int64(0)
		if _, n, ok := strings.Cut(row.Do, "--to-revision="); ok {
			to, _ = strconv.ParseInt(n, 10, 64)
		}
		d, err := Undo(w.d, w.sets, to)
		switch {
		case row.Error != "":
			if err == nil || !strings.HasPrefix(err.Error(), row.Error) {
				t.Errorf("error %v, want %q", err, row.Error)
			}
		case row.Result != "":
			if !errors.Is(err, ErrSameTemplate) {
				t.Errorf("error %v, want %q", err, row.Result)
			}
		case err != nil:
			t.Error(err)
		default:
			number := map[string]string{}
			for r, name := range row.Sets {
				number[name] = r
			}
			w.d = d
			w.d.Generation++
			w.settle()
			if got := w.byRevision(); !maps.Equal(got, row.After) {
				t.Errorf("sets %v, want %v", got, row.After)
			}
			for _, s := range w.sets {
				if string(rune('A'+revOf(s)-1)) == row.Template && s.Annotations[HistoryAnnotation] != number[row.Template] {
					t.Errorf("history %q", s.Annotations[HistoryAnnotation])
				}
			}
			if want := string(rune('A' + revOf(w.target()) - 1)); want != row.Template {
				t.Errorf("target is %s, want %s", want, row.Template)
			}
		}
	}
}

// target is the set that has pods.
func (w *world) target() *appsv1.ReplicaSet {
	for _, s := range w.sets {
		if *s.Spec.Replicas > 0 {
			return s
		}
	}
	return nil
}

func TestVectorsMinReady(t *testing.T) {
	rows := load(t).MinReady
	if len(rows) != 4 {
		t.Fatalf("%d rows", len(rows))
	}
	for _, row := range rows {
		now := epoch.Add(time.Hour)
		p := readyPod("p", now.Add(-time.Duration(row.ReadyFor*float64(time.Second))))
		want := row.Available
		if row.ID == "m4" {
			// Ready for a minute, then not, then for five seconds.
			p = readyPod("p", now.Add(-5*time.Second))
			want = false
		}
		if got := PodAvailable(p, row.MinReady, now); got != want {
			t.Errorf("%s: available is %v, want %v", row.ID, got, want)
		}
	}
}

func readyPod(name string, since time.Time) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(epoch)},
		Spec:       corev1.PodSpec{NodeName: "here"},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{
			Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(since),
		}}},
	}
}

func TestVectorsVictims(t *testing.T) {
	now := epoch.Add(1000 * time.Hour)
	pod := func(change func(*corev1.Pod)) *corev1.Pod {
		p := readyPod("b", epoch)
		change(p)
		return p
	}
	// Each is a pod that goes before one that is ready since long ago.
	first := []*corev1.Pod{
		pod(func(p *corev1.Pod) { p.Spec.NodeName = "" }),
		pod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }),
		pod(func(p *corev1.Pod) { p.Status.Conditions = nil }),
		pod(func(p *corev1.Pod) { p.Annotations = map[string]string{DeletionCostAnnotation: "-1"} }),
		nil, // there is one node
		pod(func(p *corev1.Pod) { p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-time.Minute)) }),
		pod(func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 2}} }),
		pod(func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(now.Add(-time.Minute)) }),
	}
	rows := load(t).Victims
	if len(rows) != len(first) {
		t.Fatalf("%d rows", len(rows))
	}
	for i, row := range rows {
		if first[i] == nil {
			continue
		}
		other := pod(func(p *corev1.Pod) { p.Name, p.UID = "a", "a" }) // by uid it would go first
		pods := []*corev1.Pod{other, first[i]}
		SortVictims(pods, now)
		if pods[0] != first[i] {
			t.Errorf("%s: it does not", row)
		}
		// And an earlier rule decides against a later one.
		for j := i + 1; j < len(first); j++ {
			if first[j] == nil {
				continue
			}
			pods := []*corev1.Pod{first[j], first[i]}
			SortVictims(pods, now)
			if pods[0] != first[i] {
				t.Errorf("%s: less than %s", row, rows[j])
			}
		}
	}
	unknown := pod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodUnknown })
	pods := []*corev1.Pod{pod(func(*corev1.Pod) {}), unknown, first[1]}
	SortVictims(pods, now)
	if pods[0] != first[1] || pods[1] != unknown {
		t.Error("Pending before Unknown before Running: they are not")
	}
	// Within a bucket chance decides, which is the uid.
	near := pod(func(p *corev1.Pod) {
		p.Name, p.UID = "a", "a"
		p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(epoch.Add(-time.Second))
	})
	pods = []*corev1.Pod{pod(func(*corev1.Pod) {}), near}
	if SortVictims(pods, now); pods[0] != near {
		t.Error("pods of the same bucket do not go by uid")
	}
}

func TestVectorsBatching(t *testing.T) {
	b := load(t).Batching
	if MaxBurst != b.Cap || b.First != 1 || b.Then != "doubles after each fully successful batch" {
		t.Fatalf("%+v", b)
	}
	// Refused from the fourth on: batches of 1 and 2 pass, all 4 of the next are tried.
	calls := 0
	created, err := SlowStart(100, func() error {
		if calls++; calls > 3 {
			return errors.New("no room")
		}
		return nil
	})
	if created != 3 || calls != 7 || err == nil {
		t.Errorf("%d made in %d calls, %v", created, calls, err)
	}
	if created, err := SlowStart(10, func() error { return nil }); created != 10 || err != nil {
		t.Errorf("%d, %v", created, err)
	}
	n := int32(1200)
	plan, err := ReplicaSet(SetState{Set: &appsv1.ReplicaSet{Spec: appsv1.ReplicaSetSpec{Replicas: &n}}, Now: epoch})
	if err != nil || plan.Create != MaxBurst {
		t.Errorf("one sync makes %d, %v", plan.Create, err)
	}
	var many []*corev1.Pod
	for i := range 1200 {
		many = append(many, readyPod(fmt.Sprint(i), epoch))
	}
	none := int32(0)
	plan, _ = ReplicaSet(SetState{Set: &appsv1.ReplicaSet{Spec: appsv1.ReplicaSetSpec{Replicas: &none}}, Pods: many, Now: epoch})
	if len(plan.Delete) != MaxBurst {
		t.Errorf("one sync deletes %d", len(plan.Delete))
	}
}

// Every section of the vectors has a test, here or in package podlife.
func TestVectorsSections(t *testing.T) {
	v := load(t)
	for name, raw := range map[string][]byte{"about": v.About, "backoff": v.Backoff, "termination": v.Termination, "probes": v.Probes} {
		if len(raw) == 0 {
			t.Errorf("no section %s", name)
		}
	}
	if !slices.Equal(v.RandomSteps.Columns[:3], []string{"replicas", "max_surge", "max_unavailable"}) {
		t.Errorf("columns %q", v.RandomSteps.Columns)
	}
}
