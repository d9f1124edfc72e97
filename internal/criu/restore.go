package criu

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// RestoreOptions are those of a restore.
type RestoreOptions struct {
	Options
	TCPClose        bool
	LSMProfile      string
	LSMMountContext string

	Spec      *specs.Spec
	Rootfs    string // directory
	Scratch   string // any directory: covered, in a namespace of criu's own, by what it needs
	Cgroup    int    // descriptor of the container's cgroup, in which criu runs
	CgroupDir string // the same as a path
	Path      string // of it in the hierarchy
	Streams   [3]int // standard streams
}

// Restore brings a container back and returns the pid of its init, a child of
// this process.
func Restore(program string, o *RestoreOptions) (int, error) {
	m, err := loadImage(o.Images)
	if err != nil {
		return 0, err
	}
	sources, err := o.sources(m)
	if err != nil {
		return 0, err
	}
	type result struct {
		pid int
		err error
	}
	done := make(chan result)
	go func() {
		// This thread gets a mount namespace of its own, and ends with the goroutine.
		goruntime.LockOSThread()
		var r result
		r.pid, r.err = o.restore(program, m, sources)
		done <- r
	}()
	r := <-done
	if r.err != nil {
		return 0, r.err
	}
	if err := o.check(r.pid, m); err != nil {
		_ = unix.Kill(r.pid, unix.SIGKILL) // our child: nobody else reaps it
		var ws unix.WaitStatus
		for {
			if _, err := unix.Wait4(r.pid, &ws, 0, nil); err != unix.EINTR {
				break
			}
		}
		return 0, err
	}
	return r.pid, nil
}

// source is where an outside mount comes from.
type source struct {
	point, path string
	recursive   bool
	flags       []string
}

// sources finds the source of each outside mount in the configuration.
func (o *RestoreOptions) sources(m *image) ([]source, error) {
	var list []source
	for _, point := range m.Outside {
		s := source{point: point, flags: slices.Clone(m.Mounts[point])}
		switch c := o.configured(point); {
		case c != nil && c.Type == "cgroup":
			s.path = o.CgroupDir
			if slices.Contains(c.Options, "ro") {
				s.flags = append(s.flags, "ro")
			}
		case c != nil:
			s.path = c.Source
			s.recursive = slices.Contains(c.Options, "rbind")
			s.flags = append(s.flags, restrictive(strings.Join(c.Options, ","))...)
			if !filepath.IsAbs(s.path) {
				return nil, fmt.Errorf("mount %q: the source %q is not absolute", point, s.path)
			}
		case o.Spec.Linux != nil && slices.Contains(o.Spec.Linux.MaskedPaths, point):
			s.path = "/dev/null"
		case path.Dir(point) == "/dev" && o.device(point):
			s.path = point // in a user namespace devices are bound
		default:
			return nil, fmt.Errorf("the checkpoint has a mount of the host's files at %q, and config.json has none there", point)
		}
		list = append(list, s)
	}
	return list, nil
}

// configured is the mount of the configuration at a mount point, the last one.
func (o *RestoreOptions) configured(point string) *specs.Mount {
	for i := len(o.Spec.Mounts) - 1; i >= 0; i-- {
		c := &o.Spec.Mounts[i]
		if path.Clean("/"+c.Destination) == point && (c.Type == "cgroup" || c.Type == "bind" || slices.Contains(c.Options, "bind") || slices.Contains(c.Options, "rbind")) {
			return c
		}
	}
	return nil
}

// device reports whether every container has the device, or this one is given it.
func (o *RestoreOptions) device(point string) bool {
	switch point {
	case "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty":
		return true
	}
	return o.Spec.Linux != nil && slices.ContainsFunc(o.Spec.Linux.Devices, func(d specs.LinuxDevice) bool { return d.Path == point })
}

// restore runs on a locked thread.
func (o *RestoreOptions) restore(program string, m *image, sources []source) (int, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return 0, os.NewSyscallError("unshare", err)
	}
	// Slaves and not private: criu copies the propagation of outside mounts.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return 0, &os.PathError{Op: "mount slave", Path: "/", Err: err}
	}
	if err := unix.Mount("tmpfs", o.Scratch, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=700"); err != nil {
		return 0, &os.PathError{Op: "mount tmpfs on", Path: o.Scratch, Err: err}
	}
	if err := unix.Mount("", o.Scratch, "", unix.MS_PRIVATE, ""); err != nil {
		return 0, &os.PathError{Op: "mount private", Path: o.Scratch, Err: err}
	}
	root := o.Scratch + "/root"
	if err := bind(&source{path: o.Rootfs, flags: m.Mounts["/"]}, root); err != nil {
		return 0, err
	}
	if err := unix.Mount("", root, "", unix.MS_PRIVATE, ""); err != nil {
		return 0, &os.PathError{Op: "mount private", Path: root, Err: err}
	}
	if r := o.Spec.Root; r != nil && r.Readonly {
		if err := restrict(root, []string{"ro"}, false); err != nil {
			return 0, err
		}
	}
	pidFile := o.Scratch + "/pid"
	args := append([]string{"criu", "restore", "-o", "restore.log"}, o.flags()...)
	// The newer way to restore mounts copies propagation from an outside mount to
	// all others of its group, and fails when those show another directory of the
	// same file system, as the root and a volume do.
	args = append(args, "--mntns-compat-mode")
	args = append(args, "--root", root, "--restore-detached", "--restore-sibling", "--pidfile", pidFile)
	for i := range sources {
		at := o.Scratch + "/" + strconv.Itoa(i)
		if err := bind(&sources[i], at); err != nil {
			return 0, fmt.Errorf("mount %q: %w", sources[i].point, err)
		}
		args = append(args, "--external", "mnt["+sources[i].point+"]:"+at)
	}
	// criu's own streams are those of the container, as runc does it.
	files := []uintptr{uintptr(o.Streams[0]), uintptr(o.Streams[1]), uintptr(o.Streams[2])}
	for fd, name := range m.Streams {
		if name != "" {
			args = append(args, "--inherit-fd", "fd["+strconv.Itoa(fd)+"]:"+name)
		}
	}
	for _, n := range o.namespaces() {
		_, key, _ := nsFile(n)
		fd, err := unix.Open(n.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return 0, &os.PathError{Op: "open", Path: n.Path, Err: err}
		}
		defer unix.Close(fd)
		args = append(args, "--inherit-fd", "fd["+strconv.Itoa(len(files))+"]:"+key)
		files = append(files, uintptr(fd))
	}
	if o.CgroupsMode != "" && o.CgroupsMode != "ignore" {
		args = append(args, "--cgroup-root", o.Path)
	}
	if o.TCPClose {
		args = append(args, "--tcp-close")
	}
	if o.LSMProfile != "" {
		args = append(args, "--lsm-profile", o.LSMProfile)
	}
	if o.LSMMountContext != "" {
		args = append(args, "--lsm-mount-context", o.LSMMountContext)
	}
	if p := o.Spec.Process; p != nil && p.NoNewPrivileges {
		// criu 3.17 forgets it; what it starts inherits it.
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return 0, os.NewSyscallError("prctl PR_SET_NO_NEW_PRIVS", err)
		}
	}
	if err := o.run(program, args, files); err != nil {
		return 0, err
	}
	raw, err := os.ReadFile(pidFile)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("criu wrote the pid %q", raw)
	}
	return pid, nil
}

func (o *RestoreOptions) namespaces() []specs.LinuxNamespace {
	var list []specs.LinuxNamespace
	if o.Spec.Linux != nil {
		for _, n := range o.Spec.Linux.Namespaces {
			if _, key, _ := nsFile(n); key != "" {
				list = append(list, n)
			}
		}
	}
	return list
}

// ownCgroups reports whether the container has a cgroup namespace that criu does
// not make.
func (o *RestoreOptions) ownCgroups() bool {
	return (o.CgroupsMode == "" || o.CgroupsMode == "ignore") && o.Spec.Linux != nil &&
		slices.ContainsFunc(o.Spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace && n.Path == "" })
}

// run runs criu in the container's cgroup: what it restores is born there. Its
// parent must be this process and not a thread's, hence no os/exec: with
// --restore-sibling the container becomes our child.
func (o *RestoreOptions) run(program string, args []string, files []uintptr) error {
	sys := &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: o.Cgroup}
	if o.ownCgroups() {
		sys.Unshareflags = unix.CLONE_NEWCGROUP // criu makes one only if it manages cgroups
	}
	pid, err := syscall.ForkExec(program, args, &syscall.ProcAttr{Env: os.Environ(), Files: files, Sys: sys})
	log := filepath.Join(o.logDir(), "restore.log")
	if err != nil {
		return failure("restore", log, nil, &os.PathError{Op: "exec", Path: program, Err: err})
	}
	var ws syscall.WaitStatus
	for {
		if _, err = syscall.Wait4(pid, &ws, 0, nil); err != syscall.EINTR {
			break
		}
	}
	if err == nil && ws.ExitStatus() != 0 {
		err = fmt.Errorf("exit status %d", ws.ExitStatus())
		if ws.Signaled() {
			err = errors.New("killed by " + ws.Signal().String())
		}
	}
	if err != nil {
		return failure("restore", log, nil, err)
	}
	return nil
}

// bind mounts a source at a new file or directory with its attributes.
func bind(s *source, at string) error {
	st, err := os.Stat(s.path)
	if err != nil {
		return err
	}
	if st.IsDir() {
		err = os.Mkdir(at, 0o700)
	} else {
		err = os.WriteFile(at, nil, 0o600)
	}
	if err != nil {
		return err
	}
	flags := uintptr(unix.MS_BIND)
	if s.recursive {
		flags |= unix.MS_REC
	}
	if err := unix.Mount(s.path, at, "", flags, ""); err != nil {
		return &os.PathError{Op: "bind", Path: s.path, Err: err}
	}
	return restrict(at, s.flags, false)
}

// restrict sets mount attributes.
func restrict(at string, flags []string, recursive bool) error {
	attr := unix.MountAttr{}
	for _, f := range flags {
		switch f {
		case "ro":
			attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
		case "nosuid":
			attr.Attr_set |= unix.MOUNT_ATTR_NOSUID
		case "nodev":
			attr.Attr_set |= unix.MOUNT_ATTR_NODEV
		case "noexec":
			attr.Attr_set |= unix.MOUNT_ATTR_NOEXEC
		case "nosymfollow":
			attr.Attr_set |= unix.MOUNT_ATTR_NOSYMFOLLOW
		}
	}
	if attr.Attr_set == 0 {
		return nil
	}
	how := uint(0)
	if recursive {
		how = unix.AT_RECURSIVE
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, at, how, &attr); err != nil {
		return &os.PathError{Op: "mount_setattr", Path: at, Err: err}
	}
	return nil
}

// check compares what criu has made with what was there. A criu that is older
// than a feature of the kernel forgets it silently, and a container that came
// back with less around it than it had must not live.
func (o *RestoreOptions) check(pid int, m *image) error {
	proc := "/proc/" + strconv.Itoa(pid)
	status, err := confinement(proc)
	if err != nil {
		return err
	}
	for key, want := range m.Status {
		if status[key] != want {
			return fmt.Errorf("criu has restored the process with %s %q, it had %q; it was killed", key, status[key], want)
		}
	}
	if o.Spec.Linux != nil {
		for _, n := range o.Spec.Linux.Namespaces {
			file := nsName(n.Type)
			ours, err1 := os.Readlink("/proc/self/ns/" + file)
			theirs, err2 := os.Readlink(proc + "/ns/" + file)
			if err := errors.Join(err1, err2); err != nil {
				return err
			}
			if n.Path == "" && ours == theirs {
				return fmt.Errorf("criu has restored the process without a %s namespace; it was killed", n.Type)
			}
		}
	}
	return checkMounts(pid, m)
}

// nsName is the name of a namespace in /proc/PID/ns.
func nsName(t specs.LinuxNamespaceType) string {
	switch t {
	case specs.MountNamespace:
		return "mnt"
	case specs.NetworkNamespace:
		return "net"
	}
	return string(t)
}

// confinement is what limits a process, by the names of /proc/PID/status.
func confinement(proc string) (map[string]string, error) {
	raw, err := os.ReadFile(proc + "/status")
	if err != nil {
		return nil, err
	}
	m := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		k, v, _ := strings.Cut(line, ":")
		switch k {
		case "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters":
			m[k] = strings.TrimSpace(v)
		}
	}
	return m, nil
}

// checkMounts: a mount must not have lost an attribute, and none may be missing.
func checkMounts(pid int, m *image) error {
	mounts, err := readMounts("/proc/" + strconv.Itoa(pid) + "/mountinfo")
	if err != nil {
		return err
	}
	have := map[string][]string{}
	for _, x := range mounts {
		have[x.point] = x.flags
	}
	for point, want := range m.Mounts {
		flags, ok := have[point]
		if !ok {
			return fmt.Errorf("criu has not restored the mount at %q", point)
		}
		for _, f := range want {
			if !slices.Contains(flags, f) {
				return fmt.Errorf("criu has restored the mount at %q without the attribute %s; it was killed", point, f)
			}
		}
	}
	return nil
}
