package demo

import (
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// descriptors lists the open descriptors. Pipes and sockets have numbers that
// differ in every run, so only their kind is printed.
func (f *facts) descriptors() {
	dir, err := linux.OpenAt(unix.AT_FDCWD, "/proc/self/fd", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		f.add("fd", "unknown: "+errno(err))
		return
	}
	defer linux.Close(dir)
	names, err := list(dir)
	if err != nil {
		f.add("fd", "unknown: "+errno(err))
	}
	for _, name := range names {
		if name == strconv.Itoa(dir) {
			continue
		}
		target, ok := readlink(dir, name)
		if !ok || ofRuntime(target) {
			continue
		}
		if kind, _, numbered := strings.Cut(target, ":["); numbered && target[0] != '/' {
			target = kind
		}
		f.add("fd "+name, target)
	}
}

// ofRuntime: the Go runtime keeps the CPU limit of its cgroup open (version 2
// and 1) to follow it with GOMAXPROCS. A container's runtime has no reason to
// hand these files in.
func ofRuntime(target string) bool {
	switch target[strings.LastIndexByte(target, '/')+1:] {
	case "cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us":
		return strings.HasPrefix(target, "/sys/fs/cgroup/")
	}
	return false
}

// mounts: "mount POINT: TYPE SOURCE | options | super options | propagation",
// options sorted; see proc_pid_mountinfo(5).
func (f *facts) mounts() {
	for l := range strings.Lines(text("/proc/self/mountinfo")) {
		fields := strings.Fields(l)
		dash := slices.Index(fields, "-")
		if dash < 6 || len(fields) < dash+4 {
			continue
		}
		propagation := ""
		for _, p := range fields[6:dash] {
			name, _, _ := strings.Cut(p, ":")
			propagation += " " + name
		}
		if propagation == "" {
			propagation = " private"
		}
		f.add("mount "+fields[4], fields[dash+1]+" "+fields[dash+2]+" | "+sorted(fields[5])+" | "+sorted(fields[dash+3])+" |"+propagation)
	}
}

func sorted(options string) string {
	list := strings.Split(options, ",")
	slices.Sort(list)
	return strings.Join(list, ",")
}

// devices describes what is below dir that is no regular file, depth levels deep.
func (f *facts) devices(dir string, depth int) {
	fd, err := linux.OpenAt(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		f.add("dev "+dir, "unreadable: "+errno(err))
		return
	}
	defer linux.Close(fd)
	names, _ := list(fd)
	for _, name := range names {
		path := dir + "/" + name
		text := describe(fd, name)
		switch text[0] {
		case '-':
			continue
		case 'l':
			target, _ := readlink(fd, name)
			f.add("dev "+path, "-> "+target)
		case 'd':
			// A directory's size says something about its file system, not about the sandbox.
			f.add("dev "+path, text[:strings.LastIndexByte(text, ' ')])
			if depth > 1 {
				f.devices(path, depth-1)
			}
		default:
			f.add("dev "+path, text)
		}
	}
}

// limits: "rlimit NAME: SOFT HARD UNIT".
func (f *facts) limits() {
	content, original := startLimits()
	for l := range strings.Lines(content) {
		// Columns of fixed width, as fs/proc/base.c prints them; names contain spaces.
		if len(l) < 67 || strings.HasPrefix(l, "Limit ") {
			continue
		}
		name := strings.TrimSpace(l[:26])
		values := strings.Fields(l[26:])
		if name == "Max open files" && !original && len(values) > 0 {
			values[0] = "unknown"
		}
		f.add("rlimit "+strings.ReplaceAll(strings.TrimPrefix(name, "Max "), " ", "_"), strings.Join(values, " "))
	}
}

// startLimits returns /proc/PID/limits as this process was started with them.
// The Go runtime raises the soft limit of open files before main and gives
// children the original back, so the truth is read from a child that stopped
// at the end of execve(2), before any code of its own. original is false if
// that was not possible (no /proc, ptrace forbidden, pids limit).
func startLimits() (content string, original bool) {
	// ptrace(2) binds tracer and tracee to threads, not processes.
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"true"}, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL}})
	if err != nil {
		return text("/proc/self/limits"), false
	}
	var ws syscall.WaitStatus
	if reap(pid, &ws) && ws.Stopped() {
		content = text("/proc/" + strconv.Itoa(pid) + "/limits")
		_ = syscall.Kill(pid, syscall.SIGKILL)
		reap(pid, &ws)
	}
	if content == "" {
		return text("/proc/self/limits"), false
	}
	return content, true
}

func reap(pid int, ws *syscall.WaitStatus) bool {
	for {
		got, err := syscall.Wait4(pid, ws, 0, nil)
		if err != syscall.EINTR {
			return got == pid
		}
	}
}
