package podlife

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Backoff says how long a container that ended waits before it is started again.
// The first restart does not wait.
type Backoff struct {
	// Initial is the wait before the second restart; it doubles up to Cap.
	Initial, Cap time.Duration
	// Reset: a container that ended longer than this after it was started
	// begins anew.
	Reset time.Duration
}

// Default suits one host, where whoever made the mistake looks on; Kubernetes
// is what a kubelet does.
var (
	Default    = Backoff{Initial: time.Second, Cap: 5 * time.Minute, Reset: 10 * time.Minute}
	Kubernetes = Backoff{Initial: 10 * time.Second, Cap: 5 * time.Minute, Reset: 10 * time.Minute}
)

// Restarts is what to remember of one container. It is lost with its pod.
type Restarts struct {
	// Wait is how long the next restart waits; zero before the first.
	Wait time.Duration
	// Last is when the last restart was.
	Last time.Time
}

// At is when a container that ended then may be started again.
func (b Backoff) At(r Restarts, ended time.Time) time.Time {
	if b.over(r, ended) {
		return ended
	}
	return ended.Add(r.Wait)
}

// Restarted is the record after a restart at that time.
func (b Backoff) Restarted(r Restarts, ended, now time.Time) Restarts {
	if b.over(r, ended) {
		return Restarts{Wait: b.Initial, Last: now}
	}
	return Restarts{Wait: min(2*r.Wait, b.Cap), Last: now}
}

func (b Backoff) over(r Restarts, ended time.Time) bool {
	return r.Wait == 0 || ended.Sub(r.Last) > b.Reset
}

// Again tells whether a container that ended with that status is started again.
func Again(policy corev1.RestartPolicy, status int32) bool {
	switch policy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return status != 0
	}
	return true // Always is the default
}

// Phase is that of a pod all of whose containers ended for good; failed tells
// whether one of them did with a status other than 0.
func Phase(failed bool) corev1.PodPhase {
	if failed {
		return corev1.PodFailed
	}
	return corev1.PodSucceeded
}

// Reason is why a container ended. oom is what its cgroup counted.
func Reason(status int32, oom bool) string {
	switch {
	case oom:
		return "OOMKilled"
	case status == 0:
		return "Completed"
	}
	return "Error"
}
