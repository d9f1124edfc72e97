package node

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// refusal is why this node will never run a pod: the pod fails. It is an error, and
// part of a pod's record.
type refusal struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

func (r *refusal) Error() string { return r.Message }

// forbidden refuses a pod for what it wants of the kernel, in the words of a kubelet.
func forbidden(format string, args ...any) *refusal {
	return &refusal{"SysctlForbidden", "forbidden sysctl: " + fmt.Sprintf(format, args...)}
}

// sysctlsOf are those of a pod's namespaces: what it says, and what makes a
// container's own network useful to its users.
func sysctlsOf(pod *corev1.Pod) map[string]string {
	m := map[string]string{}
	if !pod.Spec.HostNetwork {
		m["net.ipv4.ip_unprivileged_port_start"] = "0"
		m["net.ipv4.ping_group_range"] = "0 2147483647"
	}
	if sc := pod.Spec.SecurityContext; sc != nil {
		for _, s := range sc.Sysctls {
			m[sysctlName(s.Name)] = s.Value
		}
	}
	return m
}

// sysctlName is the name of a parameter with dots between its parts. It may be
// written with slashes, and then a dot is part of a part.
func sysctlName(name string) string {
	if i := strings.IndexAny(name, "./"); i < 0 || name[i] == '.' {
		return name
	}
	return swapSeparators(name)
}

func swapSeparators(name string) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, name)
}

// checkSysctls refuses parameters that are not of the pod's own namespaces: they
// are the host's.
func checkSysctls(pod *corev1.Pod) error {
	sc := pod.Spec.SecurityContext
	if sc == nil {
		return nil
	}
	for _, s := range sc.Sysctls {
		name := sysctlName(s.Name)
		net := strings.HasPrefix(name, "net.")
		ipc := strings.HasPrefix(name, "kernel.shm") || strings.HasPrefix(name, "kernel.msg") || name == "kernel.sem" || strings.HasPrefix(name, "fs.mqueue.")
		// The path must not lead elsewhere than its beginning says.
		odd := slices.ContainsFunc(strings.Split(swapSeparators(name), "/"), func(part string) bool { return part == "" || part == "." || part == ".." })
		switch {
		case odd || !net && !ipc:
			return forbidden("%q not allowlisted", s.Name)
		case net && pod.Spec.HostNetwork:
			return forbidden("%q not allowed with host net enabled", s.Name)
		case ipc && pod.Spec.HostIPC:
			return forbidden("%q not allowed with host ipc enabled", s.Name)
		}
	}
	return nil
}

// sysctlError is a parameter that cannot be set.
type sysctlError struct {
	name, value string
	err         error
}

func (e *sysctlError) Error() string {
	return fmt.Sprintf("sysctl %s: set it to %q: %v", e.name, e.value, e.err)
}
func (e *sysctlError) Unwrap() error { return e.err }

// setSysctls sets parameters of the namespaces that this thread is in.
func setSysctls(sysctls map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(sysctls)) {
		if err := linux.WriteFileAt(unix.AT_FDCWD, "/proc/sys/"+swapSeparators(name), sysctls[name]); err != nil {
			return &sysctlError{name, sysctls[name], err}
		}
	}
	return nil
}

// refusedSysctl makes a refusal of an error that will come each time: the pod asks for
// what this kernel does not have, or not for each namespace. Another value may be
// possible later, so one that is wrong is tried again.
func refusedSysctl(pod *corev1.Pod, err error) error {
	var e *sysctlError
	if !errors.As(err, &e) || pod.Spec.SecurityContext == nil {
		return err
	}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		if sysctlName(s.Name) != e.name {
			continue
		}
		switch {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EISDIR):
			return forbidden("%q is not known to this kernel", s.Name)
		case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
			return forbidden("%q is not of a pod's namespaces", s.Name)
		}
	}
	return err
}
