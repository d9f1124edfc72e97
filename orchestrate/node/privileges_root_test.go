package node

import (
	"os"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/minirun/minirun/internal/testenv"
)

// A pod has of the host what it asks for, and nothing else.
func TestRootPodHost(t *testing.T) {
	b := newBench(t)
	const web = `
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: "base:1"
    command: [sh, -c, "mkdir /www; hostname > /www/index.html; exec httpd -f -p 80 -h /www"]
    readinessProbe: {httpGet: {port: 80}, periodSeconds: 1}
    ports: [{containerPort: 80, hostPort: 8080`
	pending := func(name, why string) {
		t.Helper()
		b.until(name, "it waits", func(p *corev1.Pod) bool {
			for _, c := range p.Status.Conditions {
				if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable {
					return p.Status.Phase == corev1.PodPending && strings.Contains(c.Message, why)
				}
			}
			return false
		})
		b.eventually("people know why", func() bool {
			return strings.Contains(b.reasons(name), "FailedScheduling: 0/1 nodes are available: 1 "+why)
		})
	}
	b.runPod("web", web+`}]`)
	b.until("web", "it is ready", ready)
	for _, at := range []string{"127.0.0.1", "10.77.0.1"} {
		if out := b.host(testenv.Busybox(t), "wget", "-qO-", "http://"+at+":8080/"); out != "web\n" {
			t.Errorf("at %s: %q", at, out)
		}
	}
	const taken = "node(s) didn't have free ports for the requested pod ports"
	b.runPod("rival", web+`, hostIP: 127.0.0.1}]`)
	pending("rival", taken)
	b.runPod("side", `
  terminationGracePeriodSeconds: 0
  initContainers: [{name: s, image: "base:1", restartPolicy: Always, command: [sleep, "1000"], ports: [{containerPort: 1, hostPort: 8080, hostIP: 0.0.0.0}]}]
  containers: [{name: c, image: "base:1", command: [sleep, "1000"]}]
`)
	pending("side", taken)
	b.delete("side", 0)
	b.gone("side")
	b.runPod("udp", `
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "base:1", command: [sleep, "1000"], ports: [{containerPort: 80, hostPort: 8080, protocol: UDP}]}]
`)
	b.until("udp", "another protocol is another port", ready)
	b.delete("web", 0)
	b.until("rival", "the port is free", ready)
	if out := b.host(testenv.Busybox(t), "wget", "-qO-", "http://127.0.0.1:8080/"); out != "rival\n" {
		t.Errorf("at its own address: %q", out)
	}

	// The host's namespaces, each alone.
	of := func(name string) string {
		link, err := os.Readlink("/proc/" + b.helperPID() + "/ns/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return link
	}
	for field, ns := range map[string]string{"hostNetwork": "net", "hostPID": "pid", "hostIPC": "ipc"} {
		name := strings.ToLower(field)
		b.runPod(name, `
  terminationGracePeriodSeconds: 0
  `+field+`: true
  containers: [{name: c, image: "base:1", command: [sleep, "1000"], ports: [{containerPort: 7070}]}]
`)
		p := b.until(name, "it is ready", ready)
		for _, other := range []string{"net", "pid", "ipc", "uts", "mnt"} {
			_, out := b.exec(name, "c", "readlink", "/proc/self/ns/"+other)
			if got, want := strings.TrimSpace(out) == of(other), other == ns || other == "uts" && ns == "net"; got != want {
				t.Errorf("%s: namespace %s is the host's: %v, want %v", field, other, got, want)
			}
		}
		if field == "hostNetwork" && p.Status.PodIP != p.Status.HostIP {
			t.Errorf("%s: address %s, host %s", field, p.Status.PodIP, p.Status.HostIP)
		}
	}
	if _, out := b.exec("hostpid", "c", "ls", "-d", "/proc/"+b.helperPID()); !strings.Contains(out, b.helperPID()) {
		t.Errorf("the host's processes: %q", out)
	}
	b.runPod("hostnetwork2", `
  hostNetwork: true
  containers: [{name: c, image: "base:1", command: [sleep, "1000"], ports: [{containerPort: 7070}]}]
`)
	pending("hostnetwork2", taken)

	// Parameters of the kernel: those of the pod's namespaces, and no others.
	b.runPod("sysctl", `
  terminationGracePeriodSeconds: 0
  securityContext: {sysctls: [{name: net.ipv4.ip_local_port_range, value: "2000 3000"}, {name: kernel.shm_rmid_forced, value: "1"}]}
  containers: [{name: c, image: "base:1", command: [sleep, "1000"]}]
`)
	b.until("sysctl", "it is ready", ready)
	if _, out := b.exec("sysctl", "c", "cat", "/proc/sys/net/ipv4/ip_local_port_range", "/proc/sys/kernel/shm_rmid_forced"); out != "2000\t3000\n1\n" {
		t.Errorf("parameters: %q", out)
	}
	for name, w := range map[string]struct{ spec, message string }{
		"host":  {`securityContext: {sysctls: [{name: vm.swappiness, value: "7"}]}`, `"vm.swappiness" not allowlisted`},
		"dots":  {`securityContext: {sysctls: [{name: net/../kernel/domainname, value: evil}]}`, `"net/../kernel/domainname" not allowlisted`},
		"swaps": {`securityContext: {sysctls: [{name: net.//.kernel.domainname, value: evil}]}`, `"net.//.kernel.domainname" not allowlisted`},
		"nets":  {"hostNetwork: true\n  securityContext: {sysctls: [{name: net.ipv4.ip_forward, value: '1'}]}", `"net.ipv4.ip_forward" not allowed with host net enabled`},
		"ipcs":  {"hostIPC: true\n  securityContext: {sysctls: [{name: kernel.shm_rmid_forced, value: '1'}]}", `"kernel.shm_rmid_forced" not allowed with host ipc enabled`},
		"new":   {`securityContext: {sysctls: [{name: net.ipv4.no_such_parameter, value: "1"}]}`, `"net.ipv4.no_such_parameter" is not known to this kernel`},
		"dir":   {`securityContext: {sysctls: [{name: net.ipv4, value: "1"}]}`, `"net.ipv4" is not known to this kernel`},
		"reads": {`securityContext: {sysctls: [{name: net.ipv4.tcp_available_congestion_control, value: "x"}]}`, `"net.ipv4.tcp_available_congestion_control" is not of a pod's namespaces`},
	} {
		b.runPod(name, `
  `+w.spec+`
  containers: [{name: c, image: "base:1", command: [sleep, "1000"]}]
`)
		p := b.until(name, "it has failed", phase(corev1.PodFailed))
		if want := "Pod was rejected: forbidden sysctl: " + w.message; p.Status.Reason != "SysctlForbidden" || p.Status.Message != want || len(p.Status.ContainerStatuses) != 0 {
			t.Errorf("%s: %+v", name, p.Status)
		}
		b.eventually("people know", func() bool { return strings.Contains(b.reasons(name), "SysctlForbidden: forbidden sysctl: "+w.message) })
	}
	// A value that is wrong is tried again: it may be right for another kernel.
	b.runPod("wrong", `
  securityContext: {sysctls: [{name: net.ipv4.ip_forward, value: banana}]}
  containers: [{name: c, image: "base:1", command: [sleep, "1000"]}]
`)
	b.eventually("people know", func() bool {
		return strings.Contains(b.reasons("wrong"), `FailedCreatePodSandBox: Failed to create pod sandbox: sysctl net.ipv4.ip_forward: set it to "banana": `)
	})
	// It stays failed, whoever is killed.
	b.stop(syscall.SIGKILL)
	b.run("", 0)
	if p := b.pod("new"); p.Status.Phase != corev1.PodFailed || p.Status.Reason != "SysctlForbidden" {
		t.Errorf("%+v", p.Status)
	}
	if p := b.pod("wrong"); p.Status.Phase != corev1.PodPending {
		t.Errorf("%+v", p.Status)
	}
}

// What a security context says is what the process has.
func TestRootPodSecurity(t *testing.T) {
	b := newBench(t)
	const show = `command: [sh, -c, "id -u; id -g; id -G; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | cut -f2; touch /x 2>/dev/null && echo written; exec sleep 1000"]`
	type want struct{ context, out string }
	const standard = "00000000a80425fb"
	tests := map[string]want{
		"default":      {"{}", "0\n0\n0\n" + standard + "\n" + standard + "\n0\n2\nwritten\n"},
		"user":         {"{runAsUser: 1000, runAsGroup: 3000}", "1000\n3000\n3000 4000 5000\n0000000000000000\n" + standard + "\n0\n2\n"},
		"readonly":     {"{readOnlyRootFilesystem: true, allowPrivilegeEscalation: false}", "0\n0\n0 4000 5000\n" + standard + "\n" + standard + "\n1\n2\n"},
		"capabilities": {"{capabilities: {drop: [ALL], add: [NET_ADMIN]}}", "0\n0\n0 4000 5000\n0000000000001000\n0000000000001000\n0\n2\nwritten\n"},
		"unconfined":   {"{seccompProfile: {type: Unconfined}}", "0\n0\n0 4000 5000\n" + standard + "\n" + standard + "\n0\n0\nwritten\n"},
	}
	spec := `
  terminationGracePeriodSeconds: 0
  securityContext: {supplementalGroups: [5000], fsGroup: 4000}
  containers:
`
	for name, w := range tests {
		spec += `  - {name: ` + name + `, image: "base:1", ` + show + `, securityContext: ` + w.context + "}\n"
	}
	spec += `  - {name: privileged, image: "base:1", command: [sh, -c, "grep ^Seccomp: /proc/self/status | cut -f2; mount -t tmpfs none /tmp && test -e /dev/full && echo mounted; exec sleep 1000"], securityContext: {privileged: true}}` + "\n"
	b.runPod("all", spec)
	b.until("all", "it is ready", ready)
	for name, w := range tests {
		want := strings.Replace(w.out, "0\n0\n0\n", "0\n0\n0 4000 5000\n", 1)
		got := ""
		b.eventually(name+" has written", func() bool {
			got = b.logs("all", name, "")
			return strings.Count(got, "\n") >= strings.Count(want, "\n")
		}, &got)
		if got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	b.eventually("privileged has written", func() bool { return b.logs("all", "privileged", "") == "0\nmounted\n" })

	b.runPod("root", `
  terminationGracePeriodSeconds: 0
  securityContext: {runAsNonRoot: true}
  containers:
  - {name: image, image: "base:1", command: [sleep, "1000"]}
  - {name: says, image: "base:1", command: [sleep, "1000"], securityContext: {runAsUser: 0}}
  - {name: missing, image: "base:1", command: [sleep, "1000"], securityContext: {runAsUser: 7, seccompProfile: {type: Localhost, localhostProfile: no/such.json}}}
  - {name: good, image: "base:1", command: [sleep, "1000"], securityContext: {runAsUser: 7}}
`)
	p := b.until("root", "those are refused that have to be", func(p *corev1.Pod) bool {
		n := 0
		for _, s := range p.Status.ContainerStatuses {
			if w := s.State.Waiting; w != nil && strings.HasPrefix(w.Reason, "CreateContainer") {
				n++
			}
		}
		return n == 3 && state(p, "good").State.Running != nil
	})
	for name, want := range map[string][2]string{
		"image":   {"CreateContainerConfigError", "container has runAsNonRoot and image will run as root"},
		"says":    {"CreateContainerConfigError", "container's runAsUser breaks non-root policy"},
		"missing": {"CreateContainerError", "no/such.json"},
	} {
		if w := state(p, name).State.Waiting; w.Reason != want[0] || !strings.Contains(w.Message, want[1]) {
			t.Errorf("%s: %+v", name, w)
		}
	}
}
