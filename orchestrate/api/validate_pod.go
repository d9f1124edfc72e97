package api

import (
	"fmt"
	"path"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (v *validator) pod(s *corev1.PodSpec, p *field.Path) {
	v.oneOf(p.Child("restartPolicy"), string(s.RestartPolicy), "Always", "OnFailure", "Never")
	if g := s.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		v.invalid(p.Child("terminationGracePeriodSeconds"), *g, "must be greater than or equal to 0")
	}
	if s.HostPID && s.ShareProcessNamespace != nil && *s.ShareProcessNamespace {
		v.invalid(p.Child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled")
	}
	volumes := map[string]bool{}
	for i, vol := range s.Volumes {
		at := p.Child("volumes").Index(i)
		v.says(at.Child("name"), vol.Name, validation.IsDNS1123Label(vol.Name))
		if volumes[vol.Name] {
			v.all = append(v.all, field.Duplicate(at.Child("name"), vol.Name))
		}
		volumes[vol.Name] = true
		switch n := sources(&vol.VolumeSource); {
		case n == 0:
			v.all = append(v.all, field.Required(at, "must specify a volume type"))
		case n > 1:
			v.all = append(v.all, field.Forbidden(at, "may not specify more than 1 volume type"))
		}
		if h := vol.HostPath; h != nil && (!path.IsAbs(h.Path) || strings.Contains(h.Path+"/", "/../")) {
			v.invalid(at.Child("hostPath", "path"), h.Path, "must be an absolute path without '..'")
		}
	}
	if len(s.Containers) == 0 {
		v.required(p.Child("containers"))
	}
	names := map[string]bool{}
	for i := range s.InitContainers {
		at := p.Child("initContainers").Index(i)
		v.container(&s.InitContainers[i], at, names, volumes)
		if r := s.InitContainers[i].RestartPolicy; r != nil {
			v.oneOf(at.Child("restartPolicy"), string(*r), string(corev1.ContainerRestartPolicyAlways))
		}
	}
	for i := range s.Containers {
		v.container(&s.Containers[i], p.Child("containers").Index(i), names, volumes)
		if s.Containers[i].RestartPolicy != nil {
			v.all = append(v.all, field.Forbidden(p.Child("containers").Index(i).Child("restartPolicy"), "may not be set for non-init containers"))
		}
	}
	v.ephemeral(s, p, names, volumes)
}

// sources counts how many kinds of volume are given.
func sources(s *corev1.VolumeSource) (n int) {
	r := reflect.ValueOf(s).Elem()
	for i := range r.NumField() {
		if !r.Field(i).IsNil() {
			n++
		}
	}
	return n
}

func (v *validator) container(c *corev1.Container, p *field.Path, names, volumes map[string]bool) {
	if c.Name == "" {
		v.required(p.Child("name"))
	} else {
		v.says(p.Child("name"), c.Name, validation.IsDNS1123Label(c.Name))
		if names[c.Name] {
			v.all = append(v.all, field.Duplicate(p.Child("name"), c.Name))
		}
		names[c.Name] = true
	}
	if strings.TrimSpace(c.Image) == "" {
		v.required(p.Child("image"))
	}
	v.oneOf(p.Child("imagePullPolicy"), string(c.ImagePullPolicy), "Always", "IfNotPresent", "Never")
	ports := map[string]bool{}
	for i, port := range c.Ports {
		at := p.Child("ports").Index(i)
		v.says(at.Child("containerPort"), port.ContainerPort, validation.IsValidPortNum(int(port.ContainerPort)))
		if port.HostPort != 0 {
			v.says(at.Child("hostPort"), port.HostPort, validation.IsValidPortNum(int(port.HostPort)))
		}
		v.oneOf(at.Child("protocol"), string(port.Protocol), "TCP", "UDP", "SCTP")
		if port.Name != "" {
			v.says(at.Child("name"), port.Name, validation.IsValidPortName(port.Name))
			if ports[port.Name] {
				v.all = append(v.all, field.Duplicate(at.Child("name"), port.Name))
			}
			ports[port.Name] = true
		}
	}
	for i, e := range c.Env {
		at := p.Child("env").Index(i)
		if e.Name == "" {
			v.required(at.Child("name"))
		} else if strings.ContainsAny(e.Name, "=\x00") {
			v.invalid(at.Child("name"), e.Name, "must not contain '='")
		}
		if e.Value != "" && e.ValueFrom != nil {
			v.invalid(at.Child("valueFrom"), "", "may not be specified when `value` is not empty")
		}
	}
	mounts := map[string]bool{}
	for i, m := range c.VolumeMounts {
		at := p.Child("volumeMounts").Index(i)
		if !volumes[m.Name] {
			v.all = append(v.all, field.NotFound(at.Child("name"), m.Name))
		}
		if m.MountPath == "" {
			v.required(at.Child("mountPath"))
		} else if mounts[m.MountPath] {
			v.invalid(at.Child("mountPath"), m.MountPath, "must be unique")
		}
		mounts[m.MountPath] = true
		if path.IsAbs(m.SubPath) || strings.Contains("/"+m.SubPath+"/", "/../") {
			v.invalid(at.Child("subPath"), m.SubPath, "must be a relative path without '..'")
		}
	}
	v.resources(&c.Resources, p.Child("resources"))
	v.probe(c.LivenessProbe, p.Child("livenessProbe"), true)
	v.probe(c.StartupProbe, p.Child("startupProbe"), true)
	v.probe(c.ReadinessProbe, p.Child("readinessProbe"), false)
	if l := c.Lifecycle; l != nil {
		v.hook(l.PostStart, p.Child("lifecycle", "postStart"))
		v.hook(l.PreStop, p.Child("lifecycle", "preStop"))
	}
}

func (v *validator) resources(r *corev1.ResourceRequirements, p *field.Path) {
	for which, list := range map[string]corev1.ResourceList{"limits": r.Limits, "requests": r.Requests} {
		for name, q := range list {
			at := p.Child(which).Key(string(name))
			if q.Sign() < 0 {
				v.invalid(at, q.String(), "must be greater than or equal to 0")
			}
			if limit, ok := r.Limits[name]; which == "requests" && ok && q.Cmp(limit) > 0 {
				v.invalid(at, q.String(), "must be less than or equal to %s limit of %s", name, limit.String())
			}
		}
	}
}

func (v *validator) probe(b *corev1.Probe, p *field.Path, once bool) {
	if b == nil {
		return
	}
	for name, n := range map[string]int32{
		"initialDelaySeconds": b.InitialDelaySeconds, "timeoutSeconds": b.TimeoutSeconds, "periodSeconds": b.PeriodSeconds,
		"successThreshold": b.SuccessThreshold, "failureThreshold": b.FailureThreshold,
	} {
		if n < 0 || n == 0 && name != "initialDelaySeconds" {
			v.invalid(p.Child(name), n, "must be greater than 0")
		}
	}
	if once && b.SuccessThreshold != 1 {
		v.invalid(p.Child("successThreshold"), b.SuccessThreshold, "must be 1")
	}
	n := 0
	if b.Exec != nil {
		n++
		if len(b.Exec.Command) == 0 {
			v.required(p.Child("exec", "command"))
		}
	}
	if b.HTTPGet != nil {
		n++
		v.port(b.HTTPGet.Port, p.Child("httpGet", "port"))
	}
	if b.TCPSocket != nil {
		n++
		v.port(b.TCPSocket.Port, p.Child("tcpSocket", "port"))
	}
	if b.GRPC != nil {
		n++
		v.says(p.Child("grpc", "port"), b.GRPC.Port, validation.IsValidPortNum(int(b.GRPC.Port)))
	}
	v.handlers(n, p)
}

func (v *validator) hook(h *corev1.LifecycleHandler, p *field.Path) {
	if h == nil {
		return
	}
	n := 0
	for _, set := range []bool{h.Exec != nil, h.HTTPGet != nil, h.TCPSocket != nil, h.Sleep != nil} {
		if set {
			n++
		}
	}
	v.handlers(n, p)
}

func (v *validator) handlers(n int, p *field.Path) {
	switch {
	case n == 0:
		v.all = append(v.all, field.Required(p, "must specify a handler type"))
	case n > 1:
		v.all = append(v.all, field.Forbidden(p, "may not specify more than 1 handler type"))
	}
}

func (v *validator) port(port intstr.IntOrString, p *field.Path) {
	if port.Type == intstr.Int {
		v.says(p, port.IntVal, validation.IsValidPortNum(int(port.IntVal)))
	} else {
		v.says(p, port.StrVal, validation.IsValidPortName(port.StrVal))
	}
}

// podUpdate: of a pod that runs only images and a few times can change.
func (v *validator) podUpdate(s, old *corev1.PodSpec) {
	n := s.DeepCopy()
	if len(n.Containers) != len(old.Containers) || len(n.InitContainers) != len(old.InitContainers) {
		v.all = append(v.all, field.Forbidden(spec.Child("containers"), "pod updates may not add or remove containers"))
		return
	}
	for i := range n.Containers {
		n.Containers[i].Image = old.Containers[i].Image
	}
	for i := range n.InitContainers {
		n.InitContainers[i].Image = old.InitContainers[i].Image
	}
	n.ActiveDeadlineSeconds, n.TerminationGracePeriodSeconds, n.Tolerations = old.ActiveDeadlineSeconds, old.TerminationGracePeriodSeconds, old.Tolerations
	if n.NodeName != "" && old.NodeName == "" {
		n.NodeName = "" // it was placed
	}
	if !equality.Semantic.DeepEqual(n, old) {
		v.all = append(v.all, field.Forbidden(spec, fmt.Sprintf("pod updates may not change fields other than %s",
			"`spec.containers[*].image`, `spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.terminationGracePeriodSeconds` and `spec.tolerations`")))
	}
}
