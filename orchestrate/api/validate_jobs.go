package api

import (
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/minirun/minirun/orchestrate/batch"
)

func (v *validator) job(s *batchv1.JobSpec, p *field.Path) {
	v.count(s.Parallelism, p.Child("parallelism"))
	v.count(s.Completions, p.Child("completions"))
	v.count(s.BackoffLimit, p.Child("backoffLimit"))
	v.count(s.BackoffLimitPerIndex, p.Child("backoffLimitPerIndex"))
	v.count(s.MaxFailedIndexes, p.Child("maxFailedIndexes"))
	v.count(s.TTLSecondsAfterFinished, p.Child("ttlSecondsAfterFinished"))
	if s.ActiveDeadlineSeconds != nil && *s.ActiveDeadlineSeconds <= 0 {
		v.invalid(p.Child("activeDeadlineSeconds"), *s.ActiveDeadlineSeconds, "must be greater than 0")
	}
	v.template(&s.Template, p)
	if r := s.Template.Spec.RestartPolicy; r != corev1.RestartPolicyNever && r != corev1.RestartPolicyOnFailure {
		v.all = append(v.all, field.NotSupported(p.Child("template", "spec", "restartPolicy"), r, []corev1.RestartPolicy{corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}))
	}
	indexed := s.CompletionMode != nil && *s.CompletionMode == batchv1.IndexedCompletion
	if s.CompletionMode != nil {
		v.oneOf(p.Child("completionMode"), string(*s.CompletionMode), "NonIndexed", "Indexed")
	}
	if s.PodReplacementPolicy != nil {
		v.oneOf(p.Child("podReplacementPolicy"), string(*s.PodReplacementPolicy), "TerminatingOrFailed", "Failed")
	}
	if indexed {
		switch {
		case s.Completions == nil:
			v.all = append(v.all, field.Required(p.Child("completions"), "when completion mode is Indexed"))
		case *s.Completions > 100000:
			v.invalid(p.Child("completions"), *s.Completions, "must be less than or equal to 100000 when completion mode is Indexed")
		}
	} else {
		for name, set := range map[string]bool{"backoffLimitPerIndex": s.BackoffLimitPerIndex != nil, "successPolicy": s.SuccessPolicy != nil} {
			if set {
				v.invalid(p.Child(name), "{...}", "requires indexed completion mode")
			}
		}
	}
	if s.MaxFailedIndexes != nil && s.BackoffLimitPerIndex == nil {
		v.all = append(v.all, field.Required(p.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
	}
	v.failurePolicy(s, p.Child("podFailurePolicy"))
	if s.SuccessPolicy != nil {
		at := p.Child("successPolicy", "rules")
		if len(s.SuccessPolicy.Rules) == 0 {
			v.required(at)
		}
		for i, r := range s.SuccessPolicy.Rules {
			if r.SucceededIndexes == nil && r.SucceededCount == nil {
				v.all = append(v.all, field.Required(at.Index(i), "at least one of succeededCount or succeededIndexes must be specified"))
			}
			if r.SucceededIndexes != nil {
				if err := batch.CheckIndexes(*r.SucceededIndexes); err != nil {
					v.invalid(at.Index(i).Child("succeededIndexes"), *r.SucceededIndexes, "%v", err)
				}
			}
			v.count(r.SucceededCount, at.Index(i).Child("succeededCount"))
		}
	}
}

func (v *validator) failurePolicy(s *batchv1.JobSpec, p *field.Path) {
	if s.PodFailurePolicy == nil {
		return
	}
	if s.Template.Spec.RestartPolicy != corev1.RestartPolicyNever {
		v.invalid(p, "{...}", "only \"Never\" is supported for the restart policy when podFailurePolicy is specified")
	}
	if s.PodReplacementPolicy != nil && *s.PodReplacementPolicy != batchv1.Failed {
		v.all = append(v.all, field.NotSupported(p.Root().Child("podReplacementPolicy"), *s.PodReplacementPolicy, []batchv1.PodReplacementPolicy{batchv1.Failed}))
	}
	for i, r := range s.PodFailurePolicy.Rules {
		at := p.Child("rules").Index(i)
		v.oneOf(at.Child("action"), string(r.Action), "FailJob", "FailIndex", "Ignore", "Count")
		if r.Action == batchv1.PodFailurePolicyActionFailIndex && s.BackoffLimitPerIndex == nil {
			v.invalid(at.Child("action"), r.Action, "requires the backoffLimitPerIndex to be set")
		}
		if (r.OnExitCodes != nil) == (len(r.OnPodConditions) > 0) {
			v.invalid(at, "{...}", "specifying one of OnExitCodes and OnPodConditions is required")
		}
		if e := r.OnExitCodes; e != nil {
			v.oneOf(at.Child("onExitCodes", "operator"), string(e.Operator), "In", "NotIn")
			if len(e.Values) == 0 {
				v.invalid(at.Child("onExitCodes", "values"), e.Values, "at least one value is required")
			}
			if e.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && slices.Contains(e.Values, 0) {
				v.invalid(at.Child("onExitCodes", "values"), 0, "must not be 0 for the In operator")
			}
		}
	}
}

func (v *validator) cronJob(s *batchv1.CronJobSpec) {
	if s.Schedule == "" {
		v.required(spec.Child("schedule"))
	} else if _, err := batch.ParseSchedule(s.Schedule); err != nil {
		v.invalid(spec.Child("schedule"), s.Schedule, "%v", err)
	}
	if s.TimeZone != nil {
		if _, err := batch.ParseZone(*s.TimeZone); err != nil {
			v.invalid(spec.Child("timeZone"), *s.TimeZone, "%v", err)
		}
	}
	if d := s.StartingDeadlineSeconds; d != nil && *d < 0 {
		v.invalid(spec.Child("startingDeadlineSeconds"), *d, "must be greater than or equal to 0")
	}
	v.count(s.SuccessfulJobsHistoryLimit, spec.Child("successfulJobsHistoryLimit"))
	v.count(s.FailedJobsHistoryLimit, spec.Child("failedJobsHistoryLimit"))
	v.oneOf(spec.Child("concurrencyPolicy"), string(s.ConcurrencyPolicy), "Allow", "Forbid", "Replace")
	v.labels(s.JobTemplate.Labels, spec.Child("jobTemplate", "metadata", "labels"))
	v.job(&s.JobTemplate.Spec, spec.Child("jobTemplate", "spec"))
}
