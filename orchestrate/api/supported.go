package api

import (
	"fmt"
	"reflect"
	"strings"
	"sync"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// UnsupportedError is the cause of a FieldError about a field that Kubernetes has
// and that does nothing here.
type UnsupportedError struct {
	Field string
	// Why, if not empty, says why the field has nothing to do on one host. Then it
	// may stand there; otherwise what was asked for would silently not happen.
	Why string
}

func (e *UnsupportedError) Error() string {
	if e.Why != "" {
		return fmt.Sprintf("field %q has no effect: %s", e.Field, e.Why)
	}
	return fmt.Sprintf("field %q is not supported", e.Field)
}

const (
	oneNode = "there is one node, and every pod is on it"
	noAuth  = "there are no service accounts"
)

// meaning is what the fields of a type mean here.
type meaning struct {
	has  []string          // those that mean something
	idle map[string]string // those that have nothing to do, and why
}

// meanings are those of the types whose fields are not all supported. This is the
// one list: docs/orchestrate.md shows it.
var meanings = sync.OnceValue(func() map[reflect.Type]meaning {
	of := func(has string, idle ...string) meaning {
		m := meaning{has: strings.Fields(has), idle: map[string]string{}}
		for i := 0; i < len(idle); i += 2 {
			for f := range strings.FieldsSeq(idle[i]) {
				m.idle[f] = idle[i+1]
			}
		}
		return m
	}
	return map[reflect.Type]meaning{
		reflect.TypeFor[corev1.PodSpec](): of(`volumes initContainers containers restartPolicy terminationGracePeriodSeconds activeDeadlineSeconds dnsPolicy nodeName
			hostNetwork hostPID hostIPC shareProcessNamespace securityContext imagePullSecrets hostname subdomain hostAliases readinessGates dnsConfig enableServiceLinks
			setHostnameAsFQDN hostUsers nodeSelector affinity overhead tolerations schedulingGates ephemeralContainers`,
			"topologySpreadConstraints schedulerName", oneNode, "priority priorityClassName preemptionPolicy", "no pod makes room for another one; only the system classes count, for oom_score_adj",
			"serviceAccountName serviceAccount automountServiceAccountToken", noAuth, "os", "it is linux"),
		reflect.TypeFor[corev1.Container](): of(`name image command args workingDir ports envFrom env resources restartPolicy volumeMounts livenessProbe readinessProbe
			startupProbe lifecycle terminationMessagePath terminationMessagePolicy imagePullPolicy securityContext stdin stdinOnce tty`,
			"resizePolicy", "limits of a running pod are not changed"),
		reflect.TypeFor[corev1.ResourceRequirements](): of("limits requests"),
		reflect.TypeFor[corev1.VolumeSource]():         of("hostPath emptyDir secret persistentVolumeClaim downwardAPI configMap projected"),
		reflect.TypeFor[corev1.VolumeProjection]():     of("secret downwardAPI configMap"),
		reflect.TypeFor[corev1.EnvVarSource]():         of("fieldRef resourceFieldRef configMapKeyRef secretKeyRef"),
		reflect.TypeFor[corev1.Lifecycle]():            of("postStart preStop stopSignal"),
		reflect.TypeFor[corev1.LifecycleHandler]():     of("exec httpGet tcpSocket sleep"),
		reflect.TypeFor[corev1.SecurityContext](): of(`capabilities privileged runAsUser runAsGroup runAsNonRoot readOnlyRootFilesystem allowPrivilegeEscalation
			seccompProfile appArmorProfile seLinuxOptions procMount`),
		reflect.TypeFor[corev1.PodSecurityContext](): of(`runAsUser runAsGroup runAsNonRoot supplementalGroups supplementalGroupsPolicy fsGroup
			fsGroupChangePolicy sysctls seccompProfile appArmorProfile seLinuxOptions`),
		reflect.TypeFor[corev1.ServiceSpec](): of(`ports selector clusterIP clusterIPs type externalIPs sessionAffinity sessionAffinityConfig externalName
			externalTrafficPolicy internalTrafficPolicy ipFamilies ipFamilyPolicy publishNotReadyAddresses`,
			"allocateLoadBalancerNodePorts loadBalancerIP loadBalancerSourceRanges loadBalancerClass healthCheckNodePort", "there is no load balancer beside the host",
			"trafficDistribution", oneNode),
		reflect.TypeFor[batchv1.JobSpec](): of(`parallelism completions activeDeadlineSeconds backoffLimit selector manualSelector template ttlSecondsAfterFinished
			completionMode suspend podFailurePolicy podReplacementPolicy backoffLimitPerIndex maxFailedIndexes successPolicy`),
	}
})

// unsupported tells whether a field of a type does nothing.
func unsupported(t reflect.Type, name string) *UnsupportedError {
	m, ok := meanings()[t]
	for i := 0; !ok && t.Kind() == reflect.Struct && i < t.NumField(); i++ {
		// What is embedded has its fields here, as the source of a volume.
		f := t.Field(i)
		if inner, has := meanings()[f.Type]; f.Anonymous && has {
			known := map[string]reflect.Type{}
			collect(f.Type, known)
			if known[name] != nil {
				m, ok = inner, true
			}
		}
	}
	if !ok {
		return nil
	}
	for _, h := range m.has {
		if h == name {
			return nil
		}
	}
	return &UnsupportedError{Field: name, Why: m.idle[name]}
}

// Effective makes errors of fields that are set and not supported. idle are those
// that have nothing to do here, which is not an error.
func Effective(objects []Decoded) (wrong, idle []*FieldError) {
	for _, o := range objects {
		for _, u := range o.Unsupported {
			if e, ok := u.Err.(*UnsupportedError); ok && e.Why != "" {
				idle = append(idle, u)
			} else {
				wrong = append(wrong, u)
			}
		}
	}
	return wrong, idle
}
