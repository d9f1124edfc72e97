package rollout

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Ordinal is the number of a pod of a StatefulSet, from its name.
func Ordinal(set, pod string) (int, bool) {
	digits, ok := strings.CutPrefix(pod, set+"-")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || n < 0 || strconv.Itoa(n) != digits {
		return 0, false
	}
	return n, true
}

func startOrdinal(set *appsv1.StatefulSet) int {
	if set.Spec.Ordinals == nil {
		return 0
	}
	return int(set.Spec.Ordinals.Start)
}

// statefulPod is a new pod with its name, its claims and its revision.
func statefulPod(set *appsv1.StatefulSet, t *corev1.PodTemplateSpec, ordinal int, revision string) *corev1.Pod {
	t = t.DeepCopy()
	p := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("%s-%d", set.Name, ordinal), Namespace: set.Namespace, GenerateName: set.Name + "-",
			Labels: t.Labels, Annotations: t.Annotations, Finalizers: t.Finalizers,
			OwnerReferences: []metav1.OwnerReference{controllerRef("StatefulSet", set)},
		},
		Spec: t.Spec,
	}
	identify(set, p, ordinal)
	p.Labels[appsv1.ControllerRevisionHashLabelKey] = revision
	p.Spec.Hostname, p.Spec.Subdomain = p.Name, set.Spec.ServiceName
	claimed := map[string]bool{}
	var volumes []corev1.Volume
	for _, c := range set.Spec.VolumeClaimTemplates {
		claimed[c.Name] = true
		volumes = append(volumes, corev1.Volume{Name: c.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName(&c, p.Name)},
		}})
	}
	for _, v := range p.Spec.Volumes {
		if !claimed[v.Name] {
			volumes = append(volumes, v)
		}
	}
	p.Spec.Volumes = volumes
	return p
}

// identify gives a pod the labels that say which one it is.
func identify(set *appsv1.StatefulSet, p *corev1.Pod, ordinal int) {
	p.Labels = maps.Clone(p.Labels)
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	p.Labels[appsv1.StatefulSetPodNameLabel] = p.Name
	p.Labels[appsv1.PodIndexLabel] = strconv.Itoa(ordinal)
}

func claimName(c *corev1.PersistentVolumeClaim, pod string) string { return c.Name + "-" + pod }

// claims are those of one pod, as they are to be made.
func claims(set *appsv1.StatefulSet, pod string) (out []*corev1.PersistentVolumeClaim) {
	for i := range set.Spec.VolumeClaimTemplates {
		c := set.Spec.VolumeClaimTemplates[i].DeepCopy()
		c.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"}
		c.Name, c.Namespace = claimName(c, pod), set.Namespace
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		if set.Spec.Selector != nil {
			maps.Copy(c.Labels, set.Spec.Selector.MatchLabels)
		}
		c.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}
		out = append(out, c)
	}
	return out
}

// retention says whose end is the end of a claim: the set's, its pod's when the
// pod is one too many, or nobody's. It gives the claim as it is to be stored; nil
// if it is right.
func retention(set *appsv1.StatefulSet, pod *corev1.Pod, condemned bool, claim *corev1.PersistentVolumeClaim) *corev1.PersistentVolumeClaim {
	deleted, scaled := false, false
	if p := set.Spec.PersistentVolumeClaimRetentionPolicy; p != nil {
		deleted = p.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType
		scaled = p.WhenScaled == appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	}
	refs := slices.DeleteFunc(slices.Clone(claim.OwnerReferences), func(o metav1.OwnerReference) bool {
		return o.UID == set.UID || o.Kind == "Pod" && o.Name == podOfClaim(set, claim.Name)
	})
	switch {
	case scaled && condemned:
		if pod == nil {
			return nil // it went before it could be said: the claim stays as it is
		}
		refs = append(refs, metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID})
	case deleted:
		refs = append(refs, metav1.OwnerReference{APIVersion: "apps/v1", Kind: "StatefulSet", Name: set.Name, UID: set.UID})
	}
	if slices.EqualFunc(refs, claim.OwnerReferences, func(a, b metav1.OwnerReference) bool { return a.UID == b.UID }) {
		return nil
	}
	n := claim.DeepCopy()
	n.OwnerReferences = refs
	return n
}

// podOfClaim is the name of the pod that a claim of the set is for.
func podOfClaim(set *appsv1.StatefulSet, claim string) string {
	for i := range set.Spec.VolumeClaimTemplates {
		if pod, ok := strings.CutPrefix(claim, set.Spec.VolumeClaimTemplates[i].Name+"-"); ok {
			if _, ok := Ordinal(set.Name, pod); ok {
				return pod
			}
		}
	}
	return ""
}
