package api

import (
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (v *validator) statefulSet(s *appsv1.StatefulSetSpec) {
	// A claim is a volume of the pods, though the template does not say so.
	t := s.Template.DeepCopy()
	names := map[string]bool{}
	for i := range s.VolumeClaimTemplates {
		c := &s.VolumeClaimTemplates[i]
		at := spec.Child("volumeClaimTemplates").Index(i)
		v.says(at.Child("metadata", "name"), c.Name, validation.IsDNS1123Label(c.Name))
		if names[c.Name] {
			v.all = append(v.all, field.Duplicate(at.Child("metadata", "name"), c.Name))
		}
		names[c.Name] = true
		v.claim(&c.Spec, at.Child("spec"))
	}
	addClaims(&t.Spec, names)
	v.workload(s.Selector, t, spec)
	v.count(s.Replicas, spec.Child("replicas"))
	v.count(&s.MinReadySeconds, spec.Child("minReadySeconds"))
	v.count(s.RevisionHistoryLimit, spec.Child("revisionHistoryLimit"))
	if s.Ordinals != nil {
		v.count(&s.Ordinals.Start, spec.Child("ordinals", "start"))
	}
	v.oneOf(spec.Child("podManagementPolicy"), string(s.PodManagementPolicy), "OrderedReady", "Parallel")
	p := spec.Child("updateStrategy")
	v.oneOf(p.Child("type"), string(s.UpdateStrategy.Type), "RollingUpdate", "OnDelete")
	if r := s.UpdateStrategy.RollingUpdate; r != nil {
		if s.UpdateStrategy.Type != appsv1.RollingUpdateStatefulSetStrategyType {
			v.invalid(p.Child("rollingUpdate"), "{...}", "only allowed for updateStrategy 'RollingUpdate'")
		}
		v.count(r.Partition, p.Child("rollingUpdate", "partition"))
		if r.MaxUnavailable != nil && v.amount(r.MaxUnavailable, p.Child("rollingUpdate", "maxUnavailable")) == 0 {
			v.invalid(p.Child("rollingUpdate", "maxUnavailable"), r.MaxUnavailable.String(), "cannot be 0")
		}
	}
	if r := s.PersistentVolumeClaimRetentionPolicy; r != nil {
		v.oneOf(spec.Child("persistentVolumeClaimRetentionPolicy", "whenDeleted"), string(r.WhenDeleted), "Retain", "Delete")
		v.oneOf(spec.Child("persistentVolumeClaimRetentionPolicy", "whenScaled"), string(r.WhenScaled), "Retain", "Delete")
	}
}

func (v *validator) daemonSet(s *appsv1.DaemonSetSpec) {
	v.workload(s.Selector, &s.Template, spec)
	v.count(&s.MinReadySeconds, spec.Child("minReadySeconds"))
	v.count(s.RevisionHistoryLimit, spec.Child("revisionHistoryLimit"))
	p := spec.Child("updateStrategy")
	v.oneOf(p.Child("type"), string(s.UpdateStrategy.Type), "RollingUpdate", "OnDelete")
	if r := s.UpdateStrategy.RollingUpdate; r != nil && s.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		surge := v.amount(r.MaxSurge, p.Child("rollingUpdate", "maxSurge"))
		unavailable := v.amount(r.MaxUnavailable, p.Child("rollingUpdate", "maxUnavailable"))
		switch {
		case surge == 0 && unavailable == 0:
			v.invalid(p.Child("rollingUpdate", "maxUnavailable"), r.MaxUnavailable.String(), "cannot be 0 when maxSurge is 0")
		case surge > 0 && unavailable > 0:
			v.invalid(p.Child("rollingUpdate", "maxSurge"), r.MaxSurge.String(), "may not be set when maxUnavailable is non-zero")
		}
	}
}
