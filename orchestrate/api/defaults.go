package api

import (
	"math"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/minirun/minirun/orchestrate/podlife"
	"github.com/minirun/minirun/orchestrate/store"
)

// set gives a field its default.
func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// ptr does the same with one that is optional.
func ptr[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

// Default fills in what an object does not say.
func Default(obj store.Object) {
	switch o := obj.(type) {
	case *appsv1.Deployment:
		ptr(&o.Spec.Replicas, 1)
		ptr(&o.Spec.RevisionHistoryLimit, 10)
		ptr(&o.Spec.ProgressDeadlineSeconds, 600)
		set(&o.Spec.Strategy.Type, appsv1.RollingUpdateDeploymentStrategyType)
		if o.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
			ptr(&o.Spec.Strategy.RollingUpdate, appsv1.RollingUpdateDeployment{})
			ptr(&o.Spec.Strategy.RollingUpdate.MaxSurge, intstr.FromString("25%"))
			ptr(&o.Spec.Strategy.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		}
		defaultPod(&o.Spec.Template.Spec)
	case *appsv1.ReplicaSet:
		ptr(&o.Spec.Replicas, 1)
		defaultPod(&o.Spec.Template.Spec)
	case *appsv1.StatefulSet:
		ptr(&o.Spec.Replicas, 1)
		ptr(&o.Spec.RevisionHistoryLimit, 10)
		set(&o.Spec.PodManagementPolicy, appsv1.OrderedReadyPodManagement)
		set(&o.Spec.UpdateStrategy.Type, appsv1.RollingUpdateStatefulSetStrategyType)
		if o.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType {
			ptr(&o.Spec.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
			ptr(&o.Spec.UpdateStrategy.RollingUpdate.Partition, 0)
		}
		ptr(&o.Spec.PersistentVolumeClaimRetentionPolicy, appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{})
		set(&o.Spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
		set(&o.Spec.PersistentVolumeClaimRetentionPolicy.WhenScaled, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
		for i := range o.Spec.VolumeClaimTemplates {
			ptr(&o.Spec.VolumeClaimTemplates[i].Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
		}
		defaultPod(&o.Spec.Template.Spec)
	case *appsv1.DaemonSet:
		ptr(&o.Spec.RevisionHistoryLimit, 10)
		set(&o.Spec.UpdateStrategy.Type, appsv1.RollingUpdateDaemonSetStrategyType)
		if o.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
			ptr(&o.Spec.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateDaemonSet{})
			ptr(&o.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
			ptr(&o.Spec.UpdateStrategy.RollingUpdate.MaxSurge, intstr.FromInt32(0))
		}
		defaultPod(&o.Spec.Template.Spec)
	case *batchv1.Job:
		defaultJob(&o.Spec)
	case *batchv1.CronJob:
		set(&o.Spec.ConcurrencyPolicy, batchv1.AllowConcurrent)
		ptr(&o.Spec.Suspend, false)
		ptr(&o.Spec.SuccessfulJobsHistoryLimit, 3)
		ptr(&o.Spec.FailedJobsHistoryLimit, 1)
		defaultJob(&o.Spec.JobTemplate.Spec)
	case *corev1.Pod:
		defaultPod(&o.Spec)
		switch o.Spec.PriorityClassName {
		case "system-node-critical":
			ptr(&o.Spec.Priority, int32(2000001000))
		case "system-cluster-critical":
			ptr(&o.Spec.Priority, int32(2000000000))
		}
		set(&o.Status.Phase, corev1.PodPending)
	case *corev1.Service:
		set(&o.Spec.Type, corev1.ServiceTypeClusterIP)
		set(&o.Spec.SessionAffinity, corev1.ServiceAffinityNone)
		if o.Spec.SessionAffinity == corev1.ServiceAffinityClientIP && o.Spec.SessionAffinityConfig == nil {
			seconds := corev1.DefaultClientIPServiceAffinitySeconds
			o.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
		}
		if o.Spec.Type != corev1.ServiceTypeExternalName {
			ptr(&o.Spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
		}
		if o.Spec.Type == corev1.ServiceTypeNodePort || o.Spec.Type == corev1.ServiceTypeLoadBalancer {
			set(&o.Spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
		}
		if o.Spec.Type == corev1.ServiceTypeLoadBalancer {
			ptr(&o.Spec.AllocateLoadBalancerNodePorts, true)
		}
		for i := range o.Spec.Ports {
			p := &o.Spec.Ports[i]
			set(&p.Protocol, corev1.ProtocolTCP)
			set(&p.TargetPort, intstr.FromInt32(p.Port))
		}
	case *corev1.Secret:
		set(&o.Type, corev1.SecretTypeOpaque)
		// What is written as text is a way to write data.
		for k, v := range o.StringData {
			if o.Data == nil {
				o.Data = map[string][]byte{}
			}
			o.Data[k] = []byte(v)
		}
		o.StringData = nil
	case *corev1.PersistentVolumeClaim:
		ptr(&o.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
		set(&o.Status.Phase, corev1.ClaimPending)
	case *corev1.PersistentVolume:
		ptr(&o.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
		set(&o.Spec.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimRetain)
		set(&o.Status.Phase, corev1.VolumePending)
	case *storagev1.StorageClass:
		ptr(&o.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
		ptr(&o.VolumeBindingMode, storagev1.VolumeBindingImmediate)
	case *corev1.Namespace:
		set(&o.Status.Phase, corev1.NamespaceActive)
	}
}

func defaultJob(s *batchv1.JobSpec) {
	ptr(&s.Parallelism, 1)
	if s.Completions == nil && *s.Parallelism == 1 {
		ptr(&s.Completions, 1)
	}
	if s.BackoffLimitPerIndex != nil {
		ptr(&s.BackoffLimit, math.MaxInt32)
	}
	ptr(&s.BackoffLimit, 6)
	ptr(&s.CompletionMode, batchv1.NonIndexedCompletion)
	ptr(&s.Suspend, false)
	if s.PodFailurePolicy != nil {
		ptr(&s.PodReplacementPolicy, batchv1.Failed)
		for i := range s.PodFailurePolicy.Rules {
			for k := range s.PodFailurePolicy.Rules[i].OnPodConditions {
				set(&s.PodFailurePolicy.Rules[i].OnPodConditions[k].Status, corev1.ConditionTrue)
			}
		}
	}
	ptr(&s.PodReplacementPolicy, batchv1.TerminatingOrFailed)
	defaultPod(&s.Template.Spec)
}

func defaultPod(s *corev1.PodSpec) {
	set(&s.RestartPolicy, corev1.RestartPolicyAlways)
	set(&s.DNSPolicy, corev1.DNSClusterFirst)
	set(&s.SchedulerName, corev1.DefaultSchedulerName)
	ptr(&s.TerminationGracePeriodSeconds, 30)
	ptr(&s.SecurityContext, corev1.PodSecurityContext{})
	for i := range s.InitContainers {
		defaultContainer(&s.InitContainers[i])
	}
	for i := range s.Containers {
		defaultContainer(&s.Containers[i])
	}
	for i := range s.EphemeralContainers {
		defaultContainer(AsContainer(&s.EphemeralContainers[i]))
	}
	for i := range s.Volumes {
		v := &s.Volumes[i].VolumeSource
		switch {
		case v.ConfigMap != nil:
			ptr(&v.ConfigMap.DefaultMode, corev1.ConfigMapVolumeSourceDefaultMode)
		case v.Secret != nil:
			ptr(&v.Secret.DefaultMode, corev1.SecretVolumeSourceDefaultMode)
		case v.DownwardAPI != nil:
			ptr(&v.DownwardAPI.DefaultMode, corev1.DownwardAPIVolumeSourceDefaultMode)
		case v.Projected != nil:
			ptr(&v.Projected.DefaultMode, corev1.ProjectedVolumeSourceDefaultMode)
		case v.HostPath != nil:
			ptr(&v.HostPath.Type, corev1.HostPathUnset)
		}
	}
}

func defaultContainer(c *corev1.Container) {
	set(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	set(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	set(&c.ImagePullPolicy, pullPolicy(c.Image))
	for i := range c.Ports {
		set(&c.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	for i := range c.Env {
		if f := c.Env[i].ValueFrom; f != nil && f.FieldRef != nil {
			set(&f.FieldRef.APIVersion, "v1")
		}
	}
	for name, limit := range c.Resources.Limits {
		if c.Resources.Requests == nil {
			c.Resources.Requests = corev1.ResourceList{}
		}
		if _, ok := c.Resources.Requests[name]; !ok {
			c.Resources.Requests[name] = limit.DeepCopy()
		}
	}
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if p == nil {
			continue
		}
		podlife.DefaultProbe(p)
		if p.HTTPGet != nil {
			set(&p.HTTPGet.Path, "/")
			set(&p.HTTPGet.Scheme, corev1.URISchemeHTTP)
		}
		if p.GRPC != nil {
			ptr(&p.GRPC.Service, "")
		}
	}
	if l := c.Lifecycle; l != nil {
		for _, h := range []*corev1.LifecycleHandler{l.PostStart, l.PreStop} {
			if h != nil && h.HTTPGet != nil {
				set(&h.HTTPGet.Path, "/")
				set(&h.HTTPGet.Scheme, corev1.URISchemeHTTP)
			}
		}
	}
}

// pullPolicy is Always for what may change, which is the tag latest.
func pullPolicy(image string) corev1.PullPolicy {
	if strings.Contains(image, "@") {
		return corev1.PullIfNotPresent
	}
	_, tag, _ := strings.Cut(image[strings.LastIndexByte(image, '/')+1:], ":")
	if tag == "" || tag == "latest" {
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}

// Prepare makes a new object ready to be stored: with defaults, and without
// what only the server writes. Its status is that of a new object.
func Prepare(k *Kind, obj store.Object) error {
	obj.SetManagedFields(nil)
	obj.SetSelfLink("")
	if err := clearStatus(k, obj); err != nil {
		return err
	}
	Default(obj)
	return nil
}
