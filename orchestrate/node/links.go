package node

import (
	"net"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/minirun/minirun/orchestrate/store"
)

// serviceVariables are the variables about services that a container gets when it
// starts: those of the services that its namespace has then, unless the pod does
// not want them (enableServiceLinks). There is no service of the API itself, so
// KUBERNETES_SERVICE_HOST is not among them.
func (n *Node) serviceVariables(pod *corev1.Pod) ([][2]string, error) {
	if e := pod.Spec.EnableServiceLinks; e != nil && !*e {
		return nil, nil
	}
	list, err := n.o.Store.List("services", store.Selector{Namespace: pod.Namespace}, 0, "")
	if err != nil {
		return nil, err
	}
	var env [][2]string
	for _, o := range list.Items { // sorted by name
		if s, ok := o.(*corev1.Service); ok {
			env = append(env, linkVariables(s)...)
		}
	}
	return env, nil
}

// linkVariables are those of one service: FOO_SERVICE_HOST and its like, and the
// form that links of docker had.
func linkVariables(s *corev1.Service) (env [][2]string) {
	ip := s.Spec.ClusterIP
	if ip == "" || ip == corev1.ClusterIPNone || len(s.Spec.Ports) == 0 {
		return nil
	}
	set := func(name, value string) { env = append(env, [2]string{name, value}) }
	prefix := variableName(s.Name)
	set(prefix+"_SERVICE_HOST", ip)
	set(prefix+"_SERVICE_PORT", strconv.Itoa(int(s.Spec.Ports[0].Port)))
	for i := range s.Spec.Ports {
		if p := &s.Spec.Ports[i]; p.Name != "" {
			set(prefix+"_SERVICE_PORT_"+variableName(p.Name), strconv.Itoa(int(p.Port)))
		}
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		protocol, number := "TCP", strconv.Itoa(int(p.Port))
		if p.Protocol != "" {
			protocol = string(p.Protocol)
		}
		lower := strings.ToLower(protocol)
		url := lower + "://" + net.JoinHostPort(ip, number)
		if i == 0 {
			set(prefix+"_PORT", url)
		}
		link := prefix + "_PORT_" + number + "_" + strings.ToUpper(protocol)
		set(link, url)
		set(link+"_PROTO", lower)
		set(link+"_PORT", number)
		set(link+"_ADDR", ip)
	}
	return env
}

// variableName is a name as part of that of a variable.
func variableName(s string) string { return strings.ToUpper(strings.ReplaceAll(s, "-", "_")) }
