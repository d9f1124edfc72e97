package view

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/minirun/minirun/orchestrate/store"
)

// none stands where there is nothing.
const none = "<none>"

// Age is how long ago something was.
func Age(t metav1.Time, now time.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(t.Time))
}

func or(s, instead string) string {
	if s == "" {
		return instead
	}
	return s
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// cells are the columns of an object, in the order of columns.
func cells(obj store.Object, now time.Time) []any {
	name, age := obj.GetName(), Age(obj.GetCreationTimestamp(), now)
	switch o := obj.(type) {
	case *corev1.Pod:
		return podCells(o, now)
	case *appsv1.Deployment:
		return append([]any{
			name, fmt.Sprintf("%d/%d", o.Status.ReadyReplicas, value(o.Spec.Replicas)), int64(o.Status.UpdatedReplicas), int64(o.Status.AvailableReplicas), age,
		}, workload(&o.Spec.Template.Spec, o.Spec.Selector)...)
	case *appsv1.ReplicaSet:
		return append([]any{name, int64(value(o.Spec.Replicas)), int64(o.Status.Replicas), int64(o.Status.ReadyReplicas), age}, workload(&o.Spec.Template.Spec, o.Spec.Selector)...)
	case *appsv1.StatefulSet:
		return append([]any{name, fmt.Sprintf("%d/%d", o.Status.ReadyReplicas, value(o.Spec.Replicas)), age}, workload(&o.Spec.Template.Spec, o.Spec.Selector)[:2]...)
	case *appsv1.DaemonSet:
		s := &o.Status
		return append([]any{
			name, int64(s.DesiredNumberScheduled), int64(s.CurrentNumberScheduled), int64(s.NumberReady), int64(s.UpdatedNumberScheduled), int64(s.NumberAvailable),
			or(labels.FormatLabels(o.Spec.Template.Spec.NodeSelector), none), age,
		}, workload(&o.Spec.Template.Spec, o.Spec.Selector)...)
	case *appsv1.ControllerRevision:
		return []any{name, controllerOf(o), o.Revision, age}
	case *batchv1.Job:
		return append([]any{name, jobStatus(o), completions(o), jobDuration(o, now), age}, workload(&o.Spec.Template.Spec, o.Spec.Selector)...)
	case *batchv1.CronJob:
		last := none
		if o.Status.LastScheduleTime != nil {
			last = Age(*o.Status.LastScheduleTime, now)
		}
		suspend := "False"
		if value(o.Spec.Suspend) {
			suspend = "True"
		}
		return append([]any{name, o.Spec.Schedule, or(value(o.Spec.TimeZone), none), suspend, int64(len(o.Status.Active)), last, age}, workload(&o.Spec.JobTemplate.Spec.Template.Spec, o.Spec.JobTemplate.Spec.Selector)...)
	case *corev1.Service:
		return []any{name, string(o.Spec.Type), clusterIP(o), externalIP(o), servicePorts(o), age, or(labels.FormatLabels(o.Spec.Selector), none)}
	case *corev1.Endpoints: //lint:ignore SA1019 kubectl describe still asks for them
		return []any{name, endpoints(o), age}
	case *discoveryv1.EndpointSlice:
		return []any{name, string(o.AddressType), slicePorts(o), sliceEndpoints(o), age}
	case *corev1.ConfigMap:
		return []any{name, int64(len(o.Data) + len(o.BinaryData)), age}
	case *corev1.Secret:
		return []any{name, string(o.Type), int64(len(o.Data)), age}
	case *corev1.Namespace:
		return []any{name, string(o.Status.Phase), age}
	case *corev1.Node:
		return nodeCells(o, now)
	case *corev1.PersistentVolume:
		claim := ""
		if r := o.Spec.ClaimRef; r != nil {
			claim = r.Namespace + "/" + r.Name
		}
		phase := string(o.Status.Phase)
		if o.DeletionTimestamp != nil {
			phase = "Terminating"
		}
		size := o.Spec.Capacity[corev1.ResourceStorage]
		return []any{
			name, size.String(), accessModes(o.Spec.AccessModes), string(o.Spec.PersistentVolumeReclaimPolicy), phase, claim, o.Spec.StorageClassName,
			"<unset>", o.Status.Reason, age, string(value(o.Spec.VolumeMode)),
		}
	case *corev1.PersistentVolumeClaim:
		phase, size, modes := string(o.Status.Phase), "", ""
		if o.DeletionTimestamp != nil {
			phase = "Terminating"
		}
		if o.Spec.VolumeName != "" {
			q := o.Status.Capacity[corev1.ResourceStorage]
			size, modes = q.String(), accessModes(o.Status.AccessModes)
		}
		return []any{name, phase, o.Spec.VolumeName, size, modes, value(o.Spec.StorageClassName), "<unset>", age, string(value(o.Spec.VolumeMode))}
	case *storagev1.StorageClass:
		if o.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" {
			name += " (default)"
		}
		return []any{
			name, o.Provisioner, or(string(value(o.ReclaimPolicy)), "Delete"), or(string(value(o.VolumeBindingMode)), "Immediate"),
			strconv.FormatBool(value(o.AllowVolumeExpansion)), age,
		}
	case *corev1.Event:
		return eventCells(o, now)
	}
	return []any{name, obj.GetCreationTimestamp().UTC().Format(time.RFC3339)}
}

// workload is who is in a template: containers, images, selector.
func workload(s *corev1.PodSpec, selector *metav1.LabelSelector) []any {
	var names, images []string
	for i := range s.Containers {
		names, images = append(names, s.Containers[i].Name), append(images, s.Containers[i].Image)
	}
	return []any{strings.Join(names, ","), strings.Join(images, ","), metav1.FormatLabelSelector(selector)}
}

func controllerOf(obj store.Object) string {
	for _, o := range obj.GetOwnerReferences() {
		if value(o.Controller) {
			group, _, _ := strings.Cut(o.APIVersion, "/")
			return strings.ToLower(o.Kind) + "." + group + "/" + o.Name
		}
	}
	return none
}

func jobStatus(j *batchv1.Job) string {
	has := func(t batchv1.JobConditionType) bool {
		return slices.ContainsFunc(j.Status.Conditions, func(c batchv1.JobCondition) bool { return c.Type == t && c.Status == corev1.ConditionTrue })
	}
	switch {
	case has(batchv1.JobComplete):
		return "Complete"
	case has(batchv1.JobFailed):
		return "Failed"
	case j.DeletionTimestamp != nil:
		return "Terminating"
	case has(batchv1.JobSuspended):
		return "Suspended"
	case has(batchv1.JobFailureTarget):
		return "FailureTarget"
	case has(batchv1.JobSuccessCriteriaMet):
		return "SuccessCriteriaMet"
	}
	return "Running"
}

func completions(j *batchv1.Job) string {
	switch {
	case j.Spec.Completions != nil:
		return fmt.Sprintf("%d/%d", j.Status.Succeeded, *j.Spec.Completions)
	case value(j.Spec.Parallelism) > 1:
		return fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, *j.Spec.Parallelism)
	}
	return fmt.Sprintf("%d/1", j.Status.Succeeded)
}

func jobDuration(j *batchv1.Job, now time.Time) string {
	switch {
	case j.Status.StartTime == nil:
		return ""
	case j.Status.CompletionTime == nil:
		return duration.HumanDuration(now.Sub(j.Status.StartTime.Time))
	}
	return duration.HumanDuration(j.Status.CompletionTime.Sub(j.Status.StartTime.Time))
}

func clusterIP(s *corev1.Service) string {
	if len(s.Spec.ClusterIPs) > 0 {
		return s.Spec.ClusterIPs[0]
	}
	return or(s.Spec.ClusterIP, none)
}

func externalIP(s *corev1.Service) string {
	list := slices.Clone(s.Spec.ExternalIPs)
	switch s.Spec.Type {
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	case corev1.ServiceTypeLoadBalancer:
		for _, i := range s.Status.LoadBalancer.Ingress {
			list = append(list, or(i.IP, i.Hostname))
		}
		return or(strings.Join(list, ","), "<pending>")
	}
	return or(strings.Join(list, ","), none)
}

func servicePorts(s *corev1.Service) string {
	var list []string
	for _, p := range s.Spec.Ports {
		if p.NodePort > 0 {
			list = append(list, fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol))
		} else {
			list = append(list, fmt.Sprintf("%d/%s", p.Port, p.Protocol))
		}
	}
	return or(strings.Join(list, ","), none)
}

// atMost joins a list and says how many do not fit.
func atMost(list []string, n int) string {
	if len(list) == 0 {
		return none
	}
	if len(list) > n {
		return fmt.Sprintf("%s + %d more...", strings.Join(list[:n], ","), len(list)-n)
	}
	return strings.Join(list, ",")
}

func endpoints(e *corev1.Endpoints) string { //lint:ignore SA1019 kubectl describe still asks for them
	var list []string
	for _, s := range e.Subsets {
		for _, a := range s.Addresses {
			if len(s.Ports) == 0 {
				list = append(list, a.IP)
			}
			for _, p := range s.Ports {
				list = append(list, hostPort(a.IP, p.Port))
			}
		}
	}
	return atMost(list, 3)
}

func hostPort(ip string, port int32) string {
	if strings.Contains(ip, ":") {
		ip = "[" + ip + "]"
	}
	return ip + ":" + strconv.Itoa(int(port))
}

func slicePorts(s *discoveryv1.EndpointSlice) string {
	var list []string
	for _, p := range s.Ports {
		switch {
		case p.Port != nil:
			list = append(list, strconv.Itoa(int(*p.Port)))
		default:
			list = append(list, or(value(p.Name), "*"))
		}
	}
	if len(list) == 0 {
		return "<unset>"
	}
	return atMost(list, 3)
}

func sliceEndpoints(s *discoveryv1.EndpointSlice) string {
	var list []string
	for _, e := range s.Endpoints {
		list = append(list, e.Addresses...)
	}
	if len(list) == 0 {
		return "<unset>"
	}
	return atMost(list, 3)
}

func accessModes(modes []corev1.PersistentVolumeAccessMode) string {
	short := map[corev1.PersistentVolumeAccessMode]string{
		corev1.ReadWriteOnce: "RWO", corev1.ReadOnlyMany: "ROX", corev1.ReadWriteMany: "RWX", corev1.ReadWriteOncePod: "RWOP",
	}
	var list []string
	for _, m := range modes {
		if s := short[m]; !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return strings.Join(list, ",")
}

func nodeCells(n *corev1.Node, now time.Time) []any {
	status := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			status = "NotReady"
			if c.Status == corev1.ConditionTrue {
				status = "Ready"
			}
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	var roles []string
	for k := range n.Labels {
		if r, ok := strings.CutPrefix(k, "node-role.kubernetes.io/"); ok && r != "" {
			roles = append(roles, r)
		}
	}
	slices.Sort(roles)
	address := func(t corev1.NodeAddressType) string {
		for _, a := range n.Status.Addresses {
			if a.Type == t {
				return a.Address
			}
		}
		return none
	}
	i := &n.Status.NodeInfo
	return []any{
		n.Name, status, or(strings.Join(roles, ","), none), Age(n.CreationTimestamp, now), i.KubeletVersion, address(corev1.NodeInternalIP), address(corev1.NodeExternalIP),
		or(i.OSImage, "<unknown>"), or(i.KernelVersion, "<unknown>"), or(i.ContainerRuntimeVersion, "<unknown>"),
	}
}

// eventTimes are when an event was first and last seen, and how often.
func eventTimes(e *corev1.Event) (first, last metav1.Time, count int32) {
	first, last, count = e.FirstTimestamp, e.LastTimestamp, e.Count
	if first.IsZero() {
		first = metav1.Time{Time: e.EventTime.Time}
	}
	if e.Series != nil {
		last, count = metav1.Time{Time: e.Series.LastObservedTime.Time}, e.Series.Count
	}
	if last.IsZero() {
		last = first
	}
	return first, last, max(count, 1)
}

func eventCells(e *corev1.Event, now time.Time) []any {
	first, last, count := eventTimes(e)
	source := or(e.Source.Component, e.ReportingController)
	if host := or(e.Source.Host, e.ReportingInstance); host != "" && source != "" {
		source += ", " + host
	}
	object := strings.ToLower(e.InvolvedObject.Kind) + "/" + e.InvolvedObject.Name
	return []any{
		Age(last, now), e.Type, e.Reason, object, e.InvolvedObject.FieldPath, source, strings.TrimSpace(e.Message), Age(first, now), int64(count), e.Name,
	}
}
