package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/internal/linux"
)

// launchSpec is what a container of a pod becomes for package container, and what
// is done to the configuration that that makes.
type launchSpec struct {
	options container.Options
	edit    func(*specs.Spec) error
	mounts  []string // to be unmounted when the container runs
}

func (l *launchSpec) close() {
	for _, at := range l.mounts {
		_ = unmount(at) // what stays goes with the pod
		_ = os.Remove(at)
	}
}

// pinSubPath mounts what fd stands for at a place that only we can change, until
// the container has it. The init could not use the descriptor: it is of another
// mount namespace.
func (w *worker) pinSubPath(b *box, fd int) (string, error) {
	dir := filepath.Join(w.dir, subPathsDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", os.NewSyscallError("fstat", err)
	}
	for i := 0; ; i++ {
		at := filepath.Join(dir, b.Spec.Name+"_"+strconv.Itoa(i))
		var err error
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			err = unix.Mkdir(at, 0o700)
		} else {
			var f int
			if f, err = linux.OpenAt(unix.AT_FDCWD, at, unix.O_CREAT|unix.O_EXCL|unix.O_RDONLY, 0o600); err == nil {
				linux.Close(f)
			}
		}
		if errors.Is(err, unix.EEXIST) {
			continue // of another mount, or left by a process that was killed
		}
		if err != nil {
			return "", &os.PathError{Op: "make", Path: at, Err: err}
		}
		if err := unix.Mount("/proc/self/fd/"+strconv.Itoa(fd), at, "", unix.MS_BIND, ""); err != nil {
			_ = os.Remove(at)
			return "", &os.PathError{Op: "mount subPath at", Path: at, Err: err}
		}
		return at, nil
	}
}

// launchSpecOf works out how a container is to run.
func (w *worker) launchSpecOf(pod *corev1.Pod, b *box) (*launchSpec, error) {
	l := &launchSpec{}
	if err := w.fill(l, pod, b); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (w *worker) fill(l *launchSpec, pod *corev1.Pod, b *box) error {
	c := b.Spec
	err := checkUsers(&pod.Spec)
	if err == nil {
		err = checkUsersOf(&pod.Spec, c)
	}
	if err != nil {
		return err
	}
	src := w.n.sourcesFor(pod, w.rec.IPs)
	links, err := w.n.serviceVariables(pod)
	if err != nil {
		return err
	}
	env, err := environment(pod, c, src, links)
	if err != nil {
		return err
	}
	lookup := func(name string) (string, bool) {
		for _, e := range env {
			if e[0] == name {
				return e[1], true
			}
		}
		return "", false
	}
	o := &l.options
	o.Disposable = true // a restarted container begins anew, whatever ended it
	for _, e := range env {
		o.Env = append(o.Env, e[0]+"="+e[1])
	}
	o.Env = append(o.Env, "HOSTNAME="+hostname(pod))
	for _, s := range append(slices.Clone(c.Command), c.Args...) {
		o.Command = append(o.Command, expand(s, lookup))
	}
	if len(c.Command) > 0 {
		o.Entrypoint = new(string) // the image's counts for nothing
	}
	o.WorkDir, o.Terminal = c.WorkingDir, c.TTY
	o.Hostname = hostname(pod)
	if err := secure(pod, c, o); err != nil {
		return err
	}
	o.CgroupPath = w.containerCgroup(b)
	mounts, err := w.mountsOf(pod, b, l, lookup)
	if err != nil {
		return err
	}
	ids, err := w.idsOf(pod)
	if err != nil {
		return err
	}
	o.UIDMap, o.GIDMap = ids, ids
	for i := range mounts { // owners are those that the container sees
		mounts[i].UIDMappings, mounts[i].GIDMappings = ids, ids
	}
	processes, err := w.targetNamespace(pod, b)
	if err != nil {
		return err
	}
	if processes != "" {
		l.mounts = append(l.mounts, processes)
	}
	resources := w.n.resourcesOf(c)
	l.edit = func(s *specs.Spec) error {
		w.joinNamespaces(pod, s)
		if processes != "" {
			joinProcesses(s, processes)
		}
		if err := secureSpec(pod, c, s); err != nil {
			return err
		}
		s.Mounts = withMounts(s.Mounts, mounts)
		resources.Devices = s.Linux.Resources.Devices
		s.Linux.Resources = resources
		s.Process.Env = lastOf(s.Process.Env)
		adj := w.n.oomScoreOf(&pod.Spec, c)
		s.Process.OOMScoreAdj = &adj
		if s.Annotations == nil {
			s.Annotations = map[string]string{}
		}
		for k, v := range map[string]string{
			podUID: string(pod.UID), podNamespace: pod.Namespace, podName: pod.Name, podContainer: c.Name,
			podAttempt: strconv.Itoa(int(b.Next)), podSandbox: strconv.Itoa(w.rec.Sandbox), podImage: c.Image,
		} {
			s.Annotations[k] = v
		}
		return nil
	}
	return nil
}

// joinNamespaces has the container share what the containers of its pod share.
func (w *worker) joinNamespaces(pod *corev1.Pod, s *specs.Spec) {
	list := slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		switch n.Type {
		case specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.UserNamespace:
			return true
		case specs.PIDNamespace:
			return pod.Spec.HostPID || sharesProcesses(&pod.Spec)
		}
		return false
	})
	types := map[string]specs.LinuxNamespaceType{"net": specs.NetworkNamespace, "ipc": specs.IPCNamespace, "uts": specs.UTSNamespace, userNamespace: specs.UserNamespace}
	for _, p := range namespacesOf(&pod.Spec) {
		list = append(list, specs.LinuxNamespace{Type: types[p.name], Path: filepath.Join(w.dir, nsDir, p.name)})
	}
	if sharesProcesses(&pod.Spec) {
		list = append(list, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: filepath.Join(w.dir, nsDir, pidNamespace)})
	}
	s.Linux.Namespaces = list
	s.Hostname = "" // it is the namespace's
}

// lastOf leaves of each variable the last value.
func lastOf(env []string) []string {
	at := map[string]int{}
	for i, e := range env {
		name, _, _ := strings.Cut(e, "=")
		at[name] = i
	}
	out := make([]string, 0, len(at))
	for i, e := range env {
		if name, _, _ := strings.Cut(e, "="); at[name] == i {
			out = append(out, e)
		}
	}
	return out
}

// mountsOf are the volumes and files of a container.
func (w *worker) mountsOf(pod *corev1.Pod, b *box, l *launchSpec, lookup func(string) (string, bool)) (list []specs.Mount, err error) {
	c := b.Spec
	etc := filepath.Join(w.dir, filesDir)
	rw := "rw"
	if sc := c.SecurityContext; sc != nil && optional(sc.ReadOnlyRootFilesystem) {
		rw = "ro"
	}
	for _, name := range []string{"hosts", "resolv.conf", "hostname"} {
		list = append(list, bind(filepath.Join(etc, name), "/etc/"+name, "rbind", "rprivate", rw))
	}
	if !pod.Spec.HostIPC {
		list = append(list, bind(filepath.Join(w.dir, shmDir), "/dev/shm", "rbind", "rprivate", "rw", "nosuid", "nodev", "noexec"))
	} else {
		list = append(list, bind("/dev/shm", "/dev/shm", "rbind", "rprivate", "rw", "nosuid", "nodev", "noexec"))
	}
	if len(c.VolumeDevices) > 0 {
		return nil, badConfig("volumeDevices are not supported")
	}
	for i := range c.VolumeMounts {
		m, err := w.mountOf(pod, b, &c.VolumeMounts[i], l, lookup)
		if err != nil {
			return nil, err
		}
		if m.Options[1] == "rshared" && (c.SecurityContext == nil || !optional(c.SecurityContext.Privileged)) {
			return nil, badConfig("Bidirectional mount propagation is available only to privileged containers")
		}
		list = append(list, m)
	}
	if path := c.TerminationMessagePath; path != "" {
		host := filepath.Join(w.dir, messagesDir, c.Name+"_"+strconv.Itoa(int(b.Next)))
		f, err := os.OpenFile(host, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o666)
		if err != nil {
			return nil, err
		}
		if err = f.Chmod(0o666); err != nil { // whatever the umask and the container's user are
			f.Close()
			return nil, err
		}
		f.Close()
		list = append(list, bind(host, path, "rbind", "rprivate", "rw"))
	}
	return list, nil
}

func bind(from, to string, options ...string) specs.Mount {
	return specs.Mount{Type: "bind", Source: from, Destination: to, Options: options}
}

func (w *worker) mountOf(pod *corev1.Pod, b *box, m *corev1.VolumeMount, l *launchSpec, lookup func(string) (string, bool)) (specs.Mount, error) {
	var v *corev1.Volume
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Name == m.Name {
			v = &pod.Spec.Volumes[i]
		}
	}
	if v == nil {
		return specs.Mount{}, badConfig("volume %q is not defined", m.Name)
	}
	from, err := w.volumePath(pod, v)
	if err != nil {
		return specs.Mount{}, &mountError{v.Name, err}
	}
	sub := m.SubPath
	if m.SubPathExpr != "" {
		missing := ""
		sub = expand(m.SubPathExpr, func(name string) (string, bool) {
			value, ok := lookup(name)
			if !ok {
				missing = name
			}
			return value, ok
		})
		if missing != "" {
			return specs.Mount{}, badConfig("subPathExpr of volume %q: variable %q is not set", m.Name, missing)
		}
	}
	if sub != "" {
		if filepath.IsAbs(sub) || slices.Contains(strings.Split(sub, "/"), "..") {
			return specs.Mount{}, badConfig("subPath %q of volume %q: must be a relative path without '..'", sub, m.Name)
		}
		fd, err := openSubPath(from, sub)
		if err != nil {
			return specs.Mount{}, badConfig("failed to prepare subPath for volumeMount %q of container: %v", m.Name, err)
		}
		at, err := w.pinSubPath(b, fd)
		linux.Close(fd)
		if err != nil {
			return specs.Mount{}, err
		}
		l.mounts = append(l.mounts, at)
		from = at
	}
	options := []string{"rbind", "rprivate", "rw"}
	if p := m.MountPropagation; p != nil {
		switch *p {
		case corev1.MountPropagationHostToContainer:
			options[1] = "rslave"
		case corev1.MountPropagationBidirectional:
			options[1] = "rshared"
		}
	}
	claimRO := v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ReadOnly
	if m.ReadOnly || claimRO || projectedSource(v) != nil {
		options[2] = "ro"
		if r := m.RecursiveReadOnly; r != nil && *r != corev1.RecursiveReadOnlyDisabled {
			options[2] = "rro"
		}
	}
	return bind(from, m.MountPath, options...), nil
}

// withMounts puts mounts behind those that every container has, in place of those
// at the same destination.
func withMounts(have, more []specs.Mount) []specs.Mount {
	at := map[string]bool{}
	for _, m := range more {
		at[filepath.Clean(m.Destination)] = true
	}
	out := make([]specs.Mount, 0, len(have)+len(more))
	for _, m := range have {
		if !at[filepath.Clean(m.Destination)] {
			out = append(out, m)
		}
	}
	return append(out, more...)
}

// secure turns security contexts into options.
func secure(pod *corev1.Pod, c *corev1.Container, o *container.Options) error {
	psc, csc := pod.Spec.SecurityContext, c.SecurityContext
	if psc == nil {
		psc = &corev1.PodSecurityContext{}
	}
	if csc == nil {
		csc = &corev1.SecurityContext{}
	}
	uid, gid := psc.RunAsUser, psc.RunAsGroup
	if csc.RunAsUser != nil {
		uid = csc.RunAsUser
	}
	if csc.RunAsGroup != nil {
		gid = csc.RunAsGroup
	}
	switch {
	case uid != nil && gid != nil:
		o.User = fmt.Sprintf("%d:%d", *uid, *gid)
	case uid != nil:
		o.User = strconv.FormatInt(*uid, 10)
	}
	o.Privileged = optional(csc.Privileged)
	o.ReadOnly = optional(csc.ReadOnlyRootFilesystem)
	o.NoNewPrivs = csc.AllowPrivilegeEscalation != nil && !*csc.AllowPrivilegeEscalation
	if cs := csc.Capabilities; cs != nil {
		for _, n := range cs.Add {
			o.CapAdd = append(o.CapAdd, string(n))
		}
		for _, n := range cs.Drop {
			o.CapDrop = append(o.CapDrop, string(n))
		}
	}
	profile := psc.SeccompProfile
	if csc.SeccompProfile != nil {
		profile = csc.SeccompProfile
	}
	if profile != nil {
		switch profile.Type {
		case corev1.SeccompProfileTypeUnconfined:
			o.Seccomp = "unconfined"
		case corev1.SeccompProfileTypeLocalhost:
			if profile.LocalhostProfile == nil || strings.Contains("/"+*profile.LocalhostProfile+"/", "/../") {
				return badConfig("seccompProfile: localhostProfile must be a path without '..'")
			}
			o.Seccomp = filepath.Join(seccompDir, *profile.LocalhostProfile)
		}
	}
	return nil
}

// seccompDir is where profiles of type Localhost are.
const seccompDir = "/etc/minirun/seccomp"

// secureSpec does what options have no words for.
func secureSpec(pod *corev1.Pod, c *corev1.Container, s *specs.Spec) error {
	psc, csc := pod.Spec.SecurityContext, c.SecurityContext
	if psc == nil {
		psc = &corev1.PodSecurityContext{}
	}
	if csc == nil {
		csc = &corev1.SecurityContext{}
	}
	u := &s.Process.User
	if psc.RunAsUser == nil && csc.RunAsUser == nil { // a group alone
		gid := psc.RunAsGroup
		if csc.RunAsGroup != nil {
			gid = csc.RunAsGroup
		}
		if gid != nil {
			u.GID = uint32(*gid)
		}
	}
	groups := []uint32{u.GID}
	if p := psc.SupplementalGroupsPolicy; p == nil || *p == corev1.SupplementalGroupsPolicyMerge {
		groups = append(groups, u.AdditionalGids...)
	}
	for _, g := range psc.SupplementalGroups {
		groups = append(groups, uint32(g))
	}
	if psc.FSGroup != nil {
		groups = append(groups, uint32(*psc.FSGroup))
	}
	u.AdditionalGids = nil
	for _, g := range groups {
		if !slices.Contains(u.AdditionalGids, g) {
			u.AdditionalGids = append(u.AdditionalGids, g)
		}
	}
	nonRoot := psc.RunAsNonRoot
	if csc.RunAsNonRoot != nil {
		nonRoot = csc.RunAsNonRoot
	}
	if optional(nonRoot) && u.UID == 0 {
		if csc.RunAsUser != nil || psc.RunAsUser != nil {
			return badConfig("container's runAsUser breaks non-root policy (pod: %q, container: %s)", pod.Name+"_"+pod.Namespace+"("+string(pod.UID)+")", c.Name)
		}
		return badConfig("container has runAsNonRoot and image will run as root (pod: %q, container: %s)", pod.Name+"_"+pod.Namespace+"("+string(pod.UID)+")", c.Name)
	}
	if p := csc.ProcMount; p != nil && *p == corev1.UnmaskedProcMount {
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
	}
	armor := psc.AppArmorProfile
	if csc.AppArmorProfile != nil {
		armor = csc.AppArmorProfile
	}
	if armor != nil && armor.Type == corev1.AppArmorProfileTypeLocalhost {
		if armor.LocalhostProfile == nil {
			return badConfig("appArmorProfile: localhostProfile is missing")
		}
		s.Process.ApparmorProfile = *armor.LocalhostProfile
	}
	label := psc.SELinuxOptions
	if csc.SELinuxOptions != nil {
		label = csc.SELinuxOptions
	}
	if label != nil {
		return badConfig("seLinuxOptions are not supported")
	}
	if csc.WindowsOptions != nil || psc.WindowsOptions != nil {
		return badConfig("windowsOptions are not supported")
	}
	return nil
}
