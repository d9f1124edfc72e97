package node

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestClaimTrouble(t *testing.T) {
	now := metav1.Now()
	lost := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "v"}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimLost}}
	for _, c := range []struct {
		claim *corev1.PersistentVolumeClaim
		want  string
	}{
		{nil, `persistentvolumeclaim "x" not found`},
		{lost, `persistentvolumeclaim "x" bound to non-existent persistentvolume "v"`},
		{&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}}, `persistentvolumeclaim "x" is being deleted`},
		{&corev1.PersistentVolumeClaim{Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}}, ""},
		{&corev1.PersistentVolumeClaim{Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}, ""},
	} {
		if got := claimTrouble("x", c.claim); got != c.want {
			t.Errorf("%+v: %q, want %q", c.claim, got, c.want)
		}
	}
}
