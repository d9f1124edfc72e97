package runtime

import (
	"fmt"
	"os"
	goruntime "runtime"
	"strconv"
	"sync"

	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/namespaces"
	"github.com/minirun/minirun/runtime/bundle"
)

// AffinityError is a set of processors that the kernel refuses.
type AffinityError struct {
	CPUs string
	Err  error
}

func (e *AffinityError) Error() string {
	return fmt.Sprintf("process.execCPUAffinity.initial: run on the processors %s: %v", e.CPUs, e.Err)
}
func (e *AffinityError) Unwrap() error { return e.Err }

// Hint says what would help.
func (e *AffinityError) Hint() string {
	return "at least one of the processors must be online and among those of the caller's cpuset: see /sys/devices/system/cpu/online"
}

// lendAffinity has this thread run on the processors in cpus, which the process
// that it starts inherits: on those it enters the container's cgroup. restore
// takes it back.
func lendAffinity(cpus string) (restore func(), err error) {
	if cpus == "" {
		return func() {}, nil
	}
	goruntime.LockOSThread()
	old, err := linux.Affinity()
	if err == nil {
		if err = linux.SetAffinity(bundle.Mask(cpus)); err == nil {
			return func() {
				if linux.SetAffinity(old) == nil {
					goruntime.UnlockOSThread() // otherwise the thread ends with the goroutine
				}
			}, nil
		}
	}
	goruntime.UnlockOSThread()
	return nil, &AffinityError{cpus, err}
}

const ownOOMScore = "/proc/self/oom_score_adj"

// scoreToGive is the oom_score_adj that the process does not have from us; "" if there
// is none. It waits for it before it joins anything. An ordinary user may not give a
// process one that has hidden itself from others; see lendOOMScore.
func (e *execution) scoreToGive() string {
	if e.pr.OOMScoreAdj == nil || ordinary() {
		return ""
	}
	want := strconv.Itoa(*e.pr.OOMScoreAdj)
	if old, err := linux.ReadFile(ownOOMScore, 64); err == nil && string(old) == want+"\n" {
		return ""
	}
	return want
}

func ordinary() bool { return os.Geteuid() != 0 || linux.InUserNS() }

// scoreGate is where a process waits until it has its oom_score_adj.
type scoreGate struct{ score string }

func (s *scoreGate) Phase() string { return "process.oomScoreAdj" }
func (s *scoreGate) String() string {
	return "wait until the runtime has set oom_score_adj to " + s.score
}
func (s *scoreGate) Why() string { return "" }

func (s *scoreGate) Emit(b *initprog.Builder) {
	b.Object("")
	namespaces.Handshake(b, namespaces.Ready)
}

func (e *execution) giveScore(pid int) error {
	err := writeHost("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", e.score)
	switch {
	case err == nil:
		return nil
	case unprivileged(err):
		return oomScoreRefused(e.score, err)
	}
	return fmt.Errorf("process.oomScoreAdj: %w", err)
}

// lending is held while this process has another oom_score_adj than its own: a second
// one would take the first one's for it.
var lending sync.Mutex

// lendOOMScore gives this process, which is an ordinary user's, the oom_score_adj of
// the one that exec adds, which inherits it. restore takes it back. What such a user may
// not set is left out, as in create.
func (e *execution) lendOOMScore() (restore func(), err error) {
	if e.pr.OOMScoreAdj == nil || !ordinary() {
		return func() {}, nil
	}
	want := strconv.Itoa(*e.pr.OOMScoreAdj)
	lending.Lock()
	old, err := linux.ReadFile(ownOOMScore, 64)
	if err == nil && string(old) != want+"\n" {
		if err = writeHost(ownOOMScore, want); err == nil {
			return func() { _ = writeHost(ownOOMScore, string(old)); lending.Unlock() }, nil
		}
	}
	lending.Unlock()
	if err != nil && !unprivileged(err) {
		return nil, fmt.Errorf("process.oomScoreAdj: %w", err)
	}
	return func() {}, nil
}

// oomScoreRefused explains why oom_score_adj cannot be set.
func oomScoreRefused(want string, err error) error {
	return fmt.Errorf("process.oomScoreAdj: lowering oom_score_adj to %s takes CAP_SYS_RESOURCE: %w", want, err)
}

// lend gives this process, for the time of the start of another one, what that
// one has to have before anything else.
func (e *execution) lend() (restore func(), err error) {
	initial := ""
	if a := e.pr.ExecCPUAffinity; a != nil {
		initial = a.Initial
	}
	score, err := e.lendOOMScore()
	if err != nil {
		return nil, err
	}
	cpus, err := lendAffinity(initial)
	if err != nil {
		score()
		return nil, err
	}
	return func() { cpus(); score() }, nil
}
