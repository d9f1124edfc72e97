package podlife

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// The rows are those of package rollout, whose tests say where they are from.
func load(t *testing.T) (v struct {
	Backoff struct {
		Kubernetes struct {
			Initial int          `json:"initial_s"`
			Factor  int          `json:"factor"`
			Cap     int          `json:"cap_s"`
			Reset   int          `json:"reset_after_running_s"`
			Delays  [][2]float64 `json:"delay_before_restart_number"`
			Cases   []struct {
				ID        string
				Next      float64 `json:"next_delay_s"`
				AfterThat float64 `json:"and_after_that_s"`
				RestartAt float64 `json:"restart_at_s"`
			}
		}
		Policies []struct {
			Policy   corev1.RestartPolicy
			Exit     int32
			Restarts bool
			Phase    corev1.PodPhase
			Reason   string
		} `json:"restart_policy"`
	}
	Termination []struct {
		ID       string
		Grace    float64  `json:"grace_s"`
		PreStop  float64  `json:"pre_stop_s"`
		AppExits *float64 `json:"app_exits_after_term_s"`
		Term     *float64 `json:"term_at_s"`
		Kill     *float64 `json:"kill_at_s"`
		Gone     *float64 `json:"gone_at_s"`
	}
	Probes struct {
		Defaults map[string]int32
		Cases    []struct {
			ID, Kind, Results, Effect, OK, Error string
			Success                              int32  `json:"success_threshold"`
			Failure                              int32  `json:"failure_threshold"`
			Period                               int32  `json:"period_s"`
			Initial                              string `json:"initial_value"`
		}
	}
},
) {
	t.Helper()
	b, err := os.ReadFile("../rollout/testdata/rollout-vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

var epoch = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// crash lives through n restarts of a container that ends as soon as it runs,
// and gives the wait before each.
func crash(b Backoff, n int) (r Restarts, now time.Time, waits []time.Duration) {
	now = epoch
	for range n {
		at := b.At(r, now)
		waits = append(waits, at.Sub(now))
		r = b.Restarted(r, now, at)
		now = at
	}
	return r, now, waits
}

func TestVectorsBackoff(t *testing.T) {
	k := load(t).Backoff.Kubernetes
	if (Kubernetes != Backoff{seconds(float64(k.Initial)), seconds(float64(k.Cap)), seconds(float64(k.Reset))}) || k.Factor != 2 {
		t.Errorf("%+v, want %+v", Kubernetes, k)
	}
	for _, d := range k.Delays {
		_, _, waits := crash(Kubernetes, int(d[0]))
		if got := waits[len(waits)-1]; got != seconds(d[1]) {
			t.Errorf("restart %v waits %v, want %v s", d[0], got, d[1])
		}
	}
	if len(k.Delays) < 9 || len(k.Cases) != 4 {
		t.Fatalf("%d delays, %d cases", len(k.Delays), len(k.Cases))
	}
	for _, c := range k.Cases {
		r, now, _ := crash(Kubernetes, 7)
		switch c.ID {
		case "b1", "b2":
			ran := 601.0
			if c.ID == "b2" {
				ran = 599
			}
			ended := now.Add(seconds(ran))
			at := Kubernetes.At(r, ended)
			if got := at.Sub(ended); got != seconds(c.Next) {
				t.Errorf("%s: waits %v", c.ID, got)
			}
			if c.ID == "b1" {
				if r = Kubernetes.Restarted(r, ended, at); Kubernetes.At(r, at).Sub(at) != seconds(c.AfterThat) {
					t.Errorf("%s: then waits %v", c.ID, Kubernetes.At(r, at).Sub(at))
				}
			}
		case "b3":
			r := Kubernetes.Restarted(Restarts{}, epoch, epoch)
			if got := Kubernetes.At(r, epoch.Add(2*time.Second)); !got.Equal(epoch.Add(seconds(c.RestartAt))) {
				t.Errorf("%s: at %v", c.ID, got)
			}
		case "b4":
			if got := Kubernetes.At(Restarts{}, epoch); !got.Equal(epoch.Add(seconds(c.Next))) {
				t.Errorf("%s: at %v", c.ID, got)
			}
		default:
			t.Errorf("no test for %s", c.ID)
		}
	}
	_, _, waits := crash(Default, 5)
	if got := fmt.Sprint(waits); got != "[0s 1s 2s 4s 8s]" {
		t.Errorf("by default %s", got)
	}
}

func TestVectorsRestartPolicy(t *testing.T) {
	rows := load(t).Backoff.Policies
	if len(rows) != 7 {
		t.Fatalf("%d rows", len(rows))
	}
	for _, r := range rows {
		if got := Again(r.Policy, r.Exit); got != r.Restarts {
			t.Errorf("%+v: restarts %v", r, got)
		}
		if r.Phase != "" && Phase(r.Exit != 0) != r.Phase {
			t.Errorf("%+v: phase %s", r, Phase(r.Exit != 0))
		}
		if strings.HasPrefix(r.Reason, "OOMKilled if") && (Reason(r.Exit, true) != "OOMKilled" || Reason(r.Exit, false) != "Error") {
			t.Errorf("%+v: %s, %s", r, Reason(r.Exit, true), Reason(r.Exit, false))
		}
	}
	if Reason(0, false) != "Completed" {
		t.Error("status 0 is", Reason(0, false))
	}
}

func TestVectorsTermination(t *testing.T) {
	rows := load(t).Termination
	if len(rows) != 6 {
		t.Fatalf("%d rows", len(rows))
	}
	for _, r := range rows {
		if r.ID == "k6" {
			continue // the order of endpoint and signal is not a matter of times
		}
		e := Ending(seconds(r.Grace), seconds(r.PreStop))
		if r.Term != nil && e.Term != seconds(*r.Term) {
			t.Errorf("%s: term at %v", r.ID, e.Term)
		}
		if r.Kill != nil && e.Kill != seconds(*r.Kill) {
			t.Errorf("%s: kill at %v", r.ID, e.Kill)
		}
		if r.Gone != nil {
			if gone := e.Term + seconds(*r.AppExits); gone != seconds(*r.Gone) || gone > e.Kill {
				t.Errorf("%s: gone at %v, kill at %v", r.ID, gone, e.Kill)
			}
		}
	}
}

func TestVectorsProbes(t *testing.T) {
	v := load(t).Probes
	var p corev1.Probe
	DefaultProbe(&p)
	d := v.Defaults
	if p.InitialDelaySeconds != d["initial_delay_s"] || p.PeriodSeconds != d["period_s"] || p.TimeoutSeconds != d["timeout_s"] || p.SuccessThreshold != d["success_threshold"] || p.FailureThreshold != d["failure_threshold"] {
		t.Errorf("defaults %+v, want %v", p, d)
	}
	if len(v.Cases) != 10 {
		t.Fatalf("%d cases", len(v.Cases))
	}
	// play gives E for a result that ends the container, else whether it is ready.
	play := func(kind ProbeKind, success, failure int32, results string) (out string) {
		p := corev1.Probe{SuccessThreshold: success, FailureThreshold: failure}
		DefaultProbe(&p)
		var s ProbeState
		for _, r := range results {
			switch end := s.Result(kind, &p, r == 'S'); {
			case end:
				out += "E"
			case Ready(&p, s):
				out += "r"
			default:
				out += "-"
			}
		}
		return out
	}
	for _, c := range v.Cases {
		switch c.ID {
		case "q1":
			if got := play(Liveness, c.Success, c.Failure, c.Results); got != "--E" {
				t.Errorf("%s: %s", c.ID, got)
			}
		case "q2":
			if got := play(Liveness, c.Success, c.Failure, c.Results); got != "--r"+"rr" {
				t.Errorf("%s: %s", c.ID, got)
			}
		case "q3":
			if got := play(Readiness, c.Success, c.Failure, c.Results); got != "---r" {
				t.Errorf("%s: %s", c.ID, got)
			}
		case "q4":
			if got := play(Readiness, c.Success, c.Failure, c.Results); got != "rrr-" {
				t.Errorf("%s: %s", c.ID, got)
			}
		case "q5":
			if got := play(Startup, c.Success, c.Failure, strings.Repeat("F", 29)+"S"); got != strings.Repeat("-", 29)+"r" {
				t.Errorf("%s: %s", c.ID, got)
			}
			if got := play(Startup, c.Success, c.Failure, strings.Repeat("F", 30)); got != strings.Repeat("-", 29)+"E" {
				t.Errorf("%s: %s", c.ID, got)
			}
		case "q6":
			// Validation refuses it.
		case "q7":
			if !Ready(nil, ProbeState{}) || Ready(&p, ProbeState{}) {
				t.Errorf("%s: ready at first: %v, %v", c.ID, Ready(nil, ProbeState{}), Ready(&p, ProbeState{}))
			}
		case "q8":
			for status, want := range map[int]bool{199: false, 200: true, 399: true, 400: false, 500: false} {
				if HTTPOK(status) != want {
					t.Errorf("%s: %d", c.ID, status)
				}
			}
		case "q9", "q10":
			// What a command or a connection says is a matter of who runs the probe.
		default:
			t.Errorf("no test for %s", c.ID)
		}
	}
}
