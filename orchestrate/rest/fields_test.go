package rest

import (
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/minirun/minirun/orchestrate/store"
)

// TestValues: what is not said has the value that it stands for.
func TestValues(t *testing.T) {
	for _, c := range []struct {
		obj        store.Object
		name, want string
	}{
		{&corev1.Pod{}, "spec.hostNetwork", "false"},
		{&corev1.Pod{Spec: corev1.PodSpec{HostNetwork: true}}, "spec.hostNetwork", "true"},
		{&corev1.Pod{}, "spec.nodeName", ""},
		{&corev1.Node{}, "spec.unschedulable", "false"},
		{&batchv1.Job{}, "status.successful", "0"},
		{&batchv1.Job{Status: batchv1.JobStatus{Succeeded: 12}}, "status.successful", "12"},
		{&corev1.Event{InvolvedObject: corev1.ObjectReference{FieldPath: "spec.containers{c}"}}, "involvedObject.fieldPath", "spec.containers{c}"},
	} {
		if got := values(c.obj, []string{c.name})[c.name]; got != c.want {
			t.Errorf("%T %s: %q, want %q", c.obj, c.name, got, c.want)
		}
	}
}
