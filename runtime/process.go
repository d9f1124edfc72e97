package runtime

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/seccomp"
	"github.com/minirun/minirun/namespaces"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Phases that errors are translated for.
const (
	phaseExec = "exec"
	phaseCwd  = "working directory"
)

// process is the part of a plan that turns a process with all privileges inside
// the container's namespaces into the user's process. Create and exec share it.
type process struct {
	spec    *specs.Process
	env     []string
	filter  *seccomp.Filter
	agent   Agent // who answers for the filter; empty: it asks nobody
	caps    capSets
	gate    gate
	listen  initprog.Value // gateStart: the socket that start connects to
	inner   *innerFiles    // what the init hands out at the gate, or nil
	inGroup bool           // setgroups is not permitted: leave the groups alone
	denied  bool           // setgroups may be denied in the user namespace; then there are none to be set
	file    string         // a hook's: executed in place of args[0]
	mortal  bool           // a hook's: ends when we do
	alone   bool           // gateStart: there may be no cgroup, and only the record leads to it
	exec    bool           // it is added to a running container
	linux   *specs.Linux   // of the container
	path    initprog.Value // slot with the address of the executable's path, once found
}

// A gate is where the init waits between set-up and the user's program.
type gate int

const (
	gateNone  gate = iota // exec: nothing to wait for
	gateReady             // run: until the runtime has finished its own part
	gateStart             // create: until somebody connects and says start
)

// capSets are the five capability sets as bit masks.
type capSets struct {
	bounding, effective, inheritable, permitted, ambient uint64
	drop                                                 uint64 // what the bounding set loses
}

// planCaps reads process.capabilities and keeps what we may give away. What is
// dropped is told in warnings: a container started with less than it asked for
// is better than none, where the host itself is confined.
func planCaps(c *specs.LinuxCapabilities, userns bool) (capSets, []string) {
	permitted, last := ownCaps()
	if userns {
		permitted = ^uint64(0)
	}
	all := ^uint64(0) >> (63 - last)
	var s capSets
	var warnings, unknown []string
	if c != nil {
		s.bounding = capMask(c.Bounding, &unknown)
		s.effective = capMask(c.Effective, &unknown)
		s.inheritable = capMask(c.Inheritable, &unknown)
		s.permitted = capMask(c.Permitted, &unknown)
		s.ambient = capMask(c.Ambient, &unknown)
	}
	for i, n := range unknown {
		if i == 0 || unknown[i-1] != n {
			warnings = append(warnings, fmt.Sprintf("ignoring unknown capability %q", n))
		}
	}
	have := permitted & all
	if lost := (s.bounding | s.permitted | s.effective | s.inheritable) &^ have; lost != 0 {
		for i := range knownCaps {
			if lost&(1<<i) != 0 {
				warnings = append(warnings, "dropping "+capName(i)+": the runtime itself does not have it")
			}
		}
	}
	for _, m := range []*uint64{&s.bounding, &s.effective, &s.inheritable, &s.permitted, &s.ambient} {
		*m &= have
	}
	s.effective &= s.permitted
	s.ambient &= s.permitted & s.inheritable
	s.drop = all &^ s.bounding
	return s, warnings
}

// steps lists the process part of the plan.
func (p *process) steps() []initprog.Step {
	s := make([]initprog.Step, 0, 16)
	if len(p.spec.Rlimits) > 0 {
		s = append(s, &rlimits{limits: p.spec.Rlimits})
	}
	s = attributes(s, p.spec, p.linux, p.exec)
	s = append(s, &workDir{p.spec.Cwd}, &identity{p})
	s = append(s, &findExecutable{p})
	if p.gate != gateNone {
		s = append(s, &waitGate{p})
	}
	if p.mortal {
		s = append(s, &dieWithParent{})
	}
	return append(s, &confine{p}, &execute{p})
}

// rlimits sets resource limits.
type rlimits struct {
	limits []specs.POSIXRlimit
	room   bool // one process more than RLIMIT_NPROC, where that is possible
}

func (s *rlimits) Phase() string { return "rlimits" }
func (s *rlimits) Why() string   { return "while there is still the privilege to raise one" }
func (s *rlimits) String() string {
	var b strings.Builder
	b.WriteString("set")
	for _, r := range s.limits {
		b.WriteString(" " + r.Type + "=" + strconv.FormatUint(r.Soft, 10) + ":" + strconv.FormatUint(r.Hard, 10))
	}
	return b.String()
}

func (s *rlimits) Emit(b *initprog.Builder) {
	for i := range s.limits {
		r := &s.limits[i]
		b.Object(r.Type)
		done := b.NewLabel()
		if s.room && r.Type == rlimitNPROC {
			exact := b.NewLabel()
			b.Setrlimit(unix.RLIMIT_NPROC, oneMore(r.Soft), oneMore(r.Hard)).OnSuccess(done).On(syscall.EPERM, exact)
			b.Place(exact)
		}
		b.Setrlimit(uint64(rlimitNumber(r.Type)), r.Soft, r.Hard)
		b.Place(done)
	}
}

// rlimitNumber is the number of a limit by its name in getrlimit(2), -1 if unknown.
func rlimitNumber(name string) int {
	const names = " CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME "
	short, ok := strings.CutPrefix(name, "RLIMIT_")
	i := strings.Index(names, " "+short+" ")
	if !ok || i < 0 {
		return -1
	}
	return strings.Count(names[:i], " ")
}

// workDir enters the working directory. It is resolved below the root without
// magic links, so that it can be no descriptor of the host (CVE-2024-21626).
type workDir struct{ cwd string }

func (s *workDir) Phase() string  { return phaseCwd }
func (s *workDir) String() string { return "enter " + s.cwd + ", made if it is missing" }
func (s *workDir) Why() string    { return "" }

func (s *workDir) Emit(b *initprog.Builder) {
	b.Object(s.cwd)
	if s.cwd == "/" {
		b.Chdir("/")
		return
	}
	path := cleanPath(s.cwd)
	how := b.How(unix.O_PATH|unix.O_DIRECTORY, 0)
	root := b.Openat(initprog.CWD(), "/", unix.O_PATH|unix.O_DIRECTORY).Result()
	dir := b.Slot(0)
	create, done := b.NewLabel(), b.NewLabel()
	b.Openat2(root, path, how).To(dir).OnSuccess(done).On(syscall.ENOENT, create).RetrySome(syscall.EAGAIN)
	b.Place(create)
	parent := root
	for i := 0; i <= len(path); i++ {
		if i < len(path) && path[i] != '/' {
			continue
		}
		b.Mkdirat(parent, path[strings.LastIndexByte(path[:i], '/')+1:i], 0o755).Ignore(syscall.EEXIST)
		slot := dir
		if i < len(path) {
			slot = b.Slot(0)
		}
		b.Openat2(root, path[:i], how).To(slot).RetrySome(syscall.EAGAIN)
		parent = slot
	}
	b.Place(done)
	b.Fchdir(dir).Detail("fchdir")
}

// identity drops what a process has beyond its user: bounding capabilities,
// groups, ids, and the capabilities themselves.
type identity struct{ p *process }

func (s *identity) Phase() string { return "identity" }
func (s *identity) Why() string   { return "" }
func (s *identity) String() string {
	u := s.p.spec.User
	t := "become uid " + strconv.FormatUint(uint64(u.UID), 10) + " gid " + strconv.FormatUint(uint64(u.GID), 10)
	if len(u.AdditionalGids) > 0 {
		t += fmt.Sprintf(" groups %v", u.AdditionalGids)
	}
	t += ", capabilities " + describeCaps(s.p.caps.permitted)
	if s.p.spec.NoNewPrivileges {
		t += ", no new privileges"
	}
	return t
}

func describeCaps(mask uint64) string {
	if mask == 0 {
		return "none"
	}
	if mask == 1<<knownCaps-1 {
		return "all"
	}
	var names []string
	for i := range knownCaps {
		if mask&(1<<i) != 0 {
			names = append(names, strings.ToLower(strings.TrimPrefix(capName(i), "CAP_")))
		}
	}
	return strings.Join(names, ",")
}

func (s *identity) Emit(b *initprog.Builder) {
	p, u := s.p, &s.p.spec.User
	b.Object("no_new_privs")
	if p.spec.NoNewPrivileges {
		b.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	b.Object("bounding set")
	for i := range uint64(64) {
		if p.caps.drop&(1<<i) != 0 {
			b.Prctl(unix.PR_CAPBSET_DROP, i)
		}
	}
	b.Object("user")
	if u.UID != 0 {
		b.Prctl(unix.PR_SET_KEEPCAPS, 1)
	}
	if !p.inGroup {
		r := b.Setgroups(groups(u))
		if p.denied && len(u.AdditionalGids) == 0 {
			r.Ignore(syscall.EPERM) // as an ordinary user has to, see writeMaps
		}
	}
	b.Setresgid(u.GID)
	b.Setresuid(u.UID)
	umask := uint32(0o022)
	if u.Umask != nil {
		umask = *u.Umask
	}
	b.Umask(umask)
	b.Object("capabilities")
	if p.lateFilter() {
		// Loading a filter without no_new_privs takes CAP_SYS_ADMIN, which a
		// change of the user id has taken out of the effective set.
		if u.UID != 0 {
			all := p.caps.permitted | 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_SETPCAP
			b.Capset(all, all, p.caps.inheritable)
		}
		return
	}
	s.p.setCaps(b)
}

// groups are the supplementary groups: the spec's, and the primary one, so that
// permissions denied to a group hold for its primary members (CVE-2022-36109).
func groups(u *specs.User) []uint32 {
	if len(u.AdditionalGids) == 0 || slices.Contains(u.AdditionalGids, u.GID) {
		return u.AdditionalGids
	}
	return append(slices.Clone(u.AdditionalGids), u.GID)
}

// lateFilter reports whether the filter is loaded while there are still more
// capabilities than the user's process will have.
func (p *process) lateFilter() bool { return p.filter != nil && !p.spec.NoNewPrivileges }

func (p *process) setCaps(b *initprog.Builder) {
	b.Capset(p.caps.effective, p.caps.permitted, p.caps.inheritable)
	for i := range uint64(64) {
		if p.caps.ambient&(1<<i) != 0 {
			b.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, i, 0, 0)
		}
	}
}

// executable is the program as it was given: a path or a name.
func (p *process) executable() string {
	if p.file != "" {
		return p.file
	}
	return p.spec.Args[0]
}

// findExecutable looks the program up as the user who will run it, so that a
// missing one is an error of create and not of start.
type findExecutable struct{ p *process }

func (s *findExecutable) Phase() string  { return phaseExec }
func (s *findExecutable) String() string { return "find " + s.p.executable() + " in PATH" }
func (s *findExecutable) Why() string    { return "a missing program is an error of create, not of start" }

func (s *findExecutable) Emit(b *initprog.Builder) {
	name := s.p.executable()
	b.Object(name)
	path := b.Slot(0)
	s.p.path = path
	if strings.Contains(name, "/") || name == "" {
		candidate(b, path, name, initprog.Label(0), true)
		return
	}
	found := b.NewLabel()
	for dir := range strings.SplitSeq(searchPath(s.p.env), ":") {
		if dir == "" {
			dir = "."
		}
		candidate(b, path, dir+"/"+name, found, false)
	}
	b.Fail(syscall.ENOENT, "lookup")
	b.Place(found)
}

// candidate checks one path: X_OK and no directory. With only set there is no
// other, and what is wrong with it is the error.
func candidate(b *initprog.Builder, slot initprog.Value, path string, found initprog.Label, only bool) {
	dir, file := b.NewLabel(), b.NewLabel()
	r := b.Faccessat(path, unix.X_OK)
	d := b.Openat(initprog.CWD(), path, unix.O_PATH|unix.O_DIRECTORY).OnSuccess(dir)
	if only {
		d.On(syscall.ENOTDIR, file)
		b.Place(dir)
		b.Fail(syscall.EISDIR, "lookup")
		b.Place(file)
		b.Set(slot, b.String(path))
		return
	}
	next := b.NewLabel()
	r.OnAny(next)
	d.On(syscall.ENOTDIR, file)
	b.Place(dir)
	b.Jump(next)
	b.Place(file)
	b.Set(slot, b.String(path)).OnNonzero(found)
	b.Place(next)
}

func searchPath(env []string) string {
	for i := len(env) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(env[i], "PATH="); ok {
			return v
		}
	}
	return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}

// waitGate waits for the runtime or for start.
type waitGate struct{ p *process }

func (s *waitGate) Phase() string { return "start" }
func (s *waitGate) String() string {
	if s.p.gate == gateStart {
		return "report that the container is created and wait for start"
	}
	return "wait until limits and device rules are in place"
}
func (s *waitGate) Why() string { return "" }

func (s *waitGate) Emit(b *initprog.Builder) {
	b.Object("")
	if s.p.gate == gateReady || s.p.alone {
		s.p.inner.emitHandshake(b, namespaces.Ready)
	} else {
		b.WriteWords(initprog.Sync(), b.Words(0, namespaces.Ready), 2)
	}
	if s.p.gate == gateReady {
		return
	}
	// From here on failures go to whoever says start. The descriptor of the
	// connection closes with execve: end of file tells that it worked.
	if s.p.inner != nil {
		b.Set(initprog.Sync(), s.p.inner.emitAccept(b, s.p.listen))
		return
	}
	conn := b.Accept(s.p.listen).Retry(syscall.EINTR).Result()
	b.Set(initprog.Sync(), conn)
}

// confine loads the seccomp filter as late as possible, so that it has to allow
// little of our own: write, exit_group and execve, and without no_new_privs
// capset.
type confine struct{ p *process }

func (s *confine) Phase() string { return "seccomp" }
func (s *confine) String() string {
	if s.p.filter == nil {
		return "no system call filter"
	}
	text := "load a system call filter of " + strconv.Itoa(s.p.filter.Len()) + " instructions"
	switch a := &s.p.agent; {
	case a.Report != "":
		text += "; denied calls are reported to " + a.Report
	case a.Path != "":
		text += "; its listener goes to the agent at " + a.Path
	}
	return text
}
func (s *confine) Why() string { return "last, so that it need not allow what was done before" }

func (s *confine) Emit(b *initprog.Builder) {
	p := s.p
	b.Object("system call filter")
	if p.filter != nil {
		emitFilter(b, p)
	}
	if p.lateFilter() {
		b.Object("capabilities")
		p.setCaps(b)
	}
}

// execute becomes the user's program.
type execute struct{ p *process }

func (s *execute) Phase() string  { return phaseExec }
func (s *execute) String() string { return "execute " + strings.Join(s.p.spec.Args, " ") }
func (s *execute) Why() string    { return "" }

func (s *execute) Emit(b *initprog.Builder) {
	b.Object(s.p.executable())
	b.ExecveSlot(s.p.path, b.Strings(s.p.spec.Args), b.Strings(s.p.env))
}
