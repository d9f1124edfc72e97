package criu

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Keys under which criu knows namespaces that the container has joined.
const (
	keyNet = "extRootNetNS"
	keyPID = "extRootPidNS"
)

// Dump saves the container whose init is pid. It ends with the dump, unless that
// fails or LeaveRunning or PreDump say otherwise.
func Dump(program string, pid int, spec *specs.Spec, o *DumpOptions) error {
	args, m, err := dumpArgs(pid, spec, o)
	if err != nil {
		return err
	}
	if err := m.save(o.Images); err != nil {
		return err
	}
	cmd := exec.Command(program, args...)
	if o.StatusFD >= 0 {
		cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(o.StatusFD), "status")}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return failure(args[0], filepath.Join(o.logDir(), "dump.log"), out, err)
	}
	return nil
}

func dumpArgs(pid int, spec *specs.Spec, o *DumpOptions) ([]string, *image, error) {
	proc := "/proc/" + strconv.Itoa(pid)
	host, err := readMounts("/proc/self/mountinfo")
	if err != nil {
		return nil, nil, err
	}
	mounts, err := readMounts(proc + "/mountinfo")
	if err != nil {
		return nil, nil, err
	}
	action := "dump"
	if o.PreDump {
		action = "pre-dump"
	}
	args := append([]string{action, "-t", strconv.Itoa(pid), "-o", "dump.log"}, o.flags()...)
	m := &image{Version: 1, Mounts: map[string][]string{}, Outside: []string{}}
	if m.Status, err = confinement(proc); err != nil {
		return nil, nil, err
	}
	hosts := map[string]bool{}
	for _, x := range host {
		hosts[x.id] = true
	}
	for _, x := range mounts {
		m.Mounts[x.point] = x.flags
	}
	for _, x := range outside(mounts, host) {
		m.Outside = append(m.Outside, x.point)
		args = append(args, "--external", "mnt["+x.point+"]:"+x.point)
	}
	for fd := range m.Streams {
		name, external, err := stream(proc, fd, hosts)
		if err != nil {
			return nil, nil, err
		}
		m.Streams[fd] = name
		if external {
			args = append(args, "--external", name)
		}
	}
	if spec.Linux != nil {
		for _, n := range spec.Linux.Namespaces {
			file, key, typ := nsFile(n)
			if key == "" {
				continue
			}
			var st unix.Stat_t
			if err := unix.Stat(proc+"/ns/"+file, &st); err != nil {
				return nil, nil, &os.PathError{Op: "stat", Path: proc + "/ns/" + file, Err: err}
			}
			args = append(args, "--external", typ+"["+strconv.FormatUint(st.Ino, 10)+"]:"+key)
		}
	}
	for _, s := range []struct {
		set  bool
		flag string
	}{
		{o.LeaveRunning, "--leave-running"},
		{o.PreDump, "--track-mem"},
		{o.SkipInFlight, "--skip-in-flight"},
		{o.LinkRemap, "--link-remap"},
	} {
		if s.set {
			args = append(args, s.flag)
		}
	}
	if o.Parent != "" {
		args = append(args, "--prev-images-dir", o.Parent, "--track-mem")
	}
	if o.PageServer != "" {
		host, port, err := net.SplitHostPort(o.PageServer)
		if err != nil || host == "" {
			return nil, nil, fmt.Errorf("page server %q: want ADDRESS:PORT", o.PageServer)
		}
		args = append(args, "--page-server", "--address", host, "--port", port)
	}
	if o.StatusFD >= 0 {
		args = append(args, "--status-fd", "3")
	}
	return args, m, nil
}

// nsFile is the file of a namespace in /proc/PID/ns and criu's names of it, if
// the container has joined it and criu can leave it alone.
func nsFile(n specs.LinuxNamespace) (file, key, typ string) {
	switch {
	case n.Path == "":
	case n.Type == specs.NetworkNamespace:
		return "net", keyNet, "net"
	case n.Type == specs.PIDNamespace:
		return "pid", keyPID, "pid"
	}
	return "", "", ""
}

// stream is criu's name of a standard stream that must come from outside when
// the container is restored: the other end of a pipe or socket, a file on a
// mount of the host. external: criu must be told when it dumps.
func stream(proc string, fd int, hosts map[string]bool) (name string, external bool, err error) {
	path := proc + "/fd/" + strconv.Itoa(fd)
	target, err := os.Readlink(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", false, nil // closed
	}
	if err != nil {
		return "", false, err
	}
	if strings.HasPrefix(target, "pipe:") || strings.HasPrefix(target, "socket:") {
		return target, false, nil
	}
	info, err := os.ReadFile(proc + "/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return "", false, err
	}
	id := ""
	for line := range strings.Lines(string(info)) {
		if v, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			id = strings.TrimSpace(v)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", false, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	n, err := strconv.ParseUint(id, 10, 32)
	if err != nil || !hosts[id] { // of the container, or of no mount at all, such as a memfd
		return "", false, err
	}
	return fmt.Sprintf("file[%x:%x]", n, st.Ino), true, nil
}
