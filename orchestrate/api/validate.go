package api

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/minirun/minirun/orchestrate/rollout"
	"github.com/minirun/minirun/orchestrate/store"
)

// Validate tells what is wrong with an object that has its defaults. old is what
// it replaces, or nil.
func Validate(k *Kind, obj, old store.Object) error {
	v := &validator{}
	v.metadata(k, obj)
	switch o := obj.(type) {
	case *appsv1.Deployment:
		v.deployment(&o.Spec)
	case *appsv1.ReplicaSet:
		v.workload(o.Spec.Selector, &o.Spec.Template, spec)
		v.count(o.Spec.Replicas, spec.Child("replicas"))
	case *appsv1.StatefulSet:
		v.statefulSet(&o.Spec)
	case *appsv1.DaemonSet:
		v.daemonSet(&o.Spec)
	case *batchv1.Job:
		v.job(&o.Spec, spec)
	case *batchv1.CronJob:
		v.cronJob(&o.Spec)
	case *corev1.Pod:
		v.pod(&o.Spec, spec)
		if old == nil {
			v.noEphemeral(&o.Spec, spec, "cannot be set on create")
		}
	case *corev1.Service:
		v.service(&o.Spec)
	case *corev1.PersistentVolumeClaim:
		v.claim(&o.Spec, spec)
	case *corev1.ConfigMap:
		for key := range o.Data {
			v.key(key, field.NewPath("data"))
		}
		for key := range o.BinaryData {
			v.key(key, field.NewPath("binaryData"))
		}
	case *corev1.Secret:
		for key := range o.Data {
			v.key(key, field.NewPath("data"))
		}
	}
	if old != nil {
		v.update(obj, old)
	}
	return v.error(k, obj)
}

// error is all that is wrong with an object; nil if nothing is.
func (v *validator) error(k *Kind, obj store.Object) error {
	if len(v.all) == 0 {
		return nil
	}
	// Maps have no order, errors should.
	slices.SortStableFunc(v.all, func(a, b *field.Error) int { return strings.Compare(a.Field+a.Detail, b.Field+b.Detail) })
	return &InvalidError{Kind: k.Kind, Name: obj.GetName(), Errors: v.all}
}

// validator collects what is wrong.
type validator struct{ all field.ErrorList }

var spec = field.NewPath("spec")

func (v *validator) invalid(p *field.Path, value any, format string, args ...any) {
	v.all = append(v.all, field.Invalid(p, value, fmt.Sprintf(format, args...)))
}

func (v *validator) required(p *field.Path) { v.all = append(v.all, field.Required(p, "")) }

// says notes what a check of apimachinery says.
func (v *validator) says(p *field.Path, value any, msgs []string) {
	for _, m := range msgs {
		v.all = append(v.all, field.Invalid(p, value, m))
	}
}

func (v *validator) oneOf(p *field.Path, value string, known ...string) {
	if !slices.Contains(known, value) {
		v.all = append(v.all, field.NotSupported(p, value, known))
	}
}

func (v *validator) metadata(k *Kind, obj store.Object) {
	p := field.NewPath("metadata")
	name := obj.GetName()
	switch {
	case name == "" && obj.GetGenerateName() == "":
		v.all = append(v.all, field.Required(p.Child("name"), "name or generateName is required"))
	case name == "":
	case k.Resource == "namespaces":
		v.says(p.Child("name"), name, validation.IsDNS1123Label(name))
	case k.Resource == "services":
		v.says(p.Child("name"), name, validation.IsDNS1035Label(name))
	default:
		v.says(p.Child("name"), name, validation.IsDNS1123Subdomain(name))
	}
	switch ns := obj.GetNamespace(); {
	case k.Namespaced && ns == "":
		v.required(p.Child("namespace"))
	case k.Namespaced:
		v.says(p.Child("namespace"), ns, validation.IsDNS1123Label(ns))
	case ns != "":
		v.all = append(v.all, field.Forbidden(p.Child("namespace"), "not allowed on this type"))
	}
	v.labels(obj.GetLabels(), p.Child("labels"))
	total := 0
	for key, value := range obj.GetAnnotations() {
		v.says(p.Child("annotations"), key, validation.IsQualifiedName(strings.ToLower(key)))
		total += len(key) + len(value)
	}
	if total > 256<<10 {
		v.all = append(v.all, field.TooLong(p.Child("annotations"), "", 256<<10))
	}
	for _, f := range obj.GetFinalizers() {
		v.says(p.Child("finalizers"), f, validation.IsQualifiedName(f))
	}
}

func (v *validator) labels(l map[string]string, p *field.Path) {
	for key, value := range l {
		v.says(p, key, validation.IsQualifiedName(key))
		v.says(p.Key(key), value, validation.IsValidLabelValue(value))
	}
}

func (v *validator) key(key string, p *field.Path) {
	v.says(p.Key(key), key, validation.IsConfigMapKey(key))
}

func (v *validator) count(n *int32, p *field.Path) {
	if n != nil && *n < 0 {
		v.invalid(p, *n, "must be greater than or equal to 0")
	}
}

// workload checks what all of them have: pods that they find again.
func (v *validator) workload(selector *metav1.LabelSelector, t *corev1.PodTemplateSpec, p *field.Path) {
	v.selector(selector, t, p)
	v.template(t, p)
	if t.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		v.all = append(v.all, field.NotSupported(p.Child("template", "spec", "restartPolicy"), t.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
}

func (v *validator) selector(selector *metav1.LabelSelector, t *corev1.PodTemplateSpec, p *field.Path) {
	if selector == nil {
		v.required(p.Child("selector"))
		return
	}
	if len(selector.MatchLabels)+len(selector.MatchExpressions) == 0 {
		v.invalid(p.Child("selector"), "{}", "empty selector is invalid: it would choose every pod")
		return
	}
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		v.invalid(p.Child("selector"), selector, "%v", err)
		return
	}
	if !s.Matches(labels.Set(t.Labels)) {
		v.invalid(p.Child("template", "metadata", "labels"), t.Labels, "`selector` does not match template `labels`")
	}
}

func (v *validator) template(t *corev1.PodTemplateSpec, p *field.Path) {
	v.labels(t.Labels, p.Child("template", "metadata", "labels"))
	v.pod(&t.Spec, p.Child("template", "spec"))
	v.noEphemeral(&t.Spec, p.Child("template", "spec"), "ephemeral containers not allowed in pod template")
}

func (v *validator) deployment(s *appsv1.DeploymentSpec) {
	v.workload(s.Selector, &s.Template, spec)
	v.count(s.Replicas, spec.Child("replicas"))
	v.count(&s.MinReadySeconds, spec.Child("minReadySeconds"))
	v.count(s.RevisionHistoryLimit, spec.Child("revisionHistoryLimit"))
	v.count(s.ProgressDeadlineSeconds, spec.Child("progressDeadlineSeconds"))
	if s.ProgressDeadlineSeconds != nil && *s.ProgressDeadlineSeconds <= s.MinReadySeconds {
		v.invalid(spec.Child("progressDeadlineSeconds"), *s.ProgressDeadlineSeconds, "must be greater than minReadySeconds")
	}
	p := spec.Child("strategy")
	switch r := s.Strategy.RollingUpdate; s.Strategy.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if r != nil {
			v.all = append(v.all, field.Forbidden(p.Child("rollingUpdate"), "may not be specified when strategy `type` is 'Recreate'"))
		}
	case appsv1.RollingUpdateDeploymentStrategyType:
		surge := v.amount(r.MaxSurge, p.Child("rollingUpdate", "maxSurge"))
		unavailable := v.amount(r.MaxUnavailable, p.Child("rollingUpdate", "maxUnavailable"))
		if r.MaxUnavailable.Type == intstr.String && unavailable > 100 {
			v.invalid(p.Child("rollingUpdate", "maxUnavailable"), r.MaxUnavailable.String(), "must not be greater than 100%%")
		}
		if surge == 0 && unavailable == 0 {
			v.invalid(p.Child("rollingUpdate", "maxUnavailable"), r.MaxUnavailable.String(), "may not be 0 when `maxSurge` is 0")
		}
	default:
		v.oneOf(p.Child("type"), string(s.Strategy.Type), "Recreate", "RollingUpdate")
	}
}

// amount is a number, or a percentage as written; -1 if it is neither.
func (v *validator) amount(a *intstr.IntOrString, p *field.Path) int {
	n, err := rollout.Share(a, 100, math.Floor)
	if err != nil {
		v.invalid(p, a.String(), "%v", err)
		return -1
	}
	return int(n)
}

func (v *validator) service(s *corev1.ServiceSpec) {
	v.oneOf(spec.Child("type"), string(s.Type), "ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
	v.labels(s.Selector, spec.Child("selector"))
	p := spec.Child("ports")
	if len(s.Ports) == 0 && s.ClusterIP != corev1.ClusterIPNone && s.Type != corev1.ServiceTypeExternalName {
		v.required(p)
	}
	names, seen := map[string]bool{}, map[string]bool{}
	for i, port := range s.Ports {
		at := p.Index(i)
		v.says(at.Child("port"), port.Port, validation.IsValidPortNum(int(port.Port)))
		if port.TargetPort.Type == intstr.Int {
			v.says(at.Child("targetPort"), port.TargetPort.IntVal, validation.IsValidPortNum(int(port.TargetPort.IntVal)))
		} else {
			v.says(at.Child("targetPort"), port.TargetPort.StrVal, validation.IsValidPortName(port.TargetPort.StrVal))
		}
		v.oneOf(at.Child("protocol"), string(port.Protocol), "TCP", "UDP", "SCTP")
		if port.Name == "" && len(s.Ports) > 1 {
			v.required(at.Child("name"))
		} else if port.Name != "" {
			v.says(at.Child("name"), port.Name, validation.IsDNS1123Label(port.Name))
			if names[port.Name] {
				v.all = append(v.all, field.Duplicate(at.Child("name"), port.Name))
			}
			names[port.Name] = true
		}
		if key := fmt.Sprint(port.Port, "/", port.Protocol); seen[key] {
			v.all = append(v.all, field.Duplicate(at, key))
		} else {
			seen[key] = true
		}
		if port.NodePort != 0 && s.Type != corev1.ServiceTypeNodePort && s.Type != corev1.ServiceTypeLoadBalancer {
			v.all = append(v.all, field.Forbidden(at.Child("nodePort"), "may not be used when `type` is '"+string(s.Type)+"'"))
		}
	}
}

// update checks what must not change.
func (v *validator) update(obj, old store.Object) {
	same := func(p *field.Path, a, b any) {
		if !equality.Semantic.DeepEqual(a, b) {
			v.invalid(p, a, "field is immutable")
		}
	}
	switch o := obj.(type) {
	case *appsv1.Deployment:
		same(spec.Child("selector"), o.Spec.Selector, old.(*appsv1.Deployment).Spec.Selector)
	case *appsv1.ReplicaSet:
		same(spec.Child("selector"), o.Spec.Selector, old.(*appsv1.ReplicaSet).Spec.Selector)
	case *appsv1.DaemonSet:
		same(spec.Child("selector"), o.Spec.Selector, old.(*appsv1.DaemonSet).Spec.Selector)
	case *appsv1.StatefulSet:
		was := old.(*appsv1.StatefulSet).Spec
		same(spec.Child("selector"), o.Spec.Selector, was.Selector)
		same(spec.Child("serviceName"), o.Spec.ServiceName, was.ServiceName)
		same(spec.Child("podManagementPolicy"), o.Spec.PodManagementPolicy, was.PodManagementPolicy)
		same(spec.Child("volumeClaimTemplates"), o.Spec.VolumeClaimTemplates, was.VolumeClaimTemplates)
	case *batchv1.Job:
		was := old.(*batchv1.Job).Spec
		same(spec.Child("template"), o.Spec.Template, was.Template)
		same(spec.Child("completions"), o.Spec.Completions, was.Completions)
	case *corev1.Service:
		// Who does not say it keeps it.
		if was := old.(*corev1.Service).Spec.ClusterIP; was != "" && o.Spec.ClusterIP != "" && o.Spec.Type != corev1.ServiceTypeExternalName {
			same(spec.Child("clusterIP"), o.Spec.ClusterIP, was)
		}
	case *corev1.ConfigMap:
		if was := old.(*corev1.ConfigMap); was.Immutable != nil && *was.Immutable && !(reflect.DeepEqual(o.Data, was.Data) && reflect.DeepEqual(o.BinaryData, was.BinaryData)) {
			v.all = append(v.all, field.Forbidden(field.NewPath("data"), "field is immutable when `immutable` is set"))
		}
	case *corev1.Secret:
		was := old.(*corev1.Secret)
		same(field.NewPath("type"), o.Type, was.Type)
		if was.Immutable != nil && *was.Immutable && !reflect.DeepEqual(o.Data, was.Data) {
			v.all = append(v.all, field.Forbidden(field.NewPath("data"), "field is immutable when `immutable` is set"))
		}
	case *corev1.Pod:
		v.podUpdate(&o.Spec, &old.(*corev1.Pod).Spec)
	}
}
