package view

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/orchestrate/api"
	"github.com/minirun/minirun/orchestrate/store"
)

// Context is what belongs to an object that is described.
type Context struct {
	Now    time.Time
	Events []corev1.Event
	// Sets are those that a deployment owns.
	Sets []appsv1.ReplicaSet
	// Slices are those of a service.
	Slices []discoveryv1.EndpointSlice
	// Pods are those that a workload owns or that run on a node.
	Pods []corev1.Pod
}

// Describe shows an object in full.
func Describe(obj store.Object, x *Context) (string, error) {
	p := &page{}
	switch o := obj.(type) {
	case *corev1.Pod:
		p.pod(o)
	case *appsv1.Deployment:
		p.deployment(o, x)
	case *appsv1.ReplicaSet:
		p.workload(&o.ObjectMeta, o.Spec.Selector, x, func() {
			p.put("Replicas", "%d current / %d desired", o.Status.Replicas, value(o.Spec.Replicas))
		})
		p.template(&o.Spec.Template)
		var lines [][]string
		for _, c := range o.Status.Conditions {
			lines = append(lines, []string{string(c.Type), string(c.Status), c.Reason})
		}
		p.conditions(lines)
	case *appsv1.StatefulSet:
		p.workload(&o.ObjectMeta, o.Spec.Selector, x, func() {
			p.put("Replicas", "%d desired | %d total", value(o.Spec.Replicas), o.Status.Replicas)
			p.put("Update Strategy", "%s", o.Spec.UpdateStrategy.Type)
			p.put("Service", "%s", or(o.Spec.ServiceName, none))
		})
		p.template(&o.Spec.Template)
		var claims [][]string
		for i := range o.Spec.VolumeClaimTemplates {
			c := &o.Spec.VolumeClaimTemplates[i]
			q := c.Spec.Resources.Requests[corev1.ResourceStorage]
			claims = append(claims, []string{c.Name, or(value(c.Spec.StorageClassName), none), q.String(), accessModes(c.Spec.AccessModes)})
		}
		p.rows("Volume Claims", []string{"Name", "StorageClass", "Capacity", "Access Modes"}, claims)
	case *appsv1.DaemonSet:
		p.workload(&o.ObjectMeta, o.Spec.Selector, x, func() {
			s := &o.Status
			p.put("Desired Number of Nodes Scheduled", "%d", s.DesiredNumberScheduled)
			p.put("Current Number of Nodes Scheduled", "%d", s.CurrentNumberScheduled)
			p.put("Number of Nodes Scheduled with Up-to-date Pods", "%d", s.UpdatedNumberScheduled)
			p.put("Number of Nodes Scheduled with Available Pods", "%d", s.NumberAvailable)
		})
		p.template(&o.Spec.Template)
	case *batchv1.Job:
		p.workload(&o.ObjectMeta, o.Spec.Selector, x, func() {
			p.put("Parallelism", "%d", value(o.Spec.Parallelism))
			p.put("Completions", "%s", completions(o))
			p.put("Start Time", "%s", stamp(o.Status.StartTime))
			if o.Status.CompletionTime != nil {
				p.put("Completed At", "%s", stamp(o.Status.CompletionTime))
				p.put("Duration", "%s", jobDuration(o, x.Now))
			}
		})
		p.template(&o.Spec.Template)
	case *corev1.Service:
		p.service(o, x)
	case *corev1.Node:
		p.node(o, x)
	case *corev1.ConfigMap:
		p.head(&o.ObjectMeta)
		p.data(o.Data, o.BinaryData)
	case *corev1.Secret:
		p.head(&o.ObjectMeta)
		p.put("Type", "%s", o.Type)
		p.block("Data", func() {
			for _, k := range sortedKeys(o.Data) {
				p.put(k, "%d bytes", len(o.Data[k]))
			}
		})
	default:
		if err := p.anything(obj); err != nil {
			return "", err
		}
	}
	if _, isEvent := obj.(*corev1.Event); !isEvent {
		p.events(x.Events, x.Now)
	}
	return p.String(), nil
}

// data shows texts as they are, line by line.
func (p *page) data(text map[string]string, binary map[string][]byte) {
	p.block("Data", func() {
		for _, k := range sortedKeys(text) {
			p.block(k, func() {
				for line := range strings.Lines(text[k]) {
					p.lines = append(p.lines, entry{level: p.level, name: Clean(strings.TrimSuffix(line, "\n")), raw: true})
				}
			})
		}
	})
	if len(binary) > 0 {
		p.block("BinaryData", func() {
			for _, k := range sortedKeys(binary) {
				p.put(k, "%d bytes", len(binary[k]))
			}
		})
	}
}

func (p *page) owner(m *metav1.ObjectMeta) {
	for _, o := range m.OwnerReferences {
		if value(o.Controller) {
			p.put("Controlled By", "%s/%s", o.Kind, o.Name)
		}
	}
}

func (p *page) pod(o *corev1.Pod) {
	p.put("Name", "%s", o.Name)
	p.put("Namespace", "%s", o.Namespace)
	p.put("Node", "%s", or(o.Spec.NodeName, none))
	if o.Status.StartTime != nil {
		p.put("Start Time", "%s", stamp(o.Status.StartTime))
	}
	p.meta(&o.ObjectMeta)
	if o.DeletionTimestamp != nil {
		p.put("Status", "Terminating (until %s)", stamp(o.DeletionTimestamp))
		p.put("Termination Grace Period", "%ds", value(o.DeletionGracePeriodSeconds))
	} else {
		p.put("Status", "%s", o.Status.Phase)
	}
	if o.Status.Reason != "" {
		p.put("Reason", "%s", o.Status.Reason)
	}
	if o.Status.Message != "" {
		p.put("Message", "%s", o.Status.Message)
	}
	p.put("IP", "%s", o.Status.PodIP)
	var ips []string
	for _, i := range o.Status.PodIPs {
		ips = append(ips, i.IP)
	}
	p.list("IPs", ips)
	p.owner(&o.ObjectMeta)
	p.containers("Init Containers", o.Spec.InitContainers, o.Status.InitContainerStatuses)
	p.containers("Containers", o.Spec.Containers, o.Status.ContainerStatuses)
	var debuggers []corev1.Container
	for i := range o.Spec.EphemeralContainers {
		debuggers = append(debuggers, *api.AsContainer(&o.Spec.EphemeralContainers[i]))
	}
	p.containers("Ephemeral Containers", debuggers, o.Status.EphemeralContainerStatuses)
	var lines [][]string
	for _, c := range o.Status.Conditions {
		lines = append(lines, []string{string(c.Type), string(c.Status), or(c.Reason, none), c.Message})
	}
	if len(lines) > 0 {
		p.rows("Conditions", []string{"Type", "Status", "Reason", "Message"}, lines)
	}
	p.volumes(o.Spec.Volumes)
	if o.Status.QOSClass != "" {
		p.put("QoS Class", "%s", o.Status.QOSClass)
	}
}

// workload is what all of them have: pods by their phase, and who owns it.
func (p *page) workload(m *metav1.ObjectMeta, selector *metav1.LabelSelector, x *Context, more func()) {
	p.put("Name", "%s", m.Name)
	p.put("Namespace", "%s", m.Namespace)
	p.put("CreationTimestamp", "%s", stamp(&m.CreationTimestamp))
	p.put("Selector", "%s", metav1.FormatLabelSelector(selector))
	p.meta(m)
	p.owner(m)
	more()
	count := map[corev1.PodPhase]int{}
	for i := range x.Pods {
		count[x.Pods[i].Status.Phase]++
	}
	p.put("Pods Status", "%d Running / %d Waiting / %d Succeeded / %d Failed", count[corev1.PodRunning], count[corev1.PodPending], count[corev1.PodSucceeded], count[corev1.PodFailed])
}

func (p *page) deployment(d *appsv1.Deployment, x *Context) {
	p.put("Name", "%s", d.Name)
	p.put("Namespace", "%s", d.Namespace)
	p.put("CreationTimestamp", "%s", stamp(&d.CreationTimestamp))
	p.meta(&d.ObjectMeta)
	p.put("Selector", "%s", metav1.FormatLabelSelector(d.Spec.Selector))
	s := &d.Status
	p.put("Replicas", "%d desired | %d updated | %d total | %d available | %d unavailable", value(d.Spec.Replicas), s.UpdatedReplicas, s.Replicas, s.AvailableReplicas, s.UnavailableReplicas)
	p.put("StrategyType", "%s", d.Spec.Strategy.Type)
	p.put("MinReadySeconds", "%d", d.Spec.MinReadySeconds)
	if r := d.Spec.Strategy.RollingUpdate; r != nil && r.MaxUnavailable != nil && r.MaxSurge != nil {
		p.put("RollingUpdateStrategy", "%s max unavailable, %s max surge", r.MaxUnavailable.String(), r.MaxSurge.String())
	}
	p.template(&d.Spec.Template)
	var lines [][]string
	for _, c := range s.Conditions {
		lines = append(lines, []string{string(c.Type), string(c.Status), c.Reason})
	}
	p.conditions(lines)
	const revision = "deployment.kubernetes.io/revision"
	var old, current []*appsv1.ReplicaSet
	for i := range x.Sets {
		r := &x.Sets[i]
		switch {
		case r.Annotations[revision] == d.Annotations[revision]:
			current = append(current, r)
		case value(r.Spec.Replicas) > 0 || r.Status.Replicas > 0:
			old = append(old, r)
		}
	}
	p.put("OldReplicaSets", "%s", sets(old))
	p.put("NewReplicaSet", "%s", sets(current))
}

func (p *page) service(s *corev1.Service, x *Context) {
	p.head(&s.ObjectMeta)
	p.put("Selector", "%s", or(strings.Join(pairs(s.Spec.Selector, "="), ","), none))
	p.put("Type", "%s", s.Spec.Type)
	if s.Spec.IPFamilyPolicy != nil {
		p.put("IP Family Policy", "%s", *s.Spec.IPFamilyPolicy)
	}
	p.put("IP", "%s", clusterIP(s))
	p.put("IPs", "%s", or(strings.Join(s.Spec.ClusterIPs, ","), none))
	if len(s.Spec.ExternalIPs) > 0 {
		p.put("External IPs", "%s", strings.Join(s.Spec.ExternalIPs, ","))
	}
	if s.Spec.ExternalName != "" {
		p.put("External Name", "%s", s.Spec.ExternalName)
	}
	var ingress []string
	for _, i := range s.Status.LoadBalancer.Ingress {
		ingress = append(ingress, or(i.IP, i.Hostname))
	}
	if len(ingress) > 0 {
		p.put("LoadBalancer Ingress", "%s", strings.Join(ingress, ", "))
	}
	for _, port := range s.Spec.Ports {
		p.put("Port", "%s  %d/%s", or(port.Name, "<unset>"), port.Port, port.Protocol)
		p.put("TargetPort", "%s/%s", port.TargetPort.String(), port.Protocol)
		if port.NodePort > 0 {
			p.put("NodePort", "%s  %d/%s", or(port.Name, "<unset>"), port.NodePort, port.Protocol)
		}
		var list []string
		for i := range x.Slices {
			sl := &x.Slices[i]
			for _, sp := range sl.Ports {
				if value(sp.Name) != port.Name || sp.Port == nil {
					continue
				}
				for _, e := range sl.Endpoints {
					if e.Conditions.Ready == nil || *e.Conditions.Ready {
						for _, a := range e.Addresses {
							list = append(list, hostPort(a, *sp.Port))
						}
					}
				}
			}
		}
		slices.Sort(list)
		p.put("Endpoints", "%s", atMost(list, 3))
	}
	p.put("Session Affinity", "%s", s.Spec.SessionAffinity)
	if s.Spec.ExternalTrafficPolicy != "" {
		p.put("External Traffic Policy", "%s", s.Spec.ExternalTrafficPolicy)
	}
	if s.Spec.InternalTrafficPolicy != nil {
		p.put("Internal Traffic Policy", "%s", *s.Spec.InternalTrafficPolicy)
	}
}

func (p *page) node(n *corev1.Node, x *Context) {
	p.head(&n.ObjectMeta)
	p.put("CreationTimestamp", "%s", stamp(&n.CreationTimestamp))
	p.put("Unschedulable", "%t", n.Spec.Unschedulable)
	var lines [][]string
	for _, c := range n.Status.Conditions {
		lines = append(lines, []string{string(c.Type), string(c.Status), c.Reason, c.Message})
	}
	p.rows("Conditions", []string{"Type", "Status", "Reason", "Message"}, lines)
	p.block("Addresses", func() {
		for _, a := range n.Status.Addresses {
			p.put(string(a.Type), "%s", a.Address)
		}
	})
	p.resources("Capacity", n.Status.Capacity)
	p.resources("Allocatable", n.Status.Allocatable)
	p.block("System Info", func() {
		i := &n.Status.NodeInfo
		p.put("Machine ID", "%s", i.MachineID)
		p.put("Boot ID", "%s", i.BootID)
		p.put("Kernel Version", "%s", i.KernelVersion)
		p.put("OS Image", "%s", i.OSImage)
		p.put("Operating System", "%s", i.OperatingSystem)
		p.put("Architecture", "%s", i.Architecture)
		p.put("Container Runtime Version", "%s", i.ContainerRuntimeVersion)
		p.put("Kubelet Version", "%s", i.KubeletVersion)
	})
	lines = nil
	for i := range x.Pods {
		pod := &x.Pods[i]
		if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		sum := corev1.ResourceList{}
		for j := range pod.Spec.Containers {
			for name, q := range pod.Spec.Containers[j].Resources.Requests {
				have := sum[name]
				have.Add(q)
				sum[name] = have
			}
		}
		lines = append(lines, []string{pod.Namespace, pod.Name, sum.Cpu().String(), sum.Memory().String(), Age(pod.CreationTimestamp, x.Now)})
	}
	p.rows("Non-terminated Pods", []string{"Namespace", "Name", "CPU Requests", "Memory Requests", "Age"}, lines)
}

// anything shows an object of a kind without a page of its own: all its fields.
func (p *page) anything(obj store.Object) error {
	text, err := json.Marshal(obj)
	if err != nil {
		return err
	}
	var doc map[string]any
	if err := json.Unmarshal(text, &doc); err != nil {
		return err
	}
	p.put("Name", "%s", obj.GetName())
	if obj.GetNamespace() != "" {
		p.put("Namespace", "%s", obj.GetNamespace())
	}
	p.list("Labels", pairs(obj.GetLabels(), "="))
	t := obj.GetCreationTimestamp()
	p.put("CreationTimestamp", "%s", stamp(&t))
	for _, k := range []string{"metadata", "kind", "apiVersion"} {
		delete(doc, k)
	}
	p.tree(doc)
	return nil
}

func words(name string) string {
	var b strings.Builder
	for i, r := range name {
		if i == 0 {
			b.WriteString(strings.ToUpper(string(r)))
			continue
		}
		if r >= 'A' && r <= 'Z' && (name[i-1] < 'A' || name[i-1] > 'Z') {
			b.WriteByte(' ')
		}
		b.WriteRune(r)
	}
	return b.String()
}

func (p *page) tree(m map[string]any) {
	for _, k := range sortedKeys(m) {
		switch v := m[k].(type) {
		case map[string]any:
			p.block(words(k), func() { p.tree(v) })
		case []any:
			p.block(words(k), func() {
				for _, e := range v {
					if em, ok := e.(map[string]any); ok {
						p.tree(em)
						continue
					}
					p.lines = append(p.lines, entry{level: p.level, name: Clean(fmt.Sprint(e)), raw: true})
				}
			})
		case float64:
			p.put(words(k), "%s", strconv.FormatFloat(v, 'f', -1, 64))
		default:
			p.put(words(k), "%v", v)
		}
	}
}
