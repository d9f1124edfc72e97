package node

import (
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/minirun/minirun/orchestrate/podlife"
)

// view is all that decide and status know: what is wanted, what was seen, the time.
type view struct {
	Pod     *corev1.Pod
	Now     time.Time
	Boxes   []*box // init containers in their order, then containers, then ephemeral ones
	Backoff podlife.Backoff

	// Sandbox is the number of the last sandbox, 0 before the first. Up tells
	// whether it is there, Made whether anything of it is.
	Sandbox     int
	Up, Made    bool
	Initialized bool // the containers were reached in it
	IPs         []netip.Addr
	HostIPs     []netip.Addr
	// Begun is when the pod was, whatever the clock was set to since.
	Begun time.Time
	// Trouble keeps the sandbox or the volumes from being made, until Retry.
	Trouble string
	Retry   time.Time
	Evicted string // why it has to end
	Refused *refusal
	// Routed: connections are led to the pod.
	Routed bool
}

// kind tells the containers of a pod apart.
type kind int

const (
	initContainer kind = iota // runs before the others, to its end
	sidecar                   // starts before the others, ends after them
	mainContainer
	ephemeral // runs once beside them
)

// box is what is seen of one container of a pod.
type box struct {
	Spec       *corev1.Container
	Kind       kind
	Last, Prev *attempt
	Next       int32 // number of the next attempt
	Restarts   podlife.Restarts
	Image      imageState
	// Waiting is why the next attempt has not begun, tried again at Retry.
	Waiting *corev1.ContainerStateWaiting
	Retry   time.Time
	// Started: it runs, its hook was run, its startup probe succeeded. Ready: and
	// so did its readiness probe. Doomed is why it has to be ended.
	Started, Ready bool
	Doomed         string
	Stopping       bool
}

// attempt is one run of a container.
type attempt struct {
	Number         int32
	Sandbox        int
	ID             string
	Image, ImageID string
	// Asked is the image that the pod asked for then; empty: not known.
	Asked             string
	Started, Finished time.Time
	// Seen is when its end was noticed, by the clock that this process waits by. What
	// Finished says was another process's clock, or one that was set since.
	Seen         time.Time
	Running      bool
	Code, Signal int32
	OOM, Unknown bool
	// Reason, if not empty, is that of an attempt that did not come to run.
	Reason, Message string
}

// over is when the wait for the next attempt begins.
func (a *attempt) over() time.Time {
	if a.Seen.IsZero() {
		return a.Finished
	}
	return a.Seen
}

// see notes an end that was found: it was in the past, whatever the clock was then.
func (a *attempt) see() *attempt {
	now := time.Now()
	a.Seen = now.Add(-max(now.Sub(a.Finished), 0))
	return a
}

// imageState is how far the image for the next attempt is.
type imageState int

const (
	imageUnknown imageState = iota
	imagePulling
	imageHere
)

// in is the last attempt, if it was in the sandbox.
func (b *box) in(sandbox int) *attempt {
	if b.Last == nil || b.Last.Sandbox != sandbox {
		return nil
	}
	return b.Last
}

func (b *box) running() bool { return b.Last != nil && b.Last.Running }

// changed tells whether an attempt was made with another image than the one that the
// pod asks for now.
func (b *box) changed(a *attempt) bool {
	return b.Kind != initContainer && a.Asked != "" && a.Asked != b.Spec.Image
}

// policy is the restart policy of a container.
func (v *view) policy(b *box) corev1.RestartPolicy {
	p := v.Pod.Spec.RestartPolicy
	switch b.Kind {
	case sidecar:
		return corev1.RestartPolicyAlways
	case initContainer:
		if p == corev1.RestartPolicyAlways || p == "" {
			return corev1.RestartPolicyOnFailure
		}
	case ephemeral:
		return corev1.RestartPolicyNever
	}
	return p
}

// again tells whether an attempt that ended is followed by another one.
func (v *view) again(b *box, a *attempt) bool { return podlife.Again(v.policy(b), a.Code) }

// ended tells whether a container has come to its end for good.
func (v *view) ended(b *box) bool {
	a := b.Last
	if b.Kind == initContainer {
		a = b.in(v.Sandbox)
	}
	return a != nil && !a.Running && !v.again(b, a)
}

// deadline is when the pod has to end; zero: never.
func (v *view) deadline() time.Time {
	s := v.Pod.Spec.ActiveDeadlineSeconds
	if s == nil || v.Begun.IsZero() {
		return time.Time{}
	}
	return v.Begun.Add(time.Duration(*s) * time.Second)
}

// outcome is the phase of a pod that has come to its end, or is to; empty: it has
// not.
func (v *view) outcome() (phase corev1.PodPhase, reason, message string) {
	if s := &v.Pod.Status; s.Phase == corev1.PodFailed || s.Phase == corev1.PodSucceeded {
		return s.Phase, s.Reason, s.Message
	}
	if v.Evicted != "" {
		return corev1.PodFailed, "Evicted", v.Evicted
	}
	if v.Refused != nil {
		return corev1.PodFailed, v.Refused.Reason, "Pod was rejected: " + v.Refused.Message
	}
	if at := v.deadline(); !at.IsZero() && !v.Now.Before(at) {
		return corev1.PodFailed, "DeadlineExceeded", "Pod was active on the node longer than the specified deadline"
	}
	over, failed := true, false
	for _, b := range v.Boxes {
		switch {
		case b.Kind == initContainer && !v.Initialized && v.ended(b) && b.Last.Code != 0:
			return corev1.PodFailed, "", ""
		case b.Kind == mainContainer:
			over = over && v.ended(b)
			failed = failed || b.Last != nil && b.Last.Code != 0
		}
	}
	if !over {
		return "", "", ""
	}
	return podlife.Phase(failed), "", ""
}
