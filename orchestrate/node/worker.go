package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/orchestrate/store"
	"github.com/minirun/minirun/runtime"
)

// worker looks after one pod. One goroutine, run, decides and acts; others wait for
// what takes time, and report under mu.
type worker struct {
	n               *Node
	uid             types.UID
	dir             string
	wake            chan struct{}
	ctx             context.Context //nolint:containedctx // of run: what it started ends with it
	cancel          context.CancelFunc
	wg              sync.WaitGroup
	namespace, name string

	// Of run alone.
	rec      *record
	bound    bool
	up       bool
	routed   bool
	removed  bool // no new connections go to it
	trouble  string
	retry    time.Time
	failures int
	said     string // of admission
	meta     string // labels and annotations that files were last made from
	refresh  atomic.Bool
	suspect  atomic.Bool // the pod is to be checked
	// waitsForRoom: admission has refused the pod.
	waitsForRoom atomic.Bool
	told         bool // about limits that are not enforced
	evict        atomic.Pointer[string]

	measuring bool // the volumes

	mu    sync.Mutex
	boxes map[string]*live
	ips   []string
	lost  map[lostLog]bool // what people know of logs
}

// live is what is known of one container. It is guarded by the worker's mu, but for
// c.
type live struct {
	last, prev *attempt
	c          *runtime.Container // of last
	init       int                // pidfd of its init, -1 when it has ended
	pull       pulling
	waiting    *corev1.ContainerStateWaiting
	retry      time.Time
	started    bool
	ready      bool
	doomed     string
	stopping   bool
	hurry      chan struct{} // closed: end it without grace
	hurried    bool
	over       chan struct{}      // closed when the attempt has ended
	quit       context.CancelFunc // of probes and hooks of the attempt
}

func newWorker(n *Node, uid types.UID, namespace, name string) *worker {
	return &worker{
		n: n, uid: uid, namespace: namespace, name: name, dir: filepath.Join(n.podsDir, string(uid)),
		wake: make(chan struct{}, 1), boxes: map[string]*live{},
	}
}

func (w *worker) String() string { return w.namespace + "/" + w.name }

// poke has the worker look.
func (w *worker) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// spawn runs f beside the worker, which waits for its end.
func (w *worker) spawn(f func()) { w.wg.Go(f) }

// after runs f later, unless the worker ends before.
func (w *worker) after(d time.Duration, f func()) {
	w.spawn(func() {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-w.ctx.Done():
		case <-t.C:
			f()
		}
	})
}

// live is the entry of a container, made when it is missing.
func (w *worker) live(name string) *live {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.liveLocked(name)
}

func (w *worker) liveLocked(name string) *live {
	l := w.boxes[name]
	if l == nil {
		l = &live{init: -1}
		w.boxes[name] = l
	}
	return l
}

// run looks after the pod until it is gone or ctx ends.
func (w *worker) run(ctx context.Context) {
	w.ctx, w.cancel = context.WithCancel(ctx)
	defer w.close()
	wait := time.Duration(0)
	adopted := false
	for {
		var again time.Time
		var gone bool
		var err error
		if !adopted {
			err = w.adopt()
			adopted = err == nil
		}
		if err == nil {
			again, gone, err = w.sync()
		}
		switch {
		case ctx.Err() != nil, errors.Is(err, store.ErrClosed):
			return
		case gone:
			return
		case err != nil:
			wait = min(max(2*wait, firstRetry), lastRetry)
			again = time.Now().Add(wait)
			w.n.log.Error("pod", "pod", w.String(), "error", err, "again", wait)
		default:
			wait = 0
		}
		if !w.sleep(ctx, again) {
			return
		}
	}
}

// Waits between attempts at what fails.
const (
	firstRetry = 200 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// sleep waits until somebody pokes or the time comes; false when ctx ends.
func (w *worker) sleep(ctx context.Context, again time.Time) bool {
	var timer <-chan time.Time
	if !again.IsZero() {
		t := time.NewTimer(max(time.Until(again), 0))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-w.wake:
	case <-timer:
	}
	return true
}

func (w *worker) close() {
	w.cancel()
	w.wg.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.boxes {
		linux.Close(l.init)
		l.init = -1
	}
}

// pod is the object, nil if it is gone.
func (w *worker) pod() (*corev1.Pod, error) {
	if w.name == "" {
		if w.rec != nil {
			w.namespace, w.name = w.rec.Namespace, w.rec.Name
		}
		if w.name == "" {
			return nil, nil //nolint:nilnil // nobody knows whose this was
		}
	}
	o, err := w.n.o.Store.Get(pods, w.namespace, w.name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && o.GetUID() != w.uid {
		return nil, nil //nolint:nilnil // it is gone
	}
	if err != nil {
		return nil, err
	}
	return o.(*corev1.Pod), nil
}

// maxRounds bounds how often one look leads to another.
const maxRounds = 64

// sync looks, decides and acts until there is nothing to do now, and writes the
// status.
func (w *worker) sync() (again time.Time, gone bool, err error) {
	for range maxRounds {
		pod, err := w.pod()
		if err != nil {
			return again, false, err
		}
		if pod == nil {
			done, err := w.orphan()
			return time.Time{}, done, err
		}
		if !w.bound {
			ok, err := w.bind(pod)
			if err != nil || !ok {
				return again, false, err
			}
			w.bound = true
			continue
		}
		w.refreshVolumes(pod)
		if w.up {
			w.beginMeasuring(pod)
		}
		if w.suspect.Swap(false) {
			w.check(pod)
		}
		w.noteEviction(pod)
		if !w.up && w.refresh.Swap(false) {
			w.retry = time.Time{} // what was missing may be there now
		}
		v := w.view(pod)
		d := decide(v)
		d.at(w.hurry(pod))
		again = d.Again
		if len(d.Actions) == 0 {
			return again, false, w.report(v)
		}
		for _, a := range d.Actions {
			if w.ctx.Err() != nil {
				return again, false, w.ctx.Err()
			}
			gone, err := w.act(pod, v, a)
			if err != nil && !gone { // people are told what there is, nevertheless
				err = errors.Join(err, w.tellStatus())
			}
			if gone || err != nil {
				return again, gone, err
			}
		}
	}
	return time.Now().Add(firstRetry), false, nil
}

// hurry ends the patience with containers when the pod has no time left, which may
// be earlier than it was at first. It tells when that is.
func (w *worker) hurry(pod *corev1.Pod) time.Time {
	if pod.DeletionTimestamp == nil {
		return time.Time{}
	}
	at := w.n.endOfGrace(pod)
	w.mu.Lock()
	defer w.mu.Unlock()
	waits := false
	for _, l := range w.boxes {
		if !l.stopping || l.last == nil || !l.last.Running || l.hurried {
			continue
		}
		if waits = true; !time.Now().Before(at) {
			l.hurried = true
			close(l.hurry)
		}
	}
	if !waits || !time.Now().Before(at) {
		return time.Time{}
	}
	return at
}

// view is what there is, for decide.
func (w *worker) view(pod *corev1.Pod) *view {
	v := &view{
		Pod: pod, Now: time.Now(), Backoff: w.n.o.Backoff, Sandbox: w.rec.Sandbox, Up: w.up, Made: w.rec.Sandbox > 0 && (w.rec.Ready || w.rec.Boot != ""),
		Initialized: w.rec.Initialized == w.rec.Sandbox && w.rec.Sandbox > 0, HostIPs: w.n.hostIPs, Trouble: w.trouble, Retry: w.retry, Routed: w.routed, Evicted: w.rec.Evicted, Refused: w.rec.Refused,
	}
	for _, text := range w.rec.IPs {
		if a, err := netip.ParseAddr(text); err == nil {
			v.IPs = append(v.IPs, a)
		}
	}
	if t := pod.Status.StartTime; t != nil {
		v.Begun = w.n.times.Then(w.uid, t.Time)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ips = w.rec.IPs
	add := func(c *corev1.Container, k kind) {
		l := w.liveLocked(c.Name)
		r := w.rec.container(c.Name)
		if l.pull.ref != "" && l.pull.ref != c.Image { // what was known is about another image
			l.pull, l.waiting, l.retry = pulling{}, nil, time.Time{}
		}
		b := &box{
			Spec: c, Kind: k, Next: r.Next, Restarts: r.restarts(), Waiting: l.waiting, Retry: l.retry,
			Started: l.started, Ready: l.ready, Doomed: l.doomed, Stopping: l.stopping,
		}
		if l.last != nil {
			a := *l.last
			b.Last = &a
		}
		if l.prev != nil {
			a := *l.prev
			b.Prev = &a
		}
		if l.pull.attempt == b.Next {
			b.Image = l.pull.state
		} else if l.pull.state == imagePulling {
			b.Image = imagePulling
		}
		v.Boxes = append(v.Boxes, b)
	}
	for i := range pod.Spec.InitContainers {
		add(&pod.Spec.InitContainers[i], kindOf(&pod.Spec.InitContainers[i]))
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i], mainContainer)
	}
	for i := range pod.Spec.EphemeralContainers {
		add(asContainer(&pod.Spec.EphemeralContainers[i]), ephemeral)
	}
	return v
}

// act does one thing. gone: the pod is.
func (w *worker) act(pod *corev1.Pod, v *view, a action) (gone bool, err error) {
	switch a.Verb {
	case makeSandbox:
		if saysReady(pod) {
			err = w.leave(pod, v)
		} else {
			w.sandbox(pod)
		}
	case initialized:
		w.rec.Initialized = w.rec.Sandbox
		err = w.rec.write(w.dir)
	case pull:
		w.ensureImage(w.ctx, pod, a.Box)
	case start:
		err = w.start(pod, v, a.Box)
	case stop:
		err = w.unroute(pod)
		if err == nil {
			w.stop(pod, v, a.Box, a.Why)
		}
	case release:
		if err = w.unroute(pod); err == nil {
			err = w.release(pod)
		}
	case remove:
		gone, err = w.remove(pod, v)
	}
	return gone, err
}

// saysReady tells whether connections are led to a pod by what its status says.
func saysReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// leave sees to it that nobody is led to the addresses of a sandbox that is gone, after
// a reboot above all: they may be another pod's soon. Then the status says so, which
// endpoints are made from, and the next look makes the sandbox.
func (w *worker) leave(pod *corev1.Pod, v *view) error {
	if err := w.unroute(pod); err != nil {
		return err
	}
	if err := w.n.o.Services.Forget(pod); err != nil {
		w.n.log.Warn("connections of a pod", "pod", w.String(), "error", err)
	}
	return w.report(v)
}

// sandbox makes the sandbox, and notes what keeps it from being made.
func (w *worker) sandbox(pod *corev1.Pod) {
	err := checkSysctls(pod)
	if err == nil {
		select { // with the containers: what is started at the same time slows each other down
		case w.n.starts <- struct{}{}:
		case <-w.ctx.Done():
			return
		}
		err = w.makeSandbox(pod)
		<-w.n.starts
	}
	w.up = err == nil
	if err == nil {
		w.trouble, w.failures = "", 0
		if names := w.n.unenforced(&pod.Spec); len(names) > 0 && !w.told {
			w.told = true
			w.warning(pod, nil, "LimitNotEnforced", "limits of %v are not enforced: the cgroup v2 hierarchy of this host has no controller for them", names)
		}
		return
	}
	var never *refusal
	if errors.As(err, &never) {
		w.refuse(pod, never)
		return
	}
	w.failures++
	w.trouble = err.Error()
	w.retry = time.Now().Add(min(time.Second<<min(w.failures, 5), lastRetry))
	var m *mountError
	if errors.As(err, &m) {
		w.warning(pod, nil, "FailedMount", "%v", m)
	} else {
		w.warning(pod, nil, "FailedCreatePodSandBox", "Failed to create pod sandbox: %v", err)
	}
	w.n.log.Warn("sandbox", "pod", w.String(), "error", err)
}

// refuse records that the pod will never run here, so that it fails and stays so.
func (w *worker) refuse(pod *corev1.Pod, why *refusal) {
	w.rec.Refused = why
	if err := w.rec.write(w.dir); err != nil {
		w.n.log.Warn("record", "pod", w.String(), "error", err) // it is found out again
	}
	w.warning(pod, nil, why.Reason, "%s", why.Message)
	w.n.log.Warn("pod refused", "pod", w.String(), "reason", why.Reason, "why", why.Message)
}

// bind takes the pod, if there is room for it.
func (w *worker) bind(pod *corev1.Pod) (bool, error) {
	if pod.Spec.NodeName != "" {
		return true, nil
	}
	if pod.DeletionTimestamp != nil {
		_, err := w.n.o.Store.Delete(pods, pod.Namespace, pod.Name, store.DeleteOptions{UID: pod.UID})
		return false, ignoreGone(err)
	}
	if len(pod.Spec.SchedulingGates) > 0 {
		return false, w.unscheduled(pod, "SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates")
	}
	w.n.binding.Lock()
	defer w.n.binding.Unlock()
	why, err := w.n.missingClaim(pod)
	if why == "" && err == nil {
		w.waitsForRoom.Store(true) // before it looks: what goes meanwhile must not be missed
		why, err = w.n.admission(pod)
		w.waitsForRoom.Store(why != "" || err != nil)
	}
	if err != nil {
		return false, err
	}
	if why != "" {
		if why != w.said {
			w.said = why
			w.warning(pod, nil, "FailedScheduling", "%s", why)
		}
		return false, w.unscheduled(pod, corev1.PodReasonUnschedulable, why)
	}
	n := pod.DeepCopy()
	n.Spec.NodeName = w.n.o.NodeName
	if _, err := w.n.o.Store.Update(pods, n, store.Main); err != nil {
		return false, again(w, err)
	}
	w.normal(pod, nil, "Scheduled", "Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, w.n.o.NodeName)
	return true, nil
}

// again pokes the worker for an error that means that somebody else was faster.
func again(w *worker, err error) error {
	var conflict *store.ConflictError
	if errors.As(err, &conflict) || errors.Is(err, fs.ErrNotExist) {
		w.poke()
		return nil
	}
	return err
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// unscheduled writes why a pod waits.
func (w *worker) unscheduled(pod *corev1.Pod, reason, message string) error {
	n := pod.DeepCopy()
	v := &view{Pod: pod, Now: time.Now()}
	setCondition(&n.Status, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: reason, Message: message}, v)
	n.Status.Phase, n.Status.QOSClass = corev1.PodPending, qosClass(&pod.Spec)
	if equality.Semantic.DeepEqual(n.Status, pod.Status) {
		return nil
	}
	_, err := w.n.o.Store.Update(pods, n, store.Status)
	return again(w, err)
}

// admission tells why a pod cannot run here.
func (n *Node) admission(pod *corev1.Pod) (string, error) {
	h := &host{Name: n.o.NodeName, Capacity: n.capacity, Labels: map[string]string{corev1.LabelHostname: n.o.NodeName, corev1.LabelOSStable: "linux", corev1.LabelArchStable: goarch}}
	if node, err := get[*corev1.Node](n, "nodes", "", n.o.NodeName); err != nil {
		return "", err
	} else if node != nil {
		for k, v := range node.Labels {
			h.Labels[k] = v
		}
		h.Taints, h.Unschedulable = node.Spec.Taints, node.Spec.Unschedulable
		if len(node.Status.Allocatable) > 0 {
			h.Capacity = node.Status.Allocatable
		}
	}
	list, err := n.o.Store.List(pods, store.Selector{Match: func(o store.Object) bool {
		p := o.(*corev1.Pod)
		return p.Spec.NodeName == n.o.NodeName && ownPod(p) && p.UID != pod.UID
	}}, 0, "")
	if err != nil {
		return "", err
	}
	others := make([]*corev1.Pod, 0, len(list.Items))
	for _, o := range list.Items {
		others = append(others, o.(*corev1.Pod))
	}
	return admit(pod, h, others), nil
}

// report writes the status, if it is another one. A pod is Ready after connections
// are led to it, and not led to before it is not Ready any more.
func (w *worker) report(v *view) error {
	if would := v.wouldBeReady(); would != w.routed {
		if would {
			if err := w.n.o.Services.Ready(v.Pod, v.IPs); err != nil {
				return fmt.Errorf("lead connections to it: %w", err)
			}
			w.routed, w.removed = true, false
		} else if err := w.unroute(v.Pod); err != nil {
			return err
		}
		v.Routed = w.routed
	}
	status := podStatus(v)
	if equality.Semantic.DeepEqual(status, v.Pod.Status) {
		return nil
	}
	n := v.Pod.DeepCopy()
	n.Status = status
	_, err := w.n.o.Store.Update(pods, n, store.Status)
	if err == nil && !ownPod(n) && ownPod(v.Pod) {
		w.n.pokeWaiting() // for what it had
	}
	return again(w, err)
}

// tellStatus is report for the pod as it is now, while something else cannot be done.
func (w *worker) tellStatus() error {
	if w.ctx.Err() != nil {
		return nil
	}
	pod, err := w.pod()
	if pod == nil || err != nil {
		return err
	}
	return w.report(w.view(pod))
}

// unroute sees to it that no new connection goes to the pod.
func (w *worker) unroute(pod *corev1.Pod) error {
	if w.removed {
		return nil
	}
	if err := w.n.o.Services.Remove(pod); err != nil {
		return fmt.Errorf("lead no more connections to it: %w", err)
	}
	w.removed, w.routed = true, false
	return nil
}

// wait notes why a container is not started, and until when.
func (w *worker) wait(b *box, d time.Duration, reason, message string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.liveLocked(b.Spec.Name)
	l.waiting = &corev1.ContainerStateWaiting{Reason: reason, Message: message}
	l.retry = time.Now().Add(d)
}

// pidfdEnded tells whether a process has ended.
func pidfdEnded(fd int) bool {
	if fd < 0 {
		return true
	}
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, _ := unix.Poll(fds, 0)
	return n > 0
}
