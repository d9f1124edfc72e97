package integration

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
)

// atLeader ends its first thread and lives on in another. It is called by an
// init function, so the first thread is the one it is on.
func atLeader([]string) int {
	ready := make(chan bool)
	go func() {
		ready <- true
		for {
			_ = unix.Nanosleep(&unix.Timespec{Sec: 1000}, nil)
		}
	}()
	<-ready
	fmt.Println("the first thread ends")
	_, _, err := unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
	fmt.Println(err)
	return 1
}

// A container whose first thread has ended looks like a zombie and is none: it
// must not pass for stopped, nor escape pause, kill and delete.
func TestRootAttackLeaderEnds(t *testing.T) {
	setup(t)
	up := func() *ociBox {
		b := newBox(t, func(s *specs.Spec) { s.Process.Args = []string{"/bin/attack-leader"} })
		atInstall(t, b.rootfs(), "leader")
		b.up()
		eventually(t, "its first thread ends", func() bool { return strings.Contains(atField(t, b.pid(), "State"), "Z") })
		return b
	}
	b := up()
	b.wantStatus("running")
	if r := b.do("delete"); r.Code == 0 {
		t.Errorf("delete of a running container: %+v", r)
	}
	b.must("pause")
	b.wantStatus("paused")
	b.must("resume")
	b.wantStatus("running")
	b.kill("KILL")
	b.stopped()
	b.must("delete")

	b = up()
	begin := time.Now()
	b.must("delete", "--force")
	if took := time.Since(begin); took > testenv.Timeout(9*time.Second) {
		t.Errorf("delete --force took %s", took)
	}
	if !b.gone() {
		t.Error("delete --force has left it")
	}
}

// The same in a container that has the host's pid namespace, where nobody's end
// ends the others: what is killed is what the cgroup has.
func TestRootAttackLeaderEndsInHostPidNamespace(t *testing.T) {
	setup(t)
	for _, verb := range []string{"delete", "kill"} {
		b := newBox(t, func(s *specs.Spec) {
			// Without its first thread nobody can join the container any more.
			s.Process.Args = []string{"sh", "-c", "while ! [ -e /go ]; do sleep 0.02; done; exec /bin/attack-leader"}
			s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
			s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
		})
		atInstall(t, b.rootfs(), "leader")
		b.up()
		if r := b.exec("--detach", "--", "/bin/attack-leader"); r.Code != 0 {
			t.Fatalf("exec: %+v", r)
		}
		writeFile(t, b.rootfs("go"), "")
		eventually(t, "both first threads end", func() bool {
			n := 0
			for _, pid := range b.psPids() {
				status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) // a sleep of the shell may be over
				if strings.Contains(string(status), "\nState:\tZ") {
					n++
				}
			}
			return n == 2
		})
		if verb == "kill" {
			b.kill("KILL", "--all")
			b.stopped()
		}
		b.must("delete", "--force")
		if !b.gone() {
			t.Errorf("after %s something is left", verb)
		}
	}
}
