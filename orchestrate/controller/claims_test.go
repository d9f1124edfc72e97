package controller

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/orchestrate/claims"
	"github.com/minirun/minirun/orchestrate/store"
)

func claimFor(name, size string) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}}
	c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
	return c
}

func consumer(name string, claim string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}
	p.Spec.Containers = []corev1.Container{{Name: "c", Image: "example/app:1"}}
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}
	return p
}

func (c *cluster) volume(name string) *corev1.PersistentVolume {
	c.t.Helper()
	obj, err := c.s.Get(volumeKind, "", name)
	if err != nil {
		c.t.Fatal(err)
	}
	return obj.(*corev1.PersistentVolume)
}

func TestClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		synctest.Wait()
		create(c, claimKind, claimFor("data", "1Gi"))
		pass(time.Second)
		data := get[*corev1.PersistentVolumeClaim](c, claimKind, "data")
		if data.Status.Phase != corev1.ClaimPending || data.Spec.StorageClassName == nil || *data.Spec.StorageClassName != claims.DefaultClass || data.Spec.VolumeName != "" {
			t.Errorf("before its first pod: %+v", data)
		}
		// Whoever binds it is replaced meanwhile.
		create(c, pods, consumer("p", "data"))
		for range 5 {
			c.stopController()
			c.startController()
		}
		pass(time.Second)
		data = get[*corev1.PersistentVolumeClaim](c, claimKind, "data")
		if data.Status.Phase != corev1.ClaimBound || data.Spec.VolumeName != "pvc-"+string(data.UID) {
			t.Fatalf("%+v", data)
		}
		v := c.volume(data.Spec.VolumeName)
		path := v.Spec.HostPath.Path
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o777 || v.Status.Phase != corev1.VolumeBound || filepath.Dir(path) != c.volumes {
			t.Errorf("%v, %+v", err, v)
		}
		if st, err := os.Stat(c.volumes); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%v, %v", err, st)
		}
		// What a container writes must not lead out when it is removed.
		outside := filepath.Join(t.TempDir(), "outside")
		os.WriteFile(outside, nil, 0o600)
		os.Symlink(filepath.Dir(outside), filepath.Join(path, "link"))
		os.MkdirAll(filepath.Join(path, "a/b"), 0o700)
		at := c.s.Revision()
		c.stopController()
		c.startController()
		pass(24 * time.Hour)
		if now := c.s.Revision(); now != at {
			t.Errorf("%d writes at rest", now-at)
		}
		// While a pod has it, it stays.
		if _, err := c.s.Delete(claimKind, "default", "data", store.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		if get[*corev1.PersistentVolumeClaim](c, claimKind, "data").DeletionTimestamp == nil {
			t.Error("it is not being deleted")
		}
		if _, err := c.s.Delete(volumeKind, "", v.Name, store.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		c.volume(v.Name)
		late := consumer("late", "data") // has no node, so the claim does not wait for it
		late.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}}
		create(c, pods, late)
		if _, err := c.s.Delete(pods, "default", "p", store.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		if _, err := c.s.Get(claimKind, "default", "data"); err == nil {
			t.Error("the claim is still there")
		}
		if l, _ := c.s.List(volumeKind, store.Selector{}, 0, ""); len(l.Items) != 0 {
			t.Errorf("%+v is still there", l.Items[0])
		}
		if left, err := os.ReadDir(c.volumes); err != nil || len(left) > 0 {
			t.Errorf("%v, %v", err, left)
		}
		if _, err := os.Stat(outside); err != nil {
			t.Error(err)
		}
	})
}

// Volumes that somebody made are found, the smallest that fits, each for one
// claim; what policy Retain keeps stays, and nothing foreign is ever erased.
func TestClaims_Static(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		synctest.Wait()
		mine := filepath.Join(t.TempDir(), "mine")
		os.Mkdir(mine, 0o700)
		for name, size := range map[string]string{"big": "10Gi", "small": "2Gi", "tiny": "1Mi"} {
			v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}}
			v.Spec.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
			v.Spec.AccessModes, v.Spec.StorageClassName = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, "manual"
			v.Spec.HostPath = &corev1.HostPathVolumeSource{Path: mine}
			if name == "big" {
				v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
			}
			create(c, volumeKind, v)
		}
		manual := "manual"
		for _, name := range []string{"one", "two", "three"} {
			cl := claimFor(name, "1Gi")
			cl.Spec.StorageClassName = &manual
			create(c, claimKind, cl)
			pass(time.Second)
		}
		for name, want := range map[string]string{"one": "small", "two": "big", "three": ""} {
			if cl := get[*corev1.PersistentVolumeClaim](c, claimKind, name); cl.Spec.VolumeName != want {
				t.Errorf("%s has %q, want %q", name, cl.Spec.VolumeName, want)
			}
		}
		for name, want := range map[string]corev1.PersistentVolumePhase{"small": corev1.VolumeBound, "big": corev1.VolumeBound, "tiny": corev1.VolumeAvailable} {
			if got := c.volume(name).Status.Phase; got != want {
				t.Errorf("%s is %s", name, got)
			}
		}
		for _, name := range []string{"one", "two"} {
			if _, err := c.s.Delete(claimKind, "default", name, store.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		pass(time.Minute)
		if small, big := c.volume("small").Status, c.volume("big").Status; small.Phase != corev1.VolumeReleased || big.Phase != corev1.VolumeFailed {
			t.Errorf("%+v, %+v", small, big)
		}
		if _, err := os.Stat(mine); err != nil {
			t.Error(err)
		}
		// A claim whose volume vanishes is lost, and says so.
		create(c, volumeKind, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "last"}, Spec: corev1.PersistentVolumeSpec{
			Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			StorageClassName: manual, PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: mine}},
		}})
		pass(time.Second)
		v := c.volume("last").DeepCopy()
		if v.Status.Phase != corev1.VolumeBound {
			t.Fatalf("%+v", v)
		}
		c.stopController()
		v.Finalizers = nil
		c.s.Update(volumeKind, v, store.Main)
		c.s.Delete(volumeKind, "", "last", store.DeleteOptions{})
		c.startController()
		pass(time.Second)
		if st := get[*corev1.PersistentVolumeClaim](c, claimKind, "three").Status; st.Phase != corev1.ClaimLost {
			t.Errorf("%+v", st)
		}
	})
}

func TestClaims_Classes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		synctest.Wait()
		now, keep := storagev1.VolumeBindingImmediate, corev1.PersistentVolumeReclaimRetain
		create(c, classKind, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "kept"}, Provisioner: claims.Provisioner, VolumeBindingMode: &now, ReclaimPolicy: &keep})
		create(c, classKind, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "foreign"}, Provisioner: "example.com/disk"})
		want := func(name, class, reason string) *corev1.PersistentVolumeClaim {
			cl := claimFor(name, "1Gi")
			cl.Spec.StorageClassName = &class
			create(c, claimKind, cl)
			pass(time.Second)
			all, _ := list[*corev1.Event](c.s, events, "default")
			said := ""
			for _, e := range all {
				if e.InvolvedObject.Name == name {
					said += e.Reason + " "
				}
			}
			if !strings.Contains(said, reason) {
				t.Errorf("%s: %q, want %s", name, said, reason)
			}
			return get[*corev1.PersistentVolumeClaim](c, claimKind, name)
		}
		want("none", "", "FailedBinding")
		want("unknown", "nowhere", "ProvisioningFailed")
		want("foreign", "foreign", "ExternalProvisioning")
		kept := want("kept", "kept", "ProvisioningSucceeded")
		if kept.Status.Phase != corev1.ClaimBound {
			t.Fatalf("%+v", kept)
		}
		if _, err := c.s.Delete(claimKind, "default", "kept", store.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		v := c.volume(kept.Spec.VolumeName)
		if _, err := os.Stat(v.Spec.HostPath.Path); err != nil || v.Status.Phase != corev1.VolumeReleased {
			t.Errorf("%v, %+v", err, v.Status)
		}
		// One whose path was bent is not erased.
		n := v.DeepCopy()
		n.Spec.PersistentVolumeReclaimPolicy, n.Spec.HostPath.Path = corev1.PersistentVolumeReclaimDelete, filepath.Dir(c.volumes)
		if _, err := c.s.Update(volumeKind, n, store.Main); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		if _, err := os.Stat(c.volumes); err != nil {
			t.Error(err)
		}
		c.volume(v.Name)
	})
}
