package podlife

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// beat lives through probes until the time is over: good says whether a container
// answers at a moment, and each result takes as long as took. A line is a probe, in
// small letters one that does not count.
func beat(kind ProbeKind, p *corev1.Probe, fresh bool, end, took time.Duration, good func(time.Duration) bool) (lines string, ready time.Duration, ended time.Duration) {
	c := NewCadence(kind, p, epoch, fresh)
	var s ProbeState
	var out []string
	ready, ended = -1, -1
	now := epoch
	for {
		at, counts, until := c.Next()
		if at.After(now) {
			now = at
		}
		since := now.Sub(epoch)
		if since > end || len(out) > 1000 {
			return strings.Join(out, " "), ready, ended
		}
		ok := good(since)
		mark := map[bool]string{true: "ok", false: "fail"}[ok]
		if counts {
			mark = strings.ToUpper(mark)
		}
		out = append(out, fmt.Sprintf("%s=%s", since, mark))
		now = now.Add(took)
		if !counts && now.After(until) {
			now = until
		}
		c.Took(now, counts, ok)
		if (counts || ok) && s.Result(kind, p, ok) {
			return strings.Join(out, " "), ready, now.Sub(epoch)
		}
		if s.Known && s.Good && ready < 0 {
			ready = since
			if kind == Startup {
				return strings.Join(out, " "), ready, ended
			}
		}
	}
}

func after(d time.Duration) func(time.Duration) bool {
	return func(t time.Duration) bool { return t >= d }
}

func TestCadence(t *testing.T) {
	p := func(period, success, failure int32) *corev1.Probe {
		return &corev1.Probe{PeriodSeconds: period, SuccessThreshold: success, FailureThreshold: failure}
	}
	for _, tt := range []struct {
		name  string
		kind  ProbeKind
		p     *corev1.Probe
		old   bool
		good  func(time.Duration) bool
		end   time.Duration
		lines string
	}{
		{"ready after 5 ms", Readiness, p(10, 1, 3), false, after(5 * time.Millisecond), 21 * time.Second, "0s=FAIL 50ms=ok 10.05s=OK 20.05s=OK"},
		{"at once", Readiness, p(10, 1, 3), false, after(0), 11 * time.Second, "0s=OK 10s=OK"},
		{"never", Readiness, p(10, 1, 3), false, after(time.Hour), 31 * time.Second, "0s=FAIL 50ms=fail 150ms=fail 350ms=fail 750ms=fail 1.55s=fail 3.15s=fail 6.35s=fail 10s=FAIL 16.4s=fail 20s=FAIL 30s=FAIL"},
		{"three times", Readiness, p(2, 3, 3), false, after(100 * time.Millisecond), 7 * time.Second, "0s=FAIL 50ms=fail 150ms=ok 2.15s=OK 4.15s=OK 6.15s=OK"},
		{"every second", Readiness, p(1, 1, 3), false, after(time.Hour), 2 * time.Second, "0s=FAIL 50ms=fail 150ms=fail 350ms=fail 750ms=fail 1s=FAIL 1.8s=fail 2s=FAIL"},
		{"startup", Startup, p(10, 1, 30), false, after(time.Second), time.Minute, "0s=FAIL 50ms=fail 150ms=fail 350ms=fail 750ms=fail 1.55s=ok"},
		{"liveness", Liveness, p(10, 1, 3), false, after(time.Hour), time.Minute, "0s=FAIL 10s=FAIL 20s=FAIL"},
		{"ran before", Readiness, p(10, 1, 3), true, after(time.Second), 11 * time.Second, "0s=FAIL 10s=OK"},
		{"lost later", Readiness, p(10, 1, 1), false, func(t time.Duration) bool { return t < time.Second }, 21 * time.Second, "0s=OK 10s=FAIL 20s=FAIL"},
	} {
		lines, _, _ := beat(tt.kind, tt.p, !tt.old, tt.end, 0, tt.good)
		if lines != tt.lines {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, lines, tt.lines)
		}
	}
}

// Tries change nothing about what fails: a container is ended at the moment of the
// failureThreshold'th probe, and nothing waits longer for its success than without.
func TestCadence_Thresholds(t *testing.T) {
	for _, period := range []int32{1, 2, 10, 60} {
		for failure := int32(1); failure <= 4; failure++ {
			p := &corev1.Probe{PeriodSeconds: period, SuccessThreshold: 1, FailureThreshold: failure}
			unit := time.Duration(period) * time.Second
			for _, took := range []time.Duration{0, time.Millisecond, 700 * time.Millisecond} {
				_, _, ended := beat(Startup, p, true, time.Hour, took, after(time.Hour))
				if want := time.Duration(failure-1)*unit + took; ended != want {
					t.Errorf("period %s, %d failures, each after %s: ended at %s, want %s", unit, failure, took, ended, want)
				}
			}
			for _, begins := range []time.Duration{0, 3 * time.Millisecond, 400 * time.Millisecond, 3 * time.Second, 25 * time.Second} {
				plain := (begins + unit - 1) / unit * unit
				_, ready, ended := beat(Startup, p, true, time.Hour, 0, after(begins))
				if plain <= time.Duration(failure-1)*unit && (ended >= 0 || ready < begins || ready > plain || begins < unit/4 && ready > 2*begins+quickest) {
					t.Errorf("period %s, %d failures: begins at %s, ready at %s, ended %s", unit, failure, begins, ready, ended)
				}
			}
		}
	}
}

// One that hangs costs no more than the time between two probes.
func TestCadence_Slow(t *testing.T) {
	p := &corev1.Probe{PeriodSeconds: 10, SuccessThreshold: 1, FailureThreshold: 3, TimeoutSeconds: 30}
	lines, _, _ := beat(Readiness, p, true, 25*time.Second, 9*time.Second, after(time.Hour))
	if want := "0s=FAIL 9.05s=fail 10s=FAIL 19.1s=fail 20s=FAIL"; lines != want {
		t.Errorf("got  %s\nwant %s", lines, want)
	}
}
