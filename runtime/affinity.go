package runtime

import (
	"fmt"
	"os"
	goruntime "runtime"
	"strconv"
	"sync"

	"github.com/minirun/minirun/internal/linux"
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

// lending is held while this process has another oom_score_adj than its own: a second
// one would take the first one's for it.
var lending sync.Mutex

// lendOOMScore gives this process the oom_score_adj of the one that exec adds,
// which inherits it and so has it from its first instruction on. restore takes it
// back. What an ordinary user may not set is left out, as in create.
func (e *execution) lendOOMScore() (restore func(), err error) {
	const own = "/proc/self/oom_score_adj"
	if e.pr.OOMScoreAdj == nil {
		return func() {}, nil
	}
	want := strconv.Itoa(*e.pr.OOMScoreAdj)
	lending.Lock()
	lent := false
	defer func() {
		if !lent {
			lending.Unlock()
		}
	}()
	old, err := linux.ReadFile(own, 64)
	if err == nil && string(old) == want+"\n" {
		return func() {}, nil
	}
	if err == nil {
		err = writeHost(own, want)
	}
	switch {
	case err == nil:
		lent = true
		return func() { _ = writeHost(own, string(old)); lending.Unlock() }, nil
	case unprivileged(err) && (os.Geteuid() != 0 || linux.InUserNS()):
		return func() {}, nil
	case unprivileged(err):
		return nil, oomScoreRefused(want, err)
	}
	return nil, fmt.Errorf("process.oomScoreAdj: %w", err)
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
