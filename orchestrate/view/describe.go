package view

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	appsv1 "k8s.io/api/apps/v1"
)

// page is text in two columns, indented by blocks.
type page struct {
	lines []entry
	level int
}

type entry struct {
	level       int
	name, value string
	raw         bool
}

// put adds a line "Name:  value".
func (p *page) put(name, format string, args ...any) {
	value := fmt.Sprintf(format, args...)
	p.lines = append(p.lines, entry{level: p.level, name: name + ":", value: Clean(value)})
}

// list adds a line for each value; the name stands at the first.
func (p *page) list(name string, values []string) {
	if len(values) == 0 {
		values = []string{none}
	}
	for i, v := range values {
		n := name + ":"
		if i > 0 {
			n = ""
		}
		p.lines = append(p.lines, entry{level: p.level, name: n, value: Clean(v)})
	}
}

// block adds a title, and what f adds below it.
func (p *page) block(title string, f func()) {
	p.lines = append(p.lines, entry{level: p.level, name: title + ":", raw: true})
	p.level++
	f()
	p.level--
}

// rows adds a table.
func (p *page) rows(title string, head []string, lines [][]string) {
	if len(lines) == 0 {
		p.put(title, "%s", none)
		return
	}
	p.block(title, func() {
		under := make([]string, len(head))
		for i, h := range head {
			under[i] = strings.Repeat("-", len(h))
		}
		all := append([][]string{head, under}, lines...)
		widths := make([]int, len(head))
		for _, l := range all {
			for i, c := range l {
				widths[i] = max(widths[i], len(Clean(c)))
			}
		}
		for _, l := range all {
			var b strings.Builder
			for i, c := range l {
				c = Clean(c)
				b.WriteString(c)
				if i < len(l)-1 {
					b.WriteString(strings.Repeat(" ", widths[i]-len(c)+2))
				}
			}
			p.lines = append(p.lines, entry{level: p.level, name: b.String(), raw: true})
		}
	})
}

// String lays it out: the values of one level stand in one column.
func (p *page) String() string {
	widths := map[int]int{}
	for _, l := range p.lines {
		if !l.raw && l.value != "" {
			widths[l.level] = max(widths[l.level], len(l.name))
		}
	}
	var b strings.Builder
	for _, l := range p.lines {
		text := strings.Repeat("  ", l.level) + l.name
		if !l.raw {
			text += strings.Repeat(" ", max(0, widths[l.level]-len(l.name))+2) + l.value
		}
		b.WriteString(strings.TrimRight(text, " ") + "\n")
	}
	return b.String()
}

func pairs(m map[string]string, sep string) (out []string) {
	for _, k := range sortedKeys(m) {
		out = append(out, k+sep+m[k])
	}
	return out
}

func (p *page) head(m *metav1.ObjectMeta) {
	p.put("Name", "%s", m.Name)
	if m.Namespace != "" {
		p.put("Namespace", "%s", m.Namespace)
	}
	p.meta(m)
}

func (p *page) meta(m *metav1.ObjectMeta) {
	p.list("Labels", pairs(m.Labels, "="))
	notes := map[string]string{}
	for k, v := range m.Annotations {
		if k != corev1.LastAppliedConfigAnnotation {
			notes[k] = v
		}
	}
	p.list("Annotations", pairs(notes, ": "))
}

func stamp(t *metav1.Time) string {
	if t == nil || t.IsZero() {
		return "<unset>"
	}
	return t.UTC().Format(time.RFC1123Z)
}

// Template is what kubectl shows of a pod template.
func Template(t *corev1.PodTemplateSpec) string {
	p := &page{}
	p.template(t)
	return p.String()
}

func (p *page) template(t *corev1.PodTemplateSpec) {
	if t == nil {
		p.put("Pod Template", "%s", none)
		return
	}
	p.block("Pod Template", func() {
		p.list("Labels", pairs(t.Labels, "="))
		if len(t.Annotations) > 0 {
			p.list("Annotations", pairs(t.Annotations, ": "))
		}
		p.containers("Init Containers", t.Spec.InitContainers, nil)
		p.containers("Containers", t.Spec.Containers, nil)
		p.volumes(t.Spec.Volumes)
	})
}

func (p *page) containers(title string, list []corev1.Container, status []corev1.ContainerStatus) {
	if len(list) == 0 {
		return
	}
	p.block(title, func() {
		for i := range list {
			c := &list[i]
			p.block(c.Name, func() {
				s := -1
				if status != nil {
					s = slices.IndexFunc(status, func(s corev1.ContainerStatus) bool { return s.Name == c.Name })
				}
				if s >= 0 {
					p.put("Container ID", "%s", status[s].ContainerID)
				}
				p.put("Image", "%s", c.Image)
				if s >= 0 {
					p.put("Image ID", "%s", status[s].ImageID)
				}
				p.ports(c)
				if len(c.Command) > 0 {
					p.list("Command", c.Command)
				}
				if len(c.Args) > 0 {
					p.list("Args", c.Args)
				}
				if s >= 0 {
					p.state("State", &status[s].State)
					if status[s].LastTerminationState.Terminated != nil {
						p.state("Last State", &status[s].LastTerminationState)
					}
					p.put("Ready", "%s", yes(status[s].Ready))
					p.put("Restart Count", "%d", status[s].RestartCount)
				}
				p.resources("Limits", c.Resources.Limits)
				p.resources("Requests", c.Resources.Requests)
				p.probe("Liveness", c.LivenessProbe)
				p.probe("Readiness", c.ReadinessProbe)
				p.probe("Startup", c.StartupProbe)
				p.environment(c)
				p.mounts(c.VolumeMounts)
			})
		}
	})
}

func yes(b bool) string {
	if b {
		return "True"
	}
	return "False"
}

func (p *page) ports(c *corev1.Container) {
	var ports, host []string
	for _, x := range c.Ports {
		ports = append(ports, fmt.Sprintf("%d/%s", x.ContainerPort, or(string(x.Protocol), "TCP")))
		host = append(host, fmt.Sprintf("%d/%s", x.HostPort, or(string(x.Protocol), "TCP")))
	}
	name := "Port"
	if len(ports) > 1 {
		name = "Ports"
	}
	p.put(name, "%s", or(strings.Join(ports, ", "), none))
	p.put("Host "+name, "%s", or(strings.Join(host, ", "), none))
}

func (p *page) state(name string, s *corev1.ContainerState) {
	switch {
	case s.Running != nil:
		p.put(name, "Running")
		p.put("  Started", "%s", stamp(&s.Running.StartedAt))
	case s.Waiting != nil:
		p.put(name, "Waiting")
		if s.Waiting.Reason != "" {
			p.put("  Reason", "%s", s.Waiting.Reason)
		}
		if s.Waiting.Message != "" {
			p.put("  Message", "%s", s.Waiting.Message)
		}
	case s.Terminated != nil:
		t := s.Terminated
		p.put(name, "Terminated")
		if t.Reason != "" {
			p.put("  Reason", "%s", t.Reason)
		}
		if t.Message != "" {
			p.put("  Message", "%s", t.Message)
		}
		p.put("  Exit Code", "%d", t.ExitCode)
		if t.Signal > 0 {
			p.put("  Signal", "%d", t.Signal)
		}
		p.put("  Started", "%s", stamp(&t.StartedAt))
		p.put("  Finished", "%s", stamp(&t.FinishedAt))
	default:
		p.put(name, "Waiting")
	}
}

func (p *page) resources(name string, list corev1.ResourceList) {
	if len(list) == 0 {
		return
	}
	p.block(name, func() {
		var names []string
		for k := range list {
			names = append(names, string(k))
		}
		sort.Strings(names)
		for _, k := range names {
			q := list[corev1.ResourceName(k)]
			p.put(k, "%s", q.String())
		}
	})
}

// ProbeText is a probe in one line.
func ProbeText(x *corev1.Probe) string {
	what := "unknown"
	switch {
	case x.Exec != nil:
		what = fmt.Sprintf("exec %v", x.Exec.Command)
	case x.HTTPGet != nil:
		host := x.HTTPGet.Host
		what = fmt.Sprintf("http-get %s://%s:%s%s", strings.ToLower(or(string(x.HTTPGet.Scheme), "http")), host, x.HTTPGet.Port.String(), x.HTTPGet.Path)
	case x.TCPSocket != nil:
		what = fmt.Sprintf("tcp-socket %s:%s", x.TCPSocket.Host, x.TCPSocket.Port.String())
	case x.GRPC != nil:
		what = fmt.Sprintf("grpc <pod>:%d %s", x.GRPC.Port, value(x.GRPC.Service))
	}
	return fmt.Sprintf("%s delay=%ds timeout=%ds period=%ds #success=%d #failure=%d", what, x.InitialDelaySeconds, x.TimeoutSeconds, x.PeriodSeconds, x.SuccessThreshold, x.FailureThreshold)
}

func (p *page) probe(name string, x *corev1.Probe) {
	if x != nil {
		p.put(name, "%s", ProbeText(x))
	}
}

func (p *page) environment(c *corev1.Container) {
	if len(c.EnvFrom) > 0 {
		var from []string
		for _, e := range c.EnvFrom {
			switch {
			case e.ConfigMapRef != nil:
				from = append(from, fmt.Sprintf("%s  ConfigMap  Optional: %t", e.ConfigMapRef.Name, value(e.ConfigMapRef.Optional)))
			case e.SecretRef != nil:
				from = append(from, fmt.Sprintf("%s  Secret  Optional: %t", e.SecretRef.Name, value(e.SecretRef.Optional)))
			}
		}
		p.list("Environment Variables from", from)
	}
	if len(c.Env) == 0 {
		p.put("Environment", "%s", none)
		return
	}
	p.block("Environment", func() {
		for _, e := range c.Env {
			text := e.Value
			if f := e.ValueFrom; f != nil {
				switch {
				case f.FieldRef != nil:
					text = fmt.Sprintf("(%s:%s)", or(f.FieldRef.APIVersion, "v1"), f.FieldRef.FieldPath)
				case f.ResourceFieldRef != nil:
					text = fmt.Sprintf("(%s)", f.ResourceFieldRef.Resource)
				case f.ConfigMapKeyRef != nil:
					text = fmt.Sprintf("<set to the key '%s' of config map '%s'>  Optional: %t", f.ConfigMapKeyRef.Key, f.ConfigMapKeyRef.Name, value(f.ConfigMapKeyRef.Optional))
				case f.SecretKeyRef != nil:
					text = fmt.Sprintf("<set to the key '%s' in secret '%s'>  Optional: %t", f.SecretKeyRef.Key, f.SecretKeyRef.Name, value(f.SecretKeyRef.Optional))
				}
			}
			p.put(e.Name, "%s", text)
		}
	})
}

func (p *page) mounts(list []corev1.VolumeMount) {
	var out []string
	for _, m := range list {
		mode := "rw"
		if m.ReadOnly {
			mode = "ro"
		}
		if m.SubPath != "" {
			mode += fmt.Sprintf(",path=%q", m.SubPath)
		}
		out = append(out, fmt.Sprintf("%s from %s (%s)", m.MountPath, m.Name, mode))
	}
	p.list("Mounts", out)
}

func (p *page) volumes(list []corev1.Volume) {
	if len(list) == 0 {
		p.put("Volumes", "%s", none)
		return
	}
	p.block("Volumes", func() {
		for i := range list {
			v := &list[i]
			p.block(v.Name, func() {
				switch {
				case v.EmptyDir != nil:
					p.put("Type", "EmptyDir (a temporary directory that shares a pod's lifetime)")
					p.put("Medium", "%s", v.EmptyDir.Medium)
					limit := "<unset>"
					if l := v.EmptyDir.SizeLimit; l != nil {
						limit = l.String()
					}
					p.put("SizeLimit", "%s", limit)
				case v.HostPath != nil:
					p.put("Type", "HostPath (bare host directory volume)")
					p.put("Path", "%s", v.HostPath.Path)
					p.put("HostPathType", "%s", value(v.HostPath.Type))
				case v.ConfigMap != nil:
					p.put("Type", "ConfigMap (a volume populated by a ConfigMap)")
					p.put("Name", "%s", v.ConfigMap.Name)
					p.put("Optional", "%t", value(v.ConfigMap.Optional))
				case v.Secret != nil:
					p.put("Type", "Secret (a volume populated by a Secret)")
					p.put("SecretName", "%s", v.Secret.SecretName)
					p.put("Optional", "%t", value(v.Secret.Optional))
				case v.PersistentVolumeClaim != nil:
					p.put("Type", "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)")
					p.put("ClaimName", "%s", v.PersistentVolumeClaim.ClaimName)
					p.put("ReadOnly", "%t", v.PersistentVolumeClaim.ReadOnly)
				case v.Projected != nil:
					p.put("Type", "Projected (a volume that contains injected data from multiple sources)")
				case v.DownwardAPI != nil:
					p.put("Type", "DownwardAPI (a volume populated by information about the pod)")
				default:
					p.put("Type", "<unknown>")
				}
			})
		}
	})
}

// SortEvents sorts events, the last one last.
func SortEvents(list []corev1.Event) {
	slices.SortStableFunc(list, func(a, b corev1.Event) int {
		_, x, _ := eventTimes(&a)
		_, y, _ := eventTimes(&b)
		return x.Compare(y.Time)
	})
}

// EventLine is an event as a row: last seen, type, reason, object, message.
func EventLine(e *corev1.Event, now time.Time) []string {
	_, last, count := eventTimes(e)
	seen := Age(last, now)
	if count > 1 {
		first, _, _ := eventTimes(e)
		seen = fmt.Sprintf("%s (x%d over %s)", seen, count, Age(first, now))
	}
	return []string{seen, e.Type, e.Reason, Clean(e.InvolvedObject.Kind + "/" + e.InvolvedObject.Name), Clean(strings.TrimSpace(e.Message))}
}

func (p *page) events(list []corev1.Event, now time.Time) {
	list = slices.Clone(list)
	SortEvents(list)
	var lines [][]string
	for i := range list {
		e := &list[i]
		l := EventLine(e, now)
		lines = append(lines, []string{l[1], l[2], l[0], or(or(e.Source.Component, e.ReportingController), none), l[4]})
	}
	p.rows("Events", []string{"Type", "Reason", "Age", "From", "Message"}, lines)
}

func (p *page) conditions(lines [][]string) {
	if len(lines) > 0 {
		p.rows("Conditions", []string{"Type", "Status", "Reason"}, lines)
	}
}

func sets(list []*appsv1.ReplicaSet) string {
	var out []string
	for _, s := range list {
		out = append(out, fmt.Sprintf("%s (%d/%d replicas created)", s.Name, s.Status.Replicas, value(s.Spec.Replicas)))
	}
	return or(strings.Join(out, ", "), none)
}
