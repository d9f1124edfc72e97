// Package claims decides what becomes of PersistentVolumeClaims and of
// PersistentVolumes: which belongs to which, what is made for whom, and what is
// given back. It is pure, like package rollout.
//
// A claim and its volume name each other, in two objects that are written one
// after the other. The volume's claimRef is what counts: it is written first, with
// the claim's uid, and a volume that names a claim is nobody else's. Whatever is
// missing of the other half is written by the next sync.
package claims

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/minirun/minirun/orchestrate/rollout"
)

// Names that are stored with objects; those of Kubernetes but for the first two.
const (
	Provisioner     = "minirun.dev/local"
	DefaultClass    = "local"
	ClaimFinalizer  = "kubernetes.io/pvc-protection"
	VolumeFinalizer = "kubernetes.io/pv-protection"

	defaultAnnotation     = "storageclass.kubernetes.io/is-default-class"
	provisionedAnnotation = "pv.kubernetes.io/provisioned-by"
	boundAnnotation       = "pv.kubernetes.io/bind-completed"
	byControllerAnnot     = "pv.kubernetes.io/bound-by-controller"
)

// Class is the class that is there from the start: directories on this host.
func Class() *storagev1.StorageClass {
	reclaim, mode := corev1.PersistentVolumeReclaimDelete, storagev1.VolumeBindingWaitForFirstConsumer
	return &storagev1.StorageClass{
		TypeMeta:    metav1.TypeMeta{APIVersion: "storage.k8s.io/v1", Kind: "StorageClass"},
		ObjectMeta:  metav1.ObjectMeta{Name: DefaultClass, Annotations: map[string]string{defaultAnnotation: "true"}},
		Provisioner: Provisioner, ReclaimPolicy: &reclaim, VolumeBindingMode: &mode,
	}
}

// DefaultOf is the class of claims that name none: of several the newest.
func DefaultOf(all []*storagev1.StorageClass) *storagev1.StorageClass {
	var best *storagev1.StorageClass
	for _, c := range all {
		if c.Annotations[defaultAnnotation] == "true" && c.DeletionTimestamp == nil &&
			(best == nil || cmp.Or(c.CreationTimestamp.Compare(best.CreationTimestamp.Time), cmp.Compare(best.Name, c.Name)) > 0) {
			best = c
		}
	}
	return best
}

// State is what one sync of a claim looks at.
type State struct {
	Claim   *corev1.PersistentVolumeClaim
	Classes []*storagev1.StorageClass
	Volumes []*corev1.PersistentVolume
	// Used tells whether a pod that has not ended names the claim.
	Used bool
	// Path is where a volume of that name would be; "" if none can be made.
	Path func(volume string) string
}

// Plan is what is to be done, in this order.
type Plan struct {
	// Create is a volume to make, first its directory, Bind one to store.
	Create, Bind *corev1.PersistentVolume
	// Claim is to be stored; nil if it is right. Then its status.
	Claim  *corev1.PersistentVolumeClaim
	Status corev1.PersistentVolumeClaimStatus
	Events []rollout.Event
}

// Claim is one sync of a claim.
func Claim(in State) Plan {
	s := &sync{State: in, n: in.Claim.DeepCopy()}
	s.plan.Status = *in.Claim.Status.DeepCopy()
	if in.Claim.DeletionTimestamp != nil {
		if !in.Used {
			s.n.Finalizers = slices.DeleteFunc(s.n.Finalizers, func(f string) bool { return f == ClaimFinalizer })
		}
	} else {
		if !slices.Contains(s.n.Finalizers, ClaimFinalizer) {
			s.n.Finalizers = append(s.n.Finalizers, ClaimFinalizer)
		}
		if c := DefaultOf(in.Classes); s.n.Spec.StorageClassName == nil && s.n.Spec.VolumeName == "" && c != nil {
			s.n.Spec.StorageClassName = &c.Name
		}
		s.settle()
	}
	if !slices.Equal(s.n.Finalizers, in.Claim.Finalizers) || s.n.Spec.VolumeName != in.Claim.Spec.VolumeName || len(s.n.Annotations) != len(in.Claim.Annotations) ||
		(s.n.Spec.StorageClassName == nil) != (in.Claim.Spec.StorageClassName == nil) {
		s.plan.Claim = s.n
	}
	return s.plan
}

type sync struct {
	State
	n    *corev1.PersistentVolumeClaim
	plan Plan
}

func (s *sync) settle() {
	for _, v := range s.Volumes {
		if refersTo(v, s.Claim) && v.Spec.ClaimRef.UID == s.Claim.UID {
			s.bound(v)
			return
		}
	}
	if s.Claim.Annotations[boundAnnotation] != "" {
		s.plan.Status.Phase = corev1.ClaimLost
		if s.Claim.Status.Phase != corev1.ClaimLost {
			s.event("Warning", "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
		}
		return
	}
	s.plan.Status.Phase = corev1.ClaimPending
	if v := s.find(); v != nil {
		// One that exists: a volume of this claim, from now on.
		n := v.DeepCopy()
		n.Spec.ClaimRef = ref(s.Claim)
		if n.Annotations == nil {
			n.Annotations = map[string]string{}
		}
		n.Annotations[byControllerAnnot] = "yes"
		s.plan.Bind = n
		s.bound(n)
		return
	}
	s.provision()
}

// bound writes the claim's half.
func (s *sync) bound(v *corev1.PersistentVolume) {
	s.n.Spec.VolumeName = v.Name
	if s.n.Annotations == nil {
		s.n.Annotations = map[string]string{}
	}
	s.n.Annotations[boundAnnotation] = "yes"
	if s.Claim.Spec.VolumeName == "" {
		s.n.Annotations[byControllerAnnot] = "yes"
	}
	st := &s.plan.Status
	st.Phase, st.AccessModes, st.Capacity = corev1.ClaimBound, slices.Clone(v.Spec.AccessModes), v.Spec.Capacity.DeepCopy()
}

func (s *sync) class() string {
	if s.n.Spec.StorageClassName == nil {
		return ""
	}
	return *s.n.Spec.StorageClassName
}

// find finds a volume that is free and fits: the smallest.
func (s *sync) find() *corev1.PersistentVolume {
	want := s.Claim.Spec.Resources.Requests[corev1.ResourceStorage]
	selector := labels.Everything()
	if s.Claim.Spec.Selector != nil {
		var err error
		if selector, err = metav1.LabelSelectorAsSelector(s.Claim.Spec.Selector); err != nil {
			return nil
		}
	}
	var best *corev1.PersistentVolume
	for _, v := range s.Volumes {
		size := v.Spec.Capacity[corev1.ResourceStorage]
		switch {
		case v.DeletionTimestamp != nil || v.Spec.StorageClassName != s.class() || size.Cmp(want) < 0:
		case v.Spec.ClaimRef != nil && (!refersTo(v, s.Claim) || v.Spec.ClaimRef.UID != ""):
		case s.Claim.Spec.VolumeName != "" && v.Name != s.Claim.Spec.VolumeName:
		case !selector.Matches(labels.Set(v.Labels)) || mode(v.Spec.VolumeMode) != mode(s.Claim.Spec.VolumeMode):
		case slices.ContainsFunc(s.Claim.Spec.AccessModes, func(m corev1.PersistentVolumeAccessMode) bool { return !slices.Contains(v.Spec.AccessModes, m) }):
		case v.Spec.ClaimRef != nil:
			return v // it was meant for this claim
		case best == nil || less(v, best):
			best = v
		}
	}
	if s.waits() {
		return nil
	}
	return best
}

func less(a, b *corev1.PersistentVolume) bool {
	x, y := a.Spec.Capacity[corev1.ResourceStorage], b.Spec.Capacity[corev1.ResourceStorage]
	return cmp.Or(x.Cmp(y), cmp.Compare(a.Name, b.Name)) < 0
}

func mode(m *corev1.PersistentVolumeMode) corev1.PersistentVolumeMode {
	if m == nil {
		return corev1.PersistentVolumeFilesystem
	}
	return *m
}

func (s *sync) storageClass() *storagev1.StorageClass {
	for _, c := range s.Classes {
		if c.Name == s.class() {
			return c
		}
	}
	return nil
}

// waits tells whether the claim's class waits for a pod, and there is none.
func (s *sync) waits() bool {
	c := s.storageClass()
	return c != nil && c.VolumeBindingMode != nil && *c.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer && !s.Used && s.Claim.Spec.VolumeName == ""
}

// provision makes a volume for the claim.
func (s *sync) provision() {
	class := s.storageClass()
	size := s.Claim.Spec.Resources.Requests[corev1.ResourceStorage]
	name := "pvc-" + string(s.Claim.UID)
	path := ""
	if s.Path != nil {
		path = s.Path(name)
	}
	switch {
	case s.Claim.Spec.VolumeName != "":
		s.event("Normal", "FailedBinding", "volume %q is not there, is another's, or does not fit", s.Claim.Spec.VolumeName)
	case s.class() == "":
		s.event("Normal", "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	case class == nil:
		s.event("Warning", "ProvisioningFailed", "storageclass.storage.k8s.io %q not found", s.class())
	case s.waits():
		s.event("Normal", "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	case class.Provisioner != Provisioner:
		s.event("Normal", "ExternalProvisioning", "waiting for a volume to be created by %q: nothing on this host does that", class.Provisioner)
	case mode(s.Claim.Spec.VolumeMode) != corev1.PersistentVolumeFilesystem:
		s.event("Warning", "ProvisioningFailed", "volumes of class %q are directories, not block devices", class.Name)
	case path == "":
		s.event("Warning", "ProvisioningFailed", "there is no directory for volumes")
	default:
		reclaim := corev1.PersistentVolumeReclaimDelete
		if class.ReclaimPolicy != nil {
			reclaim = *class.ReclaimPolicy
		}
		fs := corev1.PersistentVolumeFilesystem
		kind := corev1.HostPathDirectory
		s.plan.Create = &corev1.PersistentVolume{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolume"},
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{provisionedAnnotation: Provisioner}, Finalizers: []string{VolumeFinalizer}},
			Spec: corev1.PersistentVolumeSpec{
				Capacity:               corev1.ResourceList{corev1.ResourceStorage: size.DeepCopy()},
				PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path, Type: &kind}},
				AccessModes:            slices.Clone(s.Claim.Spec.AccessModes), ClaimRef: ref(s.Claim), PersistentVolumeReclaimPolicy: reclaim,
				StorageClassName: class.Name, MountOptions: class.MountOptions, VolumeMode: &fs,
			},
			Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeBound},
		}
		s.event("Normal", "ProvisioningSucceeded", "Successfully provisioned volume %s", name)
		s.bound(s.plan.Create)
	}
}

func (s *sync) event(kind, reason, format string, args ...any) {
	s.plan.Events = append(s.plan.Events, rollout.Event{Type: kind, Reason: reason, Message: fmt.Sprintf(format, args...)})
}

func refersTo(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) bool {
	r := v.Spec.ClaimRef
	return r != nil && r.Namespace == c.Namespace && r.Name == c.Name
}

func ref(c *corev1.PersistentVolumeClaim) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: c.Namespace, Name: c.Name, UID: c.UID}
}

// VolumePlan is what is to be done with a volume, in this order.
type VolumePlan struct {
	// Erase tells that what is in the volume is to be removed, then the volume.
	Erase bool
	// Volume is to be stored; nil if it is right. Then its status.
	Volume *corev1.PersistentVolume
	Status corev1.PersistentVolumeStatus
	Events []rollout.Event
}

// Volume is one sync of a volume. claim is the one it names; nil if there is none.
func Volume(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) VolumePlan {
	plan := VolumePlan{Status: *v.Status.DeepCopy()}
	st := &plan.Status
	st.Message, st.Reason = "", ""
	held := false
	switch r := v.Spec.ClaimRef; {
	case r == nil || r.UID == "":
		st.Phase = corev1.VolumeAvailable
	case claim != nil && claim.UID == r.UID:
		st.Phase, held = corev1.VolumeBound, true
	default:
		st.Phase = corev1.VolumeReleased
		if v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete {
			if plan.Erase = v.Annotations[provisionedAnnotation] == Provisioner; !plan.Erase {
				st.Phase, st.Message = corev1.VolumeFailed, "only volumes that were made here are deleted"
				if v.Status.Phase != corev1.VolumeFailed {
					plan.Events = append(plan.Events, rollout.Event{Type: "Warning", Reason: "VolumeFailedDelete", Message: st.Message})
				}
			}
		}
	}
	n := v.DeepCopy()
	has := slices.Contains(n.Finalizers, VolumeFinalizer)
	switch {
	case v.DeletionTimestamp == nil && !has:
		n.Finalizers = append(n.Finalizers, VolumeFinalizer)
		plan.Volume = n
	case (v.DeletionTimestamp != nil || plan.Erase) && has && !held:
		n.Finalizers = slices.DeleteFunc(n.Finalizers, func(f string) bool { return f == VolumeFinalizer })
		plan.Volume = n
	}
	return plan
}

// Uses tells whether a pod needs a claim.
func Uses(p *corev1.Pod, claim string) bool {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return false
	}
	return slices.Contains(Of(p), claim)
}

// Of are the claims that a pod names.
func Of(p *corev1.Pod) (names []string) {
	for _, v := range p.Spec.Volumes {
		if v.PersistentVolumeClaim != nil {
			names = append(names, v.PersistentVolumeClaim.ClaimName)
		}
	}
	return names
}
