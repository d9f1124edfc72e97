package controller

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/minirun/minirun/orchestrate/claims"
	"github.com/minirun/minirun/orchestrate/store"
)

const (
	volumeKind = "persistentvolumes"
	classKind  = "storageclasses.storage.k8s.io"
)

// going begins the names of directories that are being removed.
const going = ".removed-"

// ensureClass makes the class that claims have by default, once: who deletes it
// does not want it until the next start.
func (c *Controller) ensureClass() error {
	if c.volumes == "" {
		return nil
	}
	_, err := c.s.Create(classKind, claims.Class())
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// volumePath is where a volume is; "" if there is no place for volumes.
func (c *Controller) volumePath(name string) string {
	if c.volumes == "" {
		return ""
	}
	return filepath.Join(c.volumes, name)
}

// claim syncs one.
func (c *Controller) volumeClaim(ref store.Ref) error {
	obj, err := c.s.Get(claimKind, ref.Namespace, ref.Name)
	if err != nil {
		return err
	}
	claim := obj.(*corev1.PersistentVolumeClaim)
	state := claims.State{Claim: claim, Path: c.volumePath}
	if state.Classes, err = list[*storagev1.StorageClass](c.s, classKind, ""); err != nil {
		return err
	}
	if state.Volumes, err = list[*corev1.PersistentVolume](c.s, volumeKind, ""); err != nil {
		return err
	}
	all, err := list[*corev1.Pod](c.s, pods, ref.Namespace)
	if err != nil {
		return err
	}
	for _, p := range all {
		// A pod that has no node yet waits until a claim that is being deleted has gone.
		waits := claim.DeletionTimestamp != nil && p.Spec.NodeName == ""
		state.Used = state.Used || claims.Uses(p, claim.Name) && !waits
	}
	plan := claims.Claim(state)
	if v := plan.Create; v != nil {
		if err := c.makeVolume(v.Name); err != nil {
			return fmt.Errorf("make volume for claim %q: %w", claim.Name, err)
		}
		if _, err := c.s.Create(volumeKind, v); err != nil {
			return err
		}
	}
	if plan.Bind != nil {
		if _, err := c.s.Update(volumeKind, plan.Bind, store.Main); err != nil {
			return err
		}
	}
	if plan.Claim != nil {
		if obj, err = c.s.Update(claimKind, plan.Claim, store.Main); err != nil {
			return err
		}
		if _, err := c.s.Get(claimKind, ref.Namespace, ref.Name); err != nil {
			return nil // that was the last finalizer
		}
	}
	n := obj.DeepCopyObject().(*corev1.PersistentVolumeClaim)
	n.Status = plan.Status
	if _, err := c.s.Update(claimKind, n, store.Status); err != nil {
		return err
	}
	for _, e := range plan.Events {
		c.record(claim, "PersistentVolumeClaim", e)
	}
	return nil
}

// volume syncs one.
func (c *Controller) volume(ref store.Ref) error {
	obj, err := c.s.Get(volumeKind, "", ref.Name)
	if err != nil {
		return err
	}
	v := obj.(*corev1.PersistentVolume)
	var claim *corev1.PersistentVolumeClaim
	if r := v.Spec.ClaimRef; r != nil {
		if o, err := c.s.Get(claimKind, r.Namespace, r.Name); err == nil {
			claim = o.(*corev1.PersistentVolumeClaim)
		}
	}
	plan := claims.Volume(v, claim)
	if plan.Erase {
		if err := c.eraseVolume(v); err != nil {
			return fmt.Errorf("remove volume %q: %w", v.Name, err)
		}
	}
	if plan.Volume != nil {
		if obj, err = c.s.Update(volumeKind, plan.Volume, store.Main); err != nil {
			return err
		}
		if v.DeletionTimestamp != nil {
			return nil
		}
	}
	if plan.Erase {
		_, err := c.s.Delete(volumeKind, "", v.Name, store.DeleteOptions{UID: v.UID})
		return err
	}
	n := obj.DeepCopyObject().(*corev1.PersistentVolume)
	n.Status = plan.Status
	if _, err = c.s.Update(volumeKind, n, store.Status); err != nil {
		return err
	}
	for _, e := range plan.Events {
		c.record(v, "PersistentVolume", e)
	}
	return nil
}

// claimsOf has those claims looked at that name a volume, or wait for one.
func (c *Controller) claimsOf(v *corev1.PersistentVolume) {
	if r := v.Spec.ClaimRef; r != nil {
		c.add(store.Ref{Kind: claimKind, Namespace: r.Namespace, Name: r.Name})
		return
	}
	c.all(claimKind)
}

// makeVolume makes the directory of a volume. Anybody may write into it, as the
// users of containers are anybody; the directory above is for root alone.
func (c *Controller) makeVolume(name string) error {
	if err := os.MkdirAll(c.volumes, 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(c.volumePath(name), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.Chmod(c.volumePath(name), 0o777) // whatever the umask is
}

// eraseVolume removes the directory of a volume: at once from its place, and what
// is in it while others are looked after.
func (c *Controller) eraseVolume(v *corev1.PersistentVolume) error {
	if v.Spec.HostPath == nil || c.volumes == "" || v.Spec.HostPath.Path != c.volumePath(v.Name) || v.Name != filepath.Base(v.Name) || strings.HasPrefix(v.Name, ".") {
		return fmt.Errorf("its path is not below %q: remove it by hand, then the finalizer %s", c.volumes, claims.VolumeFinalizer)
	}
	err := os.Rename(c.volumePath(v.Name), c.volumePath(going+v.Name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	go c.sweep()
	return nil
}

// sweep removes what was left to be removed. What is in it was written by
// containers: nothing of it is followed.
func (c *Controller) sweep() {
	if !c.sweeping.TryLock() {
		return // whoever does it looks again
	}
	defer c.sweeping.Unlock()
	for again := true; again; {
		again = false
		entries, err := os.ReadDir(c.volumes)
		if err != nil {
			return
		}
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), going) {
				continue
			}
			if err := os.RemoveAll(filepath.Join(c.volumes, e.Name())); err != nil {
				c.log.Warn("a removed volume stays on the disk", "directory", filepath.Join(c.volumes, e.Name()), "error", err)
				continue
			}
			again = true
		}
	}
}
