package view

import (
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// sidecar tells an init container that stays.
func sidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

func podCells(p *corev1.Pod, now time.Time) []any {
	ready, total, restarts, last := podCounts(p)
	text := strconv.Itoa(restarts)
	if restarts > 0 && !last.IsZero() {
		text += " (" + Age(last, now) + " ago)"
	}
	ip := p.Status.PodIP
	if len(p.Status.PodIPs) > 0 {
		ip = p.Status.PodIPs[0].IP
	}
	gates := none
	if n := len(p.Spec.ReadinessGates); n > 0 {
		true := 0
		for _, g := range p.Spec.ReadinessGates {
			if conditionTrue(p, g.ConditionType) {
				true++
			}
		}
		gates = fmt.Sprintf("%d/%d", true, n)
	}
	return []any{
		p.Name, fmt.Sprintf("%d/%d", ready, total), PodStatus(p), text, Age(p.CreationTimestamp, now),
		or(ip, none), or(p.Spec.NodeName, none), or(p.Status.NominatedNodeName, none), gates,
	}
}

func conditionTrue(p *corev1.Pod, t corev1.PodConditionType) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == t {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// initializing tells whether init containers of a pod are not through.
func initializing(p *corev1.Pod) bool {
	_, busy := initStatus(p)
	return busy
}

// podCounts counts the containers that are ready, all that count, and restarts.
func podCounts(p *corev1.Pod) (ready, total, restarts int, last metav1.Time) {
	total = len(p.Spec.Containers)
	restarted := func(s *corev1.ContainerStatus) {
		restarts += int(s.RestartCount)
		if t := s.LastTerminationState.Terminated; t != nil && last.Before(&t.FinishedAt) {
			last = t.FinishedAt
		}
	}
	sidecars := map[string]bool{}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; sidecar(c) {
			sidecars[c.Name] = true
			total++
		}
	}
	busy := initializing(p)
	for i := range p.Status.InitContainerStatuses {
		s := &p.Status.InitContainerStatuses[i]
		if busy || sidecars[s.Name] {
			restarted(s)
		}
		if sidecars[s.Name] && value(s.Started) && s.Ready {
			ready++
		}
	}
	for i := range p.Status.ContainerStatuses {
		s := &p.Status.ContainerStatuses[i]
		if !busy {
			restarted(s)
		}
		if s.Ready && s.State.Running != nil {
			ready++
		}
	}
	return ready, total, restarts, last
}

// initStatus is what the first init container that is not through says.
func initStatus(p *corev1.Pod) (reason string, busy bool) {
	specs := map[string]*corev1.Container{}
	for i := range p.Spec.InitContainers {
		specs[p.Spec.InitContainers[i].Name] = &p.Spec.InitContainers[i]
	}
	for i := range p.Status.InitContainerStatuses {
		s := &p.Status.InitContainerStatuses[i]
		t, w := s.State.Terminated, s.State.Waiting
		switch {
		case t != nil && t.ExitCode == 0, specs[s.Name] != nil && sidecar(specs[s.Name]) && value(s.Started):
			continue
		case t != nil && t.Reason != "":
			return "Init:" + t.Reason, true
		case t != nil && t.Signal != 0:
			return fmt.Sprintf("Init:Signal:%d", t.Signal), true
		case t != nil:
			return fmt.Sprintf("Init:ExitCode:%d", t.ExitCode), true
		case w != nil && w.Reason != "" && w.Reason != "PodInitializing":
			return "Init:" + w.Reason, true
		}
		return fmt.Sprintf("Init:%d/%d", i, len(p.Spec.InitContainers)), true
	}
	return "", false
}

// PodStatus is the word for how a pod is.
func PodStatus(p *corev1.Pod) string {
	reason := or(p.Status.Reason, string(p.Status.Phase))
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonSchedulingGated {
			reason = corev1.PodReasonSchedulingGated
		}
	}
	text, busy := initStatus(p)
	if busy {
		reason = text
	} else {
		running := false
		for i := len(p.Status.ContainerStatuses) - 1; i >= 0; i-- {
			s := &p.Status.ContainerStatuses[i]
			w, t := s.State.Waiting, s.State.Terminated
			switch {
			case w != nil && w.Reason != "":
				reason = w.Reason
			case t != nil && t.Reason != "":
				reason = t.Reason
			case t != nil && t.Signal != 0:
				reason = fmt.Sprintf("Signal:%d", t.Signal)
			case t != nil:
				reason = fmt.Sprintf("ExitCode:%d", t.ExitCode)
			case s.Ready && s.State.Running != nil:
				running = true
			}
		}
		// One that ended well beside one that runs.
		if reason == "Completed" && running {
			reason = "NotReady"
			if conditionTrue(p, corev1.PodReady) {
				reason = "Running"
			}
		}
	}
	ended := p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded
	switch {
	case p.DeletionTimestamp != nil && p.Status.Reason == "NodeLost":
		return "Unknown"
	case p.DeletionTimestamp != nil && !ended:
		return "Terminating"
	}
	return reason
}
