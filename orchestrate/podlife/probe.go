package podlife

import corev1 "k8s.io/api/core/v1"

// ProbeKind tells the three probes of a container apart.
type ProbeKind int

// Startup probes hold the others back until they succeed once; a container
// whose Liveness probe fails is started again; Readiness decides about traffic.
const (
	Startup ProbeKind = iota
	Liveness
	Readiness
)

// ProbeState is what the results of one probe of one container come to. The
// zero value is that of a container that was just started.
type ProbeState struct {
	// Good is the verdict, once Known.
	Good, Known bool
	// run is how many results of the same kind came in a row.
	run  int32
	last bool
}

// Result takes one in, and tells whether the container must be ended.
func (s *ProbeState) Result(kind ProbeKind, p *corev1.Probe, ok bool) (end bool) {
	if s.run == 0 || s.last != ok {
		s.run, s.last = 0, ok
	}
	s.run++
	switch {
	case ok && s.run >= max(p.SuccessThreshold, 1):
		s.Good, s.Known = true, true
	case !ok && s.run >= orDefault(p.FailureThreshold, 3):
		s.Good, s.Known = false, true
		return kind != Readiness
	}
	return false
}

// Ready tells whether a running container counts as ready: without a probe at
// once, with one from its first success on.
func Ready(p *corev1.Probe, s ProbeState) bool { return p == nil || s.Known && s.Good }

// HTTPOK tells whether a status of HTTP is a success.
func HTTPOK(status int) bool { return status >= 200 && status < 400 }

// DefaultProbe fills in what a probe does not say.
func DefaultProbe(p *corev1.Probe) {
	p.TimeoutSeconds = orDefault(p.TimeoutSeconds, 1)
	p.PeriodSeconds = orDefault(p.PeriodSeconds, 10)
	p.SuccessThreshold = orDefault(p.SuccessThreshold, 1)
	p.FailureThreshold = orDefault(p.FailureThreshold, 3)
}

func orDefault(n, otherwise int32) int32 {
	if n == 0 {
		return otherwise
	}
	return n
}
