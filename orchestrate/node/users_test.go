package node

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// What a user namespace cannot go with is refused, and gets none.
func TestCheckUsers(t *testing.T) {
	yes, no := true, false
	privileged := []corev1.Container{{Name: "p", SecurityContext: &corev1.SecurityContext{Privileged: &yes}}}
	for _, tt := range []struct {
		name, want string
		spec       corev1.PodSpec
		own        bool
	}{
		{"not asked for", "", corev1.PodSpec{HostNetwork: true}, false},
		{"of the host", "", corev1.PodSpec{HostUsers: &yes, HostNetwork: true}, false},
		{"its own", "", corev1.PodSpec{HostUsers: &no}, true},
		{"network", "hostNetwork", corev1.PodSpec{HostUsers: &no, HostNetwork: true}, false},
		{"processes", "hostPID", corev1.PodSpec{HostUsers: &no, HostPID: true}, false},
		{"shared processes", "shareProcessNamespace", corev1.PodSpec{HostUsers: &no, ShareProcessNamespace: &yes}, false},
		{"privileged", "container p", corev1.PodSpec{HostUsers: &no, InitContainers: privileged}, false},
	} {
		err := checkUsers(&tt.spec)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if got := ownUsers(&tt.spec); got != tt.own {
			t.Errorf("%s: a namespace of its own: %t", tt.name, got)
		}
	}
}
