package node

import (
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
)

// configError is something that the user has to change: the container waits with
// the reason CreateContainerConfigError.
type configError struct{ text string }

func (e *configError) Error() string { return e.text }

func badConfig(format string, args ...any) error { return &configError{fmt.Sprintf(format, args...)} }

// sources are where values come from.
type sources struct {
	configMap func(name string) (*corev1.ConfigMap, error) // nil, nil: there is none
	secret    func(name string) (*corev1.Secret, error)
	host      corev1.ResourceList // what a container without a limit can have
	node      string
	hostIPs   []string
	podIPs    []string
}

// expand replaces $(NAME) by the value of a variable; $$ is a dollar, and what is
// not known stays.
func expand(s string, value func(string) (string, bool)) string {
	if !strings.Contains(s, "$") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i+2:], ')')
			if end < 0 {
				b.WriteString("$(")
				i++
				continue
			}
			name := s[i+2 : i+2+end]
			if v, ok := value(name); ok {
				b.WriteString(v)
			} else {
				b.WriteString("$(" + name + ")")
			}
			i += 2 + end
		default:
			b.WriteByte('$')
		}
	}
	return b.String()
}

// environment is the environment of a container by its pod, in order. service are
// variables about services, which everything else wins over.
func environment(pod *corev1.Pod, c *corev1.Container, src *sources, service [][2]string) ([][2]string, error) {
	var names []string
	values := map[string]string{}
	set := func(name, value string) {
		if _, ok := values[name]; !ok {
			names = append(names, name)
		}
		values[name] = value
	}
	for _, from := range c.EnvFrom {
		if err := envFrom(&from, src, set); err != nil {
			return nil, err
		}
	}
	for _, s := range service {
		if _, ok := values[s[0]]; !ok {
			set(s[0], s[1])
		}
	}
	lookup := func(name string) (string, bool) { v, ok := values[name]; return v, ok }
	for i := range c.Env {
		e := &c.Env[i]
		value := expand(e.Value, lookup)
		if f := e.ValueFrom; f != nil {
			var err error
			var there bool
			if value, there, err = valueFrom(pod, c, f, src); err != nil {
				return nil, err
			}
			if !there {
				continue
			}
		}
		set(e.Name, value)
	}
	out := make([][2]string, 0, len(names))
	for _, n := range names {
		out = append(out, [2]string{n, values[n]})
	}
	return out, nil
}

func optional(b *bool) bool { return b != nil && *b }

func envFrom(from *corev1.EnvFromSource, src *sources, set func(string, string)) error {
	add := func(keys []string, value func(string) string) {
		sort.Strings(keys)
		for _, k := range keys {
			name := from.Prefix + k
			if len(validation.IsEnvVarName(name)) == 0 {
				set(name, value(k))
			}
		}
	}
	if r := from.ConfigMapRef; r != nil {
		m, err := src.configMap(r.Name)
		switch {
		case err != nil:
			return err
		case m == nil && !optional(r.Optional):
			return badConfig("configmap %q not found", r.Name)
		case m != nil:
			keys := make([]string, 0, len(m.Data))
			for k := range m.Data {
				keys = append(keys, k)
			}
			add(keys, func(k string) string { return m.Data[k] })
		}
	}
	if r := from.SecretRef; r != nil {
		m, err := src.secret(r.Name)
		switch {
		case err != nil:
			return err
		case m == nil && !optional(r.Optional):
			return badConfig("secret %q not found", r.Name)
		case m != nil:
			keys := make([]string, 0, len(m.Data))
			for k := range m.Data {
				keys = append(keys, k)
			}
			add(keys, func(k string) string { return string(m.Data[k]) })
		}
	}
	return nil
}

// valueFrom is the value of a variable; there is false for one that is optional
// and is not there.
func valueFrom(pod *corev1.Pod, c *corev1.Container, f *corev1.EnvVarSource, src *sources) (value string, there bool, err error) {
	switch {
	case f.FieldRef != nil:
		value, err = fieldValue(pod, f.FieldRef.FieldPath, src)
		return value, true, err
	case f.ResourceFieldRef != nil:
		of := c
		if name := f.ResourceFieldRef.ContainerName; name != "" && name != c.Name {
			if of = findContainer(&pod.Spec, name); of == nil {
				return "", false, badConfig("container %s not found", name)
			}
		}
		value, err = resourceValue(of, f.ResourceFieldRef, src.host)
		return value, true, err
	case f.ConfigMapKeyRef != nil:
		r := f.ConfigMapKeyRef
		m, err := src.configMap(r.Name)
		if err != nil {
			return "", false, err
		}
		if m == nil {
			if optional(r.Optional) {
				return "", false, nil
			}
			return "", false, badConfig("configmap %q not found", r.Name)
		}
		v, ok := m.Data[r.Key]
		if !ok && !optional(r.Optional) {
			return "", false, badConfig("couldn't find key %s in ConfigMap %s/%s", r.Key, pod.Namespace, r.Name)
		}
		return v, ok, nil
	case f.SecretKeyRef != nil:
		r := f.SecretKeyRef
		m, err := src.secret(r.Name)
		if err != nil {
			return "", false, err
		}
		if m == nil {
			if optional(r.Optional) {
				return "", false, nil
			}
			return "", false, badConfig("secret %q not found", r.Name)
		}
		v, ok := m.Data[r.Key]
		if !ok && !optional(r.Optional) {
			return "", false, badConfig("couldn't find key %s in Secret %s/%s", r.Key, pod.Namespace, r.Name)
		}
		return string(v), ok, nil
	}
	return "", false, badConfig("a variable has a source that is not supported")
}

func findContainer(s *corev1.PodSpec, name string) *corev1.Container {
	for _, c := range everyContainer(s) {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// fieldValue is a field of a pod as text.
func fieldValue(pod *corev1.Pod, path string, src *sources) (string, error) {
	if name, key, ok := strings.Cut(path, "['"); ok && strings.HasSuffix(key, "']") {
		key = strings.TrimSuffix(key, "']")
		switch name {
		case "metadata.labels":
			return pod.Labels[key], nil
		case "metadata.annotations":
			return pod.Annotations[key], nil
		}
	}
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return formatMap(pod.Labels), nil
	case "metadata.annotations":
		return formatMap(pod.Annotations), nil
	case "spec.nodeName":
		return src.node, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return first(src.hostIPs), nil
	case "status.hostIPs":
		return strings.Join(src.hostIPs, ","), nil
	case "status.podIP":
		return first(src.podIPs), nil
	case "status.podIPs":
		return strings.Join(src.podIPs, ","), nil
	}
	return "", badConfig("unsupported fieldPath: %s", path)
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// formatMap is labels or annotations as the downward API writes them.
func formatMap(m map[string]string) string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var b strings.Builder
	for i, k := range keys {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(k + "=" + strconv.Quote(m[k]))
	}
	return b.String()
}

// resourceValue is a limit or request as a number of units, rounded up.
func resourceValue(c *corev1.Container, r *corev1.ResourceFieldSelector, host corev1.ResourceList) (string, error) {
	which, name, ok := strings.Cut(r.Resource, ".")
	if !ok || which != "limits" && which != "requests" {
		return "", badConfig("unsupported container resource : %v", r.Resource)
	}
	list := c.Resources.Limits
	if which == "requests" {
		list = c.Resources.Requests
	}
	q, there := list[corev1.ResourceName(name)]
	if !there && which == "limits" {
		q = host[corev1.ResourceName(name)] // all there is
	}
	unit := r.Divisor
	if unit.IsZero() {
		unit = resource.MustParse("1")
	}
	if name == "cpu" {
		return strconv.FormatInt(int64(math.Ceil(float64(q.MilliValue())/float64(unit.MilliValue()))), 10), nil
	}
	return strconv.FormatInt(int64(math.Ceil(float64(q.Value())/float64(unit.Value()))), 10), nil
}
