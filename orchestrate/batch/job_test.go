package batch

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func ptr[T any](v T) *T { return &v }

// world is one Job, its pods, and a node that pretends.
type world struct {
	t    *testing.T
	r    *rand.Rand
	job  *batchv1.Job
	pods map[string]*corev1.Pod
	now  time.Time
	uid  int
	gone bool
	// What has really happened to pods that were to be counted.
	succeeded, failed int
	counted           map[types.UID]bool
	events            []string
}

func newWorld(t *testing.T, r *rand.Rand, change func(*batchv1.JobSpec)) *world {
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "sum", UID: "job"}}
	j.Spec.Parallelism, j.Spec.Completions, j.Spec.BackoffLimit = ptr(int32(1)), ptr(int32(1)), ptr(int32(6))
	j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	j.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "example/sum:1"}}
	if change != nil {
		change(&j.Spec)
	}
	Prepare(j)
	return &world{t: t, r: r, job: j, pods: map[string]*corev1.Pod{}, now: epoch, counted: map[types.UID]bool{}}
}

func (w *world) all() (out []*corev1.Pod) {
	var names []string
	for n := range w.pods {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		out = append(out, w.pods[n])
	}
	return out
}

func (w *world) active() (n int) {
	for _, p := range w.all() {
		if p.DeletionTimestamp == nil && !ended(p) {
			n++
		}
	}
	return n
}

// loses takes a pod's finalizer, with which it may be gone for good.
func (w *world) loses(p *corev1.Pod) {
	n := p.DeepCopy()
	n.Finalizers = nil
	if w.pods[p.Name] = n; n.DeletionTimestamp != nil && *n.DeletionGracePeriodSeconds == 0 {
		delete(w.pods, p.Name)
	}
}

// remove asks for the end of a pod.
func (w *world) remove(p *corev1.Pod) {
	n, at := w.pods[p.Name].DeepCopy(), metav1.NewTime(w.now.Add(30*time.Second))
	if n.DeletionTimestamp != nil {
		return
	}
	n.DeletionTimestamp, n.DeletionGracePeriodSeconds = &at, ptr(int64(30))
	only := w.job.Spec.PodReplacementPolicy != nil && *w.job.Spec.PodReplacementPolicy == batchv1.Failed || w.job.Spec.PodFailurePolicy != nil
	if Tracked(n) && !ended(n) && !only {
		w.fails(n)
	}
	w.pods[p.Name] = n
}

func (w *world) fails(p *corev1.Pod) {
	if Tracked(p) && !w.counted[p.UID] {
		w.counted[p.UID] = true
		w.failed++
	}
}

// sync carries out a plan, all of it or as many steps as are given, and checks
// what it promises.
func (w *world) sync(steps int) (did int) {
	w.t.Helper()
	in := JobState{Job: w.job, Pods: w.all(), Now: w.now}
	plan, err := Job(in)
	if err != nil {
		w.t.Fatal(err)
	}
	if again, _ := Job(in); !reflect.DeepEqual(plan, again) {
		w.t.Fatal("the same state gave another plan")
	}
	if Finished(w.job) != nil && len(plan.Create)+len(plan.Delete)+len(plan.Drop) > 0 {
		w.t.Fatalf("a Job that is over acts: %+v", plan)
	}
	do := func(f func()) {
		if did++; did <= steps {
			f()
		}
	}
	if plan.Remove {
		do(func() { w.gone = true })
		return did
	}
	for _, p := range plan.Drop {
		do(func() { w.loses(p) })
		do(func() { w.remove(p) })
	}
	for _, p := range plan.Delete {
		do(func() { w.remove(p) })
	}
	for _, p := range plan.Create {
		do(func() {
			w.uid++
			n := p.DeepCopy()
			n.Name, n.UID = fmt.Sprintf("sum-%04d", w.uid), types.UID(fmt.Sprintf("u%04d", w.uid))
			n.CreationTimestamp, n.Status.Phase = metav1.NewTime(w.now), corev1.PodRunning
			w.pods[n.Name] = n
		})
	}
	if !reflect.DeepEqual(w.job.Status, plan.Status) {
		do(func() {
			w.job.Status = plan.Status
			for _, e := range plan.Events {
				w.events = append(w.events, e.Reason)
			}
		})
	}
	for _, p := range plan.Untrack {
		do(func() { w.loses(p) })
	}
	st := &w.job.Status
	u := st.UncountedTerminatedPods
	if u == nil {
		u = &batchv1.UncountedTerminatedPods{}
	}
	if n := int(st.Succeeded) + len(u.Succeeded); n > w.succeeded {
		w.t.Fatalf("%d have succeeded, and the status says %d", w.succeeded, n)
	}
	if n := int(st.Failed) + len(u.Failed); n > w.failed {
		w.t.Fatalf("%d have failed, and the status says %d", w.failed, n)
	}
	return did
}

// end lets a pod end by itself.
func (w *world) end(p *corev1.Pod, ok bool) {
	n := p.DeepCopy()
	n.Status.Phase = corev1.PodFailed
	code := int32(1)
	if ok {
		n.Status.Phase, code = corev1.PodSucceeded, 0
		if Tracked(n) && !w.counted[n.UID] {
			w.counted[n.UID] = true
			w.succeeded++
		}
	} else {
		w.fails(n)
	}
	n.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.NewTime(w.now)}}}}
	w.pods[p.Name] = n
}

// node ends pods, more or less of them.
func (w *world) node(good, bad, deleted int) {
	w.now = w.now.Add(time.Second)
	for _, p := range w.all() {
		switch {
		case p.DeletionTimestamp != nil && *p.DeletionGracePeriodSeconds > 0:
			if !ended(p) {
				w.end(p, false)
				p = w.pods[p.Name]
			}
			n := p.DeepCopy()
			n.DeletionGracePeriodSeconds = ptr(int64(0))
			if w.pods[p.Name] = n; len(n.Finalizers) == 0 {
				delete(w.pods, p.Name)
			}
		case ended(p):
		default:
			switch k := w.r.IntN(100); {
			case k < good:
				w.end(p, true)
			case k < good+bad:
				w.end(p, false)
			case k < good+bad+deleted:
				w.remove(p)
			}
		}
	}
}

// settle goes on until the Job is over.
func (w *world) settle() *batchv1.JobCondition {
	w.t.Helper()
	for range 400 {
		for w.sync(1<<30) > 0 {
		}
		if c := Finished(w.job); c != nil {
			return c
		}
		w.node(100, 0, 0)
		w.now = w.now.Add(15 * time.Minute)
	}
	w.t.Fatalf("no end: %+v, %d active", w.job.Status, w.active())
	return nil
}

// Pods end as they like or are deleted, size and suspension change, and who
// carries plans out is killed at any step: what is counted is what has happened,
// nothing runs once too often, and all of it ends.
func TestJob_Property(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	for round := range 150 {
		indexed, only := round%2 == 0, round%3 == 0
		completions, parallelism := int32(r.IntN(8)), int32(r.IntN(4)+1)
		w := newWorld(t, r, func(s *batchv1.JobSpec) {
			s.Completions, s.Parallelism, s.BackoffLimit = &completions, &parallelism, ptr(int32(1000))
			if indexed {
				s.CompletionMode = ptr(batchv1.IndexedCompletion)
				if round%4 == 0 {
					s.BackoffLimitPerIndex = ptr(int32(1000))
				}
			} else if round%5 == 0 && completions > 0 {
				s.Completions = nil // one success is enough
			}
			if only {
				s.PodReplacementPolicy = ptr(batchv1.Failed)
			}
		})
		for range 60 {
			if r.IntN(12) == 0 {
				w.job.Spec.Suspend = ptr(r.IntN(2) == 0)
			}
			if r.IntN(12) == 0 {
				parallelism = int32(r.IntN(4))
			}
			w.sync(r.IntN(8))
			if n := w.active(); n > 4 {
				t.Fatalf("%d run at the same time", n)
			}
			if r.IntN(2) == 0 {
				w.node(15, 10, 3)
				w.now = w.now.Add(time.Duration(r.IntN(900)) * time.Second)
			}
		}
		w.job.Spec.Suspend, parallelism = nil, 3
		c := w.settle()
		if c.Type != batchv1.JobComplete {
			t.Fatalf("round %d: %+v", round, c)
		}
		st := w.job.Status
		if int(st.Succeeded) != w.succeeded || !indexed && int(st.Failed) != w.failed {
			t.Fatalf("round %d: %d and %d have ended, status %+v", round, w.succeeded, w.failed, st)
		}
		if w.job.Spec.Completions != nil && st.Succeeded != completions {
			t.Fatalf("round %d: %d of %d", round, st.Succeeded, completions)
		}
		if st.Active != 0 || w.active() != 0 || slices.ContainsFunc(w.all(), Tracked) {
			t.Fatalf("round %d: something is left: %+v", round, st)
		}
		if n := strings.Count(fmt.Sprint(w.events), "Completed"); n != 1 {
			t.Fatalf("round %d: completed %d times", round, n)
		}
		// Nothing starts it again, not even the loss of its pods.
		w.pods = map[string]*corev1.Pod{}
		w.now = w.now.Add(1000 * time.Hour)
		if w.sync(1<<30) > 0 {
			t.Fatalf("round %d: it does something", round)
		}
	}
}

// fail ends the running pods with a status.
func (w *world) fail(code int32) {
	w.now = w.now.Add(time.Hour)
	for _, p := range w.all() {
		if !ended(p) && p.DeletionTimestamp == nil {
			w.end(p, false)
			w.pods[p.Name].Status.ContainerStatuses[0].State.Terminated.ExitCode = code
		}
	}
}

func (w *world) rest() {
	for range 20 {
		w.sync(1 << 30)
	}
}

func (w *world) ends() string {
	c := Finished(w.job)
	if c == nil {
		return fmt.Sprintf("runs, %d active, %d failed, done %q", w.job.Status.Active, w.job.Status.Failed, w.job.Status.CompletedIndexes)
	}
	return fmt.Sprintf("%s %s", c.Type, c.Reason)
}

func TestJob_BackoffLimit(t *testing.T) {
	w := newWorld(t, rand.New(rand.NewPCG(1, 1)), func(s *batchv1.JobSpec) { s.BackoffLimit = ptr(int32(2)) })
	for i := range 3 {
		w.rest()
		if got := w.ends(); got != fmt.Sprintf("runs, 1 active, %d failed, done \"\"", i) {
			t.Fatalf("%d: %s", i, got)
		}
		w.fail(1)
		w.now = w.now.Add(time.Hour)
	}
	w.rest()
	if got := w.ends(); got != "Failed BackoffLimitExceeded" || w.job.Status.Failed != 3 || w.uid != 3 {
		t.Errorf("%s, %+v", got, w.job.Status)
	}
}

// The next attempt waits 10 s, then twice as long each time.
func TestJob_Backoff(t *testing.T) {
	w := newWorld(t, rand.New(rand.NewPCG(1, 1)), nil)
	for i, want := range []time.Duration{10, 20, 40, 80, 160, 320} {
		w.rest()
		w.fail(1)
		at := w.now
		w.rest()
		if w.active() != 0 {
			t.Fatalf("%d: no wait", i)
		}
		plan, _ := Job(JobState{Job: w.job, Pods: w.all(), Now: w.now})
		if got := plan.Again.Sub(at); got != want*time.Second {
			t.Errorf("%d: again after %v", i, got)
		}
		w.now = plan.Again
	}
	if pause(30) != lastWait || pause(0) != firstWait {
		t.Error("pause")
	}
}

func TestJob_OnFailure(t *testing.T) {
	w := newWorld(t, rand.New(rand.NewPCG(1, 1)), func(s *batchv1.JobSpec) {
		s.BackoffLimit, s.Template.Spec.RestartPolicy = ptr(int32(3)), corev1.RestartPolicyOnFailure
	})
	w.rest()
	for n := int32(1); n <= 3; n++ {
		w.all()[0].Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", RestartCount: n}}
		w.rest()
		if failing := trueOf(&w.job.Status, batchv1.JobFailureTarget) != nil; failing != (n == 3) {
			t.Errorf("after %d restarts: %v", n, w.job.Status.Conditions)
		}
	}
	w.node(0, 0, 0)
	w.rest()
	if got := w.ends(); got != "Failed BackoffLimitExceeded" {
		t.Error(got)
	}
}

func TestJob_Deadline(t *testing.T) {
	w := newWorld(t, rand.New(rand.NewPCG(1, 1)), func(s *batchv1.JobSpec) { s.ActiveDeadlineSeconds = ptr(int64(60)) })
	w.rest()
	plan, _ := Job(JobState{Job: w.job, Pods: w.all(), Now: w.now})
	if plan.Again.Sub(w.now) != time.Minute {
		t.Errorf("again at %v", plan.Again)
	}
	// The time while it is suspended does not count.
	w.job.Spec.Suspend = ptr(true)
	w.now = w.now.Add(time.Hour)
	w.rest()
	if w.node(0, 0, 0); w.active() != 0 || w.job.Status.Failed != 0 || w.ends() != "runs, 0 active, 0 failed, done \"\"" {
		t.Errorf("suspended: %+v", w.job.Status)
	}
	w.job.Spec.Suspend = ptr(false)
	w.rest()
	if w.now = w.now.Add(59 * time.Second); w.sync(1<<30) > 0 {
		t.Error("before the deadline")
	}
	w.now = w.now.Add(time.Second)
	w.rest()
	w.node(0, 0, 0)
	w.rest()
	if got := w.ends(); got != "Failed DeadlineExceeded" || w.active() != 0 {
		t.Error(got)
	}
}

func TestJob_Indexes(t *testing.T) {
	w := newWorld(t, rand.New(rand.NewPCG(1, 1)), func(s *batchv1.JobSpec) {
		s.CompletionMode, s.Completions, s.Parallelism = ptr(batchv1.IndexedCompletion), ptr(int32(4)), ptr(int32(4))
		s.BackoffLimitPerIndex, s.MaxFailedIndexes, s.BackoffLimit = ptr(int32(1)), ptr(int32(1)), ptr(int32(1000))
	})
	w.rest()
	for i, p := range w.all() {
		e := p.Spec.Containers[0].Env
		if indexOf(p) != i || p.Spec.Hostname != fmt.Sprintf("sum-%d", i) || len(e) != 1 || e[0].Value != fmt.Sprint(i) || p.Labels[batchv1.JobCompletionIndexAnnotation] != fmt.Sprint(i) {
			t.Errorf("%+v", p)
		}
		w.end(p, i != 2)
	}
	w.now = w.now.Add(time.Hour)
	w.rest()
	if got := w.ends(); got != `runs, 1 active, 1 failed, done "0,1,3"` {
		t.Fatal(got)
	}
	// The second attempt knows of the first, although that one is gone.
	for _, p := range w.all() {
		if ended(p) {
			delete(w.pods, p.Name)
		}
	}
	if p := w.all()[0]; failures(p) != 1 || indexOf(p) != 2 {
		t.Errorf("%v", p.Annotations)
	}
	w.fail(1)
	w.rest()
	if got := w.ends(); got != "Failed FailedIndexes" || *w.job.Status.FailedIndexes != "2" || w.job.Status.CompletedIndexes != "0,1,3" {
		t.Errorf("%s, %+v", got, w.job.Status)
	}

	w = newWorld(t, rand.New(rand.NewPCG(1, 1)), func(s *batchv1.JobSpec) {
		s.CompletionMode, s.Completions, s.Parallelism = ptr(batchv1.IndexedCompletion), ptr(int32(9)), ptr(int32(3))
		s.BackoffLimitPerIndex, s.MaxFailedIndexes, s.BackoffLimit = ptr(int32(0)), ptr(int32(1)), ptr(int32(1000))
	})
	w.rest()
	w.fail(1)
	w.rest()
	if got := w.ends(); got != "Failed MaxFailedIndexesExceeded" || w.uid != 3 {
		t.Errorf("%s after %d pods", got, w.uid)
	}
}

func TestJob_FailurePolicy(t *testing.T) {
	policy := func(s *batchv1.JobSpec) {
		s.BackoffLimit = ptr(int32(0))
		s.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{
			{Action: batchv1.PodFailurePolicyActionFailJob, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{42}}},
			{Action: batchv1.PodFailurePolicyActionIgnore, OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}},
			{Action: batchv1.PodFailurePolicyActionIgnore, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{143}}},
		}}
	}
	for _, tt := range []struct {
		code int32
		cond bool
		want string
	}{
		{42, false, "Failed PodFailurePolicy"},
		{1, false, "Failed BackoffLimitExceeded"},
		{143, false, `runs, 1 active, 0 failed, done ""`},
		{1, true, `runs, 1 active, 0 failed, done ""`},
	} {
		w := newWorld(t, rand.New(rand.NewPCG(1, 1)), policy)
		w.rest()
		w.fail(tt.code)
		if tt.cond {
			w.all()[0].Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}
		}
		w.now = w.now.Add(time.Hour)
		w.rest()
		if got := w.ends(); got != tt.want {
			t.Errorf("%d: %s, want %s: %+v", tt.code, got, tt.want, w.job.Status)
		}
		if c := Finished(w.job); tt.code == 42 && c.Message != "Container c for pod default/sum-0001 failed with exit code 42 matching FailJob rule at index 0" {
			t.Error(c.Message)
		}
	}
}

func TestJob_SuccessPolicy(t *testing.T) {
	for _, tt := range []struct {
		rule batchv1.SuccessPolicyRule
		good []int
		done bool
	}{
		{batchv1.SuccessPolicyRule{SucceededIndexes: ptr("0,2-3")}, []int{0, 2}, false},
		{batchv1.SuccessPolicyRule{SucceededIndexes: ptr("0,2-3")}, []int{0, 2, 3}, true},
		{batchv1.SuccessPolicyRule{SucceededIndexes: ptr("0,2-3"), SucceededCount: ptr(int32(1))}, []int{3}, true},
		{batchv1.SuccessPolicyRule{SucceededIndexes: ptr("0,2-3"), SucceededCount: ptr(int32(1))}, []int{1}, false},
		{batchv1.SuccessPolicyRule{SucceededCount: ptr(int32(2))}, []int{1, 4}, true},
	} {
		w := newWorld(t, rand.New(rand.NewPCG(1, 1)), func(s *batchv1.JobSpec) {
			s.CompletionMode, s.Completions, s.Parallelism = ptr(batchv1.IndexedCompletion), ptr(int32(6)), ptr(int32(6))
			s.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{tt.rule}}
		})
		w.rest()
		all := w.all()
		for _, i := range tt.good {
			w.end(all[i], true)
		}
		w.rest()
		if met := trueOf(&w.job.Status, batchv1.JobSuccessCriteriaMet); (met != nil) != tt.done || Finished(w.job) != nil {
			t.Errorf("%+v: %+v", tt, w.job.Status.Conditions)
		}
		w.node(0, 0, 0) // the others end
		if w.rest(); tt.done != (w.ends() == "Complete SuccessPolicy") || tt.done && w.active() > 0 {
			t.Errorf("%+v: %s", tt, w.ends())
		}
	}
}

func TestJob_TTL(t *testing.T) {
	w := newWorld(t, rand.New(rand.NewPCG(1, 1)), func(s *batchv1.JobSpec) { s.TTLSecondsAfterFinished = ptr(int32(100)) })
	w.settle()
	at := w.job.Status.CompletionTime.Time
	for _, tt := range []struct {
		after time.Duration
		gone  bool
	}{{0, false}, {99 * time.Second, false}, {100 * time.Second, true}} {
		w.now = at.Add(tt.after)
		if w.sync(1 << 30); w.gone != tt.gone {
			t.Errorf("after %v: gone %v", tt.after, w.gone)
		}
	}
}

func TestIndexes(t *testing.T) {
	for text, want := range map[string]string{"": "", "1": "1", "0-2": "0-2", "0,1": "0,1", "5,1-3,7,8": "1-3,5,7,8", "1,1": "1", "8-20": "8,9"} {
		set, err := parseIndexes(text, 10)
		if err != nil || set.String() != want {
			t.Errorf("%q: %v, %v", text, set, err)
		}
	}
	for _, text := range []string{"a", "1-", "-1", "3-2", ",", "1,,2", "1-2-3"} {
		if CheckIndexes(text) == nil {
			t.Errorf("%q is fine", text)
		}
	}
}

// Who takes pods away is killed between taking a pod's finalizer and deleting it:
// that pod could not be counted any more, so it goes, and another one comes.
func TestJob_Untracked(t *testing.T) {
	w := newWorld(t, rand.New(rand.NewPCG(1, 1)), nil)
	w.rest()
	p := w.all()[0]
	w.loses(p)
	w.rest()
	w.node(0, 0, 0)
	w.rest()
	if w.pods[p.Name] != nil || w.active() != 1 || w.uid != 2 || w.job.Status.Failed != 0 {
		t.Errorf("%d active of %d, %+v", w.active(), w.uid, w.job.Status)
	}
}
