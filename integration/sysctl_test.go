package integration

import (
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestRootSysctl(t *testing.T) {
	setup(t)
	host := map[string]string{}
	for _, path := range []string{"net/ipv4/ip_forward", "net/core/somaxconn", "kernel/shmmax", "fs/mqueue/msg_max", "kernel/domainname"} {
		host[path] = readFile(t, "/proc/sys/"+path)
	}
	const show = "cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start net/ipv4/conf/lo/forwarding net/core/somaxconn kernel/shmmax fs/mqueue/msg_max kernel/domainname"
	values := map[string]string{
		"net.ipv4.ip_unprivileged_port_start": "77", "net/ipv4/conf/lo/forwarding": "1", "net.core.somaxconn": "99", "kernel.shmmax": "1048576",
		"fs.mqueue.msg_max": "21", "kernel.domainname": "dom.example",
	}
	namespaces := func(s *specs.Spec) {
		s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "mount"}, {Type: "pid"}, {Type: "uts"}, {Type: "ipc"}, {Type: "network"}}
		s.Linux.Sysctl = values
		s.Process.Args = []string{"sh", "-c", show}
	}
	want := "77\n1\n99\n1048576\n21\ndom.example\n"
	for _, tt := range []struct {
		name   string
		mutate []func(*specs.Spec)
	}{
		{"plain", nil},
		{"no procfs in the container", []func(*specs.Spec){func(s *specs.Spec) {
			// The parameters do not need the container's /proc; what shows them does, so it is mounted elsewhere.
			for i := range s.Mounts {
				if s.Mounts[i].Destination == "/proc" {
					s.Mounts[i].Destination = "/procfs"
				}
			}
			s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
			s.Process.Args[2] = strings.Replace(show, "/proc/sys", "/procfs/sys", 1)
		}}},
		{"procfs of the container covered", []func(*specs.Spec){func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"/proc/sys/kernel/random"} }}},
	} {
		b := newBox(t, append([]func(*specs.Spec){namespaces}, tt.mutate...)...)
		if r := b.run(); r.Stdout != want || r.Code != 0 {
			t.Errorf("%s: %+v, want %s", tt.name, r, want)
		}
	}
	for path, before := range host {
		if after := readFile(t, "/proc/sys/"+path); after != before {
			t.Errorf("%s of the host was %q and is %q", path, before, after)
		}
	}
	for _, tt := range []struct{ key, value, text string }{
		{"net.no_such", "1", "no such file or directory"},
		{"net.core", "1", "is a directory"},
		{"net.ipv4.ip_forward", "banana", "invalid argument"},
	} {
		b := newBox(t, namespaces, func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{tt.key: tt.value} })
		r := b.run()
		if path := "/proc/sys/" + strings.ReplaceAll(tt.key, ".", "/"); r.Code != 1 || !strings.Contains(r.Stderr, tt.text) || !strings.Contains(r.Stderr, path) {
			t.Errorf("%s=%s: %+v, want %q and %q", tt.key, tt.value, r, tt.text, path)
		}
	}
}
