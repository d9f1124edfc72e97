package rollout

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// broken is a world where revision 1 works and the pods of revision 2 do not.
func broken(t *testing.T, wish string) *world {
	s := defaults
	s.Replicas = 10
	w := newWorld(t, s)
	w.d.Annotations = map[string]string{AutoRollbackAnnotation: wish}
	w.settle().use(2)
	w.tick(3)
	return w
}

// tick syncs while pods of revision 2 never become ready.
func (w *world) tick(n int) {
	for range n {
		podModel("rev2-never-ready", w.sets)
		w.sync()
	}
}

func (w *world) events(reason string) (n int) {
	for _, e := range w.last.Events {
		if e.Reason == reason {
			n++
		}
	}
	return n
}

func image(w *world) string { return w.d.Spec.Template.Spec.Containers[0].Image }

func TestAutoRollback_Deadline(t *testing.T) {
	for _, wish := range []string{"", "false", "true"} {
		w := broken(t, wish)
		w.now = w.now.Add(599e9)
		if w.tick(1); image(w) != "example/app:2" {
			t.Fatalf("%q: rolled back too early", wish)
		}
		w.now = w.now.Add(10e9)
		w.tick(1) // notes that the deadline is over
		w.tick(1) // rolls back
		if wish != "true" {
			if image(w) != "example/app:2" || w.condition(RolledBack) != "" {
				t.Errorf("%q: rolled back", wish)
			}
			continue
		}
		if image(w) != "example/app:1" || w.events("RolledBack") != 1 {
			t.Fatalf("template %s, events %v", image(w), w.last.Events)
		}
		if c := condition(&w.d.Status, RolledBack); c == nil || !strings.Contains(c.Message, "revision 2 rolled back to revision 1: no progress within 10m0s") {
			t.Errorf("condition %+v", c)
		}
		w.d.Generation++
		w.tick(20)
		if got := w.byRevision(); len(got) != 2 || got["3"] != "A" || *w.target().Spec.Replicas != 10 || revOf(w.target()) != 1 {
			t.Errorf("ends with %v, %v", got, sizes(w.sets))
		}
		if w.condition(RolledBack) == "" || w.d.Annotations[AutoRollbackAnnotation] != "true" {
			t.Error("condition or annotation is lost")
		}

		// The same template once more gets what it asks for.
		w.use(2)
		w.tick(5)
		w.now = w.now.Add(3600e9)
		w.tick(5)
		if image(w) != "example/app:2" || w.condition(appsv1.DeploymentProgressing) != "Progressing False ProgressDeadlineExceeded" {
			t.Errorf("rolled back a second time: %s, %s", image(w), w.condition(appsv1.DeploymentProgressing))
		}
		// A new one clears the condition.
		w.use(3)
		if w.settle(); w.condition(RolledBack) != "" {
			t.Error("the condition outlives the next rollout")
		}
	}
}

func TestAutoRollback_Restarts(t *testing.T) {
	w := broken(t, "true")
	var bad *appsv1.ReplicaSet
	for _, s := range w.sets {
		if revOf(s) == 2 {
			bad = s
		}
	}
	yes := true
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-2-x", OwnerReferences: []metav1.OwnerReference{{UID: bad.UID, Controller: &yes}}}}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 2}, {RestartCount: 1}}
	w.pods = []*corev1.Pod{p}
	if w.tick(1); image(w) != "example/app:2" {
		t.Fatal("rolled back after three restarts")
	}
	p.Status.ContainerStatuses[0].RestartCount = 3
	available := p.DeepCopy()
	available.Status.Conditions = readyPod("", epoch).Status.Conditions
	w.pods = []*corev1.Pod{available}
	if w.tick(1); image(w) != "example/app:2" {
		t.Fatal("rolled back though the pod is available")
	}
	w.pods = []*corev1.Pod{p}
	w.d.Annotations[AutoRollbackRestartsAnnotation] = "4"
	if w.tick(1); image(w) != "example/app:2" {
		t.Fatal("the annotation does not count")
	}
	delete(w.d.Annotations, AutoRollbackRestartsAnnotation)
	if w.tick(1); image(w) != "example/app:1" {
		t.Fatal("not rolled back after four restarts")
	}
	if len(text(w.last)) != 0 {
		t.Errorf("also acts: %q", text(w.last))
	}
}

// There is nothing to return to: not to a revision that never worked, and not
// from one that did.
func TestAutoRollback_Nowhere(t *testing.T) {
	w := newWorld(t, defaults)
	w.d.Annotations = map[string]string{AutoRollbackAnnotation: "true"}
	w.use(2)
	w.tick(2)
	w.use(4) // neither 2 nor 4 becomes ready
	for range 5 {
		for _, s := range w.sets {
			s.Status.Replicas = *s.Spec.Replicas
		}
		w.sync()
		w.now = w.now.Add(3600e9)
	}
	if image(w) != "example/app:4" {
		t.Errorf("rolled back to %s", image(w))
	}

	// 1 was complete, and so was 3. It fails on the way back to 1: there it stays.
	w = newWorld(t, defaults)
	w.d.Annotations = map[string]string{AutoRollbackAnnotation: "true"}
	w.settle().use(3).settle().use(1)
	for range 10 {
		for _, s := range w.sets {
			s.Status.Replicas, s.Status.AvailableReplicas, s.Status.ReadyReplicas = *s.Spec.Replicas, 0, 0
		}
		w.sync()
		w.now = w.now.Add(3600e9)
	}
	if image(w) != "example/app:1" || w.condition(RolledBack) != "" {
		t.Errorf("rolled back to %s", image(w))
	}
}

// The condition of a rollout that failed is still there when the next one
// begins, which may be to a set that exists. That one gets its time.
func TestAutoRollback_NewChance(t *testing.T) {
	w := broken(t, "")
	w.use(4)
	for range 8 {
		for _, s := range w.sets {
			s.Status.Replicas = *s.Spec.Replicas
			if revOf(s) != 1 {
				s.Status.AvailableReplicas, s.Status.ReadyReplicas = 0, 0
			}
		}
		w.sync()
		w.now = w.now.Add(3600e9)
	}
	if c := w.condition(appsv1.DeploymentProgressing); c != "Progressing False ProgressDeadlineExceeded" {
		t.Fatal(c)
	}
	w.d.Annotations[AutoRollbackAnnotation] = "true"
	w.use(2)
	if w.sync().sync(); image(w) != "example/app:2" {
		t.Errorf("rolled back at once, to %s", image(w))
	}
}
