package integration

import (
	"os"
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
	for _, tt := range []struct {
		name string
		step int
		maps []specs.LinuxIDMapping
	}{{"own id", 3, nil}, {"newuidmap", 9, []specs.LinuxIDMapping{{ContainerID: 0, HostID: userID, Size: 1}, {ContainerID: 1, HostID: userFirst, Size: 1000}}}} {
		u := newUserBox(t, tt.maps)
		u.cgroup = group + "/leaf"
		converge := func(what string) {
			t.Helper()
			stop := reapContainers()
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
