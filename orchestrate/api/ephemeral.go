package api

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// AsContainer is an ephemeral container as any other: the types have the same
// fields.
func AsContainer(e *corev1.EphemeralContainer) *corev1.Container {
	return (*corev1.Container)(&e.EphemeralContainerCommon)
}

// WithEphemeral is a pod as it was, with the ephemeral containers of another one:
// what the subresource ephemeralcontainers can change.
func WithEphemeral(old, wanted *corev1.Pod) *corev1.Pod {
	n := old.DeepCopy()
	n.ResourceVersion, n.UID = wanted.ResourceVersion, wanted.UID
	n.Spec.EphemeralContainers = wanted.Spec.EphemeralContainers
	return n
}

// ValidateEphemeral tells what is wrong with a change of ephemeral containers: they
// can only be added.
func ValidateEphemeral(k *Kind, n, old *corev1.Pod) error {
	v := &validator{}
	v.pod(&n.Spec, spec)
	p := spec.Child("ephemeralContainers")
	for i := range old.Spec.EphemeralContainers {
		was := &old.Spec.EphemeralContainers[i]
		at := slices.IndexFunc(n.Spec.EphemeralContainers, func(e corev1.EphemeralContainer) bool { return e.Name == was.Name })
		switch {
		case at < 0:
			v.all = append(v.all, field.Forbidden(p, fmt.Sprintf("existing ephemeral containers %q may not be removed", was.Name)))
		case !equality.Semantic.DeepEqual(was, &n.Spec.EphemeralContainers[at]):
			v.all = append(v.all, field.Forbidden(p, fmt.Sprintf("existing ephemeral containers %q may not be changed", was.Name)))
		}
	}
	return v.error(k, n)
}

// noEphemeral refuses ephemeral containers where there can be none.
func (v *validator) noEphemeral(s *corev1.PodSpec, p *field.Path, why string) {
	if len(s.EphemeralContainers) > 0 {
		v.all = append(v.all, field.Forbidden(p.Child("ephemeralContainers"), why))
	}
}

// ephemeral checks the ephemeral containers of a pod, all of whose other names are
// in names.
func (v *validator) ephemeral(s *corev1.PodSpec, p *field.Path, names, volumes map[string]bool) {
	others := map[string]bool{}
	for name := range names {
		others[name] = true
	}
	for i := range s.EphemeralContainers {
		e, at := &s.EphemeralContainers[i], p.Child("ephemeralContainers").Index(i)
		c := AsContainer(e)
		// Nobody must rely on one, so what is for that is not for them.
		some := reflect.ValueOf(e.EphemeralContainerCommon)
		for f := range some.NumField() {
			switch name := some.Type().Field(f).Name; name {
			case "Ports", "Resources", "ResizePolicy", "RestartPolicy", "RestartPolicyRules", "LivenessProbe", "ReadinessProbe", "StartupProbe", "Lifecycle":
				if !some.Field(f).IsZero() {
					v.notEphemeral(at.Child(strings.ToLower(name[:1]) + name[1:]))
				}
			}
		}
		for j := range e.VolumeMounts {
			if m, mount := &e.VolumeMounts[j], at.Child("volumeMounts").Index(j); m.SubPath != "" {
				v.notEphemeral(mount.Child("subPath"))
			} else if m.SubPathExpr != "" {
				v.notEphemeral(mount.Child("subPathExpr"))
			}
		}
		plain := c.DeepCopy() // what is refused as a whole is not looked at in detail
		plain.Ports, plain.Resources, plain.Lifecycle = nil, corev1.ResourceRequirements{}, nil
		plain.LivenessProbe, plain.ReadinessProbe, plain.StartupProbe = nil, nil, nil
		v.container(plain, at, names, volumes)
		if e.TargetContainerName != "" && !others[e.TargetContainerName] {
			v.all = append(v.all, field.NotFound(at.Child("targetContainerName"), e.TargetContainerName))
		}
	}
}

func (v *validator) notEphemeral(p *field.Path) {
	v.all = append(v.all, field.Forbidden(p, "cannot be set for an Ephemeral Container"))
}
