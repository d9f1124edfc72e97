package batch

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// verdict is what the rules about failures say of a pod that failed.
func verdict(job *batchv1.Job, p *corev1.Pod) (action batchv1.PodFailurePolicyAction, why string) {
	if job.Spec.PodFailurePolicy == nil || p.Status.Phase != corev1.PodFailed {
		return batchv1.PodFailurePolicyActionCount, ""
	}
	for i, rule := range job.Spec.PodFailurePolicy.Rules {
		if rule.OnExitCodes != nil {
			if c := exited(p, rule.OnExitCodes); c != nil {
				return rule.Action, fmt.Sprintf("Container %s for pod %s/%s failed with exit code %d matching %s rule at index %d",
					c.Name, p.Namespace, p.Name, c.State.Terminated.ExitCode, rule.Action, i)
			}
		}
		for _, want := range rule.OnPodConditions {
			for _, have := range p.Status.Conditions {
				if have.Type == want.Type && have.Status == want.Status {
					return rule.Action, fmt.Sprintf("Pod %s/%s has condition %v matching %v rule at index %d", p.Namespace, p.Name, have.Type, rule.Action, i)
				}
			}
		}
	}
	return batchv1.PodFailurePolicyActionCount, ""
}

// exited finds a container whose status is one of those that a rule is about.
func exited(p *corev1.Pod, r *batchv1.PodFailurePolicyOnExitCodesRequirement) *corev1.ContainerStatus {
	for _, l := range [][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses} {
		for i := range l {
			c := &l[i]
			if c.State.Terminated == nil || r.ContainerName != nil && *r.ContainerName != c.Name || c.State.Terminated.ExitCode == 0 {
				continue // success is not a failure, whatever the rule says
			}
			if in := slices.Contains(r.Values, c.State.Terminated.ExitCode); in == (r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn) {
				return c
			}
		}
	}
	return nil
}

// enough tells which rule says that a Job has succeeded; -1 if none does.
func enough(job *batchv1.Job, done indexes) int {
	if job.Spec.SuccessPolicy == nil {
		return -1
	}
	for i, r := range job.Spec.SuccessPolicy.Rules {
		counted, all := len(done), job.Spec.Completions != nil && len(done) == int(*job.Spec.Completions)
		if r.SucceededIndexes != nil {
			of, err := parseIndexes(*r.SucceededIndexes, maxIndex)
			if err != nil {
				continue // validation refuses it
			}
			counted = 0
			for i := range of {
				if done[i] {
					counted++
				}
			}
			all = counted == len(of)
		}
		if r.SucceededCount != nil && counted >= int(*r.SucceededCount) || r.SucceededCount == nil && all {
			return i
		}
	}
	return -1
}

const maxIndex = 1 << 20
