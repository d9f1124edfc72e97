package node

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/orchestrate/podlife"
)

// podStatus is the status of a pod by what is seen of it.
func podStatus(v *view) corev1.PodStatus {
	s := *v.Pod.Status.DeepCopy()
	s.ObservedGeneration = v.Pod.Generation
	s.QOSClass = qosClass(&v.Pod.Spec)
	if s.StartTime == nil {
		now := metav1.NewTime(v.Now).Rfc3339Copy()
		s.StartTime = &now
	}
	s.HostIP, s.HostIPs = "", nil
	for i, ip := range v.HostIPs {
		if i == 0 {
			s.HostIP = ip.String()
		}
		s.HostIPs = append(s.HostIPs, corev1.HostIP{IP: ip.String()})
	}
	if len(v.IPs) > 0 || v.Made { // those of a pod that has ended stay, for who reads it later
		s.PodIP, s.PodIPs = "", nil
		for i, ip := range v.IPs {
			if i == 0 {
				s.PodIP = ip.String()
			}
			s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: ip.String()})
		}
	}
	phase, reason, message := v.phase()
	s.Phase, s.Reason, s.Message = phase, reason, message
	s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses = nil, nil, nil
	for _, b := range v.Boxes {
		if v.Refused != nil && b.Last == nil {
			continue // nothing is said of what will never be there
		}
		switch b.Kind {
		case mainContainer:
			s.ContainerStatuses = append(s.ContainerStatuses, containerStatus(v, b))
		case ephemeral:
			s.EphemeralContainerStatuses = append(s.EphemeralContainerStatuses, containerStatus(v, b))
		default:
			s.InitContainerStatuses = append(s.InitContainerStatuses, containerStatus(v, b))
		}
	}
	for _, c := range v.conditions(phase) {
		setCondition(&s, c, v)
	}
	if v.Evicted != "" {
		setCondition(&s, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonTerminationByKubelet, Message: v.Evicted}, v)
	}
	return s
}

// setCondition keeps the time of the last change.
func setCondition(s *corev1.PodStatus, c corev1.PodCondition, v *view) {
	c.ObservedGeneration = v.Pod.Generation
	c.LastTransitionTime = metav1.NewTime(v.Now).Rfc3339Copy()
	for i := range s.Conditions {
		if old := &s.Conditions[i]; old.Type == c.Type {
			if old.Status == c.Status {
				c.LastTransitionTime = old.LastTransitionTime
			}
			*old = c
			return
		}
	}
	s.Conditions = append(s.Conditions, c)
}

// phase is that of the pod. A pod that came to its end stays Running until its
// last container has.
func (v *view) phase() (phase corev1.PodPhase, reason, message string) {
	if end, reason, message := v.outcome(); end != "" {
		for _, b := range v.Boxes {
			if b.running() {
				return corev1.PodRunning, reason, message
			}
		}
		return end, reason, message
	}
	if v.Initialized {
		started := false
		for _, b := range v.Boxes {
			started = started || b.Kind == mainContainer && b.Last != nil
		}
		for _, b := range v.Boxes {
			if b.Kind == mainContainer && b.Last == nil {
				return corev1.PodPending, "", "" // all have to be made first
			}
		}
		if started {
			return corev1.PodRunning, "", ""
		}
	}
	if v.Pod.Status.Phase == corev1.PodRunning { // its sandbox is made anew
		return corev1.PodRunning, "", ""
	}
	return corev1.PodPending, "", ""
}

// ready tells whether a container is.
func (v *view) ready(b *box) bool {
	switch b.Kind {
	case initContainer:
		a := b.Last
		return a != nil && !a.Running && a.Code == 0
	case ephemeral:
		return false // nobody is led to one
	}
	return b.running() && b.Started && b.Ready && b.Last.Sandbox == v.Sandbox
}

// serves tells whether the pod is not ready without the container.
func (b *box) serves() bool { return b.Kind == sidecar || b.Kind == mainContainer }

// wouldBeReady tells whether all that the node sees to is done, and nothing else
// is in the way.
func (v *view) wouldBeReady() bool {
	if v.Pod.DeletionTimestamp != nil || !v.Up || !v.Initialized {
		return false
	}
	if end, _, _ := v.outcome(); end != "" {
		return false
	}
	for _, b := range v.Boxes {
		if b.serves() && (!v.ready(b) || b.Stopping) {
			return false
		}
	}
	return len(v.gates()) == 0
}

// gates are the readiness gates that are not open.
func (v *view) gates() (shut []string) {
	for _, g := range v.Pod.Spec.ReadinessGates {
		open := false
		for _, c := range v.Pod.Status.Conditions {
			open = open || c.Type == g.ConditionType && c.Status == corev1.ConditionTrue
		}
		if !open {
			shut = append(shut, string(g.ConditionType))
		}
	}
	return shut
}

func (v *view) conditions(phase corev1.PodPhase) []corev1.PodCondition {
	cond := func(t corev1.PodConditionType, ok bool, reason, message string) corev1.PodCondition {
		c := corev1.PodCondition{Type: t, Status: corev1.ConditionTrue}
		if !ok {
			c.Status, c.Reason, c.Message = corev1.ConditionFalse, reason, message
		}
		return c
	}
	var uninitialized, unready []string
	for _, b := range v.Boxes {
		switch {
		case b.Kind == initContainer && !v.Initialized && !v.ready(b), b.Kind == sidecar && !v.Initialized && !b.Started:
			uninitialized = append(uninitialized, b.Spec.Name)
		}
		if b.serves() && !v.ready(b) {
			unready = append(unready, b.Spec.Name)
		}
	}
	over := phase == corev1.PodSucceeded || phase == corev1.PodFailed
	initOK, initWhy, initText := v.Initialized, "ContainersNotInitialized", fmt.Sprintf("containers with incomplete status: [%s]", strings.Join(uninitialized, " "))
	notReady, readyText := "ContainersNotReady", fmt.Sprintf("containers with unready status: [%s]", strings.Join(unready, " "))
	if over {
		notReady, readyText = "PodCompleted", ""
		if phase == corev1.PodFailed {
			notReady = "PodFailed"
		} else {
			initOK = true
		}
	}
	all := len(unready) == 0 && v.Up && v.Initialized && !over
	ready := cond(corev1.PodReady, all && v.Routed && v.wouldBeReady(), notReady, readyText)
	if ready.Status != corev1.ConditionTrue && all {
		ready.Reason, ready.Message = "PodNotRouted", "connections are not led to the pod yet"
		if shut := v.gates(); len(shut) > 0 {
			ready.Reason, ready.Message = "ReadinessGatesNotReady", fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist or is not True", shut[0])
		}
		if v.Pod.DeletionTimestamp != nil {
			ready.Reason, ready.Message = "PodTerminating", ""
		}
	}
	initCond := cond(corev1.PodInitialized, initOK, initWhy, initText)
	if initOK && over {
		initCond.Reason = "PodCompleted"
	}
	return []corev1.PodCondition{
		cond(corev1.PodReadyToStartContainers, v.Up, "", v.Trouble),
		initCond,
		ready,
		cond(corev1.ContainersReady, all, notReady, readyText),
		cond(corev1.PodScheduled, true, "", ""),
	}
}

// containerStatus is the status of one container.
func containerStatus(v *view, b *box) corev1.ContainerStatus {
	s := corev1.ContainerStatus{Name: b.Spec.Name, Image: b.Spec.Image, Ready: v.ready(b), RestartCount: max(b.Next-1, 0)}
	if b.Kind != ephemeral { // of which that is not said
		started := b.running() && b.Started
		s.Started = &started
	}
	if b.Last == nil {
		s.RestartCount = 0
		s.State.Waiting = v.waiting(b)
		return s
	}
	a := b.Last
	s.RestartCount = a.Number
	s.ContainerID = "minirun://" + a.ID
	s.ImageID = a.ImageID
	if a.Image != "" {
		s.Image = a.Image
	}
	terminated := terminatedState(a)
	switch {
	case a.Running:
		s.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(a.Started).Rfc3339Copy()}
		if b.Prev != nil {
			s.LastTerminationState.Terminated = terminatedState(b.Prev)
		}
		return s
	case b.Kind == initContainer && v.Initialized, v.ended(b), v.over():
		s.State.Terminated = terminated
		if b.Prev != nil {
			s.LastTerminationState.Terminated = terminatedState(b.Prev)
		}
		return s
	}
	s.LastTerminationState.Terminated = terminated
	switch {
	case b.Waiting != nil:
		s.State.Waiting = b.Waiting
	case v.Up && v.Now.Before(v.restartAt(b, a)):
		s.State.Waiting = &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: backOffMessage(v, b)}
	case v.Up:
		// It is started again at once.
		s.State.Terminated, s.LastTerminationState.Terminated = terminated, nil
		if b.Prev != nil {
			s.LastTerminationState.Terminated = terminatedState(b.Prev)
		}
	default:
		s.State.Waiting = v.waiting(b)
	}
	return s
}

// over tells whether nothing is started any more.
func (v *view) over() bool {
	end, _, _ := v.outcome()
	return end != "" || v.Pod.DeletionTimestamp != nil
}

// waiting is the state of a container that has not been started.
func (v *view) waiting(b *box) *corev1.ContainerStateWaiting {
	switch {
	case b.Waiting != nil:
		return b.Waiting
	case b.Kind == mainContainer && !v.Initialized && v.hasInit():
		return &corev1.ContainerStateWaiting{Reason: "PodInitializing"}
	}
	if (b.Kind == initContainer || b.Kind == sidecar) && v.Up {
		return &corev1.ContainerStateWaiting{Reason: "PodInitializing"}
	}
	return &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
}

func (v *view) hasInit() bool {
	return len(v.Boxes) > 0 && (v.Boxes[0].Kind == initContainer || v.Boxes[0].Kind == sidecar)
}

// statusUnknown is the reason of an end that nobody knows the status of.
const statusUnknown = "ContainerStatusUnknown"

func terminatedState(a *attempt) *corev1.ContainerStateTerminated {
	if a.Running {
		return nil
	}
	reason := a.Reason
	if reason == "" {
		reason = podlife.Reason(a.Code, a.OOM)
		if a.Unknown {
			reason = statusUnknown
		}
	}
	t := &corev1.ContainerStateTerminated{
		ExitCode: a.Code, Signal: a.Signal, Reason: reason, Message: a.Message,
		FinishedAt: metav1.NewTime(a.Finished).Rfc3339Copy(), ContainerID: "minirun://" + a.ID,
	}
	if !a.Started.IsZero() {
		t.StartedAt = metav1.NewTime(a.Started).Rfc3339Copy()
	}
	return t
}
