package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/safepath"
	"github.com/minirun/minirun/orchestrate/store"
)

// mountError is a volume that cannot be had: the event FailedMount.
type mountError struct {
	volume string
	err    error
}

func (e *mountError) Error() string {
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", e.volume, e.err)
}
func (e *mountError) Unwrap() error { return e.err }

// setUpVolumes makes what there is to be made of the pod's volumes. It converges.
func (w *worker) setUpVolumes(pod *corev1.Pod) error {
	for i := range pod.Spec.Volumes {
		if err := w.setUpVolume(pod, &pod.Spec.Volumes[i]); err != nil {
			return &mountError{pod.Spec.Volumes[i].Name, err}
		}
	}
	return nil
}

func (w *worker) setUpVolume(pod *corev1.Pod, v *corev1.Volume) error {
	at := filepath.Join(w.dir, volumesDir, v.Name)
	switch {
	case v.EmptyDir != nil:
		if err := os.MkdirAll(at, 0o777); err != nil {
			return err
		}
		if v.EmptyDir.Medium == corev1.StorageMediumMemory {
			options := "mode=1777"
			if q := v.EmptyDir.SizeLimit; q != nil && q.Value() > 0 {
				options += fmt.Sprintf(",size=%d", q.Value())
			}
			if err := mountTmpfs(at, options); err != nil {
				return err
			}
		} else if v.EmptyDir.Medium != "" {
			return fmt.Errorf("medium %q is not supported", v.EmptyDir.Medium)
		} else if err := os.Chmod(at, 0o777); err != nil { // whatever the umask is
			return err
		}
		return ownVolume(at, fsGroup(pod))
	case v.HostPath != nil:
		return checkHostPath(v.HostPath)
	case projectedSource(v) != nil:
		if err := w.secretsTmpfs(); err != nil {
			return err
		}
		return w.project(pod, v)
	case v.PersistentVolumeClaim != nil:
		path, err := w.n.claimPath(pod, v.PersistentVolumeClaim.ClaimName)
		if err != nil {
			return err
		}
		return ownVolume(path, fsGroup(pod))
	}
	return errors.New("this kind of volume is not supported")
}

// refreshVolumes brings files from objects up to date.
func (w *worker) refreshVolumes(pod *corev1.Pod) {
	if !w.up {
		return
	}
	meta := formatMap(pod.Labels) + "\x00" + formatMap(pod.Annotations)
	if !w.refresh.Swap(false) && meta == w.meta {
		return
	}
	w.meta = meta
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if projectedSource(v) == nil {
			continue
		}
		if err := w.project(pod, v); err != nil { // the old files stay
			w.n.log.Warn("volume", "pod", w.String(), "volume", v.Name, "error", err)
		}
	}
}

// volumePath is where a volume is on the host.
func (w *worker) volumePath(pod *corev1.Pod, v *corev1.Volume) (string, error) {
	switch {
	case v.HostPath != nil:
		return filepath.Clean(v.HostPath.Path), nil
	case projectedSource(v) != nil:
		return filepath.Join(w.dir, secretsDir, v.Name), nil
	case v.PersistentVolumeClaim != nil:
		return w.n.claimPath(pod, v.PersistentVolumeClaim.ClaimName)
	}
	return filepath.Join(w.dir, volumesDir, v.Name), nil
}

// tearDownVolumes unmounts what setUpVolumes has mounted. What is on disk goes
// with the directory of the pod.
func (w *worker) tearDownVolumes() error {
	err := unmount(filepath.Join(w.dir, secretsDir))
	for _, dir := range []string{subPathsDir, volumesDir} {
		entries, e := os.ReadDir(filepath.Join(w.dir, dir))
		if e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
		for _, entry := range entries {
			err = errors.Join(err, unmount(filepath.Join(w.dir, dir, entry.Name())))
		}
	}
	return err
}

func (w *worker) secretsTmpfs() error {
	at := filepath.Join(w.dir, secretsDir)
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	return mountTmpfs(at, "mode=755,size=64m")
}

func fsGroup(pod *corev1.Pod) *int64 {
	if sc := pod.Spec.SecurityContext; sc != nil {
		return sc.FSGroup
	}
	return nil
}

// ownVolume gives a volume to a group, as a kubelet does. Descriptors only: what
// is in the volume was written by containers.
func ownVolume(path string, gid *int64) error {
	if gid == nil {
		return nil
	}
	fd, err := linux.OpenAt(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		linux.Close(fd)
		return os.NewSyscallError("fstat", err)
	}
	if st.Gid == uint32(*gid) && st.Mode&unix.S_ISGID != 0 {
		linux.Close(fd)
		return nil // it was done
	}
	return ownTree(fd, int(*gid), 0)
}

const maxDepth = 512

// ownTree takes dir, a descriptor that it closes. The directory itself is last: it
// says whether all below it is done.
func ownTree(dir, gid, depth int) error {
	f := os.NewFile(uintptr(dir), "volume")
	defer f.Close()
	if depth > maxDepth {
		return fmt.Errorf("directories are nested deeper than %d", maxDepth)
	}
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		fd, err := linux.OpenAt(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		switch {
		case err == nil:
			if err := ownTree(fd, gid, depth+1); err != nil {
				return err
			}
			continue
		case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		case errors.Is(err, unix.ENOENT):
			continue
		default:
			return err
		}
		if err := ownFile(dir, name, gid); err != nil {
			return err
		}
	}
	if err := unix.Fchown(dir, -1, gid); err != nil {
		return os.NewSyscallError("fchown", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	return os.NewSyscallError("fchmod", unix.Fchmod(dir, st.Mode&0o7777|0o2770))
}

// ownFile does it for what is no directory: links are not followed, and their own
// group does not matter.
func ownFile(dir int, name string, gid int) error {
	fd, err := linux.OpenAt(dir, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil
	}
	if err := unix.Fchownat(fd, "", -1, gid, unix.AT_EMPTY_PATH); err != nil {
		return os.NewSyscallError("fchownat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	return os.NewSyscallError("chmod", unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), st.Mode&0o7777|0o660))
}

// checkHostPath makes or checks a path of the host by its type.
func checkHostPath(h *corev1.HostPathVolumeSource) error {
	if h.Type == nil || *h.Type == corev1.HostPathUnset {
		return nil // what is not there is refused when it is mounted
	}
	switch *h.Type {
	case corev1.HostPathDirectoryOrCreate:
		if err := os.MkdirAll(h.Path, 0o755); err != nil {
			return err
		}
	case corev1.HostPathFileOrCreate:
		f, err := os.OpenFile(h.Path, os.O_CREATE|os.O_RDONLY, 0o644)
		if err != nil {
			return err
		}
		f.Close()
	}
	st, err := os.Stat(h.Path)
	if err != nil {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", h.Path, wordOf(*h.Type))
	}
	ok := false
	switch m := st.Mode(); *h.Type {
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		ok = m.IsDir()
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		ok = m.IsRegular()
	case corev1.HostPathSocket:
		ok = m&fs.ModeSocket != 0
	case corev1.HostPathCharDev:
		ok = m&fs.ModeCharDevice != 0
	case corev1.HostPathBlockDev:
		ok = m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0
	}
	if !ok {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", h.Path, wordOf(*h.Type))
	}
	return nil
}

func wordOf(t corev1.HostPathType) string {
	switch t {
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		return "directory"
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		return "file"
	case corev1.HostPathSocket:
		return "socket file"
	case corev1.HostPathCharDev:
		return "character device"
	}
	return "block device"
}

// claimPath is the directory behind a claim.
func (n *Node) claimPath(pod *corev1.Pod, name string) (string, error) {
	claim, err := get[*corev1.PersistentVolumeClaim](n, "persistentvolumeclaims", pod.Namespace, name)
	if err != nil {
		return "", err
	}
	switch {
	case claim == nil:
		return "", fmt.Errorf("persistentvolumeclaim %q not found", name)
	case claim.Spec.VolumeName == "" || claim.Status.Phase != corev1.ClaimBound:
		return "", fmt.Errorf("persistentvolumeclaim %q is not bound", name)
	}
	v, err := get[*corev1.PersistentVolume](n, "persistentvolumes", "", claim.Spec.VolumeName)
	if err != nil {
		return "", err
	}
	if v == nil {
		return "", fmt.Errorf("persistentvolume %q of claim %q not found", claim.Spec.VolumeName, name)
	}
	if r := v.Spec.ClaimRef; r != nil && (r.Name != name || r.Namespace != pod.Namespace || r.UID != "" && r.UID != claim.UID) {
		return "", fmt.Errorf("persistentvolume %q belongs to another claim, %s/%s", v.Name, r.Namespace, r.Name)
	}
	switch {
	case v.Spec.Local != nil:
		return v.Spec.Local.Path, nil
	case v.Spec.HostPath != nil:
		return v.Spec.HostPath.Path, checkHostPath(v.Spec.HostPath)
	}
	return "", fmt.Errorf("persistentvolume %q is of a kind that is not supported: want local or hostPath", v.Name)
}

// get gives an object of the store, or nil.
func get[T store.Object](n *Node, kind, namespace, name string) (obj T, err error) {
	o, err := n.o.Store.Get(kind, namespace, name)
	if errors.Is(err, fs.ErrNotExist) {
		return obj, nil
	}
	if err != nil {
		return obj, err
	}
	obj, ok := o.(T)
	if !ok {
		return obj, fmt.Errorf("%s %q has an unexpected type", kind, name)
	}
	return obj, nil
}

// openSubPath opens a path below a volume, and makes it a directory if nothing is
// there. Containers write to volumes: a link on the way, or in its end, must not
// lead out of it, now or when it is mounted later (CVE-2017-1002101,
// CVE-2021-25741). So it is resolved once, beneath the volume, into a descriptor.
func openSubPath(volume, unsafePath string) (int, error) {
	root, err := linux.OpenAt(unix.AT_FDCWD, volume, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, err
	}
	defer linux.Close(root)
	open := func() (int, error) {
		how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
		for range 100 {
			fd, err := unix.Openat2(root, unsafePath, &how)
			if err != unix.EAGAIN && err != unix.EINTR {
				return fd, err
			}
		}
		return -1, unix.EAGAIN
	}
	fd, err := open()
	if err == unix.ENOENT {
		var st unix.Stat_t
		if err := unix.Fstat(root, &st); err != nil {
			return -1, os.NewSyscallError("fstat", err)
		}
		mode := st.Mode & 0o7777
		made, err := safepath.MkdirAllFunc(root, unsafePath, mode&0o777, func(_ int, _ string, dir int) error {
			return unix.Chmod("/proc/self/fd/"+strconv.Itoa(dir), mode) // whatever the umask is
		})
		if err != nil {
			return -1, fmt.Errorf("make subPath %q: %w", unsafePath, err)
		}
		linux.Close(made)
		fd, err = open()
		if err != nil {
			return -1, fmt.Errorf("open subPath %q: %w", unsafePath, err)
		}
		return fd, nil
	}
	if err != nil {
		return -1, fmt.Errorf("open subPath %q: %w", unsafePath, err)
	}
	return fd, nil
}
