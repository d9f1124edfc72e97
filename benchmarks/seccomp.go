package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

//go:embed profile/docker-seccomp.json
var dockerProfile []byte

// condition of a rule in Docker's format. Its third kind, minKernel, asks for versions
// older than any that minirun runs on and always holds.
type condition struct {
	Caps, Arches []string
}

// dockerSeccomp turns Docker's default profile into a plain OCI one, as the engine does
// for a container with the given capabilities on this architecture.
func dockerSeccomp(caps []string) (*specs.LinuxSeccomp, error) {
	var profile struct {
		DefaultAction   specs.LinuxSeccompAction
		DefaultErrnoRet *uint
		ArchMap         []struct {
			Architecture     specs.Arch
			SubArchitectures []specs.Arch
		}
		Syscalls []struct {
			specs.LinuxSyscall
			Includes, Excludes condition
		}
	}
	if err := json.Unmarshal(dockerProfile, &profile); err != nil {
		return nil, fmt.Errorf("docker's seccomp profile: %w", err)
	}
	native := map[string]specs.Arch{"amd64": specs.ArchX86_64, "arm64": specs.ArchAARCH64}[runtime.GOARCH]
	out := &specs.LinuxSeccomp{DefaultAction: profile.DefaultAction, DefaultErrnoRet: profile.DefaultErrnoRet}
	for _, m := range profile.ArchMap {
		if m.Architecture == native {
			out.Architectures = append([]specs.Arch{native}, m.SubArchitectures...)
		}
	}
	if out.Architectures == nil {
		return nil, fmt.Errorf("docker's seccomp profile: nothing for %s", runtime.GOARCH)
	}
	holds := func(cap string) bool { return slices.Contains(caps, cap) }
	for _, rule := range profile.Syscalls {
		in, ex := rule.Includes, rule.Excludes
		if len(in.Arches) > 0 && !slices.Contains(in.Arches, runtime.GOARCH) || slices.Contains(ex.Arches, runtime.GOARCH) {
			continue
		}
		if slices.ContainsFunc(in.Caps, func(c string) bool { return !holds(c) }) || slices.ContainsFunc(ex.Caps, holds) {
			continue
		}
		out.Syscalls = append(out.Syscalls, rule.LinuxSyscall)
	}
	return out, nil
}
