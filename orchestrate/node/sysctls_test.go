package node

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// Names can be written in two ways, and none of them leads out of what it begins with.
func TestCheckSysctls(t *testing.T) {
	for name, want := range map[string]string{
		"net.ipv4.ip_forward":              "net/ipv4/ip_forward",
		"net/ipv4/ip_forward":              "net/ipv4/ip_forward",
		"net.ipv4.conf.eth0/100.rp_filter": "net/ipv4/conf/eth0.100/rp_filter",
		"net/ipv4/conf/eth0.100/rp_filter": "net/ipv4/conf/eth0.100/rp_filter",
		"kernel.sem":                       "kernel/sem",
		"kernel/msgmax":                    "kernel/msgmax",
		"fs.mqueue.msg_max":                "fs/mqueue/msg_max",
		"kernel.domainname":                "",
		"kernel.shm/../domainname":         "",
		"kernel.shm.//.domainname":         "",
		"net/../kernel/domainname":         "",
		"net.//.kernel.domainname":         "",
		"net/./../kernel/domainname":       "",
		"net..ipv4":                        "",
		"net.":                             "",
		"net":                              "",
		"/net/ipv4/ip_forward":             "",
		".net.ipv4":                        "",
		"vm.swappiness":                    "",
		"":                                 "",
	} {
		pod := &corev1.Pod{}
		pod.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: name, Value: "1"}}}
		err := checkSysctls(pod)
		if (err == nil) != (want != "") {
			t.Errorf("%q: %v", name, err)
		}
		if got := swapSeparators(sysctlName(name)); err == nil && got != want {
			t.Errorf("%q is the file %q, want %q", name, got, want)
		}
	}
}
