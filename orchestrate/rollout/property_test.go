package rollout

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
)

// random is a step with sets in any state, reachable or not.
func random(r *rand.Rand) step {
	amount := func() string {
		if r.IntN(2) == 0 {
			return fmt.Sprint(r.IntN(6))
		}
		return fmt.Sprint(r.IntN(130), "%")
	}
	s := step{Strategy: "RollingUpdate", Replicas: int32(r.IntN(30)), MaxSurge: amount(), MaxUnavailable: amount(), Paused: r.IntN(10) == 0}
	if r.IntN(8) == 0 {
		s.Strategy = "Recreate"
	}
	n := r.IntN(5)
	s.Target = n + r.IntN(2) // exists, or not
	if s.Target == 0 {
		s.Target = 1
	}
	// Another size before, which all sets remember alike.
	was, resized := int32(r.IntN(30)), r.IntN(3) == 0
	most, total := was+int32(r.IntN(5)), int32(0)
	for rev := 1; rev <= n; rev++ {
		v := setVector{Rev: rev, Spec: int32(r.IntN(25))}
		v.Available = int32(r.IntN(int(v.Spec) + 1))
		if resized {
			v.Desired, v.Max = &was, &most
		}
		total += v.Spec
		s.Sets = append(s.Sets, v)
	}
	most = max(most, total) // as every rollout leaves them
	return s
}

func TestProperties(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	acted := 0
	for i := range 1000 {
		s := random(r)
		d := s.deployment(t)
		sets := s.sets(t, s.Sets)
		in := DeploymentState{Deployment: d, Sets: sets, Now: epoch}
		untouched := []any{d.DeepCopy(), clone(sets)}
		plan, err := Deployment(in)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(untouched, []any{d, clone(sets)}) {
			t.Fatalf("%d: %+v: the state was changed", i, s)
		}
		again, _ := Deployment(in)
		if !reflect.DeepEqual(plan, again) {
			t.Fatalf("%d: %+v: the same state gave another plan", i, s)
		}
		b, _ := BoundsOf(d)
		after := carryOut(sets, plan, epoch)
		steps := text(plan)
		if len(steps) > 0 {
			acted++
		}
		// Ceiling: only what was above it already may be, and then does not grow.
		if total := wanted(after); total > max(b.Ceiling(), wanted(sets)) {
			t.Fatalf("%d: %+v: %q: %d wanted, ceiling %d, before %d", i, s, steps, total, b.Ceiling(), wanted(sets))
		}
		// Floor: what is available and stays wanted. A change of size and Recreate
		// may go below, and so may a target above its size.
		size := (&sync{d: d, bounds: b, old: sets}).sizeChanged()
		over := false
		for _, set := range sets {
			over = over || revOf(set) == s.Target && *set.Spec.Replicas > s.Replicas
		}
		if !size && !over && !s.Paused && s.Strategy == "RollingUpdate" {
			left := int32(0)
			for _, set := range after {
				left += min(set.Status.AvailableReplicas, *set.Spec.Replicas)
			}
			if left < min(b.Floor(), available(sets)) {
				t.Fatalf("%d: %+v: %q: %d available left, floor %d, before %d", i, s, steps, left, b.Floor(), available(sets))
			}
		}
		for _, a := range plan.Sets {
			if a.To < 0 {
				t.Fatalf("%d: %+v: %s", i, s, a)
			}
		}
	}
	if acted < 500 {
		t.Errorf("only %d of the states gave actions", acted)
	}
}

func clone(sets []*appsv1.ReplicaSet) (out []*appsv1.ReplicaSet) {
	for _, s := range sets {
		out = append(out, s.DeepCopy())
	}
	return out
}

// From every state a rollout whose pods work comes to its end, in a bounded
// number of syncs, and then there is nothing left to do.
func TestConvergence(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for i := range 100 {
		s := random(r)
		s.Paused = false
		w := newWorld(t, s)
		w.sets = s.sets(t, s.Sets)
		for n := 0; ; n++ {
			for _, set := range w.sets { // pods come and go one sync later
				set.Status.Replicas = *set.Spec.Replicas
				set.Status.AvailableReplicas, set.Status.ReadyReplicas = set.Status.Replicas, set.Status.Replicas
			}
			before := w.d.Status.DeepCopy()
			w.sync()
			if len(w.last.Sets) == 0 && w.last.Deployment == nil && reflect.DeepEqual(before, &w.d.Status) {
				break
			}
			if n > 300 {
				t.Fatalf("%d: %+v: no end: %v, %v", i, s, sizes(w.sets), w.last.Sets)
			}
		}
		for _, set := range w.sets {
			want := int32(0)
			if revOf(set) == s.Target {
				want = s.Replicas
			}
			if *set.Spec.Replicas != want {
				t.Fatalf("%d: %+v: ends with %v", i, s, sizes(w.sets))
			}
		}
		if c := w.condition(appsv1.DeploymentProgressing); c != "Progressing True NewReplicaSetAvailable" {
			t.Fatalf("%d: %+v: %s", i, s, c)
		}
		if w.now = w.now.Add(1000 * 3600e9); len(w.sync().last.Sets) > 0 || w.condition(appsv1.DeploymentProgressing) != "Progressing True NewReplicaSetAvailable" {
			t.Fatalf("%d: %+v: does something later", i, s)
		}
	}
}

// A plan that was carried out in part, and then forgotten, is made up for by the
// next sync.
func TestInterrupted(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for i := range 100 {
		s := random(r)
		s.Paused = false
		w := newWorld(t, s)
		w.sets = s.sets(t, s.Sets)
		for n := 0; ; n++ {
			podModel("", w.sets)
			plan, err := Deployment(DeploymentState{Deployment: w.d, Sets: w.sets, Now: w.now})
			if err != nil {
				t.Fatal(err)
			}
			w.now = w.now.Add(1e9)
			done := plan
			if k := r.IntN(len(plan.Sets) + 2); k <= len(plan.Sets) && len(plan.Sets) > 0 {
				done.Sets = plan.Sets[:k] // killed here: no status, no deployment
				w.sets = carryOut(w.sets, done, w.now)
			} else {
				w.sets = carryOut(w.sets, plan, w.now)
				if plan.Deployment != nil {
					w.d = plan.Deployment.DeepCopy()
				}
				w.d.Status = plan.Status
				if len(plan.Sets) == 0 {
					break
				}
			}
			if n > 2000 {
				t.Fatalf("%d: %+v: no end: %v", i, s, sizes(w.sets))
			}
		}
		if got := sizes(w.sets)[fmt.Sprint(s.Target)]; got != s.Replicas || wanted(w.sets) != s.Replicas {
			t.Fatalf("%d: %+v: ends with %v", i, s, sizes(w.sets))
		}
	}
}
