package rollout

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var epoch = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

// vectors is testdata/rollout-vectors.json; its "about" says where it is from.
// Sections about single pods are read by the tests of package podlife.
type vectors struct {
	About, Backoff, Termination, Probes, PodModels json.RawMessage
	Fenceposts                                     []struct {
		Replicas       int32
		MaxSurge       string `json:"max_surge"`
		MaxUnavailable string `json:"max_unavailable"`
		Surge          int32
		Resolved       int32 `json:"unavailable_resolved"`
		Effective      int32 `json:"unavailable_effective"`
		Floor          int32 `json:"available_floor"`
		Ceiling        int32 `json:"pod_ceiling"`
	}
	Steps        []step
	Trajectories []struct {
		step
		PodModel   string `json:"pod_model"`
		Start      []setVector
		Sizes      []map[string]int32 `json:"sizes_after_each_acting_sync"`
		Peak       int32              `json:"peak_pods"`
		Min        int32              `json:"min_available"`
		Acting     int                `json:"acting_syncs"`
		FinalSizes map[string]int32   `json:"final_sizes"`
	}
	RandomSteps struct {
		Columns  []string
		Strategy string
		Rows     [][]json.RawMessage
	} `json:"random_steps"`
	Progress  []event
	Revisions []revision
	MinReady  []struct {
		ID, Note  string
		MinReady  int32   `json:"min_ready_s"`
		ReadyFor  float64 `json:"ready_for_s"`
		Ready     bool
		Available bool
	} `json:"min_ready"`
	Victims  []string `json:"scale_down_victims"`
	Batching struct {
		First   int
		Then    string
		Cap     int    `json:"cap_per_sync"`
		OnError string `json:"on_error"`
	} `json:"create_batching"`
}

type step struct {
	ID, Note, Strategy, Source string
	Replicas                   int32
	MaxSurge                   string `json:"max_surge"`
	MaxUnavailable             string `json:"max_unavailable"`
	Paused                     bool
	Target                     int `json:"target_rev"`
	Sets                       []setVector
	Actions                    []struct {
		Rev      int
		Op       string
		From, To int32
	} `json:"expect_actions"`
	Sizes map[string]int32 `json:"expect_sizes"`
}

type setVector struct {
	Rev             int
	Spec, Available int32
	Desired         *int32 `json:"recorded_desired"`
	Max             *int32 `json:"recorded_max"`
	Running         *int32
}

type event struct{ ID, Event, Type, Status, Reason, Effect string }

type revision struct {
	ID, Do, Template, Error, Result, Note, Which, Columns string
	Sets                                                  map[string]string
	After                                                 map[string]string `json:"sets_after"`
	Current                                               int
	Limit                                                 *int32     `json:"revision_history_limit"`
	AtZero                                                int        `json:"old_sets_at_zero"`
	Old                                                   [][2]int32 `json:"old_sets"`
	Deleted                                               int
}

func load(t *testing.T) *vectors {
	t.Helper()
	b, err := os.ReadFile("testdata/rollout-vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	d := json.NewDecoder(bytes.NewReader(bytes.ReplaceAll(b, []byte(`"pod_models"`), []byte(`"podModels"`))))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return &v
}

// number reads "3" and "25%".
func number(t testing.TB, s string) *intstr.IntOrString {
	t.Helper()
	v := intstr.Parse(s)
	return &v
}

// template makes templates that differ by their revision.
func template(rev int) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: fmt.Sprintf("example/app:%d", rev)}}},
	}
}

func (s step) deployment(t testing.TB) *appsv1.Deployment {
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "d", Generation: 1},
		Spec: appsv1.DeploymentSpec{
			Replicas: &s.Replicas, Paused: s.Paused, Template: template(s.Target),
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.DeploymentStrategyType(s.Strategy)},
		},
	}
	if s.Strategy == "RollingUpdate" {
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{
			MaxSurge: number(t, s.MaxSurge), MaxUnavailable: number(t, s.MaxUnavailable),
		}
	}
	return d
}

// sets are those of the vector, older ones with lower revisions.
func (s step) sets(t testing.TB, from []setVector) []*appsv1.ReplicaSet {
	t.Helper()
	b, err := BoundsOf(s.deployment(t))
	if err != nil {
		t.Fatal(err)
	}
	var sets []*appsv1.ReplicaSet
	for _, v := range from {
		set := &appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{
				Name: fmt.Sprintf("web-%d", v.Rev), Namespace: "default", UID: types.UID(fmt.Sprint("set", v.Rev)),
				CreationTimestamp: metav1.NewTime(epoch.Add(time.Duration(v.Rev) * time.Minute)),
				Annotations:       map[string]string{RevisionAnnotation: strconv.Itoa(v.Rev)},
			},
			Spec: appsv1.ReplicaSetSpec{Replicas: &v.Spec, Template: template(v.Rev)},
		}
		remember(set, b)
		if v.Desired != nil {
			set.Annotations[DesiredAnnotation] = strconv.Itoa(int(*v.Desired))
		}
		if v.Max != nil {
			set.Annotations[MaxAnnotation] = strconv.Itoa(int(*v.Max))
		}
		set.Status = appsv1.ReplicaSetStatus{Replicas: v.Spec, AvailableReplicas: v.Available, ReadyReplicas: v.Available}
		if v.Running != nil {
			set.Status.Replicas = *v.Running
		}
		sets = append(sets, set)
	}
	return sets
}

// revOf is the revision that a set's template was made from.
func revOf(set *appsv1.ReplicaSet) int {
	_, n, _ := strings.Cut(set.Spec.Template.Spec.Containers[0].Image, ":")
	rev, _ := strconv.Atoi(n)
	return rev
}

// text is what a plan does to sizes, in the words of the vectors.
func text(plan DeploymentPlan) (out []string) {
	for _, a := range plan.Sets {
		switch {
		case a.Op == Create:
			out = append(out, fmt.Sprintf("%d create %d-%d", revOf(a.Set), a.From, a.To))
		case a.Op == Scale && a.To > a.From:
			out = append(out, fmt.Sprintf("%d up %d-%d", revOf(a.Set), a.From, a.To))
		case a.Op == Scale:
			out = append(out, fmt.Sprintf("%d down %d-%d", revOf(a.Set), a.From, a.To))
		}
	}
	return out
}

// carryOut gives the sets as the plan leaves them.
func carryOut(sets []*appsv1.ReplicaSet, plan DeploymentPlan, now time.Time) []*appsv1.ReplicaSet {
	sets = slices.Clone(sets)
	for _, a := range plan.Sets {
		i := slices.IndexFunc(sets, func(s *appsv1.ReplicaSet) bool { return s.Name == a.Set.Name })
		switch {
		case a.Op == Delete:
			sets = slices.Delete(sets, i, i+1)
		case i < 0:
			a.Set.CreationTimestamp = metav1.NewTime(now)
			a.Set.UID = types.UID(a.Set.Name)
			sets = append(sets, a.Set)
		default:
			sets[i] = a.Set
		}
	}
	return sets
}

func sizes(sets []*appsv1.ReplicaSet) map[string]int32 {
	m := map[string]int32{}
	for _, s := range sets {
		m[strconv.Itoa(revOf(s))] = *s.Spec.Replicas
	}
	return m
}

func TestVectorsFenceposts(t *testing.T) {
	v := load(t)
	if len(v.Fenceposts) != 23 {
		t.Fatalf("%d fenceposts", len(v.Fenceposts))
	}
	for _, f := range v.Fenceposts {
		surge, unavailable, err := Resolve(number(t, f.MaxSurge), number(t, f.MaxUnavailable), f.Replicas)
		if err != nil || surge != f.Surge || unavailable != f.Resolved {
			t.Errorf("%+v: surge %d, unavailable %d, %v", f, surge, unavailable, err)
		}
		b, err := BoundsOf(step{Strategy: "RollingUpdate", Replicas: f.Replicas, MaxSurge: f.MaxSurge, MaxUnavailable: f.MaxUnavailable}.deployment(t))
		if err != nil || b.Unavailable != f.Effective || b.Floor() != f.Floor || b.Ceiling() != f.Ceiling {
			t.Errorf("%+v: %+v, floor %d, ceiling %d, %v", f, b, b.Floor(), b.Ceiling(), err)
		}
	}
}

func TestVectorsSteps(t *testing.T) {
	v := load(t)
	if len(v.Steps) != 54 {
		t.Fatalf("%d steps", len(v.Steps))
	}
	for _, s := range v.Steps {
		t.Run(s.ID, func(t *testing.T) {
			sets := s.sets(t, s.Sets)
			plan, err := Deployment(DeploymentState{Deployment: s.deployment(t), Sets: sets, Now: epoch.Add(time.Hour)})
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for _, a := range s.Actions {
				want = append(want, fmt.Sprintf("%d %s %d-%d", a.Rev, a.Op, a.From, a.To))
			}
			if got := text(plan); !slices.Equal(got, want) {
				t.Errorf("actions %q, want %q (%s)", got, want, s.Note)
			}
			if got := sizes(carryOut(sets, plan, epoch)); !maps.Equal(got, s.Sizes) {
				t.Errorf("sizes %v, want %v", got, s.Sizes)
			}
		})
	}
}

func TestVectorsRandomSteps(t *testing.T) {
	v := load(t)
	if len(v.RandomSteps.Rows) != 400 {
		t.Fatalf("%d rows", len(v.RandomSteps.Rows))
	}
	for i, row := range v.RandomSteps.Rows {
		s := step{Strategy: v.RandomSteps.Strategy}
		var given [][2]int32
		var want []int32
		for c, to := range []any{&s.Replicas, &s.MaxSurge, &s.MaxUnavailable, &given, &want} {
			if err := json.Unmarshal(row[c], to); err != nil {
				t.Fatal(err)
			}
		}
		for rev, g := range given {
			s.Sets = append(s.Sets, setVector{Rev: rev + 1, Spec: g[0], Available: g[1]})
		}
		s.Target = len(given)
		sets := s.sets(t, s.Sets)
		plan, err := Deployment(DeploymentState{Deployment: s.deployment(t), Sets: sets, Now: epoch.Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		after := carryOut(sets, plan, epoch)
		for j := range want {
			if *after[j].Spec.Replicas != want[j] {
				t.Errorf("row %d, %s: got %v", i, row, sizes(after))
				break
			}
		}
	}
}

func TestVectorsTrajectories(t *testing.T) {
	v := load(t)
	if len(v.Trajectories) != 12 {
		t.Fatalf("%d trajectories", len(v.Trajectories))
	}
	for _, tr := range v.Trajectories {
		t.Run(tr.ID, func(t *testing.T) {
			sets := tr.sets(t, tr.Start)
			now := epoch.Add(time.Hour)
			target, undone := tr.Target, false
			peak, low := int32(0), int32(1<<30)
			note := func() {
				spec, avail := wanted(sets), available(sets)
				peak, low = max(peak, spec), min(low, avail)
			}
			note()
			acting := 0
			for idle := 0; idle < 2; {
				s := tr.step
				s.Target = target
				plan, err := Deployment(DeploymentState{Deployment: s.deployment(t), Sets: sets, Now: now})
				if err != nil {
					t.Fatal(err)
				}
				now = now.Add(time.Second)
				sets = carryOut(sets, plan, now)
				moved := podModel(tr.PodModel, sets)
				note()
				if len(text(plan)) == 0 {
					if moved {
						continue
					}
					idle++
					if tr.PodModel == "rev2-never-ready-undo-at-freeze" && !undone && idle == 2 {
						target, undone, idle = 1, true, 0
					}
					continue
				}
				idle = 0
				if acting >= len(tr.Sizes) {
					t.Fatalf("acts once more: %q", text(plan))
				}
				if got := sizes(sets); !maps.Equal(got, tr.Sizes[acting]) {
					t.Fatalf("after acting sync %d: %v, want %v", acting+1, got, tr.Sizes[acting])
				}
				acting++
			}
			if acting != tr.Acting || peak != tr.Peak || low != tr.Min {
				t.Errorf("%d acting syncs, peak %d, least %d; want %d, %d, %d", acting, peak, low, tr.Acting, tr.Peak, tr.Min)
			}
			if got := sizes(sets); !maps.Equal(got, tr.FinalSizes) {
				t.Errorf("ends at %v, want %v", got, tr.FinalSizes)
			}
		})
	}
}

// podModel gives the sets their pods, and tells whether pods still end.
func podModel(model string, sets []*appsv1.ReplicaSet) (moved bool) {
	for _, set := range sets {
		n := *set.Spec.Replicas
		st := &set.Status
		if st.Replicas > n && model == "ready-next-tick" && n == 0 {
			st.Replicas-- // one pod leaves per tick; matters to Recreate only
			moved = true
		} else {
			st.Replicas = n
		}
		st.AvailableReplicas = n
		if strings.HasPrefix(model, "rev2-never-ready") && revOf(set) == 2 {
			st.AvailableReplicas = 0
		}
		st.ReadyReplicas = st.AvailableReplicas
	}
	return moved
}
