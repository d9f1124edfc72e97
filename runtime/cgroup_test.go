package runtime

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Who gets the container's cgroup.
func TestDelegate(t *testing.T) {
	const all = unix.CLONE_NEWUSER | unix.CLONE_NEWCGROUP | unix.CLONE_NEWPID
	for _, tt := range []struct {
		name       string
		namespaces uint64
		mount      specs.Mount
		inside     uint32
		uid        int
	}{
		{"all three", all, specs.Mount{Type: "cgroup"}, 0, 100000},
		{"cgroup2, told rw", all, specs.Mount{Type: "cgroup2", Options: []string{"nosuid", "rw"}}, 0, 100000},
		{"the last counts", all, specs.Mount{Type: "cgroup", Options: []string{"ro", "rw"}}, 0, 100000},
		{"read-only", all, specs.Mount{Type: "cgroup", Options: []string{"rw", "ro"}}, 0, -1},
		{"another mount", all, specs.Mount{Type: "tmpfs"}, 0, -1},
		{"no cgroup namespace", all &^ unix.CLONE_NEWCGROUP, specs.Mount{Type: "cgroup"}, 0, -1},
		{"no user namespace", all &^ unix.CLONE_NEWUSER, specs.Mount{Type: "cgroup"}, 0, -1},
		{"no root", all, specs.Mount{Type: "cgroup"}, 1, -1},
	} {
		s := &specs.Spec{Mounts: []specs.Mount{tt.mount}, Linux: &specs.Linux{UIDMappings: []specs.LinuxIDMapping{
			{ContainerID: 7, HostID: 7, Size: 1}, {ContainerID: tt.inside, HostID: 100000, Size: 10},
		}}}
		uid, ok := delegate(s, tt.namespaces)
		if !ok {
			uid = -1
		}
		if uid != tt.uid {
			t.Errorf("%s: %d, want %d", tt.name, uid, tt.uid)
		}
	}
}
