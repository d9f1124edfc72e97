package node

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/cgroups"
	"github.com/minirun/minirun/internal/linux"
)

// checkBoxes looks at the containers of a pod that run: whether their first process is
// stopped, and whether they are in their groups still.
func (w *worker) checkBoxes(pod *corev1.Pod, drift func(string, ...any)) {
	if g := cgroups.Open(w.n.cgroupMount, w.cgroupPath()); !g.Exists() {
		if err := w.makeCgroup(pod); err != nil {
			drift("the pod's cgroup %s was gone, and cannot be made anew: %v", w.cgroupPath(), err)
			return
		}
		drift("the pod's cgroup %s was gone; it is made anew", w.cgroupPath())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, l := range w.boxes {
		if l.last == nil || !l.last.Running || l.c == nil || l.stopping || l.doomed != "" || pidfdEnded(l.init) {
			continue
		}
		pid := l.c.Pid
		// The first process of a namespace of its own is stopped by nobody inside.
		if !pod.Spec.HostPID && !sharesProcesses(&pod.Spec) && l.c.Own&unix.CLONE_NEWPID != 0 && stopped(pid) {
			if err := unix.PidfdSendSignal(l.init, unix.SIGCONT, nil, 0); err == nil {
				drift("process %d of container %s was stopped; it goes on", pid, name)
			}
		}
		at, ok := cgroupOf(pid)
		switch {
		case !ok || !w.n.seesGroups || below(at, l.c.Cgroup):
		case pod.Spec.RestartPolicy == corev1.RestartPolicyNever || findEphemeral(&pod.Spec, name) != nil:
			drift("container %s is in cgroup %s, not in %s: its limits do not hold; it is not ended, since it is not started again", name, at, l.c.Cgroup)
		default:
			l.doomed = fmt.Sprintf("Container %s is not in its cgroup any more, it will be restarted", name)
			drift("container %s was in cgroup %s, not in %s; it is started again", name, at, l.c.Cgroup)
		}
	}
}

// stopped tells whether a process was stopped by a signal; by a debugger is something
// else.
func stopped(pid int) bool {
	raw, err := linux.ReadFile("/proc/"+strconv.Itoa(pid)+"/stat", 4096)
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(raw[strings.LastIndexByte(string(raw), ')')+1:]), " ")
	return strings.HasPrefix(after, "T")
}

// cgroupOf is the group of a process in cgroup v2, if this process can see it.
func cgroupOf(pid int) (string, bool) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return "", false
	}
	for line := range strings.Lines(string(raw)) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return path, !strings.HasPrefix(path, "/..")
		}
	}
	return "", false
}

// seesGroups tells whether the paths of groups in /proc are those below mount: not
// where the one is of another cgroup namespace than the other.
func seesGroups(mount string) bool {
	path, ok := cgroupOf(os.Getpid())
	if !ok {
		return false
	}
	text, err := cgroups.Open(mount, path).Read("cgroup.procs")
	return err == nil && slices.Contains(strings.Fields(text), strconv.Itoa(os.Getpid()))
}

// below tells whether a path is that of a group or of one in it.
func below(path, group string) bool {
	return path == group || strings.HasPrefix(path, group+"/")
}
