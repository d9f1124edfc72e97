package node

import (
	"os"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/minirun/minirun/internal/linux"
)

// Ephemeral containers (kubectl debug) come to a pod that is there already, run once,
// and count for nothing: not for its phase, its readiness, its resources. They begin
// when they are added, also when init containers do not come to their end, and end with
// the pod.

// asContainer is an ephemeral container as any other: the types have the same fields.
func asContainer(e *corev1.EphemeralContainer) *corev1.Container {
	return (*corev1.Container)(&e.EphemeralContainerCommon)
}

// everyContainer are the containers of a pod: init containers, the others, ephemeral
// ones.
func everyContainer(s *corev1.PodSpec) []*corev1.Container {
	var out []*corev1.Container
	for i := range s.InitContainers {
		out = append(out, &s.InitContainers[i])
	}
	for i := range s.Containers {
		out = append(out, &s.Containers[i])
	}
	for i := range s.EphemeralContainers {
		out = append(out, asContainer(&s.EphemeralContainers[i]))
	}
	return out
}

// everyStatus are the statuses of a pod's containers.
func everyStatus(s *corev1.PodStatus) []*corev1.ContainerStatus {
	var out []*corev1.ContainerStatus
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			out = append(out, &list[i])
		}
	}
	return out
}

// findEphemeral is an ephemeral container of a pod; nil if it has none of that name.
func findEphemeral(s *corev1.PodSpec, name string) *corev1.EphemeralContainer {
	for i := range s.EphemeralContainers {
		if s.EphemeralContainers[i].Name == name {
			return &s.EphemeralContainers[i]
		}
	}
	return nil
}

// keepOnce starts an ephemeral container if it never was.
func (d *decision) keepOnce(v *view, b *box) {
	switch a := b.Last; {
	case a == nil:
		d.launch(v, b)
	case a.Running && a.Sandbox != v.Sandbox:
		d.stop(b, "Pod sandbox changed, it will be killed.")
	}
}

// targetNamespace pins the process namespace of the container that an ephemeral one is
// to look into, until that has it. Empty: there is none.
func (w *worker) targetNamespace(pod *corev1.Pod, b *box) (at string, err error) {
	e := findEphemeral(&pod.Spec, b.Spec.Name)
	if b.Kind != ephemeral || e == nil || e.TargetContainerName == "" || pod.Spec.HostPID || sharesProcesses(&pod.Spec) {
		return "", nil
	}
	fd, err := w.openProcesses(e.TargetContainerName)
	if err != nil {
		return "", err
	}
	defer linux.Close(fd)
	return w.pinSubPath(b, fd)
}

// openProcesses opens the process namespace of a container that runs.
func (w *worker) openProcesses(name string) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.boxes[name]
	if l == nil || l.last == nil || !l.last.Running || l.c == nil {
		return -1, badConfig("unable to find target container %q: it does not run", name)
	}
	fd, err := linux.OpenAt(unix.AT_FDCWD, "/proc/"+strconv.Itoa(l.c.Pid)+"/ns/pid", unix.O_RDONLY, 0)
	if pidfdEnded(l.init) { // then the number may be another process's by now
		if err == nil {
			linux.Close(fd)
		}
		return -1, badConfig("unable to find target container %q: it has ended", name)
	}
	if err != nil {
		return -1, &os.PathError{Op: "open process namespace of container", Path: name, Err: err}
	}
	return fd, nil
}

// joinProcesses has a container be in a process namespace.
func joinProcesses(s *specs.Spec, at string) {
	for i := range s.Linux.Namespaces {
		if n := &s.Linux.Namespaces[i]; n.Type == specs.PIDNamespace {
			n.Path = at
			return
		}
	}
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: at})
}
