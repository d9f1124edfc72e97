package claims

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// disk is claims and volumes as they are stored.
type disk struct {
	t       *testing.T
	claims  map[string]*corev1.PersistentVolumeClaim
	volumes map[string]*corev1.PersistentVolume
	used    map[string]bool
	erased  map[string]bool
	classes []*storagev1.StorageClass
}

func sorted[T any](m map[string]T) (out []T) {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		out = append(out, m[k])
	}
	return out
}

// sync looks at everything once, and is killed after some of the writes. It tells
// how many there were to do.
func (d *disk) sync(steps int) (did int) {
	d.t.Helper()
	do := func(f func()) {
		if did++; did <= steps {
			f()
		}
	}
	for _, c := range sorted(d.claims) {
		in := State{Claim: c, Classes: d.classes, Volumes: sorted(d.volumes), Used: d.used[c.Name], Path: func(v string) string { return "/volumes/" + v }}
		plan := Claim(in)
		if again := Claim(in); !reflect.DeepEqual(plan, again) {
			d.t.Fatal("the same state gave another plan")
		}
		if v := plan.Create; v != nil {
			do(func() {
				if d.volumes[v.Name] != nil {
					d.t.Fatalf("%s is made twice", v.Name)
				}
				d.volumes[v.Name] = v.DeepCopy()
			})
		}
		if v := plan.Bind; v != nil {
			do(func() { d.volumes[v.Name] = v.DeepCopy() })
		}
		if n := plan.Claim; n != nil {
			do(func() {
				if d.claims[c.Name] = n.DeepCopy(); n.DeletionTimestamp != nil && len(n.Finalizers) == 0 {
					if d.used[c.Name] {
						d.t.Fatalf("%s goes although a pod has it", c.Name)
					}
					delete(d.claims, c.Name)
				}
			})
		}
		if now := d.claims[c.Name]; now != nil && !reflect.DeepEqual(now.Status, plan.Status) {
			do(func() { n := now.DeepCopy(); n.Status = plan.Status; d.claims[c.Name] = n })
		}
		d.check()
	}
	for _, v := range sorted(d.volumes) {
		var claim *corev1.PersistentVolumeClaim
		if r := v.Spec.ClaimRef; r != nil {
			claim = d.claims[r.Name]
		}
		plan := Volume(v, claim)
		if plan.Erase {
			if claim != nil && claim.UID == v.Spec.ClaimRef.UID {
				d.t.Fatalf("%s is erased, and %s has it", v.Name, claim.Name)
			}
			if v.Spec.HostPath.Path != "/volumes/"+v.Name || v.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
				d.t.Fatalf("%s is erased", v.Name)
			}
			do(func() { d.erased[v.Name] = true })
		}
		if n := plan.Volume; n != nil {
			do(func() { d.volumes[v.Name] = n.DeepCopy() })
		}
		switch now := d.volumes[v.Name]; {
		case plan.Erase && len(now.Finalizers) == 0:
			do(func() { delete(d.volumes, v.Name) })
		case !plan.Erase && !reflect.DeepEqual(now.Status, plan.Status):
			do(func() { n := now.DeepCopy(); n.Status = plan.Status; d.volumes[v.Name] = n })
		}
	}
	return did
}

// check: no volume is of two claims, and none that was erased is of any.
func (d *disk) check() {
	d.t.Helper()
	owner := map[string]string{}
	for _, c := range sorted(d.claims) {
		v := d.volumes[c.Spec.VolumeName]
		if v == nil {
			continue
		}
		if was := owner[v.Name]; was != "" {
			d.t.Fatalf("%s is of %s and %s", v.Name, was, c.Name)
		}
		owner[v.Name] = c.Name
		if v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID != c.UID {
			d.t.Fatalf("%s has %s, which names %+v", c.Name, v.Name, v.Spec.ClaimRef)
		}
		if d.erased[v.Name] {
			d.t.Fatalf("%s has %s, which was erased", c.Name, v.Name)
		}
		size, want := v.Spec.Capacity[corev1.ResourceStorage], c.Spec.Resources.Requests[corev1.ResourceStorage]
		if size.Cmp(want) < 0 {
			d.t.Fatalf("%s wants %s and has %s", c.Name, want.String(), size.String())
		}
	}
}

// Claims and pods come and go, volumes are there or made, and who binds them is
// killed after any write: nothing is given to two, nothing is erased that is in
// use, and in the end every claim that can be served is.
func TestClaim_Property(t *testing.T) {
	r := rand.New(rand.NewPCG(31, 32))
	now := storagev1.VolumeBindingImmediate
	reclaim := []corev1.PersistentVolumeReclaimPolicy{corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain}
	for range 100 {
		d := &disk{t, map[string]*corev1.PersistentVolumeClaim{}, map[string]*corev1.PersistentVolume{}, map[string]bool{}, map[string]bool{}, []*storagev1.StorageClass{Class()}}
		keep := reclaim[r.IntN(2)]
		d.classes = append(d.classes, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "now"}, Provisioner: Provisioner, VolumeBindingMode: &now, ReclaimPolicy: &keep})
		for i := range r.IntN(4) {
			v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("static", i)}}
			v.Spec.StorageClassName, v.Spec.AccessModes = "manual", []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
			v.Spec.Capacity = corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(int64(r.IntN(4)+1)<<30, resource.BinarySI)}
			v.Spec.HostPath, v.Spec.PersistentVolumeReclaimPolicy = &corev1.HostPathVolumeSource{Path: "/somewhere"}, reclaim[r.IntN(2)]
			d.volumes[v.Name] = v
		}
		uid := 0
		for range 60 {
			name := fmt.Sprint("c", r.IntN(5))
			switch c := d.claims[name]; {
			case c == nil:
				uid++
				c = &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(fmt.Sprint("u", uid))}}
				c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
				c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(int64(r.IntN(4)+1)<<30, resource.BinarySI)}
				if class := []string{"", "local", "now", "manual"}[r.IntN(4)]; class != "" {
					c.Spec.StorageClassName = &class
				}
				d.claims[name] = c
			case r.IntN(3) == 0:
				n, at := c.DeepCopy(), metav1.NewTime(time.Unix(1, 0))
				if n.DeletionTimestamp = &at; len(n.Finalizers) == 0 {
					delete(d.claims, name)
				} else {
					d.claims[name] = n
				}
			default:
				d.used[name] = r.IntN(2) == 0
			}
			d.sync(r.IntN(5))
		}
		for _, c := range d.claims {
			d.used[c.Name] = c.DeletionTimestamp == nil
		}
		for i := 0; d.sync(1<<30) > 0; i++ {
			if i > 50 {
				t.Fatal("no end")
			}
		}
		for _, c := range d.claims {
			served := c.Status.Phase == corev1.ClaimBound
			if can := c.Spec.StorageClassName != nil && *c.Spec.StorageClassName != "manual"; can && !served {
				t.Fatalf("%s is %s", c.Name, c.Status.Phase)
			}
			if served && d.volumes[c.Spec.VolumeName].Status.Phase != corev1.VolumeBound {
				t.Fatalf("%s: volume is %s", c.Name, d.volumes[c.Spec.VolumeName].Status.Phase)
			}
		}
		for name, v := range d.volumes {
			if v.Annotations[provisionedAnnotation] == Provisioner && v.Status.Phase == corev1.VolumeReleased && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete {
				t.Fatalf("%s is left", name)
			}
		}
	}
}

func TestDefaultOf(t *testing.T) {
	a, b := Class(), Class()
	a.Name, b.Name = "a", "b"
	b.CreationTimestamp = metav1.NewTime(time.Unix(1, 0))
	if got := DefaultOf([]*storagev1.StorageClass{a, b}); got != b {
		t.Errorf("%v", got)
	}
	b.Annotations = nil
	if got := DefaultOf([]*storagev1.StorageClass{a, b}); got != a {
		t.Errorf("%v", got)
	}
	if DefaultOf(nil) != nil {
		t.Error("one of none")
	}
}
