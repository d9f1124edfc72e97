package main

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A log is followed into the next run if there is one, and until there will be none.
func TestNextRun(t *testing.T) {
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	ended := func(code int32) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code}}
	}
	waits := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
	always, onFailure, never := corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever
	for _, tt := range []struct {
		name         string
		policy       corev1.RestartPolicy
		state, last  corev1.ContainerState
		count        int32
		phase        corev1.PodPhase
		deleted      bool
		init         bool
		begun, never bool
	}{
		{name: "still the same", policy: always, state: running, count: 1},
		{name: "the next runs", policy: always, state: running, last: ended(1), count: 2, begun: true},
		{name: "the next has ended", policy: always, state: ended(1), count: 2, begun: true},
		{name: "many have", policy: always, state: waits, last: ended(1), count: 7, begun: true},
		{name: "it waits", policy: always, state: waits, last: ended(1), count: 1},
		{name: "ended, to be started again", policy: always, state: ended(0), count: 1},
		{name: "failed, to be started again", policy: onFailure, state: ended(3), count: 1},
		{name: "done", policy: onFailure, state: ended(0), count: 1, never: true},
		{name: "failed for good", policy: never, state: ended(3), count: 1, never: true},
		{name: "an init container", policy: always, state: ended(0), count: 1, init: true, never: true},
		{name: "one that failed", policy: always, state: ended(1), count: 1, init: true},
		{name: "the pod is over", policy: always, state: waits, count: 1, phase: corev1.PodFailed, never: true},
		{name: "it goes", policy: always, state: ended(0), count: 1, deleted: true, never: true},
	} {
		p := &corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: tt.policy}, Status: corev1.PodStatus{Phase: tt.phase}}
		list := []corev1.ContainerStatus{{Name: "c", State: tt.state, LastTerminationState: tt.last, RestartCount: tt.count}}
		if tt.init {
			p.Spec.InitContainers, p.Status.InitContainerStatuses = []corev1.Container{{Name: "c"}}, list
		} else {
			p.Status.ContainerStatuses = list
		}
		if tt.deleted {
			p.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		}
		if begun, never := nextRun(p, "c", 2); begun != tt.begun || never != tt.never {
			t.Errorf("%s: %t, %t, want %t, %t", tt.name, begun, never, tt.begun, tt.never)
		}
	}
}
