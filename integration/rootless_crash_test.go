package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A user's minirun is killed at system calls of create and delete. What it leaves
// the user can delete, and the ID is free again.
func TestRootCrashRootless(t *testing.T) {
	setup(t)
	group := userCgroup(t, cgroupMounts()[0])
	leaf := group + "/leaf"
	for _, tt := range []struct {
		name, cgroup string
		step         int
		maps         []specs.LinuxIDMapping
	}{
		{"own id", leaf, 3, nil},
		{"newuidmap", leaf, 9, []specs.LinuxIDMapping{{ContainerID: 0, HostID: userID, Size: 1}, {ContainerID: 1, HostID: userFirst, Size: 1000}}},
		{"no cgroup", "", 1, nil}, // nothing but the record leads to the init
	} {
		u := newUserBox(t, tt.maps)
		u.cgroup = tt.cgroup
		converge := func(what string) {
			t.Helper()
			stop := reapContainers(t)
			defer stop()
			if r := u.do("delete", "--force", u.id); r.Code != 0 || r.Stderr != "" {
				t.Fatalf("%s: delete --force: %+v", what, r)
			}
			if left, _ := os.ReadDir(u.root); len(left) > 0 {
				t.Fatalf("%s: left: %v", what, left)
			}
			if _, err := os.Stat(group + "/minirun-" + u.id); err == nil {
				t.Fatalf("%s: the cgroup is left", what)
			}
			eventually(t, what+": the container's init has ended", func() bool { return len(initsOf(u.id)) == 0 })
		}
		for _, verb := range []string{"create", "delete"} {
			points := 0
			for n := 1; ; n += tt.step {
				what := tt.name + ": " + verb + " killed at call " + strconv.Itoa(n)
				args, from := []string{"create", "--bundle", u.bundle, u.id}, []uint64{unix.SYS_MKDIRAT, sysMkdir}
				if verb == "delete" {
					u.must(args...)
					args, from = []string{"delete", "--force", u.id}, []uint64{unix.SYS_FLOCK}
				}
				code, reached := tracedCommand(t, minirunItself, n, from, u.argv(append([]string{u.bin(), "--root", u.root}, args...)...))
				if !reached && code != 0 {
					t.Fatalf("%s: exit status %d under trace", what, code)
				}
				converge(what)
				if points%4 == 0 {
					u.must("create", "--bundle", u.bundle, u.id)
					converge(what + ", again")
				}
				if !reached {
					break
				}
				points++
			}
			t.Logf("%s: %s: %d crash points", tt.name, verb, points)
			if points < 4 {
				t.Errorf("%s: %s: only %d crash points", tt.name, verb, points)
			}
		}
	}
}

// initsOf are the processes that are a container's init and wait for start.
func initsOf(id string) (pids []string) {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, l := range lines {
		if args, _ := os.ReadFile(l); string(args) == "minirun:init\x00"+id+"\x00" {
			pids = append(pids, filepath.Base(filepath.Dir(l)))
		}
	}
	return pids
}
