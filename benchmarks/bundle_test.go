package main

import (
	"reflect"
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// allowed tells whether the profile has an unconditional allow rule for the system call.
func allowed(s *specs.LinuxSeccomp, name string) bool {
	return slices.ContainsFunc(s.Syscalls, func(r specs.LinuxSyscall) bool {
		return r.Action == specs.ActAllow && len(r.Args) == 0 && slices.Contains(r.Names, name)
	})
}

func TestDockerSeccomp(t *testing.T) {
	s, err := dockerSeccomp([]string{"CAP_KILL"})
	if err != nil {
		t.Fatal(err)
	}
	if s.DefaultAction != specs.ActErrno || len(s.Architectures) < 2 {
		t.Errorf("default %v, architectures %v: want an errno and the native one with its 32-bit sibling", s.DefaultAction, s.Architectures)
	}
	for name, want := range map[string]bool{"read": true, "execve": true, "mount": false, "bpf": false, "reboot": false} {
		if got := allowed(s, name); got != want {
			t.Errorf("without capabilities: %s allowed = %v, want %v", name, got, want)
		}
	}
	s, err = dockerSeccomp([]string{"CAP_SYS_ADMIN"})
	if err != nil {
		t.Fatal(err)
	}
	if !allowed(s, "mount") || allowed(s, "reboot") {
		t.Error("CAP_SYS_ADMIN must open mount and not reboot")
	}
}

// The variants must differ in nothing but what their names say.
func TestSpec_Variants(t *testing.T) {
	for _, v := range []variant{plain, sleeper, seccomp, userns} {
		s, err := spec(v, "/rootfs", "/parent/one")
		if err != nil {
			t.Fatal(err)
		}
		if s.Linux.Resources != nil {
			t.Errorf("%s: has resources %+v, want none: Debian's crun fails on device rules", v, s.Linux.Resources)
		}
		if got := s.Linux.Seccomp != nil; got != (v == seccomp) {
			t.Errorf("%s: seccomp present = %v", v, got)
		}
		mapped := len(s.Linux.UIDMappings) == 1 && len(s.Linux.GIDMappings) == 1 && len(s.Linux.Namespaces) == 7
		if mapped != (v == userns) {
			t.Errorf("%s: user namespace with maps = %v", v, mapped)
		}
		if got := s.Process.Args[0]; got != "true" && v != sleeper {
			t.Errorf("%s: runs %q", v, got)
		}
	}
}

// The probe must be the same container with another process, and its checks must not run
// into the status that says that all passed.
func TestSpec_Probe(t *testing.T) {
	for _, v := range []variant{plain, seccomp, userns} {
		s, err := spec(v, "/rootfs", "/parent/one")
		if err != nil {
			t.Fatal(err)
		}
		probe, err := spec(probeOf(v), "/rootfs", "/parent/one")
		if err != nil {
			t.Fatal(err)
		}
		_, what := probeScript(v, ociRuntime)
		if len(what) >= probePassed {
			t.Errorf("%s: %d checks reach the status %d", v, len(what), probePassed)
		}
		if s.Process.Args = probe.Process.Args; !reflect.DeepEqual(s, probe) {
			t.Errorf("%s: the probe differs in more than its arguments", v)
		}
	}
	oci, _ := probeScript(plain, ociRuntime)
	mapped, _ := probeScript(userns, ociRuntime)
	if oci == mapped {
		t.Error("the user namespace is not looked at")
	}
}
