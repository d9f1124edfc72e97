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

func daemonSet(surge bool) *appsv1.DaemonSet {
	s := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "log", UID: "set"}}
	s.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "log"}}
	s.Spec.Template.Labels = map[string]string{"app": "log"}
	s.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "example/log:1"}}
	s.Spec.UpdateStrategy.Type = appsv1.RollingUpdateDaemonSetStrategyType
	zero, one := intstr.FromInt32(0), intstr.FromInt32(1)
	s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxSurge: &zero, MaxUnavailable: &one}
	if surge {
		s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxSurge: &one, MaxUnavailable: &zero}
	}
	return s
}

// Pods fail, come and go, templates change, and the one who carries plans out is
// killed in between: there are never two pods but for a surge, with a surge there
// is always one that works, and in the end there is exactly one.
func TestDaemonSet_Property(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	for round := range 20 {
		surge := round%2 == 0
		set := daemonSet(surge)
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "here"}}
		pods, revs := map[string]*corev1.Pod{}, map[string]*appsv1.ControllerRevision{}
		now, uid, worked := epoch, 0, false
		active := func() (n, available int) {
			for _, p := range pods {
				if Active(p) {
					n++
					if PodReady(p) {
						available++
					}
				}
			}
			return n, available
		}
		sync := func(steps int) (did int, plan DaemonPlan) {
			in := DaemonState{Set: set, Node: node, Pods: values(pods), Revisions: values(revs), Now: now}
			plan, err := DaemonSet(in)
			if err != nil {
				t.Fatal(err)
			}
			if again, _ := DaemonSet(in); !reflect.DeepEqual(plan, again) {
				t.Fatal("the same state gave another plan")
			}
			_, available := active()
			do := func(f func()) {
				if did++; did <= steps {
					f()
				}
			}
			for _, a := range plan.Revisions {
				do(func() {
					if revs[a.Revision.Name] = a.Revision.DeepCopy(); a.Op == Delete {
						delete(revs, a.Revision.Name)
					}
				})
			}
			for _, p := range plan.Delete {
				if n, _ := active(); surge && PodReady(p) && available > 0 && n < 2 {
					t.Fatalf("deletes the last one that works")
				}
				do(func() {
					n, at := p.DeepCopy(), metav1.NewTime(now)
					n.DeletionTimestamp = &at
					pods[p.Name] = n
				})
			}
			if plan.Create != nil {
				do(func() {
					uid++
					n := plan.Create.DeepCopy()
					n.Name, n.UID, n.Status.Phase = fmt.Sprintf("log-%03d", uid), types.UID(fmt.Sprint(uid)), corev1.PodPending
					n.CreationTimestamp = metav1.NewTime(now)
					pods[n.Name] = n
				})
			}
			do(func() { set.Status = plan.Status })
			return did - 1, plan
		}
		live := func(calm bool) {
			now = now.Add(time.Second)
			for _, p := range values(pods) {
				switch {
				case p.DeletionTimestamp != nil:
					if calm || r.IntN(2) == 0 {
						delete(pods, p.Name)
					}
				case p.Status.Phase == corev1.PodPending:
					p.Status.Phase = corev1.PodRunning
					p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now)}}
				case !calm && r.IntN(15) == 0:
					p.Status.Phase, p.Status.Conditions = corev1.PodFailed, nil
					worked = false
				}
			}
		}
		for range 80 {
			if r.IntN(6) == 0 {
				set.Spec.Template.Spec.Containers[0].Image = fmt.Sprint("example/log:", r.IntN(3))
			}
			sync(r.IntN(4))
			n, available := active()
			if most := 1; n > most && !surge || n > 2 {
				t.Fatalf("%d pods", n)
			}
			if worked && surge && available == 0 {
				t.Fatal("none works in the middle of an update")
			}
			worked = available > 0
			live(false)
		}
		for i := 0; ; i++ {
			did, _ := sync(1 << 30)
			live(true)
			if did == 0 && i > 6 {
				break
			}
			if i > 200 {
				t.Fatal("no end")
			}
		}
		st := set.Status
		if n, _ := active(); n != 1 || st.NumberAvailable != 1 || st.UpdatedNumberScheduled != 1 || st.DesiredNumberScheduled != 1 || st.NumberUnavailable != 0 || len(revs) > 3 {
			t.Fatalf("%d pods, %d revisions, %+v", n, len(revs), st)
		}
	}
}

func TestDaemonSet_Node(t *testing.T) {
	for _, tt := range []struct {
		name   string
		set    func(*corev1.PodSpec)
		node   func(*corev1.Node)
		run    bool // a new pod is made
		stay   bool // one that runs stays
		status string
	}{
		{"plain", nil, nil, true, true, "1 0"},
		{"selector", func(s *corev1.PodSpec) { s.NodeSelector = map[string]string{"disk": "ssd"} }, nil, false, false, "0 1"},
		{"selector that fits", func(s *corev1.PodSpec) { s.NodeSelector = map[string]string{"disk": "ssd"} }, func(n *corev1.Node) { n.Labels = map[string]string{"disk": "ssd"} }, true, true, "1 0"},
		{"another node", func(s *corev1.PodSpec) { s.NodeName = "there" }, nil, false, false, "0 1"},
		{"taint", nil, func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: "k", Value: "v", Effect: corev1.TaintEffectNoSchedule}}
		}, false, true, "0 1"},
		{"taint that evicts", nil, func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: "k", Value: "v", Effect: corev1.TaintEffectNoExecute}}
		}, false, false, "0 1"},
		{"taint that is tolerated", func(s *corev1.PodSpec) { s.Tolerations = []corev1.Toleration{{Key: "k", Value: "v"}} }, func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: "k", Value: "v", Effect: corev1.TaintEffectNoExecute}}
		}, true, true, "1 0"},
		{"all tolerated", func(s *corev1.PodSpec) { s.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}} }, func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: "k", Value: "v", Effect: corev1.TaintEffectNoExecute}}
		}, true, true, "1 0"},
		{"other value tolerated", func(s *corev1.PodSpec) { s.Tolerations = []corev1.Toleration{{Key: "k", Value: "w"}} }, func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: "k", Value: "v", Effect: corev1.TaintEffectNoSchedule}}
		}, false, true, "0 1"},
		{"cordoned", nil, func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}}
		}, true, true, "1 0"},
		{"rather not", nil, func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectPreferNoSchedule}}
		}, true, true, "1 0"},
		{"affinity", func(s *corev1.PodSpec) {
			s.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
				{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "cpus", Operator: corev1.NodeSelectorOpGt, Values: []string{"4"}}}},
			}}}}
		}, nil, false, false, "0 1"},
		{"affinity that fits", func(s *corev1.PodSpec) {
			s.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
				{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "cpus", Operator: corev1.NodeSelectorOpGt, Values: []string{"4"}}}},
				{MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"here"}}}},
			}}}}
		}, nil, true, true, "1 0"},
	} {
		set, node := daemonSet(false), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "here"}}
		if tt.set != nil {
			tt.set(&set.Spec.Template.Spec)
		}
		if tt.node != nil {
			tt.node(node)
		}
		plan, err := DaemonSet(DaemonState{Set: set, Node: node, Now: epoch})
		if err != nil || (plan.Create != nil) != tt.run {
			t.Errorf("%s: %v, %+v", tt.name, err, plan.Create)
		}
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{appsv1.ControllerRevisionHashLabelKey: plan.Revisions[0].Revision.Labels[appsv1.ControllerRevisionHashLabelKey]}}}
		plan, _ = DaemonSet(DaemonState{Set: set, Node: node, Pods: []*corev1.Pod{p}, Now: epoch})
		if got := fmt.Sprint(plan.Status.DesiredNumberScheduled, plan.Status.NumberMisscheduled); len(plan.Delete) == 0 != tt.stay || got != tt.status || plan.Create != nil {
			t.Errorf("%s: deletes %d, status %s", tt.name, len(plan.Delete), got)
		}
	}
	plan, err := DaemonSet(DaemonState{Set: daemonSet(false), Now: epoch})
	if err != nil || plan.Create != nil {
		t.Errorf("without a node: %v, %+v", err, plan)
	}
}

func TestDaemonSet_OnDelete(t *testing.T) {
	set, node := daemonSet(false), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "here"}}
	set.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}
	old := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{appsv1.ControllerRevisionHashLabelKey: "old"}}}
	plan, err := DaemonSet(DaemonState{Set: set, Node: node, Pods: []*corev1.Pod{old}, Now: epoch})
	if err != nil || len(plan.Delete) != 0 || plan.Create != nil || plan.Status.UpdatedNumberScheduled != 0 {
		t.Errorf("%v, %+v", err, plan)
	}
	if plan, _ = DaemonSet(DaemonState{Set: set, Node: node, Now: epoch}); plan.Create == nil || plan.Create.Labels[appsv1.ControllerRevisionHashLabelKey] == "old" ||
		!slices.ContainsFunc(plan.Create.Spec.Tolerations, func(t corev1.Toleration) bool { return strings.HasSuffix(t.Key, "not-ready") }) {
		t.Errorf("%+v", plan.Create)
	}
}
