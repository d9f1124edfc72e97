// Package features says what minirun recognizes in config.json, in the form of
// the OCI runtime specification (features.md), and what this host has of it.
//
// Nothing here is a list of wishes. Where a name can be put to the code that reads
// config.json it is, and left out if that does not know it; the others are held
// to docs/spec-conformance.md and its tests.
package features

import (
	"encoding/json"
	"errors"
	"os"
	goruntime "runtime"
	"slices"
	"strings"

	"github.com/minirun/minirun/cgroups"
	"github.com/minirun/minirun/internal/kfeature"
	"github.com/minirun/minirun/internal/seccomp"
	"github.com/minirun/minirun/namespaces"
	"github.com/minirun/minirun/rootfs"
	"github.com/minirun/minirun/runtime"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// Annotations of the document.
const (
	AnnotationVersion = "io.github.minirun.version"
	AnnotationCommit  = "io.github.minirun.commit"
	// AnnotationHost is what was probed: a JSON object with the name of each
	// kernel feature, of cgroup v2 and its controllers, and of systemd, and true,
	// false or, where the kernel did not tell, null. The document itself says
	// what minirun can do where it finds that.
	AnnotationHost = "io.github.minirun.host"
	// AnnotationCheckpoint is the name that runc and crun use.
	AnnotationCheckpoint = "org.opencontainers.runc.checkpoint.enabled"
)

// Get asks the code and the kernel.
func Get(version, commit string) (*features.Features, error) {
	host, err := json.Marshal(probed())
	if err != nil {
		return nil, err
	}
	f := &features.Features{
		OCIVersionMin: "1.0.0", OCIVersionMax: specs.Version,
		Hooks: hooks(), MountOptions: rootfs.MountOptions(),
		Linux: &features.Linux{
			Namespaces:   namespaceNames(),
			Capabilities: runtime.AllCapabilities(),
			Cgroup:       &features.Cgroup{V1: no, V2: yes, Systemd: yes, SystemdUser: yes, Rdma: yes},
			Seccomp: &features.Seccomp{
				Enabled: yes, Actions: seccompActions(), Operators: seccompOperators(), Archs: seccomp.Architectures(),
				KnownFlags: seccompFlags(false), SupportedFlags: seccompFlags(true),
			},
			Apparmor:        &features.Apparmor{Enabled: yes},
			Selinux:         &features.Selinux{Enabled: yes},
			IntelRdt:        &features.IntelRdt{Enabled: yes, Schemata: yes, Monitoring: yes},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: is(slices.Contains(rootfs.MountOptions(), "idmap"))}},
			NetDevices:      &features.NetDevices{Enabled: yes},
			MemoryPolicy:    &features.MemoryPolicy{Modes: memoryModes(), Flags: memoryFlags()},
		},
		Annotations: map[string]string{AnnotationVersion: version, AnnotationHost: string(host), AnnotationCheckpoint: "true"},
	}
	if commit != "" {
		f.Annotations[AnnotationCommit] = commit
	}
	return f, nil
}

var (
	yes = is(true)
	no  = is(false)
)

func is(b bool) *bool { return &b }

func hooks() []string {
	return []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}
}

func namespaceNames() []string {
	var names []string
	for _, t := range []specs.LinuxNamespaceType{
		specs.CgroupNamespace, specs.IPCNamespace, specs.MountNamespace, specs.NetworkNamespace,
		specs.PIDNamespace, specs.TimeNamespace, specs.UserNamespace, specs.UTSNamespace,
	} {
		if namespaces.Flag(t) != 0 {
			names = append(names, string(t))
		}
	}
	return names
}

// understood reports whether a profile, the simplest there is but for one
// change, can be compiled.
func understood(change func(*specs.LinuxSeccomp, *specs.LinuxSyscall)) bool {
	s := specs.LinuxSyscall{Names: []string{"mkdir"}, Action: specs.ActErrno}
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/x"}
	change(p, &s)
	p.Syscalls = []specs.LinuxSyscall{s}
	_, err := seccomp.Compile(p, goruntime.GOARCH)
	return err == nil
}

func seccompActions() []string {
	var names []string
	for _, a := range []specs.LinuxSeccompAction{
		specs.ActAllow, specs.ActErrno, specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActLog, specs.ActNotify, specs.ActTrace, specs.ActTrap,
	} {
		if understood(func(_ *specs.LinuxSeccomp, s *specs.LinuxSyscall) { s.Action = a }) {
			names = append(names, string(a))
		}
	}
	return names
}

func seccompOperators() []string {
	var names []string
	for _, o := range []specs.LinuxSeccompOperator{
		specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpLessEqual, specs.OpLessThan, specs.OpMaskedEqual, specs.OpNotEqual,
	} {
		if understood(func(_ *specs.LinuxSeccomp, s *specs.LinuxSyscall) { s.Args = []specs.LinuxSeccompArg{{Op: o}} }) {
			names = append(names, string(o))
		}
	}
	return names
}

// seccompFlags are the flags that a profile can have; supported: and that this
// kernel knows.
func seccompFlags(supported bool) []string {
	names := []string{}
	for _, f := range []struct {
		name specs.LinuxSeccompFlag
		need *kfeature.Feature
	}{
		{"SECCOMP_FILTER_FLAG_TSYNC", kfeature.Seccomp},
		{specs.LinuxSeccompFlagSpecAllow, kfeature.Seccomp},
		{specs.LinuxSeccompFlagLog, kfeature.SeccompLog},
		{specs.LinuxSeccompFlagWaitKillableRecv, kfeature.SeccompWaitKillable},
	} {
		known := understood(func(p *specs.LinuxSeccomp, _ *specs.LinuxSyscall) { p.Flags = []specs.LinuxSeccompFlag{f.name} })
		if known && (!supported || f.need.Supported() == nil) {
			names = append(names, string(f.name))
		}
	}
	return names
}

func memoryModes() []string {
	return []string{
		string(specs.MpolDefault), string(specs.MpolBind), string(specs.MpolInterleave), string(specs.MpolWeightedInterleave),
		string(specs.MpolPreferred), string(specs.MpolPreferredMany), string(specs.MpolLocal),
	}
}

func memoryFlags() []string {
	return []string{string(specs.MpolFNumaBalancing), string(specs.MpolFRelativeNodes), string(specs.MpolFStaticNodes)}
}

// probed is what this host has: true, false, or nil when nobody could tell.
func probed() map[string]*bool {
	m := map[string]*bool{}
	for _, f := range kfeature.All() {
		var missing *kfeature.Error
		switch err := f.Supported(); {
		case err == nil:
			m[f.Name] = yes
		case errors.As(err, &missing):
			m[f.Name] = no
		default:
			m[f.Name] = nil
		}
	}
	mount, err := cgroups.Mount()
	m["cgroup v2"] = is(err == nil)
	if err == nil {
		list, _ := os.ReadFile(mount + "/cgroup.controllers")
		for _, c := range []string{"cpu", "cpuset", "hugetlb", "io", "memory", "pids", "rdma"} {
			m["controller "+c] = is(slices.Contains(strings.Fields(string(list)), c))
		}
	}
	m["systemd"] = is(exists("/run/systemd/system"))
	user := os.Getenv("XDG_RUNTIME_DIR")
	m["systemd of the user"] = is(user != "" && exists(user+"/systemd/private"))
	return m
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
