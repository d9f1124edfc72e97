package controller

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/minirun/minirun/orchestrate/rollout"
	"github.com/minirun/minirun/orchestrate/store"
)

// change writes an object anew, however often others are faster.
func change[P store.Object](c *cluster, kind, name string, f func(P)) {
	c.t.Helper()
	for {
		n := get[P](c, kind, name).DeepCopyObject().(P)
		f(n)
		_, err := c.s.Update(kind, n, store.Main)
		if err == nil {
			return
		}
		if !strings.Contains(err.Error(), "modified") {
			c.t.Fatal(err)
		}
	}
}

func (c *cluster) images() string {
	var out []string
	for _, p := range c.pods() {
		_, tag, _ := strings.Cut(p.Spec.Containers[0].Image, ":")
		out = append(out, p.Name+"="+tag)
	}
	return strings.Join(out, " ")
}

func template(app string) corev1.PodTemplateSpec {
	t := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}}}
	t.Spec.Containers = []corev1.Container{{Name: "c", Image: "example/app:1"}}
	return t
}

func TestStatefulSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		three := int32(3)
		set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"}}
		set.Spec.Replicas, set.Spec.ServiceName, set.Spec.Template = &three, "db", template("db")
		set.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}
		set.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		}}}
		create(c, statefulSets, set)
		synctest.Wait()
		if got := c.images(); got != "db-0=1" {
			t.Errorf("at first %s", got)
		}
		pass(10 * time.Second)
		st := get[*appsv1.StatefulSet](c, statefulSets, "db").Status
		if got := c.images(); got != "db-0=1 db-1=1 db-2=1" || st.AvailableReplicas != 3 || st.CurrentRevision == "" || st.CurrentRevision != st.UpdateRevision {
			t.Errorf("%s, %+v", got, st)
		}
		for _, name := range []string{"data-db-0", "data-db-1", "data-db-2"} {
			get[*corev1.PersistentVolumeClaim](c, claimKind, name)
		}
		// From the highest down, one at a time; whoever does it is replaced meanwhile.
		change(c, statefulSets, "db", func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "example/app:2" })
		synctest.Wait()
		if p := get[*corev1.Pod](c, pods, "db-2"); p.DeletionTimestamp == nil || get[*corev1.Pod](c, pods, "db-1").DeletionTimestamp != nil {
			t.Errorf("%+v", p)
		}
		for i := range 20 {
			time.Sleep(time.Duration(i*53%400) * time.Millisecond)
			c.stopController()
			c.startController()
		}
		pass(20 * time.Second)
		if got := c.images(); got != "db-0=2 db-1=2 db-2=2" {
			t.Errorf("%s", got)
		}
		revs, _ := list[*appsv1.ControllerRevision](c.s, revisions, "default")
		if len(revs) != 2 {
			t.Errorf("%d revisions", len(revs))
		}
		at := c.s.Revision()
		c.stopController()
		c.startController()
		pass(24 * time.Hour)
		if now := c.s.Revision(); now != at {
			t.Errorf("%d writes at rest", now-at)
		}
		// As kubectl undoes it: the data of the old revision is a patch.
		old, err := rollout.RevisionTemplate(revs[slices.IndexFunc(revs, func(r *appsv1.ControllerRevision) bool { return r.Revision == 1 })])
		if err != nil {
			t.Fatal(err)
		}
		change(c, statefulSets, "db", func(s *appsv1.StatefulSet) { s.Spec.Template = *old })
		pass(20 * time.Second)
		revs, _ = list[*appsv1.ControllerRevision](c.s, revisions, "default")
		if got := c.images(); got != "db-0=1 db-1=1 db-2=1" || len(revs) != 2 {
			t.Errorf("%s, %d revisions", got, len(revs))
		}
		// Its pods go with it, its claims stay.
		if _, err := c.s.Delete(statefulSets, "default", "db", store.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		pass(10 * time.Second)
		claims, _ := c.s.List(claimKind, store.Selector{}, 0, "")
		revs, _ = list[*appsv1.ControllerRevision](c.s, revisions, "default")
		if len(c.pods()) != 0 || len(claims.Items) != 3 || len(revs) != 0 {
			t.Errorf("%s, %d claims, %d revisions", c.images(), len(claims.Items), len(revs))
		}
	})
}

func TestDaemonSet(t *testing.T) {
	for _, surge := range []int32{0, 1} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t)
			set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "log"}}
			set.Spec.Template = template("log")
			set.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "log"}}
			a, b := intstr.FromInt32(surge), intstr.FromInt32(1-surge)
			set.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxSurge: &a, MaxUnavailable: &b}}
			create(c, daemonSets, set)
			pass(time.Second)
			if len(c.pods()) != 0 {
				t.Errorf("%s without a node", c.images())
			}
			create(c, nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "here"}})
			pass(5 * time.Second)
			st := get[*appsv1.DaemonSet](c, daemonSets, "log").Status
			if len(c.pods()) != 1 || st.NumberAvailable != 1 || st.DesiredNumberScheduled != 1 || st.UpdatedNumberScheduled != 1 {
				t.Errorf("%s, %+v", c.images(), st)
			}
			change(c, daemonSets, "log", func(s *appsv1.DaemonSet) { s.Spec.Template.Spec.Containers[0].Image = "example/app:2" })
			for i := range 10 {
				time.Sleep(time.Duration(i*53%400) * time.Millisecond)
				c.stopController()
				c.startController()
			}
			pass(10 * time.Second)
			if got := c.images(); len(c.pods()) != 1 || !strings.HasSuffix(got, "=2") {
				t.Errorf("%s", got)
			}
			// One that ends by itself comes back, later each time.
			for _, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
				p := c.pods()[0].DeepCopy()
				p.Status.Phase, p.Status.Conditions = corev1.PodFailed, nil
				if _, err := c.s.Update(pods, p, store.Status); err != nil {
					t.Fatal(err)
				}
				failed := time.Now()
				for len(c.pods()) == 0 || c.pods()[0].Name == p.Name {
					if time.Since(failed) > time.Minute {
						t.Fatal("it does not come back")
					}
					pass(50 * time.Millisecond)
				}
				if took := time.Since(failed); took < want || took > want+2*time.Second {
					t.Errorf("back after %v, want %v", took, want)
				}
				pass(3 * time.Second)
			}
			// A cordoned node keeps it, one that evicts does not.
			change := func(taints ...corev1.Taint) {
				obj, _ := c.s.Get(nodes, "", "here")
				n := obj.DeepCopyObject().(*corev1.Node)
				n.Spec.Taints = taints
				if _, err := c.s.Update(nodes, n, store.Main); err != nil {
					t.Fatal(err)
				}
				pass(10 * time.Second)
			}
			if change(corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}); len(c.pods()) != 1 {
				t.Errorf("%s on a cordoned node", c.images())
			}
			if change(corev1.Taint{Key: "out", Effect: corev1.TaintEffectNoExecute}); len(c.pods()) != 0 {
				t.Errorf("%s on a node that evicts", c.images())
			}
			if change(); len(c.pods()) != 1 {
				t.Errorf("%s", fmt.Sprint(c.images()))
			}
		})
	}
}
