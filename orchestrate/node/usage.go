package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// What containers write to a volume on disk is measured, as a kubelet does it, and
// a pod that has written more than sizeLimit is evicted: it fails, at once. A
// volume in memory needs none of this, its file system has the size.

// DefaultMeasureEvery is how often volumes with a limit are measured.
const DefaultMeasureEvery = 10 * time.Second

// measureShare: measuring takes at most one part in so many of the time.
const measureShare = 20

// measured are the volumes of a pod whose size is looked at.
func measured(s *corev1.PodSpec) (list []*corev1.Volume) {
	for i := range s.Volumes {
		e := s.Volumes[i].EmptyDir
		if e != nil && e.Medium == corev1.StorageMediumDefault && e.SizeLimit != nil && e.SizeLimit.Sign() > 0 {
			list = append(list, &s.Volumes[i])
		}
	}
	return list
}

// beginMeasuring has the volumes of the pod measured as long as it has a sandbox.
func (w *worker) beginMeasuring(pod *corev1.Pod) {
	list := measured(&pod.Spec)
	if w.measuring || len(list) == 0 || w.rec.Evicted != "" {
		return
	}
	w.measuring = true
	w.spawn(func() {
		for wait := w.n.o.MeasureEvery; pause(w.ctx, wait); {
			began := time.Now()
			for _, v := range list {
				text := w.exceeded(w.ctx, v)
				if text != "" {
					w.evict.CompareAndSwap(nil, &text)
					w.poke()
					return
				}
			}
			wait = max(w.n.o.MeasureEvery, measureShare*time.Since(began))
		}
	})
}

// exceeded tells how a volume has more than it may; empty: it has not.
func (w *worker) exceeded(ctx context.Context, v *corev1.Volume) string {
	limit := v.EmptyDir.SizeLimit
	used, err := diskUsage(ctx, filepath.Join(w.dir, volumesDir, v.Name), limit.Value())
	switch {
	case errors.Is(err, errDeep):
		return fmt.Sprintf("Usage of EmptyDir volume %q cannot be measured: %v", v.Name, err)
	case err != nil:
		if ctx.Err() == nil && !errors.Is(err, unix.ENOENT) {
			w.n.log.Warn("measure a volume", "pod", w.String(), "volume", v.Name, "error", err)
		}
		return ""
	case used > limit.Value():
		return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, limit.String())
	}
	return ""
}

// noteEviction records that the pod is evicted, so that it stays so.
func (w *worker) noteEviction(pod *corev1.Pod) error {
	text := w.evict.Load()
	if text == nil || w.rec.Evicted != "" {
		return nil
	}
	w.rec.Evicted = *text
	if err := w.rec.write(w.dir); err != nil {
		w.rec.Evicted = ""
		return err
	}
	w.warning(pod, nil, "Evicted", "%s", *text)
	return nil
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
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
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
	if err := u.add(&st); err != nil {
		return err
	}
	for {
		names, err := f.Readdirnames(1024)
		if errors.Is(err, io.EOF) {
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
