package testenv

import (
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"
)

// leakGrace is how long teardown may go on after the test's last cleanup: the
// kernel removes cgroups, network namespaces and lazily unmounted trees a little
// after the last process has gone.
const leakGrace = 3 * time.Second

// leakMark is set in the environment of the test process while a checked test
// runs, so that processes it started are found even after they left its process
// tree. Its value is "<pid>:<test>".
const leakMark = "MINIRUN_TEST_LEAKCHECK"

// CheckLeaks fails the test if it leaves anything in the kernel that was not
// there at the call: mounts of its mount namespace, cgroups, child processes or
// processes in one of its cgroups, network links, named network namespaces, and
// open descriptors of the test process itself. It looks after all other
// cleanups, so call it first.
//
// Other processes may run other tests at the same time. So an object counts only
// if it belongs to this process (children, descriptors) or carries a name of the
// test: its temporary directory, minirun-test-<pid>, or a name given to [Own].
// With MINIRUN_TEST_EXCLUSIVE=1 every new object counts.
//
// A checked test cannot be parallel, since descriptors and children have no
// names: t.Parallel panics after it. Parallel subtests are fine.
func CheckLeaks(t testing.TB) {
	t.Helper()
	checkLeaks(t, Timeout(leakGrace))
}

func checkLeaks(t testing.TB, grace time.Duration) {
	t.Helper()
	t.Setenv(leakMark, strconv.Itoa(os.Getpid())+":"+t.Name())
	warmUp()
	// The directory's name is the test's name plus random digits; its subtests' start in the same way.
	temp := strings.TrimRight(filepath.Dir(t.TempDir()), "0123456789")
	before := takeSnapshot()
	t.Cleanup(func() {
		own := append(ownedBy(t.Name()), processName(), temp)
		deadline := time.Now().Add(grace)
		for wait := 5 * time.Millisecond; ; wait *= 2 {
			if err := removeCgroupParent(); err != nil {
				t.Errorf("remove the parent of the test's cgroups: %v", err)
			}
			leaks := before.leaks(takeSnapshot(), own)
			if len(leaks) == 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("the test left behind:\n\t%s", strings.Join(leaks, "\n\t"))
				return
			}
			time.Sleep(wait)
		}
	})
}

// warmUp makes the Go runtime open the descriptors that it opens once per
// process (epoll and its eventfd), so that they are no leak of the first test.
func warmUp() {
	r, w, err := os.Pipe()
	if err == nil {
		r.Close()
		w.Close()
	}
}

// A snapshot is what exists at one moment: kind -> identity -> description. Two
// objects of the same identity are the same object.
type snapshot map[string]map[string]object

type object struct {
	text string // what people read, and where names are looked for
	own  bool   // belongs to this process whatever its name
}

func takeSnapshot() snapshot {
	return snapshot{
		"mount":             mounts(),
		"cgroup":            testCgroups(),
		"process":           processes(),
		"network link":      links(),
		"network namespace": namedNetns(),
		"descriptor":        descriptors(),
	}
}

// leaks lists what is in after and not in s, sorted, as far as it belongs to the
// process or contains one of the names.
func (s snapshot) leaks(after snapshot, names []string) []string {
	var out []string
	for kind, objects := range after {
		for id, o := range objects {
			if _, old := s[kind][id]; old {
				continue
			}
			if o.own || exclusive() || containsAny(o.text, names) {
				out = append(out, kind+" "+o.text)
			}
		}
	}
	sort.Strings(out)
	return out
}

func containsAny(s string, names []string) bool {
	for _, n := range names {
		if strings.Contains(s, n) {
			return true
		}
	}
	return false
}
