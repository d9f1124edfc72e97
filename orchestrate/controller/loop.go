package controller

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/minirun/minirun/orchestrate/batch"
	"github.com/minirun/minirun/orchestrate/claims"
	"github.com/minirun/minirun/orchestrate/clock"
	"github.com/minirun/minirun/orchestrate/rollout"
	"github.com/minirun/minirun/orchestrate/store"
)

// Names of kinds in the store.
const (
	deployments = "deployments.apps"
	replicaSets = "replicasets.apps"
	pods        = "pods"
	events      = "events"
)

// Waits between attempts at what fails.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = time.Minute
)

// lookAtClock is how long the controller sleeps at most while it waits for a
// time of day.
const lookAtClock = time.Minute

// Controller keeps what is wanted true: it makes, changes and deletes objects.
type Controller struct {
	s   *store.Store
	log *slog.Logger

	queue  []store.Ref
	queued map[store.Ref]bool
	// again is when something is synced although nothing changed.
	again  map[store.Ref]time.Time
	retry  map[store.Ref]time.Duration
	forgot time.Time // when old events were last deleted
	// forgetting is held by who deletes them.
	forgetting sync.Mutex
	mostEvents int
	// failures are what kept a set from getting its pods.
	failures map[types.UID]*rollout.Failure
	// members are the pods that a Service chose when it was last looked at.
	members map[store.Ref]map[types.UID]bool
	// waits hold back daemons that end by themselves.
	waits map[store.Ref]wait
	now   func() time.Time
	// then tells when times of objects were, whatever the clock was set to.
	then rollout.Then
	// volumes is the directory of volumes that are made for claims.
	volumes  string
	sweeping sync.Mutex
}

// Options of New.
type Options struct {
	// Store has the objects. Its kinds should be those of Admission.
	Store *store.Store
	// Log, if not nil, is told what fails.
	Log *slog.Logger
	// Volumes is the directory of the volumes that are made for claims. If it is
	// empty, none are.
	Volumes string
	// Now is the clock; nil is the real one.
	Now func() time.Time
}

// New makes one that does nothing until Run.
func New(o Options) (*Controller, error) {
	if o.Store == nil {
		return nil, errors.New("controllers need a store")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Controller{
		mostEvents: mostEvents, now: o.Now, then: clock.New(o.Now).Then, volumes: o.Volumes, s: o.Store, log: o.Log, queued: map[store.Ref]bool{}, again: map[store.Ref]time.Time{}, retry: map[store.Ref]time.Duration{},
		failures: map[types.UID]*rollout.Failure{}, members: map[store.Ref]map[types.UID]bool{}, waits: map[store.Ref]wait{},
	}, nil
}

// Run works until ctx is done or the store is closed.
func (c *Controller) Run(ctx context.Context) error {
	for {
		err := c.run(ctx)
		var gone *store.GoneError
		switch {
		case errors.As(err, &gone):
			// Too much happened to catch up with: begin anew.
			c.log.Warn("changes were missed, everything is synced", "error", err)
		case ctx.Err() != nil, errors.Is(err, store.ErrClosed):
			return nil
		default:
			return err
		}
	}
}

func (c *Controller) run(ctx context.Context) error {
	w, err := c.s.Watch("", store.Selector{}, c.s.Revision())
	if err != nil {
		return err
	}
	if err := EnsureNamespaces(c.s); err != nil {
		return err
	}
	if err := c.ensureClass(); err != nil {
		return err
	}
	if c.volumes != "" {
		go c.sweep()
	}
	if err := c.everything(); err != nil {
		return err
	}
	for {
		for len(c.queue) > 0 {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			ref := c.queue[0]
			c.queue = c.queue[1:]
			delete(c.queued, ref)
			c.sync(ref)
			// What this changed may make others more urgent, or vain.
			if err := c.take(w); err != nil {
				return err
			}
		}
		if err := c.wait(ctx, w); err != nil {
			return err
		}
	}
}

// everything puts all there is into the queue.
func (c *Controller) everything() error {
	// Sets come before those who decide about their sizes: a set that has yet to
	// delete pods, since the controller was killed, would else be counted as if it
	// had.
	c.all(replicaSets)
	uids := map[types.UID]bool{}
	var all []store.Object
	for _, kind := range c.s.Kinds() {
		l, err := c.s.List(kind, store.Selector{}, 0, "")
		if err != nil {
			return err
		}
		for _, obj := range l.Items {
			uids[obj.GetUID()] = true
			all = append(all, obj)
			c.affected(store.Event{Type: store.Added, Kind: kind, Object: obj})
		}
	}
	for _, obj := range all {
		for _, o := range obj.GetOwnerReferences() {
			if !uids[o.UID] {
				c.orphaned(o.UID)
			}
		}
	}
	return nil
}

// wait waits for a change, or for what is to be synced later.
func (c *Controller) wait(ctx context.Context, w *store.Watch) error {
	var first time.Time
	for _, at := range c.again {
		if first.IsZero() || at.Before(first) {
			first = at
		}
	}
	until := ctx
	if !first.IsZero() {
		// A clock that is set meanwhile moves no timer: so look at it now and then.
		var cancel context.CancelFunc
		until, cancel = context.WithTimeout(ctx, min(max(first.Sub(c.now()), 0), lookAtClock))
		defer cancel()
	}
	e, err := w.Next(until)
	switch {
	case err == nil:
		c.affected(e)
	case ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded):
		return err
	}
	now := c.now()
	for ref, at := range c.again {
		if !at.After(now) {
			delete(c.again, ref)
			c.add(ref)
		}
	}
	return c.take(w)
}

// take takes in what has happened, without waiting.
func (c *Controller) take(w *store.Watch) error {
	done, cancel := context.WithCancel(context.Background())
	cancel()
	for {
		e, err := w.Next(done)
		if errors.Is(err, context.Canceled) {
			return nil
		}
		if err != nil {
			return err
		}
		c.affected(e)
	}
}

func (c *Controller) add(ref store.Ref) {
	if !c.queued[ref] {
		c.queued[ref] = true
		c.queue = append(c.queue, ref)
	}
}

// affected finds what a change is of interest to.
func (c *Controller) affected(e store.Event) {
	obj := e.Object
	if e.Kind == events && e.Type != store.Deleted {
		c.forget()
	}
	if e.Type == store.Deleted {
		c.orphaned(obj.GetUID())
		delete(c.failures, obj.GetUID())
		for _, o := range obj.GetOwnerReferences() {
			c.held(o, obj.GetNamespace())
		}
		c.inTerminating(obj)
	}
	if obj.GetDeletionTimestamp() != nil && len(obj.GetFinalizers()) > 0 {
		c.add(store.Ref{Kind: e.Kind, Namespace: obj.GetNamespace(), Name: obj.GetName()})
	}
	self := store.Ref{Kind: e.Kind, Namespace: obj.GetNamespace(), Name: obj.GetName()}
	switch e.Kind {
	case deployments, statefulSets, daemonSets, cronJobs, namespaces, serviceKind:
		c.add(self)
	case endpointSlices:
		if svc := obj.GetLabels()[discoveryv1.LabelServiceName]; svc != "" {
			c.add(store.Ref{Kind: serviceKind, Namespace: self.Namespace, Name: svc})
		}
	case endpointsKind:
		c.add(store.Ref{Kind: serviceKind, Namespace: self.Namespace, Name: self.Name})
	case nodes:
		c.balancers()
		c.all(daemonSets)
	case revisions:
		c.ownerOf(obj, statefulSets, daemonSets)
	case claimKind:
		c.add(self)
		c.all(statefulSets)
		if v := obj.(*corev1.PersistentVolumeClaim).Spec.VolumeName; v != "" {
			c.add(store.Ref{Kind: volumeKind, Name: v})
		}
	case volumeKind:
		c.add(self)
		c.claimsOf(obj.(*corev1.PersistentVolume))
	case classKind:
		c.all(claimKind)
	case jobs:
		c.add(self)
		if o := metav1.GetControllerOfNoCopy(obj); o != nil {
			c.add(store.Ref{Kind: cronJobs, Namespace: self.Namespace, Name: o.Name})
		}
		if e.Type == store.Deleted {
			c.podsOf(obj)
		}
	case replicaSets:
		c.add(self)
		c.owner(obj, deployments)
	case pods:
		c.servicesOf(obj.(*corev1.Pod))
		for _, name := range claims.Of(obj.(*corev1.Pod)) {
			c.add(store.Ref{Kind: claimKind, Namespace: self.Namespace, Name: name})
		}
		c.ownerOf(obj, statefulSets, daemonSets)
		if batch.Tracked(obj.(*corev1.Pod)) && e.Type != store.Deleted {
			c.add(self) // the Job may be gone
		}
		if o := metav1.GetControllerOfNoCopy(obj); o != nil {
			c.add(store.Ref{Kind: jobs, Namespace: self.Namespace, Name: o.Name})
		}
		if set := c.owner(obj, replicaSets); set != "" {
			// Recreate waits for pods, and automatic rollback counts restarts.
			if rs, err := c.s.Get(replicaSets, obj.GetNamespace(), set); err == nil {
				c.owner(rs, deployments)
			}
		}
	}
}

// owner adds the controller of an object, or those who might adopt it.
func (c *Controller) owner(obj store.Object, kind string) (name string) {
	if o := metav1.GetControllerOfNoCopy(obj); o != nil {
		c.add(store.Ref{Kind: kind, Namespace: obj.GetNamespace(), Name: o.Name})
		return o.Name
	}
	l, err := c.s.List(kind, store.Selector{Namespace: obj.GetNamespace()}, 0, "")
	if err != nil {
		return ""
	}
	for _, x := range l.Items {
		c.add(store.Ref{Kind: kind, Namespace: x.GetNamespace(), Name: x.GetName()})
	}
	return ""
}

// ownerOf is owner for what objects of several kinds may have.
func (c *Controller) ownerOf(obj store.Object, kinds ...string) {
	o := metav1.GetControllerOfNoCopy(obj)
	for _, kind := range kinds {
		if _, err := c.s.Get(kind, obj.GetNamespace(), ownerName(o)); o == nil || err == nil {
			c.owner(obj, kind)
		}
	}
}

func ownerName(o *metav1.OwnerReference) string {
	if o == nil {
		return ""
	}
	return o.Name
}

// all has every object of a kind looked at.
func (c *Controller) all(kind string) {
	l, err := c.s.List(kind, store.Selector{}, 0, "")
	if err != nil {
		return
	}
	for _, o := range l.Items {
		c.add(store.Ref{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName()})
	}
}

// sync does what is due for one object.
func (c *Controller) sync(ref store.Ref) {
	delete(c.again, ref)
	var again time.Time
	err := c.finalize(ref)
	if err == nil {
		switch ref.Kind {
		case deployments:
			again, err = c.deployment(ref)
		case replicaSets:
			again, err = c.replicaSet(ref)
		case statefulSets:
			again, err = c.statefulSet(ref)
		case daemonSets:
			again, err = c.daemonSet(ref)
		case jobs:
			again, err = c.job(ref)
		case cronJobs:
			again, err = c.cronJob(ref)
		case pods:
			err = c.strayed(ref)
		case claimKind:
			err = c.volumeClaim(ref)
		case volumeKind:
			err = c.volume(ref)
		case namespaces:
			err = c.namespace(ref)
		case serviceKind:
			err = c.service(ref)
		}
	}
	var conflict *store.ConflictError
	switch {
	case err == nil:
		delete(c.retry, ref)
	case errors.Is(err, fs.ErrNotExist):
		delete(c.retry, ref)
		return
	case errors.As(err, &conflict):
		c.add(ref) // somebody was faster: look again
		return
	default:
		wait := min(max(2*c.retry[ref], firstRetry), lastRetry)
		c.retry[ref] = wait
		again = c.now().Add(wait)
		c.log.Error("sync", "kind", ref.Kind, "namespace", ref.Namespace, "name", ref.Name, "error", err, "again", wait)
	}
	if !again.IsZero() {
		c.again[ref] = again
	}
}

// keepEvents is how long events stay, and mostEvents how many: all are in memory.
const (
	keepEvents = time.Hour
	mostEvents = 8000
)

// forget deletes old events, once a minute at most and only when there are new ones,
// whoever has written those. It takes as many syncs of the disk as there are.
func (c *Controller) forget() {
	now := c.now()
	if now.Sub(c.forgot) < time.Minute {
		return
	}
	c.forgot = now
	go func() {
		if c.forgetting.TryLock() {
			c.forgetBefore(now)
			c.forgetting.Unlock()
		}
	}()
}

func (c *Controller) forgetBefore(now time.Time) {
	all, err := c.s.List(events, store.Selector{}, 0, "")
	last := func(o store.Object) time.Time { return o.(*corev1.Event).LastTimestamp.Time }
	slices.SortFunc(all.Items, func(a, b store.Object) int { return last(a).Compare(last(b)) })
	for i, o := range all.Items {
		// Of one in the future the clock was set back since: else it might stay for decades.
		if now.Sub(last(o)).Abs() <= keepEvents && len(all.Items)-i <= c.mostEvents {
			continue
		}
		_, e := c.s.Delete(events, o.GetNamespace(), o.GetName(), store.DeleteOptions{})
		if errors.Is(e, store.ErrClosed) {
			return
		}
		if !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	if err != nil {
		c.log.Warn("old events stay", "error", err)
	}
}

// versionOf is the API that a kind is of.
func versionOf(kind string) string {
	switch kind {
	case "Job", "CronJob":
		return "batch/v1"
	case "Service", "PersistentVolumeClaim", "PersistentVolume", "Namespace", "Node":
		return "v1"
	}
	return "apps/v1"
}

// record tells people what happened. The same again is counted.
func (c *Controller) record(obj store.Object, kind string, e rollout.Event) {
	now := metav1.NewTime(c.now()).Rfc3339Copy()
	name := fmt.Sprintf("%s.%s", obj.GetName(), fingerprint(string(obj.GetUID()), e.Reason, e.Message))
	if old, err := c.s.Get(events, obj.GetNamespace(), name); err == nil {
		n := old.DeepCopyObject().(*corev1.Event)
		n.Count++
		n.LastTimestamp = now
		if _, err := c.s.Update(events, n, store.Main); err == nil {
			return
		}
	}
	_, err := c.s.Create(events, &corev1.Event{
		TypeMeta:       metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta:     metav1.ObjectMeta{Namespace: obj.GetNamespace(), Name: name},
		InvolvedObject: corev1.ObjectReference{APIVersion: versionOf(kind), Kind: kind, Namespace: obj.GetNamespace(), Name: obj.GetName(), UID: obj.GetUID(), ResourceVersion: obj.GetResourceVersion()},
		Reason:         e.Reason, Message: e.Message, Type: e.Type, Count: 1, FirstTimestamp: now, LastTimestamp: now,
		Source: corev1.EventSource{Component: "minirund"}, ReportingController: "minirund",
	})
	if err != nil {
		c.log.Warn("an event is lost", "object", obj.GetName(), "reason", e.Reason, "error", err)
	}
}
