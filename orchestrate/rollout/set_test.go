package rollout

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A clock that is set makes no pod available before its time or never, and no rollout
// late.
func TestClockSet(t *testing.T) {
	for _, jump := range []time.Duration{time.Hour, 400 * 24 * time.Hour, -time.Hour, -56 * 365 * 24 * time.Hour} {
		then := func(_ types.UID, t time.Time) time.Time { return t.Add(jump) }
		n, deadline := int32(1), int32(60)
		p := readyPod("web", epoch)
		p.Status.Phase = corev1.PodRunning
		for passed, available := range map[time.Duration]bool{9 * time.Second: false, 10 * time.Second: true} {
			now := epoch.Add(passed + jump)
			set := &appsv1.ReplicaSet{Spec: appsv1.ReplicaSetSpec{Replicas: &n, MinReadySeconds: 10, Template: template(1)}}
			plan, err := ReplicaSet(SetState{Set: set, Pods: []*corev1.Pod{p}, Now: now, Then: then})
			if got := plan.Status.AvailableReplicas == 1; err != nil || got != available || !available && !plan.Again.Equal(epoch.Add(10*time.Second+jump)) {
				t.Errorf("jump %s, ready for %s: available %v, again at %s, %v", jump, passed, got, plan.Again, err)
			}
		}
		for passed, late := range map[time.Duration]bool{59 * time.Second: false, 62 * time.Second: true} {
			d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web", UID: "d"}, Spec: appsv1.DeploymentSpec{Replicas: &n, ProgressDeadlineSeconds: &deadline, Template: template(1)}}
			began := metav1.NewTime(epoch)
			d.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: reasonUpdated, LastUpdateTime: began, LastTransitionTime: began}}
			set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "web-1"}, Spec: appsv1.ReplicaSetSpec{Replicas: &n, Template: template(1)}}
			set.Annotations = map[string]string{}
			remember(set, Bounds{Replicas: 1})
			plan, err := Deployment(DeploymentState{Deployment: d, Sets: []*appsv1.ReplicaSet{set}, Now: epoch.Add(passed + jump), Then: then})
			c := condition(&plan.Status, appsv1.DeploymentProgressing)
			if err != nil || c == nil || (c.Reason == reasonDeadline) != late {
				t.Errorf("jump %s, without progress for %s: %+v, %v", jump, passed, c, err)
			}
		}
	}
}
