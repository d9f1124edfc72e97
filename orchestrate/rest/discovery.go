package rest

import (
	"runtime"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"
)

// The version of Kubernetes that this behaves like.
const major, minor = "1", "34"

// discover is the document at a path that says what the server has, or nil.
func (s *Server) discover(path string) any {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case path == "/version":
		return version.Info{
			Major: major, Minor: minor, GitVersion: "v" + major + "." + minor + ".0+minirun",
			GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
		}
	case path == "/healthz" || path == "/livez" || path == "/readyz":
		return "ok"
	case parts[0] == "api" && len(parts) == 1:
		return metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"}}
	case parts[0] == "api" && len(parts) == 2:
		return s.resources("", parts[1])
	case parts[0] == "apis" && len(parts) == 1:
		l := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
		seen := map[string]bool{"": true}
		for _, k := range s.r.Kinds() {
			if !seen[k.Group] {
				seen[k.Group] = true
				l.Groups = append(l.Groups, *s.group(k.Group))
			}
		}
		for _, name := range []string{authenticationGroup, authorizationGroup, metricsGroup} {
			if g := s.group(name); g != nil {
				l.Groups = append(l.Groups, *g)
			}
		}
		return l
	case parts[0] == "apis" && len(parts) == 2:
		if g := s.group(parts[1]); g != nil {
			g.TypeMeta = metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}
			return g
		}
	case parts[0] == "apis" && len(parts) == 3:
		return s.resources(parts[1], parts[2])
	}
	return nil
}

func (s *Server) group(name string) *metav1.APIGroup {
	group := func(version string) *metav1.APIGroup {
		v := metav1.GroupVersionForDiscovery{GroupVersion: name + "/" + version, Version: version}
		return &metav1.APIGroup{Name: name, Versions: []metav1.GroupVersionForDiscovery{v}, PreferredVersion: v}
	}
	switch {
	case name == metricsGroup && s.Node != nil:
		return group("v1beta1")
	case name == authorizationGroup || name == authenticationGroup:
		return group("v1")
	}
	for _, k := range s.r.Kinds() {
		if k.Group == name && name != "" {
			return group(k.Version)
		}
	}
	return nil
}

func (s *Server) resources(group, v string) any {
	if group == metricsGroup && s.Node != nil && v == "v1beta1" {
		return metricsResources()
	}
	if (group == authorizationGroup || group == authenticationGroup) && v == "v1" {
		return reviewResources(group)
	}
	var l *metav1.APIResourceList
	for _, k := range s.r.Kinds() {
		if k.Group != group || k.Version != v {
			continue
		}
		if l == nil {
			l = &metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: k.GroupVersion().String()}
		}
		r := metav1.APIResource{Name: k.Resource, SingularName: k.Singular, Namespaced: k.Namespaced, Kind: k.Kind, Verbs: []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}, ShortNames: k.Short}
		if k.Resource == "pods" || k.Group == "apps" || k.Group == "batch" || k.Resource == "services" {
			r.Categories = []string{"all"}
		}
		if k.Resource == "controllerrevisions" {
			r.Categories = nil
		}
		l.APIResources = append(l.APIResources, r)
		sub := metav1.APIResource{Namespaced: k.Namespaced, Kind: k.Kind, Verbs: []string{"get", "patch", "update"}}
		if k.Status {
			sub.Name = k.Resource + "/status"
			l.APIResources = append(l.APIResources, sub)
		}
		if k.Name() == "pods" {
			for _, p := range []metav1.APIResource{
				{Name: "pods/attach", Kind: "PodAttachOptions", Verbs: []string{"create", "get"}},
				{Name: "pods/binding", Kind: "Binding", Verbs: []string{"create"}},
				{Name: "pods/ephemeralcontainers", Kind: "Pod", Verbs: []string{"get", "patch", "update"}},
				{Name: "pods/eviction", Group: "policy", Version: "v1", Kind: "Eviction", Verbs: []string{"create"}},
				{Name: "pods/exec", Kind: "PodExecOptions", Verbs: []string{"create", "get"}},
				{Name: "pods/log", Kind: "Pod", Verbs: []string{"get"}},
				{Name: "pods/portforward", Kind: "PodPortForwardOptions", Verbs: []string{"create", "get"}},
			} {
				p.Namespaced = true
				l.APIResources = append(l.APIResources, p)
			}
		}
		if k.Scale {
			sub.Name, sub.Group, sub.Version, sub.Kind = k.Resource+"/scale", "autoscaling", "v1", "Scale"
			l.APIResources = append(l.APIResources, sub)
		}
	}
	if l == nil {
		return nil
	}
	return l
}
