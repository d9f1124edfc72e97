package vm

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// shareName is argv[0] of the process that becomes a virtiofsd.
const shareName = "vm-share"

// mountPoint returns the mount point of the file system that holds path.
func mountPoint(mountinfo, path string) string {
	best := "/"
	for line := range strings.Lines(mountinfo) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		p := unescape(f[4])
		if len(p) > len(best) && (path == p || strings.HasPrefix(path, p+"/")) {
			best = p
		}
	}
	return best
}

// unescape undoes the octal escapes of proc_pid_mountinfo(5).
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// needsShare reports whether the guest does not see dir as a part of the host's
// root file system: virtiofs shows one file system, not what is mounted below.
func needsShare(dir string) (bool, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false, err
	}
	return mountPoint(string(info), dir) != "/", nil
}

// serve starts a virtiofsd for dir and returns it with the path of its socket.
// It serves a bind mount in a mount namespace of its own, so that the kernel, not
// virtiofsd, keeps a read-only share read-only.
func serve(work, tag, dir string, readWrite bool, self string) (*exec.Cmd, string, error) {
	virtiofsd, err := findProgram("virtiofsd", "qemu-system-common (Debian 12) or virtiofsd")
	if err != nil {
		return nil, "", err
	}
	view := filepath.Join(work, "view-"+tag)
	if err := os.Mkdir(view, 0o700); err != nil {
		return nil, "", err
	}
	path := filepath.Join(work, tag+".sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, "", err
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	socket, err := l.File()
	if err != nil {
		return nil, "", err
	}
	defer socket.Close()
	log, err := os.Create(filepath.Join(work, tag+".log"))
	if err != nil {
		return nil, "", err
	}
	defer log.Close()
	mode, options := "ro", []string{"-o", "cache=always"}
	if readWrite {
		mode, options = "rw", []string{"-o", "cache=auto", "-o", "xattr"}
	}
	cmd := child(self)
	cmd.Args = append([]string{
		shareName, dir, view, mode, virtiofsd, "--fd=3", "-f", "-o", "source=" + view,
		"-o", "sandbox=chroot", "-o", "log_level=err",
	}, options...)
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNS
	cmd.ExtraFiles = []*os.File{socket} // fd 3
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, "", fmt.Errorf("virtiofsd: %w", err)
	}
	return cmd, path, nil
}

// child returns a command in a process group of its own that dies with the thread
// that starts it.
func child(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// share is the process between serve and virtiofsd: args are the directory, the
// mount point, "ro" or "rw", and virtiofsd's command line.
func share(args []string) error {
	dir, view, mode, argv := args[0], args[1], args[2], args[3:]
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount(dir, view, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %q: %w", dir, err)
	}
	if mode != "rw" {
		if err := unix.Mount("", view, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("make the bind mount of %q read-only: %w", dir, err)
		}
	}
	return fmt.Errorf("execute %q: %w", argv[0], unix.Exec(argv[0], argv, os.Environ()))
}
