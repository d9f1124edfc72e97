package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/safepath"
	"github.com/minirun/minirun/runtime"
)

// What containers write to disk is measured, as a kubelet does it, and a pod that has
// written more than its limits allow is evicted: it fails, at once. A volume in memory
// needs none of this, its file system has the size.

// DefaultMeasureEvery is how often what has a limit is measured.
const DefaultMeasureEvery = 10 * time.Second

// measuredAtOnce bounds the descriptors that measuring takes: one for each level of
// directories, of which there may be maxDepth.
const measuredAtOnce = 4

// measureShare: measuring takes at most one part in so many of the time.
const measureShare = 20

// onDisk tells whether a volume is a directory that goes with the pod.
func onDisk(v *corev1.Volume) bool {
	return v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault
}

// storageLimit is how much a container, or a pod in all, may write; 0 if that does not
// matter.
func storageLimit(limits corev1.ResourceList) int64 {
	q := limits[corev1.ResourceEphemeralStorage]
	return q.Value()
}

func podStorageLimit(s *corev1.PodSpec) resource.Quantity {
	return podResources(s, func(r *corev1.ResourceRequirements) corev1.ResourceList { return r.Limits })[corev1.ResourceEphemeralStorage]
}

// measured tells whether anything of a pod has a limit on disk.
func measured(s *corev1.PodSpec) bool {
	for i := range s.Volumes {
		if e := s.Volumes[i].EmptyDir; onDisk(&s.Volumes[i]) && e.SizeLimit != nil && e.SizeLimit.Sign() > 0 {
			return true
		}
	}
	limit := podStorageLimit(s)
	return limit.Sign() > 0
}

// beginMeasuring has what the pod writes measured as long as it has a sandbox.
func (w *worker) beginMeasuring(pod *corev1.Pod) {
	if w.measuring || w.rec.Evicted != "" || !measured(&pod.Spec) {
		return
	}
	w.measuring = true
	w.spawn(func() {
		for wait := w.n.o.MeasureEvery; pause(w.ctx, wait); {
			select {
			case <-w.ctx.Done():
				return
			case w.n.measures <- struct{}{}:
			}
			began := time.Now()
			text := w.exceeded(w.ctx, &pod.Spec)
			<-w.n.measures
			if text != "" {
				w.evict.CompareAndSwap(nil, &text)
				w.poke()
				return
			}
			wait = max(w.n.o.MeasureEvery, measureShare*time.Since(began))
		}
	})
}

// exceeded tells how a pod has written more than it may; empty: it has not.
func (w *worker) exceeded(ctx context.Context, s *corev1.PodSpec) string {
	total := podStorageLimit(s)
	sum := int64(0)
	for _, c := range everyContainer(s) {
		limit := storageLimit(c.Resources.Limits)
		if limit == 0 && total.IsZero() {
			continue
		}
		used, err := w.writtenBy(ctx, c.Name, cmp.Or(limit, total.Value()))
		if errors.Is(err, errDeep) {
			return fmt.Sprintf("Local ephemeral storage of container %s cannot be measured: %v", c.Name, err)
		}
		if limit > 0 && used > limit {
			q := c.Resources.Limits[corev1.ResourceEphemeralStorage]
			return fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", c.Name, q.String())
		}
		sum += used
	}
	for i := range s.Volumes {
		v := &s.Volumes[i]
		if !onDisk(v) {
			continue
		}
		limit := v.EmptyDir.SizeLimit
		if (limit == nil || limit.Sign() <= 0) && total.IsZero() {
			continue
		}
		bound := total.Value()
		if limit != nil && limit.Sign() > 0 {
			bound = limit.Value()
		}
		used, err := w.usage(ctx, filepath.Join(w.dir, volumesDir, v.Name), bound)
		switch {
		case errors.Is(err, errDeep):
			return fmt.Sprintf("Usage of EmptyDir volume %q cannot be measured: %v", v.Name, err)
		case limit != nil && limit.Sign() > 0 && used > bound:
			return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, limit.String())
		}
		sum += used
	}
	if total.Sign() > 0 && sum > total.Value() {
		return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", total.String())
	}
	return ""
}

// writtenBy is what a container has written to its root and its log.
func (w *worker) writtenBy(ctx context.Context, name string, limit int64) (int64, error) {
	w.mu.Lock()
	var c *runtime.Container
	if l := w.boxes[name]; l != nil {
		c = l.c
	}
	w.mu.Unlock()
	if c == nil {
		return 0, nil
	}
	used, err := w.usage(ctx, c.Dir(), limit)
	_, key, ok := container.SnapshotOf(c)
	if err != nil || !ok {
		return used, err
	}
	layers, err := w.n.images.Layers()
	if err != nil {
		return used, nil //nolint:nilerr // looked at again soon
	}
	defer layers.Close()
	sn, err := layers.Snapshot(key)
	if err != nil {
		return used, nil //nolint:nilerr // it is gone
	}
	root, err := w.usage(ctx, sn.UpperDir(), limit)
	return used + root, err
}

// usage is diskUsage for what may go meanwhile. The only error is errDeep.
func (w *worker) usage(ctx context.Context, path string, limit int64) (int64, error) {
	used, err := diskUsage(ctx, path, limit)
	if err != nil && !errors.Is(err, errDeep) {
		if ctx.Err() == nil && !errors.Is(err, unix.ENOENT) {
			w.n.log.Warn("measure what a pod has written", "pod", w.String(), "path", path, "error", err)
		}
		err = nil
	}
	return used, err
}

// noteEviction records that the pod is evicted, so that it stays so. It is evicted also
// if that cannot be written: what it has written may have taken all the room.
func (w *worker) noteEviction(pod *corev1.Pod) {
	text := w.evict.Load()
	if text == nil || w.rec.Evicted != "" {
		return
	}
	w.rec.Evicted = *text
	if err := w.rec.write(w.dir); err != nil {
		w.n.log.Warn("record", "pod", w.String(), "error", err) // its status says it too
	}
	w.warning(pod, nil, "Evicted", "%s", *text)
}

// emptyVolumes removes what an evicted pod has in volumes that go with it. Its object
// may stay for long, and another pod may take its place and fill the disk likewise.
func (w *worker) emptyVolumes(pod *corev1.Pod) error {
	dir, err := linux.OpenAt(unix.AT_FDCWD, filepath.Join(w.dir, volumesDir), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer linux.Close(dir)
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; onDisk(v) {
			err = errors.Join(err, safepath.RemoveAllAt(dir, v.Name))
		}
	}
	return err
}

var errDeep = fmt.Errorf("directories are nested deeper than %d", maxDepth)

// diskUsage is what a directory takes on its disk, with all below it. It follows
// nothing, and counts no further than just above limit.
func diskUsage(ctx context.Context, path string, limit int64) (int64, error) {
	fd, err := linux.OpenAt(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return 0, err
	}
	u := &usage{ctx: ctx, limit: limit}
	err = u.dir(fd, 0)
	if errors.Is(err, errEnough) {
		err = nil
	}
	return u.bytes, err
}

var errEnough = errors.New("more than the limit")

type usage struct {
	ctx          context.Context //nolint:containedctx // of one walk
	bytes, limit int64
	seen         map[[2]uint64]bool // files with several names
}

func (u *usage) add(st *unix.Stat_t) error {
	// What takes no room is not remembered: there may be any number of it.
	if st.Nlink > 1 && st.Blocks > 0 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		key := [2]uint64{uint64(st.Dev), st.Ino} //nolint:unconvert // it is an int32 elsewhere
		if u.seen[key] {
			return nil
		}
		if u.seen == nil {
			u.seen = map[[2]uint64]bool{}
		}
		u.seen[key] = true
	}
	if u.bytes += st.Blocks * 512; u.bytes > u.limit {
		return errEnough
	}
	return u.ctx.Err()
}

// dir takes the descriptor of a directory, which it closes.
func (u *usage) dir(fd, depth int) error {
	f := os.NewFile(uintptr(fd), "volume")
	defer f.Close()
	if depth > maxDepth {
		return errDeep
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	// What is mounted there, by containers whose mounts propagate, is on another disk. The
	// number of the device does not tell: subvolumes, which anybody can make, have their own.
	var x unix.Statx_t
	if depth > 0 && unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_INO, &x) == nil && x.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return nil
	}
	if err := u.add(&st); err != nil {
		return err
	}
	for {
		names, err := f.Readdirnames(1024)
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ENOENT) { // or it was removed meanwhile
			return nil
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := u.entry(fd, name, depth); err != nil {
				return err
			}
		}
	}
}

func (u *usage) entry(dir int, name string, depth int) error {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return nil // it went meanwhile
	}
	if err != nil {
		return os.NewSyscallError("fstatat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return u.add(&st)
	}
	below, err := linux.OpenAt(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	switch {
	case err == nil:
		return u.dir(below, depth+1)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP): // it was replaced
		return nil
	}
	return err
}
