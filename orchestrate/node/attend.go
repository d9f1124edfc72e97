package node

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/minirun/minirun/runtime"
)

// attend sees to a container that runs: its hook, its probes. fresh: it was just
// started.
func (w *worker) attend(ctx context.Context, pod *corev1.Pod, spec *corev1.Container, c *runtime.Container, fresh bool) {
	w.mark(c.ID, func(l *live) { l.started, l.ready = true, true })
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

// preStop runs the hook before the end of a container.
func (w *worker) preStop(ctx context.Context, pod *corev1.Pod, spec *corev1.Container, c *runtime.Container) {
}
