package api

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// addClaims makes volumes of claims, as far as containers ask for them.
func addClaims(s *corev1.PodSpec, names map[string]bool) {
	for i := range s.Volumes {
		delete(names, s.Volumes[i].Name)
	}
	for name := range names {
		s.Volumes = append(s.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
		}})
	}
}

func (v *validator) claim(s *corev1.PersistentVolumeClaimSpec, p *field.Path) {
	if len(s.AccessModes) == 0 {
		v.all = append(v.all, field.Required(p.Child("accessModes"), "at least 1 access mode is required"))
	}
	for i, m := range s.AccessModes {
		v.oneOf(p.Child("accessModes").Index(i), string(m), "ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")
	}
	if q, ok := s.Resources.Requests[corev1.ResourceStorage]; !ok {
		v.required(p.Child("resources").Key("storage"))
	} else if q.Sign() <= 0 {
		v.invalid(p.Child("resources").Key("storage"), q.String(), "must be greater than zero")
	}
	if s.VolumeMode != nil {
		v.oneOf(p.Child("volumeMode"), string(*s.VolumeMode), "Filesystem", "Block")
	}
}
