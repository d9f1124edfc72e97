package container

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/minirun/minirun/internal/linux"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxProfile bounds the file of a seccomp profile, in bytes.
const maxProfile = 4 << 20

// profileFile is a seccomp profile as people write it: an OCI seccomp object
// (runtime-spec, config-linux.md), or docker's profile format, which has the
// same fields and some more that say for which machine and which capabilities
// a rule is meant.
type profileFile struct {
	DefaultAction    specs.LinuxSeccompAction
	DefaultErrnoRet  *uint
	Architectures    []specs.Arch
	ArchMap          []archMap // docker's, in place of architectures
	Flags            []specs.LinuxSeccompFlag
	ListenerPath     string
	ListenerMetadata string
	Syscalls         []profileRule
}

type archMap struct {
	Architecture     specs.Arch
	SubArchitectures []specs.Arch
}

type profileRule struct {
	specs.LinuxSyscall
	Name     string // docker's old form of names
	Comment  string
	Includes condition
	Excludes condition
}

// condition says for which containers a rule of a docker profile is meant.
type condition struct {
	Arches    []string // as GOARCH has them
	Caps      []string
	MinKernel string // "4.8"
}

// host is what the conditions of a profile are compared with.
type host struct {
	goarch string
	kernel [2]int
	caps   []string // bounding set of the container
}

// readProfile reads a seccomp profile and makes what is meant for this host and
// these capabilities of it. A field that is not known is an error: a typing
// mistake must not leave a container without a rule.
func readProfile(path, goarch string, caps []string) (*specs.LinuxSeccomp, error) {
	raw, err := linux.ReadFile(path, maxProfile)
	if errors.Is(err, unix.EFBIG) {
		err = fmt.Errorf("it has more than %d bytes", maxProfile)
	}
	var p *specs.LinuxSeccomp
	if err == nil {
		p, err = parseProfile(raw, host{goarch, kernelVersion(), caps})
	}
	if err != nil {
		return nil, fmt.Errorf("seccomp profile %q: %w", path, err)
	}
	return p, nil
}

func parseProfile(raw []byte, h host) (*specs.LinuxSeccomp, error) {
	var p profileFile
	if err := p.decode(raw); err != nil {
		return nil, err
	}
	if p.DefaultAction == "" {
		return nil, errors.New("defaultAction is missing")
	}
	if len(p.Architectures) > 0 && len(p.ArchMap) > 0 {
		return nil, errors.New("architectures and archMap exclude each other")
	}
	out := &specs.LinuxSeccomp{
		DefaultAction: p.DefaultAction, DefaultErrnoRet: p.DefaultErrnoRet, Architectures: p.Architectures,
		Flags: p.Flags, ListenerPath: p.ListenerPath, ListenerMetadata: p.ListenerMetadata,
	}
	for _, m := range p.ArchMap {
		if m.Architecture == scmpArch(h.goarch) {
			out.Architectures = append(append(out.Architectures, m.Architecture), m.SubArchitectures...)
			break
		}
	}
	for i, r := range p.Syscalls {
		if r.Name != "" {
			if len(r.Names) > 0 {
				return nil, fmt.Errorf("syscalls[%d]: name and names exclude each other", i)
			}
			r.Names = []string{r.Name}
		}
		meant, err := r.meantFor(h)
		if err != nil {
			return nil, fmt.Errorf("syscalls[%d]: %w", i, err)
		}
		if meant {
			out.Syscalls = append(out.Syscalls, r.LinuxSyscall)
		}
	}
	return out, nil
}

// meantFor reports whether the rule is one for this host: all of includes must
// hold and nothing of excludes.
func (r *profileRule) meantFor(h host) (bool, error) {
	in, ex := &r.Includes, &r.Excludes
	oldest, inErr := atLeast(h.kernel, in.MinKernel)
	newest, exErr := atLeast(h.kernel, ex.MinKernel)
	if err := errors.Join(inErr, exErr); err != nil {
		return false, err
	}
	has := func(c string) bool { return slices.Contains(h.caps, c) }
	switch {
	case slices.Contains(ex.Arches, h.goarch), slices.ContainsFunc(ex.Caps, has), ex.MinKernel != "" && newest:
		return false, nil
	case len(in.Arches) > 0 && !slices.Contains(in.Arches, h.goarch):
		return false, nil
	case in.MinKernel != "" && !oldest:
		return false, nil
	}
	return !slices.ContainsFunc(in.Caps, func(c string) bool { return !has(c) }), nil
}

func scmpArch(goarch string) specs.Arch {
	switch goarch {
	case "amd64":
		return specs.ArchX86_64
	case "arm64":
		return specs.ArchAARCH64
	}
	return ""
}

// atLeast compares a kernel's version with one such as "4.8"; "" is any.
func atLeast(have [2]int, want string) (bool, error) {
	if want == "" {
		return true, nil
	}
	major, minor, ok := strings.Cut(want, ".")
	a, err1 := strconv.Atoi(major)
	b, err2 := strconv.Atoi(minor)
	if !ok || err1 != nil || err2 != nil || a < 0 || b < 0 {
		return false, fmt.Errorf("minKernel %q: want MAJOR.MINOR", want)
	}
	return have[0] > a || have[0] == a && have[1] >= b, nil
}

func kernelVersion() (v [2]int) {
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		v = parseRelease(unix.ByteSliceToString(u.Release[:]))
	}
	return v
}

// parseRelease reads the first two numbers of a release: "6.18.5-1-amd64".
func parseRelease(release string) (v [2]int) {
	rest := release
	for i := range v {
		n := 0
		for n < len(rest) && rest[n] >= '0' && rest[n] <= '9' {
			n++
		}
		v[i], _ = strconv.Atoi(rest[:n])
		if n == len(rest) || rest[n] != '.' {
			break
		}
		rest = rest[n+1:]
	}
	return v
}
