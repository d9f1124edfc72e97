package node

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/internal/linux"
	inetip "github.com/minirun/minirun/internal/netip"
	"github.com/minirun/minirun/internal/rtnetlink"
	"github.com/minirun/minirun/internal/safepath"
	"github.com/minirun/minirun/network"
	netstore "github.com/minirun/minirun/network/store"
)

// pinned are the namespaces that the containers of a pod share, by the names that
// they have in its directory.
type pinned struct {
	name string
	flag int
}

// namespacesOf are those of a pod; the others are the host's.
func namespacesOf(s *corev1.PodSpec) (list []pinned) {
	if ownUsers(s) {
		list = append(list, pinned{userNamespace, unix.CLONE_NEWUSER})
	}
	if !s.HostNetwork {
		list = append(list, pinned{"net", unix.CLONE_NEWNET}, pinned{"uts", unix.CLONE_NEWUTS})
	}
	if !s.HostIPC {
		list = append(list, pinned{"ipc", unix.CLONE_NEWIPC})
	}
	return list
}

// makeSandbox makes what the containers of a pod share, in place of what there is
// of an earlier one.
func (w *worker) makeSandbox(pod *corev1.Pod) (err error) {
	defer func(began time.Time) {
		w.n.log.Debug("sandbox", "pod", w.String(), "took", time.Since(began), "error", err)
	}(time.Now())
	if err := w.dropNamespaces(); err != nil {
		return err
	}
	r := w.rec
	r.Sandbox++
	r.Boot, r.Ready, r.IPs, r.Initialized = w.n.boot, false, nil, 0
	if err := r.write(w.dir); err != nil {
		return err
	}
	w.n.point("sandbox-recorded")
	for _, d := range []string{nsDir, filesDir, volumesDir, messagesDir, shmDir} {
		if err := os.MkdirAll(filepath.Join(w.dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := w.makeCgroup(pod); err != nil {
		return err
	}
	w.n.point("sandbox-cgroup")
	list := namespacesOf(&pod.Spec)
	ids, err := w.idsOf(pod)
	if err != nil {
		return err
	}
	if err := makeNamespaces(filepath.Join(w.dir, nsDir), list, ids, hostname(pod), sysctlsOf(pod)); err != nil {
		return refusedSysctl(pod, err)
	}
	if sharesProcesses(&pod.Spec) {
		if err := w.startPause(pod); err != nil {
			return err
		}
	}
	w.n.point("sandbox-namespaces")
	ips, err := w.connect(pod)
	if err != nil {
		return err
	}
	w.n.point("sandbox-connected")
	if err := w.writeFiles(pod, ips); err != nil {
		return err
	}
	if !pod.Spec.HostIPC {
		if err := mountTmpfs(filepath.Join(w.dir, shmDir), "mode=1777,size=65536k"); err != nil {
			return err
		}
	}
	if err := w.setUpVolumes(pod); err != nil {
		return err
	}
	w.n.point("sandbox-volumes")
	r.Ready, r.IPs = true, nil
	for _, ip := range ips {
		r.IPs = append(r.IPs, ip.String())
	}
	return r.write(w.dir)
}

// sandboxUp tells whether the sandbox that is recorded is there.
func (w *worker) sandboxUp(pod *corev1.Pod) bool {
	if !w.rec.Ready || w.rec.Boot != w.n.boot {
		return false
	}
	for _, p := range namespacesOf(&pod.Spec) {
		if !isNamespace(filepath.Join(w.dir, nsDir, p.name)) {
			return false
		}
	}
	return !sharesProcesses(&pod.Spec) || w.pauseUp()
}

// nsfsMagic is the type of the file system that namespaces are in; statfs(2).
const nsfsMagic = 0x6e736673

func isNamespace(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && int64(st.Type) == nsfsMagic
}

// makeNamespaces makes new namespaces and pins them by mounting them at their
// names in dir. Nobody is in them when it returns. With ids, they belong to a user
// namespace that has these.
func makeNamespaces(dir string, list []pinned, ids []specs.LinuxIDMapping, host string, sysctls map[string]string) error {
	if len(list) == 0 {
		return nil
	}
	if ids != nil {
		if err := makeUserNamespaces(dir, list, ids); err != nil {
			return err
		}
	}
	done := make(chan error, 1)
	var on func()
	on = func() {
		goruntime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if unix.Gettid() == os.Getpid() {
			// The first thread stays, and /proc/self with it: let another one do it.
			again := make(chan struct{})
			go func() { on(); close(again) }()
			<-again
			goruntime.UnlockOSThread()
			return
		}
		done <- inNamespaces(dir, list, ids != nil, host, sysctls)
	}
	go on()
	return <-done
}

func inNamespaces(dir string, list []pinned, made bool, host string, sysctls map[string]string) error {
	flags := 0
	for _, p := range list {
		flags |= p.flag
	}
	if made {
		if err := joinThread(dir, list); err != nil {
			return err
		}
	} else if err := unix.Unshare(flags); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if flags&unix.CLONE_NEWUTS != 0 {
		if err := unix.Sethostname([]byte(host)); err != nil {
			return fmt.Errorf("set hostname %q: %w", host, err)
		}
	}
	if flags&unix.CLONE_NEWNET != 0 {
		c, err := rtnetlink.Dial()
		if err != nil {
			return err
		}
		err = c.Up(1) // lo
		c.Close()
		if err != nil {
			return fmt.Errorf("set lo up: %w", err)
		}
	}
	if err := setSysctls(sysctls); err != nil {
		return err
	}
	for _, p := range list {
		if made {
			break
		}
		at := filepath.Join(dir, p.name)
		f, err := os.OpenFile(at, os.O_CREATE|os.O_RDONLY, 0o400)
		if err != nil {
			return err
		}
		f.Close()
		from := "/proc/self/task/" + strconv.Itoa(unix.Gettid()) + "/ns/" + p.name
		if err := unix.Mount(from, at, "", unix.MS_BIND, ""); err != nil {
			return &os.PathError{Op: "mount namespace at", Path: at, Err: err}
		}
	}
	return nil
}

// connect attaches the pod to its network. Its key is in the directory of the pod
// before anything has it.
func (w *worker) connect(pod *corev1.Pod) ([]netip.Addr, error) {
	if pod.Spec.HostNetwork {
		return w.n.hostIPs, nil
	}
	key := string(w.uid) + "." + container.RandomID()
	if err := os.Symlink(key, filepath.Join(w.dir, networkLink)); err != nil {
		return nil, err
	}
	q := &network.Request{Networks: []string{w.n.o.Network}, Files: network.Files{Hostname: hostname(pod)}}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			for _, p := range list[i].Ports {
				if p.HostPort == 0 {
					continue
				}
				port := netstore.Port{Host: uint16(p.HostPort), Container: uint16(p.ContainerPort), Count: 1, Protocol: strings.ToLower(string(p.Protocol))}
				if port.Protocol == "" {
					port.Protocol = "tcp"
				}
				if p.HostIP != "" && p.HostIP != "0.0.0.0" && p.HostIP != "::" {
					ip, err := inetip.ParseAddr(p.HostIP)
					if err != nil {
						return nil, fmt.Errorf("hostIP %q: %w", p.HostIP, err)
					}
					port.IP = ip
				}
				q.Ports = append(q.Ports, port)
			}
		}
	}
	h := container.Networks(w.n.o.Images)
	h.Warn = func(text string) { w.n.log.Warn(text) }
	a, err := h.Reserve(key, string(w.uid), w.n.podsDir, q)
	if err != nil {
		return nil, err
	}
	fd, err := linux.OpenAt(unix.AT_FDCWD, filepath.Join(w.dir, nsDir, "net"), unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer linux.Close(fd)
	if err := a.Connect(fd); err != nil {
		return nil, err
	}
	var ips []netip.Addr
	for _, have := range a.Record().Endpoints[0].Addresses {
		if ip, ok := netip.AddrFromSlice(have.AsSlice()); ok {
			ips = append(ips, ip)
		}
	}
	return ips, nil
}

// disconnect gives back what the pod has of networks.
func (w *worker) disconnect() error {
	link := filepath.Join(w.dir, networkLink)
	key, err := os.Readlink(link)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := container.Networks(w.n.o.Images).Detach(key); err != nil {
		return err
	}
	return os.Remove(link)
}

// dropNamespaces takes the namespaces of a sandbox back, and its addresses.
func (w *worker) dropNamespaces() error {
	if err := w.disconnect(); err != nil {
		return err
	}
	if err := w.endPause(); err != nil {
		return err
	}
	for _, name := range []string{"net", "uts", "ipc", userNamespace} {
		if err := unmount(filepath.Join(w.dir, nsDir, name)); err != nil {
			return err
		}
	}
	return nil
}

// unmount removes all mounts at a path.
func unmount(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch err {
		case nil:
		case unix.EINVAL, unix.ENOENT:
			return nil
		default:
			return &os.PathError{Op: "unmount", Path: path, Err: err}
		}
	}
}

// releaseSandbox takes back everything that the pod has beside its containers, but
// its directory and what the containers wrote.
func (w *worker) releaseSandbox() error {
	w.rec.Ready = false
	if err := w.rec.writeIfRoom(w.dir); err != nil {
		return err
	}
	if err := w.dropNamespaces(); err != nil {
		return err
	}
	return errors.Join(w.tearDownVolumes(), unmount(filepath.Join(w.dir, shmDir)), w.removeCgroup())
}

// removeDir removes the directory of a pod. It may be called for one that we know
// nothing about.
func (n *Node) removeDir(uid string) error {
	dir, err := linux.OpenAt(unix.AT_FDCWD, n.podsDir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer linux.Close(dir)
	// The record goes last: with it we would forget what there is.
	at, err := linux.OpenAt(dir, uid, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(at), uid)
	names, err := f.Readdirnames(-1)
	for _, name := range names {
		if name != recordFile {
			err = errors.Join(err, safepath.RemoveAllAt(at, name))
		}
	}
	f.Close()
	if err != nil {
		return fmt.Errorf("directory of pod %s: %w", uid, err)
	}
	return safepath.RemoveAllAt(dir, uid)
}

func mountTmpfs(path, options string) error {
	if isMounted(path, tmpfsMagic) {
		return nil
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return &os.PathError{Op: "mount tmpfs at", Path: path, Err: err}
	}
	return nil
}

const tmpfsMagic = 0x01021994

// isMounted tells whether a file system of that type is mounted at path.
func isMounted(path string, magic int64) bool {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) != nil || int64(st.Type) != magic {
		return false
	}
	var here, above unix.Stat_t
	return unix.Lstat(path, &here) == nil && unix.Lstat(filepath.Dir(path), &above) == nil && here.Dev != above.Dev
}
