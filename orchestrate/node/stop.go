package node

import (
	"context"
	"errors"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/cgroups"
	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/orchestrate/store"
	"github.com/minirun/minirun/runtime"
)

const defaultGrace = 30 * time.Second

// graceOf is how long a container of a pod has for its end, from now on.
func (n *Node) graceOf(pod *corev1.Pod, now time.Time) time.Duration {
	grace := defaultGrace
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		grace = time.Duration(*g) * time.Second
	}
	if pod.DeletionTimestamp != nil {
		if g := pod.DeletionGracePeriodSeconds; g != nil {
			grace = time.Duration(*g) * time.Second
		}
		grace = min(grace, max(n.endOfGrace(pod).Sub(now), 0))
	}
	return grace
}

// endOfGrace is when the time of a pod that was deleted is over, whatever the clock
// was set to since.
func (n *Node) endOfGrace(pod *corev1.Pod) time.Time {
	grace := time.Duration(0)
	if g := pod.DeletionGracePeriodSeconds; g != nil {
		grace = time.Duration(*g) * time.Second
	}
	// The time that it has is that of the end. It has whole seconds.
	return n.times.Then(pod.UID, pod.DeletionTimestamp.Add(-grace)).Add(grace + time.Second)
}

// stop ends a container, in a goroutine: its hook, the connections that are still
// open, the signal, and SIGKILL when its time is over.
func (w *worker) stop(pod *corev1.Pod, v *view, b *box, why string) {
	name := b.Spec.Name
	w.mu.Lock()
	l := w.liveLocked(name)
	if l.stopping || l.last == nil || !l.last.Running {
		w.mu.Unlock()
		return
	}
	l.stopping = true
	l.ready = false
	c := l.c
	hurry := l.hurry
	w.mu.Unlock()
	w.normal(pod, b.Spec, "Killing", "%s", why)
	grace := w.n.graceOf(pod, time.Now())
	if b.Doomed != "" && pod.DeletionTimestamp == nil {
		p := b.Spec.LivenessProbe
		if !b.Started { // it has not come to that one
			p = b.Spec.StartupProbe
		}
		if p != nil && p.TerminationGracePeriodSeconds != nil && b.Doomed != failedPostStart {
			grace = time.Duration(*p.TerminationGracePeriodSeconds) * time.Second
		}
	}
	if w.rec.Evicted != "" && pod.DeletionTimestamp == nil {
		grace = 0
	}
	drain := time.Duration(0)
	if b.serves() && b.Doomed == "" {
		drain = drainOf(pod, grace)
	}
	w.spawn(func() { w.terminate(pod, b.Spec, c, grace, drain, hurry) })
}

// terminate is the life of a container from the decision to end it on.
func (w *worker) terminate(pod *corev1.Pod, spec *corev1.Container, c *runtime.Container, grace, drain time.Duration, hurry <-chan struct{}) {
	began := time.Now()
	w.n.point("stop-begun")
	if grace > 0 {
		kill := began.Add(grace)
		ctx, cancel := context.WithDeadline(w.ctx, kill)
		release := context.AfterFunc(w.ctx, cancel)
		go func() {
			select {
			case <-hurry:
				cancel()
			case <-ctx.Done():
			}
		}()
		w.preStop(ctx, pod, spec, c)
		w.drain(ctx, pod, drain)
		release()
		cancel()
		if w.ctx.Err() != nil {
			return
		}
		w.n.point("stop-signal")
		if err := c.Kill(stopSignal(c, spec), runtime.Init); err != nil {
			w.n.log.Debug("stop", "container", c.ID, "error", err)
		}
		if left := time.Until(kill); left < minimumGrace {
			kill = time.Now().Add(minimumGrace) // the hook took it all
		}
		if !w.awaitEnd(c, kill, hurry) {
			return
		}
	}
	w.n.point("stop-kill")
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		if err := c.Kill(unix.SIGKILL, runtime.AllProcesses); err != nil {
			w.n.log.Warn("kill", "container", c.ID, "error", err)
		}
		// Who was moved out of its cgroup, or whose cgroup is gone, was not reached.
		if err := c.Kill(unix.SIGKILL, runtime.Init); err != nil {
			w.n.log.Debug("kill", "container", c.ID, "error", err)
		}
		if !w.awaitEnd(c, time.Now().Add(wait), nil) {
			return
		}
	}
}

// minimumGrace is what is left for the signal when the hook took all the time.
const minimumGrace = 2 * time.Second

// awaitEnd waits for the end of a container. It is true when the time is over and
// the container is not.
func (w *worker) awaitEnd(c *runtime.Container, until time.Time, hurry <-chan struct{}) bool {
	t := time.NewTimer(time.Until(until))
	defer t.Stop()
	done := w.endChannel(c.ID)
	select {
	case <-done:
		return false
	case <-w.ctx.Done():
		return false
	case <-hurry:
	case <-t.C:
	}
	return true
}

// endChannel is closed when the attempt has ended.
func (w *worker) endChannel(id string) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.boxes {
		if l.last != nil && l.last.ID == id && l.last.Running {
			return l.over
		}
	}
	closed := make(chan struct{})
	close(closed)
	return closed
}

// stopSignal is what asks a container to end.
func stopSignal(c *runtime.Container, spec *corev1.Container) unix.Signal {
	text := c.Annotations[container.StopSignal]
	if l := spec.Lifecycle; l != nil && l.StopSignal != nil {
		text = string(*l.StopSignal)
	}
	if sig, err := runtime.ParseSignal(text); err == nil && sig != 0 {
		return sig
	}
	return unix.SIGTERM
}

// drainSeconds is the annotation of how long open connections are waited for.
const drainSeconds = "minirun.dev/drain-seconds"

// drainOf is how long open connections are waited for before the signal.
func drainOf(pod *corev1.Pod, grace time.Duration) time.Duration {
	if text, ok := pod.Annotations[drainSeconds]; ok {
		return min(time.Duration(atoi(text))*time.Second, grace)
	}
	return min(5*time.Second, grace/2)
}

// drain waits until no connection to the pod is open, or the time is over. How many
// there are is asked ever less often.
func (w *worker) drain(ctx context.Context, pod *corev1.Pod, limit time.Duration) {
	until := time.Now().Add(limit)
	for wait := 10 * time.Millisecond; time.Now().Before(until); wait = min(2*wait, 200*time.Millisecond) {
		n, err := w.n.o.Services.Connections(pod)
		if err != nil {
			w.n.log.Warn("connections of a pod", "pod", w.String(), "error", err)
		}
		if n == 0 || err != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(wait, time.Until(until))):
		}
	}
}

// release takes back what a pod has beside its containers when it has come to its
// end.
func (w *worker) release(pod *corev1.Pod) error {
	if err := w.n.o.Services.Forget(pod); err != nil {
		w.n.log.Warn("connections of a pod", "pod", w.String(), "error", err)
	}
	if err := w.releaseSandbox(); err != nil {
		return err
	}
	w.up = false
	if w.rec.Evicted != "" {
		if err := w.emptyVolumes(pod); err != nil {
			return err
		}
	}
	w.rec.Boot = ""
	return w.rec.writeIfRoom(w.dir)
}

// remove removes the pod, whose containers have ended: everything of it here, and
// then the object.
func (w *worker) remove(pod *corev1.Pod, v *view) (gone bool, err error) {
	w.routed = false
	if err := w.unroute(pod); err != nil {
		return false, err
	}
	if err := w.report(v); err != nil { // how they ended, for who waits for that
		return false, err
	}
	if err := w.n.o.Services.Forget(pod); err != nil {
		w.n.log.Warn("connections of a pod", "pod", w.String(), "error", err)
	}
	if err := w.wipe(); err != nil {
		return false, err
	}
	// With finalizers the object stays until they go; nothing of it is here any more.
	// Not the ones that we know of count: who takes the last one away meanwhile leaves
	// an object that waits for us.
	_, err = w.n.o.Store.Delete(pods, w.namespace, w.name, store.DeleteOptions{UID: w.uid})
	return ignoreGone(err) == nil, ignoreGone(err)
}

// wipe removes everything of the pod from this host. It converges.
func (w *worker) wipe() error {
	w.n.point("wipe-begun")
	if err := w.forgetContainers(); err != nil {
		return err
	}
	w.n.point("wipe-containers")
	if _, err := os.Lstat(w.dir); err == nil {
		if err := w.releaseSandbox(); err != nil {
			return err
		}
	}
	if err := w.removeCgroup(); err != nil {
		return err
	}
	w.n.point("wipe-sandbox")
	return w.n.removeDir(string(w.uid))
}

// forgetContainers removes all containers of the pod.
func (w *worker) forgetContainers() error {
	ids, err := w.n.runtime.IDs()
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range ids {
		if uid, _, _, ok := parseID(id); ok && uid == w.uid {
			errs = append(errs, w.discard(id))
		}
	}
	return errors.Join(errs...)
}

// orphan ends what is left of a pod whose object is gone: nobody wants it any more.
func (w *worker) orphan() (gone bool, err error) {
	if w.rec == nil {
		w.rec = &record{UID: w.uid}
	}
	// Its group holds all of its processes.
	if err := cgroups.Open(w.n.cgroupMount, w.cgroupPath()).Kill(); err != nil {
		return false, err
	}
	if w.name != "" { // otherwise nobody has ever heard of it
		pod := &corev1.Pod{}
		pod.Namespace, pod.Name, pod.UID = w.namespace, w.name, w.uid
		if err := w.unroute(pod); err != nil {
			return false, err
		}
		if err := w.n.o.Services.Forget(pod); err != nil {
			w.n.log.Warn("connections of a pod", "pod", w.String(), "error", err)
		}
	}
	err = w.wipe()
	return err == nil, err
}
