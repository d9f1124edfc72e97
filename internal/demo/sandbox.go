package demo

import (
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// fact is one line of what the sandbox looks like.
type fact struct{ key, value string }

// facts collects lines. Keys are unique: a repeated one gets "#2", "#3".
type facts []fact

func (f *facts) add(key, value string) {
	unique := key
	for i := 2; f.has(unique); i++ {
		unique = key + "#" + strconv.Itoa(i)
	}
	*f = append(*f, fact{unique, value})
}

func (f *facts) has(key string) bool {
	return slices.ContainsFunc(*f, func(x fact) bool { return x.key == key })
}

// sandbox prints what a process sees of its sandbox as sorted "key: value"
// lines, or as one JSON object of strings with --json. The same configuration
// gives the same text under every runtime and in every run, so that two
// runtimes can be compared with diff(1): process ids, inode numbers, mount ids
// and times are left out. -n adds the namespaces' inode numbers.
func sandbox(args []string) int {
	json, namespaces := false, false
	for _, a := range args {
		switch a {
		case "--json":
			json = true
		case "-n":
			namespaces = true
		default:
			return usage("sandbox [--json] [-n]")
		}
	}
	var f facts
	f.descriptors() // first, before we have any of our own
	f.identity()
	f.status()
	f.limits()
	f.mounts()
	f.devices("/dev", 2)
	f.paths()
	for _, e := range syscall.Environ() {
		name, value, _ := strings.Cut(e, "=")
		f.add("env "+name, value)
	}
	if namespaces {
		f.namespaces()
	}
	slices.SortFunc(f, func(a, b fact) int { return strings.Compare(a.key, b.key) })
	o := &out{fd: 1}
	if json {
		o.s("{")
		for i, x := range f {
			if i > 0 {
				o.s(",")
			}
			o.s("\n  ").quote(x.key).s(": ").quote(x.value)
		}
		return o.s("\n}\n").status()
	}
	for _, x := range f {
		o.s(oneLine(x.key), ": ", oneLine(x.value), "\n")
	}
	return o.status()
}

// oneLine escapes what would break the one-fact-per-line form.
func oneLine(s string) string {
	if !strings.ContainsAny(s, "\\\n\r") {
		return s
	}
	return strings.NewReplacer("\\", "\\\\", "\n", "\\n", "\r", "\\r").Replace(s)
}

// quote appends s as a JSON string. Bytes that are not UTF-8 become U+FFFD.
func (o *out) quote(s string) *out {
	o.s("\"")
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			o.s("\\", string(r))
		case r < 0x20:
			o.s("\\u00", string("0123456789abcdef"[r>>4]), string("0123456789abcdef"[r&15]))
		default:
			o.s(string(r))
		}
	}
	return o.s("\"")
}

// identity: who and where we are.
func (f *facts) identity() {
	f.add("uid", strconv.Itoa(unix.Getuid())+" "+strconv.Itoa(unix.Geteuid()))
	f.add("gid", strconv.Itoa(unix.Getgid())+" "+strconv.Itoa(unix.Getegid()))
	if groups, err := unix.Getgroups(); err == nil {
		slices.Sort(groups)
		var text []string
		for _, g := range groups {
			text = append(text, strconv.Itoa(g))
		}
		f.add("groups", strings.Join(text, " "))
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		f.add("hostname", cstring(u.Nodename[:]))
		f.add("domainname", cstring(u.Domainname[:]))
		f.add("kernel", cstring(u.Release[:]))
	}
	var cwd [unix.PathMax]byte
	if n, err := unix.Getcwd(cwd[:]); err == nil && n > 0 {
		f.add("cwd", string(cwd[:n-1]))
	}
	f.add("oom_score_adj", line("/proc/self/oom_score_adj"))
	f.add("personality", line("/proc/self/personality"))
	f.add("label", line("/proc/self/attr/current"))
	f.add("uid_map", strings.Join(strings.Fields(line("/proc/self/uid_map")), " "))
	f.add("gid_map", strings.Join(strings.Fields(line("/proc/self/gid_map")), " "))
	if prio, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err == nil {
		f.add("nice", strconv.Itoa(20-prio)) // the system call returns 20 - nice
	}
	for l := range strings.Lines(text("/proc/self/cgroup")) {
		id, rest, _ := strings.Cut(strings.TrimSuffix(l, "\n"), ":")
		controllers, path, _ := strings.Cut(rest, ":")
		if id == "0" {
			controllers = "v2"
		}
		f.add("cgroup "+controllers, path)
	}
	f.session()
}

// session: the terminal. Ids are not printed, only how they relate.
func (f *facts) session() {
	stat := text("/proc/self/stat")
	// pid (comm) state ppid pgrp session tty_nr tpgid; comm may hold anything but ends at the last ')'.
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:])
	pid, _, ok := strings.Cut(stat, " ")
	if !ok || len(fields) < 6 {
		f.add("session", "unknown")
		return
	}
	f.add("process", "pid 1: "+yes(pid == "1")+", parent 0: "+yes(fields[1] == "0"))
	f.add("session", "leader: "+yes(fields[3] == pid)+", group leader: "+yes(fields[2] == pid)+", foreground: "+yes(fields[5] == fields[2]))
	tty, _ := strconv.ParseInt(fields[4], 10, 64)
	if tty == 0 {
		f.add("tty", "none")
	} else {
		f.add("tty", device(uint64(tty)))
	}
}

// status: the fields of /proc/self/status that a runtime sets.
func (f *facts) status() {
	status := text("/proc/self/status")
	for _, name := range [...]string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters", "Speculation_Store_Bypass", "SpeculationIndirectBranch", "Umask", "Cpus_allowed_list", "Mems_allowed_list", "THP_enabled"} {
		f.add("status "+name, fieldAfter(status, name+":"))
	}
}

// paths: the paths that runtimes mask or make read-only, and the root.
func (f *facts) paths() {
	for _, p := range [...]string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware",
		"/sys/devices/virtual/powercap", "/sys/devices/system/cpu/cpu0/thermal_throttle", "/sys/fs/selinux", "/sys/dev/block",
	} {
		f.add("masked "+p, readable(p))
	}
	for _, p := range [...]string{"/", "/dev", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/sys", "/sys/fs/cgroup", "/tmp"} {
		f.add("writable "+p, writable(p))
	}
}

// readable says what opening and reading path for real gives.
func readable(path string) string {
	fd, err := linux.OpenAt(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "no: " + errno(err)
	}
	defer linux.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "no: " + errno(err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		names, err := list(fd)
		switch {
		case err != nil:
			return "no: " + errno(err)
		case len(names) == 0:
			return "empty directory"
		}
		return "yes: directory"
	}
	var b [1]byte
	n, err := linux.Read(fd, b[:])
	switch {
	case err != nil:
		return "no: " + errno(err)
	case n == 0:
		return "empty file"
	}
	return "yes"
}

// writable asks with access(2), which answers EROFS for a read-only mount and writes nothing.
func writable(path string) string {
	if err := unix.Access(path, unix.W_OK); err != nil {
		return "no: " + errno(err)
	}
	return "yes"
}

func (f *facts) namespaces() {
	dir, err := linux.OpenAt(unix.AT_FDCWD, "/proc/self/ns", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		f.add("namespace", errno(err))
		return
	}
	defer linux.Close(dir)
	names, _ := list(dir)
	for _, name := range names {
		target, _ := readlink(dir, name)
		f.add("namespace "+name, target)
	}
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// errno is the last part of an error: the kernel's words without the path.
func errno(err error) string {
	for {
		u, ok := err.(interface{ Unwrap() error })
		if !ok {
			return err.Error()
		}
		err = u.Unwrap()
	}
}

// text is a file's content, empty if it cannot be read.
func text(path string) string {
	b, err := linux.ReadFile(path, 1<<20)
	if err != nil {
		return ""
	}
	return string(b)
}

// line is a one-line file's content, or the error in brackets.
func line(path string) string {
	b, err := linux.ReadFile(path, 1<<16)
	if err != nil {
		return "(" + errno(err) + ")"
	}
	return strings.TrimRight(string(b), "\n\x00")
}
