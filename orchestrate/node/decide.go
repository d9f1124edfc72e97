package node

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// verb is what can be done to a pod.
type verb int

const (
	makeSandbox verb = iota // namespaces, addresses, volumes
	initialized             // remember that the init containers are done
	pull                    // see to it that the image is there
	start
	stop
	release // take the sandbox and the volumes back
	remove  // and everything else, and the object
)

func (v verb) String() string {
	return [...]string{"sandbox", "initialized", "pull", "start", "stop", "release", "remove"}[v]
}

// action is one thing to be done.
type action struct {
	Verb verb
	Box  *box   // of pull, start, stop
	Why  string // of stop: what people are told
}

func (a action) String() string {
	if a.Box == nil {
		return a.Verb.String()
	}
	return a.Verb.String() + " " + a.Box.Spec.Name
}

// decision is what is to be done now, in order, and when to look again although
// nothing has happened.
type decision struct {
	Actions []action
	Again   time.Time
}

func (d *decision) do(v verb, b *box, why string) {
	d.Actions = append(d.Actions, action{v, b, why})
}

func (d *decision) at(t time.Time) {
	if !t.IsZero() && (d.Again.IsZero() || t.Before(d.Again)) {
		d.Again = t
	}
}

// decide says what is to be done for a pod that was bound to this node. Whoever
// does it may be killed at any point, looks, and asks again.
func decide(v *view) (d decision) {
	if v.Pod.DeletionTimestamp != nil {
		if d.end(v) {
			d.do(remove, nil, "")
		}
		return d
	}
	if phase, _, _ := v.outcome(); phase != "" {
		if d.end(v) && v.Made {
			d.do(release, nil, "")
		}
		return d
	}
	d.at(v.deadline())
	if !v.Up {
		if v.Now.Before(v.Retry) {
			d.at(v.Retry)
			return d
		}
		d.do(makeSandbox, nil, "")
		return d
	}
	d.run(v)
	return d
}

// end stops what runs: the containers, then the sidecars, the last one first. It
// tells whether nothing runs any more.
func (d *decision) end(v *view) bool {
	alive := false
	for _, b := range v.Boxes {
		if b.Kind != sidecar && b.running() {
			alive = true
			d.stop(b, "Stopping container "+b.Spec.Name)
		}
	}
	if alive {
		return false
	}
	for _, b := range slices.Backward(v.Boxes) {
		if b.running() {
			d.stop(b, "Stopping container "+b.Spec.Name)
			return false
		}
	}
	return true
}

func (d *decision) stop(b *box, why string) {
	if !b.Stopping {
		d.do(stop, b, why)
	}
}

// run brings containers to life, in their order.
func (d *decision) run(v *view) {
	for _, b := range v.Boxes {
		if b.Kind == ephemeral {
			d.keepOnce(v, b)
		}
	}
	for _, b := range v.Boxes {
		switch b.Kind {
		case sidecar:
			d.keep(v, b)
			if !v.Initialized && !(b.in(v.Sandbox) != nil && b.running() && b.Started) {
				return
			}
		case initContainer:
			if v.Initialized {
				continue
			}
			a := b.in(v.Sandbox)
			if a != nil && !a.Running && a.Code == 0 {
				continue
			}
			d.keep(v, b)
			return
		case mainContainer, ephemeral:
		}
	}
	if !v.Initialized {
		d.do(initialized, nil, "")
	}
	for _, b := range v.Boxes {
		if b.Kind == mainContainer {
			d.keep(v, b)
		}
	}
}

// keep keeps one container running.
func (d *decision) keep(v *view, b *box) {
	a := b.Last
	if b.Kind == initContainer {
		a = b.in(v.Sandbox)
	}
	switch {
	case a == nil:
		d.launch(v, b)
	case a.Running && a.Sandbox != v.Sandbox:
		// Its namespaces are not those of the others any more.
		d.stop(b, "Pod sandbox changed, it will be killed and re-created.")
	case a.Running:
		if b.Doomed != "" {
			d.stop(b, b.Doomed)
		} else if b.changed(a) && v.policy(b) == corev1.RestartPolicyAlways {
			d.stop(b, fmt.Sprintf("Container %s definition changed, will be restarted", b.Spec.Name))
		}
	case v.again(b, a):
		if at := v.restartAt(b, a); v.Now.Before(at) {
			d.at(at)
			return
		}
		d.launch(v, b)
	}
}

// restartAt is when an attempt that ended is followed by another one.
func (v *view) restartAt(b *box, a *attempt) time.Time {
	if a.Sandbox != v.Sandbox || b.changed(a) {
		return a.over() // the sandbox went, and took it along, or it is another program now
	}
	return v.Backoff.At(b.Restarts, a.over())
}

func (d *decision) launch(v *view, b *box) {
	switch {
	case v.Now.Before(b.Retry):
		d.at(b.Retry)
	case b.Image == imageHere:
		d.do(start, b, "")
	case b.Image == imageUnknown:
		d.do(pull, b, "")
	}
}

// backOffMessage is what the status and an event say of a container that waits.
func backOffMessage(v *view, b *box) string {
	return fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)", b.Restarts.Wait, b.Spec.Name, v.Pod.Name, v.Pod.Namespace, v.Pod.UID)
}

// ownPod tells whether the object is one that a controller or a user wants to run
// still.
func ownPod(p *corev1.Pod) bool {
	return p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
}
