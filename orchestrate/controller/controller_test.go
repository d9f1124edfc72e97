package controller

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/minirun/minirun/orchestrate/api"
	"github.com/minirun/minirun/orchestrate/rollout"
	"github.com/minirun/minirun/orchestrate/store"
)

// cluster is a store, a controller and a node that only pretends. It lives in a
// bubble of synctest: hours pass in no time, and only while everybody waits.
type cluster struct {
	t  *testing.T
	s  *store.Store
	wg sync.WaitGroup

	stopController context.CancelFunc
	stopNode       context.CancelFunc
	// What was seen at every single change.
	mu            sync.Mutex
	mostWanted    int32
	mostActive    int // pods
	leastReady    int
	watchForReady bool
	volumes       string
	addresses     int
	ahead         time.Duration // of the controller's clock
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	kinds, err := Admission(api.NewRegistry().Stored(), ranges)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(filepath.Join(t.TempDir(), "store.db"), kinds, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, s: s, leastReady: 1 << 30, volumes: filepath.Join(t.TempDir(), "volumes")}
	c.startController()
	ctx, cancel := context.WithCancel(context.Background())
	c.stopNode = cancel
	node, all := c.watch("pods"), c.watch("")
	c.wg.Go(func() { c.node(ctx, node) })
	c.wg.Go(func() { c.observe(ctx, all) })
	t.Cleanup(func() {
		c.stopController()
		c.stopNode()
		c.wg.Wait()
		s.Close()
	})
	return c
}

// watch begins before anything happens.
func (c *cluster) watch(kind string) *store.Watch {
	w, err := c.s.Watch(kind, store.Selector{}, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	return w
}

func (c *cluster) startController() {
	ctx, cancel := context.WithCancel(context.Background())
	c.stopController = cancel
	c.wg.Go(func() {
		w, err := New(Options{Store: c.s, Now: c.clock, Volumes: c.volumes})
		if err == nil {
			err = w.Run(ctx)
		}
		if err != nil {
			c.t.Error(err)
		}
	})
}

// node gives every pod a place at once and makes it ready a second later, unless
// its image is broken. A pod that is to end does so within a second.
func (c *cluster) node(ctx context.Context, w *store.Watch) {
	started, ending := map[string]bool{}, map[string]bool{}
	for {
		e, err := w.Next(ctx)
		if err != nil {
			return
		}
		p := e.Object.(*corev1.Pod)
		switch {
		case e.Type == store.Deleted, len(p.Spec.SchedulingGates) > 0:
		case p.DeletionTimestamp != nil && !ending[string(p.UID)]:
			ending[string(p.UID)] = true
			c.later(ctx, time.Second, func() {
				c.s.Delete("pods", p.Namespace, p.Name, store.DeleteOptions{UID: p.UID})
			})
		case !started[string(p.UID)]:
			started[string(p.UID)] = true
			c.place(p)
			if !strings.Contains(p.Spec.Containers[0].Image, "broken") {
				c.later(ctx, time.Second, func() { c.ready(p) })
			}
		}
	}
}

func (c *cluster) later(ctx context.Context, d time.Duration, f func()) {
	c.wg.Go(func() {
		select {
		case <-time.After(d):
			f()
		case <-ctx.Done():
		}
	})
}

func (c *cluster) place(p *corev1.Pod) {
	n := p.DeepCopy()
	n.ResourceVersion, n.Spec.NodeName = "", "here"
	if _, err := c.s.Update("pods", n, store.Main); err != nil {
		return // it is gone already
	}
	n.Status.Phase = corev1.PodRunning
	c.s.Update("pods", n, store.Status)
}

func (c *cluster) ready(p *corev1.Pod) {
	n := p.DeepCopy()
	n.ResourceVersion = ""
	n.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: c.address(), Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}}
	c.s.Update("pods", n, store.Status)
}

// observe looks at the whole after every change of a set or a pod.
func (c *cluster) observe(ctx context.Context, w *store.Watch) {
	active := map[string]bool{}
	for {
		e, err := w.Next(ctx)
		if err != nil {
			return
		}
		if p, ok := e.Object.(*corev1.Pod); ok {
			active[string(p.UID)] = true
			if e.Type == store.Deleted || !rollout.Active(p) {
				delete(active, string(p.UID))
			}
			c.mu.Lock()
			c.mostActive = max(c.mostActive, len(active))
			c.mu.Unlock()
		}
		if e.Kind != pods && e.Kind != replicaSets {
			continue
		}
		total, ready := int32(0), 0
		for _, s := range c.sets() {
			total += *s.Spec.Replicas
		}
		for _, p := range c.pods() {
			if rollout.Active(p) && rollout.PodReady(p) {
				ready++
			}
		}
		c.mu.Lock()
		c.mostWanted = max(c.mostWanted, total)
		if c.watchForReady {
			c.leastReady = min(c.leastReady, ready)
		}
		c.mu.Unlock()
	}
}

func (c *cluster) sets() []*appsv1.ReplicaSet {
	l, err := list[*appsv1.ReplicaSet](c.s, replicaSets, "default")
	if err != nil {
		c.t.Error(err)
	}
	return l
}

func (c *cluster) pods() []*corev1.Pod {
	l, err := list[*corev1.Pod](c.s, pods, "default")
	if err != nil {
		c.t.Error(err)
	}
	return l
}

// apply creates or changes the deployment web.
func (c *cluster) apply(change func(d *appsv1.Deployment)) *appsv1.Deployment {
	c.t.Helper()
	obj, err := c.s.Get(deployments, "default", "web")
	if err != nil {
		ten := int32(10)
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: appsv1.DeploymentSpec{
			Replicas: &ten, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}}},
		}}
		d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "example/app:1"}}
		change(d)
		api.Default(d)
		if obj, err = c.s.Create(deployments, d); err != nil {
			c.t.Fatal(err)
		}
		return obj.(*appsv1.Deployment)
	}
	for {
		d := obj.DeepCopyObject().(*appsv1.Deployment)
		change(d)
		obj, err = c.s.Update(deployments, d, store.Main)
		var conflict *store.ConflictError
		if errors.As(err, &conflict) {
			obj, _ = c.s.Get(deployments, "default", "web")
			continue
		}
		if err != nil {
			c.t.Fatal(err)
		}
		return obj.(*appsv1.Deployment)
	}
}

func image(name string) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = name }
}

// settle lets time pass until the rollout is complete.
func (c *cluster) settle(within time.Duration) *appsv1.Deployment {
	c.t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(100 * time.Millisecond) {
		synctest.Wait()
		d := c.deployment()
		if s := d.Status; s.ObservedGeneration >= d.Generation && s.UpdatedReplicas == *d.Spec.Replicas && s.Replicas == *d.Spec.Replicas && s.AvailableReplicas == *d.Spec.Replicas {
			return d
		}
		if time.Now().After(end) {
			c.t.Fatalf("not complete after %v: %s", within, c)
		}
	}
}

func (c *cluster) deployment() *appsv1.Deployment {
	obj, err := c.s.Get(deployments, "default", "web")
	if err != nil {
		c.t.Fatal(err)
	}
	return obj.(*appsv1.Deployment)
}

// String is the sets and how many pods there are of each image.
func (c *cluster) String() string {
	var b strings.Builder
	for _, s := range c.sets() {
		fmt.Fprintf(&b, "%s %d/%d ", s.Spec.Template.Spec.Containers[0].Image, s.Status.AvailableReplicas, *s.Spec.Replicas)
	}
	fmt.Fprintf(&b, "%d pods", len(c.pods()))
	return b.String()
}

// begin forgets what was seen so far.
func (c *cluster) begin() {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mostWanted, c.mostActive, c.leastReady, c.watchForReady = 0, 0, 1<<30, true
}

func (c *cluster) bounds(most int32, least int) {
	c.t.Helper()
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mostWanted > most || c.leastReady < least {
		c.t.Errorf("up to %d pods wanted, at least %d ready; bounds are %d and %d", c.mostWanted, c.leastReady, most, least)
	}
}

func TestRollingUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.apply(func(*appsv1.Deployment) {})
		c.settle(time.Minute)
		c.begin()
		start := time.Now()
		c.apply(image("example/app:2"))
		d := c.settle(time.Minute)
		// Pods take a second to be ready and one to end; three waves.
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("took %v", took)
		}
		c.bounds(13, 8)
		if d.Annotations[rollout.RevisionAnnotation] != "2" {
			t.Errorf("revision %q", d.Annotations[rollout.RevisionAnnotation])
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := c.String(); len(c.pods()) != 10 || len(c.sets()) != 2 {
			t.Errorf("ends with %s", got)
		}
		// And then nothing more is written.
		at := c.s.Revision()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if now := c.s.Revision(); now != at {
			t.Errorf("%d writes in a day without a change", now-at)
		}

		// Back, with the set that is still there.
		undone, err := rollout.Undo(c.deployment(), c.sets(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.s.Update(deployments, undone, store.Main); err != nil {
			t.Fatal(err)
		}
		if d = c.settle(time.Minute); d.Annotations[rollout.RevisionAnnotation] != "3" || len(c.sets()) != 2 {
			t.Errorf("after undo: revision %q, %s", d.Annotations[rollout.RevisionAnnotation], c)
		}
		c.bounds(13, 8)

		// What was said a day ago is forgotten.
		all, _ := list[*corev1.Event](c.s, events, "default")
		if len(all) == 0 {
			t.Error("no events")
		}
		for _, e := range all {
			if time.Since(e.LastTimestamp.Time) > 2*keepEvents {
				t.Errorf("an event of %v ago: %s", time.Since(e.LastTimestamp.Time), e.Message)
			}
		}

		// Size, up and down.
		for _, n := range []int32{25, 3, 0, 10} {
			c.apply(func(d *appsv1.Deployment) { d.Spec.Replicas = &n })
			c.settle(time.Minute)
		}
	})
}

func TestBrokenUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.apply(func(d *appsv1.Deployment) { d.Annotations = map[string]string{rollout.AutoRollbackAnnotation: "true"} })
		c.settle(time.Minute)
		c.begin()
		c.apply(image("example/broken:2"))
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if d := c.deployment(); d.Status.UpdatedReplicas != 5 || d.Status.AvailableReplicas != 8 {
			t.Errorf("after five minutes %s, %+v", c, d.Status)
		}
		time.Sleep(6 * time.Minute) // past the deadline
		d := c.settle(time.Minute)
		if got := d.Spec.Template.Spec.Containers[0].Image; got != "example/app:1" {
			t.Errorf("ends with %s", got)
		}
		c.bounds(13, 8)
		rolledBack := 0
		all, _ := list[*corev1.Event](c.s, events, "default")
		for _, e := range all {
			if e.Reason == "RolledBack" {
				rolledBack += int(e.Count)
			}
		}
		if rolledBack != 1 {
			t.Errorf("%d events of a rollback", rolledBack)
		}
	})
}

// The controller ends at any time, and another one goes on.
func TestControllerRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.apply(func(*appsv1.Deployment) {})
		c.settle(time.Minute)
		c.begin()
		c.apply(image("example/app:2"))
		for i := range 40 {
			// Not only when everybody waits: what runs is cut off where it is.
			if i%2 == 0 {
				time.Sleep(time.Duration(i*37%300) * time.Millisecond)
			}
			c.stopController()
			c.startController()
		}
		c.settle(time.Minute)
		c.bounds(13, 8)
	})
}

// A controller that was killed between two sizes and the deletions that follow from
// them: the next one does those first, and makes no more pods than there may be.
func TestControllerRestarts_Sizes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.apply(func(*appsv1.Deployment) {})
		c.settle(time.Minute)
		c.apply(image("example/app:2"))
		c.settle(time.Minute)
		sets := c.sets()
		if len(sets) != 2 || sets[0].Name > sets[1].Name {
			t.Fatalf("sets %v", c)
		}
		to, from := sets[0], sets[1] // the one that is looked at first is to grow
		c.apply(image(from.Spec.Template.Spec.Containers[0].Image))
		c.settle(time.Minute)
		c.stopController()
		synctest.Wait()
		c.begin()
		c.apply(image(to.Spec.Template.Spec.Containers[0].Image))
		for _, s := range slices.Backward(c.sets()) {
			n := s.DeepCopy()
			size := map[string]int32{to.Name: 5, from.Name: 8}[s.Name]
			n.Spec.Replicas = &size
			if _, err := c.s.Update(replicaSets, n, store.Main); err != nil {
				t.Fatal(err)
			}
		}
		c.startController()
		c.settle(time.Minute)
		c.bounds(13, 8)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.mostActive > 13 {
			t.Errorf("there were %d pods, 13 is the bound", c.mostActive)
		}
	})
}

// Fewer replicas and another template in one change: what the old set had is not
// what it keeps.
func TestFewerAndNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.apply(func(d *appsv1.Deployment) {
			one, two := intstr.FromInt32(1), intstr.FromInt32(2)
			d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxUnavailable: &one, MaxSurge: &two}
			d.Spec.Strategy.Type = appsv1.RollingUpdateDeploymentStrategyType
		})
		c.settle(time.Minute)
		c.begin()
		c.apply(func(d *appsv1.Deployment) {
			two := int32(2)
			d.Spec.Replicas = &two
			image("example/app:2")(d)
		})
		c.settle(time.Minute)
		c.bounds(10, 1)
	})
}

func TestPodsComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.apply(func(*appsv1.Deployment) {})
		c.settle(time.Minute)
		for _, p := range c.pods()[:4] {
			if _, err := c.s.Delete(pods, p.Namespace, p.Name, store.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		c.settle(10 * time.Second)
		// One that loses its label is let go and replaced, and taken back with it.
		p := c.pods()[0].DeepCopy()
		p.Labels, p.ResourceVersion = map[string]string{"other": "x"}, ""
		if _, err := c.s.Update(pods, p, store.Main); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		c.settle(10 * time.Second)
		got, err := c.s.Get(pods, "default", p.Name)
		if err != nil || len(got.GetOwnerReferences()) != 0 || len(c.pods()) != 11 {
			t.Errorf("%v, %v, %s", got, err, c)
		}
	})
}

func TestGarbage(t *testing.T) {
	for _, policy := range []string{"", metav1.FinalizerDeleteDependents, metav1.FinalizerOrphanDependents} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t)
			c.apply(func(*appsv1.Deployment) {})
			c.settle(time.Minute)
			o := store.DeleteOptions{}
			if policy != "" {
				o.Finalizers = []string{policy}
			}
			if _, err := c.s.Delete(deployments, "default", "web", o); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if _, err := c.s.Get(deployments, "default", "web"); err == nil && policy != metav1.FinalizerDeleteDependents {
				t.Errorf("%q: the deployment is still there", policy)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			wantSets, wantPods := 0, 0
			if policy == metav1.FinalizerOrphanDependents {
				wantSets, wantPods = 1, 10
			}
			if _, err := c.s.Get(deployments, "default", "web"); err == nil || len(c.sets()) != wantSets || len(c.pods()) != wantPods {
				t.Errorf("%q: %v, %s", policy, err, c)
			}
			if wantSets == 1 {
				// A deployment that comes back adopts what is there.
				c.apply(func(*appsv1.Deployment) {})
				c.settle(time.Minute)
				if len(c.sets()) != 1 || len(c.pods()) != 10 {
					t.Errorf("after adoption: %s", c)
				}
			}
		})
	}
}

// What belonged to an object that went while no controller ran goes too.
func TestGarbage_AfterStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.apply(func(*appsv1.Deployment) {})
		c.settle(time.Minute)
		c.stopController()
		synctest.Wait()
		if _, err := c.s.Delete(deployments, "default", "web", store.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.startController()
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(c.sets())+len(c.pods()) != 0 {
			t.Errorf("left: %s", c)
		}
	})
}

func TestPaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.apply(func(*appsv1.Deployment) {})
		c.settle(time.Minute)
		c.apply(func(d *appsv1.Deployment) { d.Spec.Paused = true; image("example/app:2")(d) })
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(c.sets()) != 1 {
			t.Errorf("a paused deployment rolls out: %s", c)
		}
		c.apply(func(d *appsv1.Deployment) { d.Spec.Paused = false })
		if d := c.settle(time.Minute); d.Annotations[rollout.RevisionAnnotation] != "2" {
			t.Errorf("%s", c)
		}
	})
}

// address is one that no other pod has.
func (c *cluster) address() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.addresses++
	return fmt.Sprintf("10.1.%d.%d", c.addresses/250, c.addresses%250+1)
}

// clock is that of the controller.
func (c *cluster) clock() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}
