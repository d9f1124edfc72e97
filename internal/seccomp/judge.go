package seccomp

import (
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Call is a system call as a filter sees it (struct seccomp_data).
type Call struct {
	Arch uint32 // AUDIT_ARCH_*
	Nr   uint32
	Args [6]uint64
}

// A Judge tells what a profile makes of calls, and why.
type Judge struct {
	profile *specs.LinuxSeccomp
	goarch  string
	filter  *Filter
}

// NewJudge compiles the profile.
func NewJudge(p *specs.LinuxSeccomp, goarch string) (*Judge, error) {
	f, err := Compile(p, goarch)
	if err != nil {
		return nil, err
	}
	return &Judge{p, goarch, f}, nil
}

// Ruling is what happens to a call.
type Ruling struct {
	Kill   bool       // the process is killed
	Errno  unix.Errno // otherwise, and 0 means that the call seems to succeed
	Allow  bool       // the filter does not deny it
	Name   string     // of the call; "" when it has none that is known here
	Action string     // "EPERM", "KILL_PROCESS"
	Why    string     // which part of the profile decided
	Advice string     // how to change the profile so that the call is allowed; "" if nobody knows
	Change *Change    // the same for programs
}

// Change is an edit of a profile.
type Change struct {
	Add          *specs.LinuxSyscall // entry for linux.seccomp.syscalls
	Architecture specs.Arch          // for linux.seccomp.architectures
	Remove       []int               // entries of linux.seccomp.syscalls that must lose the call's name
}

// Rule rules on a call.
func (j *Judge) Rule(c *Call) (Ruling, error) {
	action, err := actionOf(j.filter, c)
	if err != nil {
		return Ruling{}, err
	}
	r := Ruling{Action: actionName(action)}
	switch action & retActionMask {
	case retKillProcess, retKillThread:
		r.Kill = true
	case retErrno:
		r.Errno = unix.Errno(action &^ retActionMask)
		r.Action = strings.TrimSuffix(strings.TrimPrefix(r.Action, "ERRNO("), ")")
		if r.Errno == 0 {
			r.Action = "success without running it"
		}
	default:
		r.Allow = true
		return r, nil
	}
	j.explain(&r, c)
	return r, nil
}

func actionOf(f *Filter, c *Call) (uint32, error) {
	action, _, err := simulate(f, data{nr: c.Nr, arch: c.Arch, args: c.Args})
	return action, err
}

// abi is the architecture of the call among those that the tables know.
func (c *Call) abi() *arch {
	for i := range archs {
		a := &archs[i]
		if a.token == c.Arch && (a.base == x32Bit) == (c.Arch == archX8664 && c.Nr&x32Bit != 0) {
			return a
		}
	}
	return nil
}

// explain finds out what in the profile denies the call and what would allow
// it. What it advises it has tried.
func (j *Judge) explain(r *Ruling, c *Call) {
	a := c.abi()
	if a == nil {
		r.Why = "its architecture is unknown"
		return
	}
	r.Name = a.name(c.Nr)
	if native := nativeArch(j.goarch); a != native && !slices.Contains(j.profile.Architectures, specs.Arch(a.scmp)) {
		r.Why = "linux.seccomp.architectures has no " + a.scmp
		if a.table != nil {
			j.try(r, c, &Change{Architecture: specs.Arch(a.scmp)})
		}
		return
	}
	if r.Name == "" {
		r.Why = "no rule can name it: the call is newer than the tables"
		return
	}
	var deny []int // entries that name it and do not allow it
	var looked [6]bool
	named := false
	for i := range j.profile.Syscalls {
		s := &j.profile.Syscalls[i]
		if !slices.Contains(s.Names, r.Name) {
			continue
		}
		named = true
		for _, arg := range s.Args {
			looked[arg.Index] = true
		}
		if ret, _, err := action(s.Action, s.ErrnoRet); err == nil && restrictive(ret) {
			deny = append(deny, i)
		}
	}
	switch {
	case r.Errno == unix.ENOSYS && !named:
		r.Why = "the profile names no call as new as this"
	case len(deny) == 0 && !named:
		r.Why = "no entry of linux.seccomp.syscalls names it: linux.seccomp.defaultAction"
	case len(deny) == 0:
		r.Why = "no entry of linux.seccomp.syscalls allows it with these arguments: linux.seccomp.defaultAction"
	default:
		r.Why = "linux.seccomp.syscalls" + fmt.Sprint(deny)
	}
	add := &specs.LinuxSyscall{Names: []string{r.Name}, Action: specs.ActAllow}
	for i, l := range looked {
		if l {
			add.Args = append(add.Args, specs.LinuxSeccompArg{Index: uint(i), Value: c.Args[i], Op: specs.OpEqualTo})
		}
	}
	if j.try(r, c, &Change{Add: add}) {
		return
	}
	j.try(r, c, &Change{Add: &specs.LinuxSyscall{Names: add.Names, Action: specs.ActAllow, Args: add.Args}, Remove: deny})
}

// try makes the change the ruling's advice if it allows the call.
func (j *Judge) try(r *Ruling, c *Call, change *Change) bool {
	f, err := Compile(change.Apply(j.profile, r.Name), j.goarch)
	if err != nil {
		return false
	}
	if action, err := actionOf(f, c); err != nil || restrictive(action) && change.Architecture == "" {
		return false
	}
	r.Change, r.Advice = change, change.text(r.Name)
	return true
}

// Apply returns a copy of the profile with the change, which is for the call name.
func (ch *Change) Apply(p *specs.LinuxSeccomp, name string) *specs.LinuxSeccomp {
	n := *p
	n.Syscalls = slices.Clone(p.Syscalls)
	for _, i := range ch.Remove {
		n.Syscalls[i].Names = slices.DeleteFunc(slices.Clone(n.Syscalls[i].Names), func(s string) bool { return s == name })
	}
	if ch.Add != nil {
		n.Syscalls = append(n.Syscalls, *ch.Add)
	}
	if ch.Architecture != "" {
		n.Architectures = append(slices.Clone(p.Architectures), ch.Architecture)
	}
	return &n
}

func (ch *Change) text(name string) string {
	if ch.Architecture != "" {
		return "add to linux.seccomp.architectures: " + strconv.Quote(string(ch.Architecture))
	}
	text := ""
	for _, i := range ch.Remove {
		text += "take " + strconv.Quote(name) + " out of linux.seccomp.syscalls[" + strconv.Itoa(i) + "].names, "
	}
	return text + "add to linux.seccomp.syscalls: " + entryText(ch.Add)
}

// entryText is an entry of linux.seccomp.syscalls, of names that are words.
func entryText(s *specs.LinuxSyscall) string {
	text := `{"names":["` + strings.Join(s.Names, `","`) + `"],"action":"` + string(s.Action) + `"`
	for i, a := range s.Args {
		lead := ","
		if i == 0 {
			lead = `,"args":[`
		}
		text += fmt.Sprintf(`%s{"index":%d,"value":%d,"op":"%s"}`, lead, a.Index, a.Value, a.Op)
	}
	if len(s.Args) > 0 {
		text += "]"
	}
	return text + "}"
}

// String is the call as strace would print it, without knowing the types.
func (c *Call) String() string {
	name := "system call " + strconv.FormatUint(uint64(c.Nr), 10)
	a := c.abi()
	if a != nil {
		if n := a.name(c.Nr); n != "" {
			name = n
		}
	}
	var b strings.Builder
	b.WriteString(name + "(")
	for i, v := range c.Args {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString("0x" + strconv.FormatUint(v, 16))
	}
	b.WriteString(")")
	if a != nil && a != nativeArch(runtime.GOARCH) {
		b.WriteString(" of " + a.scmp)
	}
	return b.String()
}
