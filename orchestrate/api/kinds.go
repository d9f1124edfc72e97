package api

import (
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/minirun/minirun/orchestrate/store"
)

// Kind is a kind of objects.
type Kind struct {
	schema.GroupVersionKind
	// Resource is the plural in paths, Singular and Short what else people type.
	Resource, Singular string
	Short              []string
	Namespaced         bool
	// Status and Scale tell whether there are subresources of that name.
	Status, Scale bool
	Secret        bool
	New           func() store.Object
}

// Name is the kind's name in the store: "pods", "deployments.apps".
func (k *Kind) Name() string {
	if k.Group == "" {
		return k.Resource
	}
	return k.Resource + "." + k.Group
}

// GroupResource is the same, as errors have it.
func (k *Kind) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: k.Group, Resource: k.Resource}
}

// Permanent tells whether a namespace is there from the start and stays.
func Permanent(namespace string) bool {
	return namespace == metav1.NamespaceDefault || namespace == metav1.NamespaceSystem
}

// Verbs are what can be done with objects of a kind.
var Verbs = metav1.Verbs{"create", "delete", "get", "list", "patch", "update", "watch"}

func kind[T any, P interface {
	*T
	store.Object
}](group, version, resource, short string) *Kind {
	name := strings.TrimPrefix(fmt.Sprintf("%T", *new(T)), "v1.")
	k := &Kind{
		GroupVersionKind: schema.GroupVersionKind{Group: group, Version: version, Kind: name},
		Resource:         resource, Singular: strings.ToLower(name), Namespaced: true,
		New: func() store.Object { return P(new(T)) },
	}
	if short != "" {
		k.Short = strings.Split(short, ",")
	}
	return k
}

func (k *Kind) status() *Kind  { k.Status = true; return k }
func (k *Kind) scale() *Kind   { k.Scale = true; return k }
func (k *Kind) cluster() *Kind { k.Namespaced = false; return k }
func (k *Kind) secret() *Kind  { k.Secret = true; return k }

// Kinds are all of them. It is a function, so that only who needs them pays.
func Kinds() []*Kind {
	return []*Kind{
		kind[corev1.ConfigMap]("", "v1", "configmaps", "cm"),
		kind[corev1.Endpoints]("", "v1", "endpoints", "ep"), //lint:ignore SA1019 kubectl describe still asks for them
		kind[corev1.Event]("", "v1", "events", "ev"),
		kind[corev1.Namespace]("", "v1", "namespaces", "ns").cluster().status(),
		kind[corev1.Node]("", "v1", "nodes", "no").cluster().status(),
		kind[corev1.PersistentVolume]("", "v1", "persistentvolumes", "pv").cluster().status(),
		kind[corev1.PersistentVolumeClaim]("", "v1", "persistentvolumeclaims", "pvc").status(),
		kind[corev1.Pod]("", "v1", "pods", "po").status(),
		kind[corev1.Secret]("", "v1", "secrets", "").secret(),
		kind[corev1.Service]("", "v1", "services", "svc").status(),
		kind[appsv1.ControllerRevision]("apps", "v1", "controllerrevisions", ""),
		kind[appsv1.DaemonSet]("apps", "v1", "daemonsets", "ds").status(),
		kind[appsv1.Deployment]("apps", "v1", "deployments", "deploy").status().scale(),
		kind[appsv1.ReplicaSet]("apps", "v1", "replicasets", "rs").status().scale(),
		kind[appsv1.StatefulSet]("apps", "v1", "statefulsets", "sts").status().scale(),
		kind[batchv1.CronJob]("batch", "v1", "cronjobs", "cj").status(),
		kind[batchv1.Job]("batch", "v1", "jobs", "").status(),
		kind[discoveryv1.EndpointSlice]("discovery.k8s.io", "v1", "endpointslices", ""),
		kind[storagev1.StorageClass]("storage.k8s.io", "v1", "storageclasses", "sc").cluster(),
	}
}

// Registry finds kinds.
type Registry struct{ kinds []*Kind }

// NewRegistry makes one of all kinds.
func NewRegistry() *Registry { return &Registry{Kinds()} }

// Kinds are all kinds, by group and resource.
func (r *Registry) Kinds() []*Kind { return r.kinds }

// Stored are the kinds as the store wants them.
func (r *Registry) Stored() []store.Kind {
	var out []store.Kind
	for _, k := range r.kinds {
		out = append(out, store.Kind{Name: k.Name(), New: k.New, Secret: k.Secret})
	}
	return out
}

// Resource finds the kind behind a path.
func (r *Registry) Resource(group, version, resource string) *Kind {
	for _, k := range r.kinds {
		if k.Group == group && k.Version == version && k.Resource == resource {
			return k
		}
	}
	return nil
}

// KindError reports a kind that there is none of.
type KindError struct {
	APIVersion, Kind string
	// Meant, if not empty, is what was probably meant.
	Meant string
}

func (e *KindError) Error() string {
	s := fmt.Sprintf("no kind %q in %q", e.Kind, e.APIVersion)
	if e.Meant != "" {
		s += ", did you mean " + e.Meant
	}
	return s
}

// Find finds the kind of an object by what it says of itself.
func (r *Registry) Find(apiVersion, name string) (*Kind, error) {
	e := &KindError{APIVersion: apiVersion, Kind: name}
	best := 3 // as many letters may be wrong, less one
	for _, k := range r.kinds {
		v := k.GroupVersion().String()
		if k.Kind == name && v == apiVersion {
			return k, nil
		}
		d := Distance(k.Kind, name)
		if v == apiVersion && d < best {
			best, e.Meant = d, fmt.Sprintf("%q", k.Kind)
		}
		if k.Kind == name {
			best, e.Meant = -1, fmt.Sprintf("%q", v)
		}
	}
	return nil, e
}

// Distance is how many letters must be changed, added or left out to make one
// word of the other. Upper and lower case are the same.
func Distance(a, b string) int {
	a, b = strings.ToLower(a), strings.ToLower(b)
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := last
			if a[i] != b[j] {
				cost++
			}
			last = row[j+1]
			row[j+1] = min(cost, row[j]+1, last+1)
		}
	}
	return row[len(b)]
}
