package node

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/minirun/minirun/orchestrate/podlife"
	"github.com/minirun/minirun/runtime"
)

// attend sees to a container that runs: its hook, its probes. fresh: it was just
// started; otherwise it begins with what its status says, so that nobody is cut off
// because we were restarted.
func (w *worker) attend(ctx context.Context, pod *corev1.Pod, spec *corev1.Container, c *runtime.Container, fresh bool) {
	if fresh && spec.Lifecycle != nil && spec.Lifecycle.PostStart != nil {
		if err := w.hook(ctx, spec.Lifecycle.PostStart, c); err != nil {
			if ctx.Err() != nil {
				return
			}
			w.warning(pod, spec, failedPostStart, "PostStartHook failed: %v", err)
			w.mark(c.ID, func(l *live) { l.doomed = failedPostStart })
			return
		}
	}
	started, ready := false, false
	if !fresh {
		started, ready = saidToBe(pod, spec)
	}
	if !started {
		if spec.StartupProbe != nil && !w.probe(ctx, pod, spec, c, podlife.Startup, spec.StartupProbe, fresh, nil) {
			return
		}
		ready = ready || spec.ReadinessProbe == nil
		w.mark(c.ID, func(l *live) { l.started, l.ready = true, ready })
	}
	var both sync.WaitGroup
	if spec.LivenessProbe != nil {
		both.Go(func() { w.probe(ctx, pod, spec, c, podlife.Liveness, spec.LivenessProbe, fresh, nil) })
	}
	if spec.ReadinessProbe != nil {
		both.Go(func() {
			w.probe(ctx, pod, spec, c, podlife.Readiness, spec.ReadinessProbe, fresh, func(ok bool) {
				w.mark(c.ID, func(l *live) { l.ready = ok })
			})
		})
	}
	both.Wait()
}

// saidToBe is what a container is that was found running: what needs no probe to be
// known, and what the status says.
func saidToBe(pod *corev1.Pod, spec *corev1.Container) (started, ready bool) {
	wasStarted, wasReady := saidOf(pod, spec.Name)
	started = spec.StartupProbe == nil || wasStarted
	return started, started && (spec.ReadinessProbe == nil || wasReady)
}

// failedPostStart is why a container is ended whose hook has failed.
const failedPostStart = "FailedPostStartHook"

// saidOf is what the status says of a container.
func saidOf(pod *corev1.Pod, name string) (started, ready bool) {
	if pod == nil {
		return false, false
	}
	for _, s := range everyStatus(&pod.Status) {
		if s.Name == name && s.State.Running != nil {
			return s.Started != nil && *s.Started, s.Ready
		}
	}
	return false, false
}

// mark changes what is known of an attempt that runs, and has the worker look.
func (w *worker) mark(id string, change func(*live)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.boxes {
		if l.last != nil && l.last.ID == id && l.last.Running && !l.stopping {
			change(l)
			w.poke()
		}
	}
}

// probe probes a container until ctx ends or it has to be ended. A startup probe
// ends with its first success, and is true then. verdict is told when a verdict
// changes.
func (w *worker) probe(ctx context.Context, pod *corev1.Pod, spec *corev1.Container, c *runtime.Container, kind podlife.ProbeKind, p *corev1.Probe, fresh bool, verdict func(bool)) bool {
	period := time.Duration(p.PeriodSeconds) * time.Second
	if period <= 0 {
		period = 10 * time.Second
	}
	delay := time.Duration(p.InitialDelaySeconds) * time.Second
	if !fresh { // many at once, after our own restart
		delay = time.Duration(rand.Int64N(int64(period)))
	}
	name := map[podlife.ProbeKind]string{podlife.Startup: "Startup", podlife.Liveness: "Liveness", podlife.Readiness: "Readiness"}[kind]
	var state podlife.ProbeState
	cadence := podlife.NewCadence(kind, p, time.Now().Add(delay), fresh)
	for {
		at, counts, until := cadence.Next()
		if !pause(ctx, time.Until(at)) {
			return false
		}
		text, err := w.probeUntil(ctx, until, pod, spec, c, p)
		if ctx.Err() != nil {
			return false
		}
		cadence.Took(time.Now(), counts, err == nil)
		if err != nil && !counts {
			continue
		}
		if err != nil {
			w.warning(pod, spec, "Unhealthy", "%s probe failed: %v", name, err)
		} else if text != "" {
			w.warning(pod, spec, "ProbeWarning", "%s probe warning: %s", name, text)
		}
		before := state
		if end := state.Result(kind, p, err == nil); end {
			w.mark(c.ID, func(l *live) {
				l.doomed = fmt.Sprintf("Container %s failed %s probe, will be restarted", spec.Name, map[podlife.ProbeKind]string{podlife.Startup: "startup", podlife.Liveness: "liveness"}[kind])
			})
			return false
		}
		if verdict != nil && state.Known && (!before.Known || before.Good != state.Good) {
			verdict(state.Good)
		}
		if kind == podlife.Startup && state.Known && state.Good {
			return true
		}
	}
}

// probeUntil probes once, and no longer than until, if that is some time.
func (w *worker) probeUntil(ctx context.Context, until time.Time, pod *corev1.Pod, spec *corev1.Container, c *runtime.Container, p *corev1.Probe) (string, error) {
	if !until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, until)
		defer cancel()
	}
	return w.probeOnce(ctx, pod, spec, c, p)
}

// pause waits; false when ctx ends.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
