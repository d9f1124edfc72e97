package integration

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// timing is what --trace-timing=json prints.
type timing struct {
	Command      string
	Pid          int
	Phases, Init []struct {
		Name string
		NS   int64
	}
}

func parseTiming(t *testing.T, text string) timing {
	t.Helper()
	var v timing
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return v
}

// want checks that the phases came in this order, and how long they took.
func (v *timing) want(t *testing.T, command string, phases []string, init []string) {
	t.Helper()
	if v.Command != command || v.Pid == 0 {
		t.Errorf("command %q, pid %d; want %q", v.Command, v.Pid, command)
	}
	var have, inside []string
	for _, p := range v.Phases {
		have = append(have, p.Name)
		if p.NS < 0 {
			t.Errorf("%s: %s took %d ns", command, p.Name, p.NS)
		}
	}
	for _, p := range v.Init {
		inside = append(inside, p.Name)
	}
	for _, list := range []struct{ have, want []string }{{have, phases}, {inside, init}} {
		at := 0
		for _, name := range list.want {
			i := slices.Index(list.have[at:], name)
			if i < 0 {
				t.Errorf("%s: %q, want %q in this order", command, list.have, list.want)
				break
			}
			at += i + 1
		}
	}
}

func TestRootTraceTiming(t *testing.T) {
	setup(t)
	create := []string{"flags and configuration", "plan", "program", "record", "cgroup", "sockets and namespaces to join", "clone and execve of the init", "final record", "limits", "wait for the init"}
	inside := []string{"start-up", "session", "rootfs", "mounts", "root change", "identity", "exec"}
	end := []string{"record and state", "end of the processes", "removal of the cgroup", "removal of the record"}
	for _, mutate := range []func(*specs.Spec){
		func(*specs.Spec) {},
		withUser,
		func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: -1}, "boottime": {Secs: 1000000}}
		},
	} {
		b := newBox(t, script("echo ran"), mutate)
		r := b.run("--trace-timing=json")
		if r.Code != 0 || r.Stdout != "ran\n" {
			t.Fatalf("%+v", r)
		}
		v := parseTiming(t, r.Stderr)
		v.want(t, "run", slices.Concat(create, []string{"gate, filter and execve", "the process"}, end), inside)
		b.gone()

		b = newBox(t, forever, mutate)
		r = b.do("create", b.at([]string{"--trace-timing=json"})...)
		v = parseTiming(t, r.Stderr)
		v.want(t, "create", create, inside)
		for _, p := range v.Init { // an hour is no phase, but a clock that was shifted
			if p.NS < 0 || p.NS > 3600e9 {
				t.Errorf("%s of the init took %d ns", p.Name, p.NS)
			}
		}
		r = b.do("start", "--trace-timing=json")
		v = parseTiming(t, r.Stderr)
		v.want(t, "start", []string{"record and state", "filter and execve"}, nil)
		r = b.exec("--trace-timing=json", "--", "true")
		v = parseTiming(t, r.Stderr)
		v.want(t, "exec", []string{"record and configuration", "plan and program", "clone and execve of the init", "joining, filter and execve", "the process"},
			[]string{"start-up", "namespaces", "identity", "exec"})
		r = b.do("delete", "--force", "--trace-timing=json")
		v = parseTiming(t, r.Stderr)
		v.want(t, "delete", end, nil)
		b.gone()
	}

	// The table, and what was measured up to a failure.
	b := newBox(t, script("true"))
	r := b.run("--trace-timing")
	if !regexp.MustCompile(`(?m)^minirun: timing: run +\d+\.\d{3} ms$`).MatchString(r.Stderr) || !strings.Contains(r.Stderr, "timing: init: mounts ") {
		t.Errorf("%s", r.Stderr)
	}
	b = newBox(t, func(s *specs.Spec) { s.Process.Args = []string{"/nothing"} })
	r = b.run("--trace-timing")
	if r.Code != 127 || !strings.Contains(r.Stderr, "timing: limits ") || strings.Contains(r.Stderr, "timing: wait for the init") || !strings.Contains(r.Stderr, "/nothing") {
		t.Errorf("%+v", r)
	}
	if r := b.run("--trace-timing=xml"); r.Code != 1 || !strings.Contains(r.Stderr, "want text or json") {
		t.Errorf("%+v", r)
	}
}
