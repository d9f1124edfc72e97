package rest

import (
	"errors"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/minirun/minirun/orchestrate/store"
)

// The group that kubectl top asks. Nothing of it is stored.
const metricsGroup = "metrics.k8s.io"

type measured struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        metav1.ObjectMeta   `json:"metadata"`
	Timestamp       metav1.Time         `json:"timestamp"`
	Window          metav1.Duration     `json:"window"`
	Usage           corev1.ResourceList `json:"usage,omitempty"`
	Containers      []measuredContainer `json:"containers,omitempty"`
}

type measuredContainer struct {
	Name  string              `json:"name"`
	Usage corev1.ResourceList `json:"usage"`
}

type measuredList struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        metav1.ListMeta `json:"metadata"`
	Items           []measured      `json:"items"`
}

func usage(micro, memory int64) corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewScaledQuantity(micro, resource.Micro),
		corev1.ResourceMemory: *resource.NewQuantity(memory, resource.BinarySI),
	}
}

func metricsResources() metav1.APIResourceList {
	r := func(name, kind string, namespaced bool) metav1.APIResource {
		return metav1.APIResource{Name: name, Kind: kind, Namespaced: namespaced, Verbs: metav1.Verbs{"get", "list"}}
	}
	return metav1.APIResourceList{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "APIResourceList"}, GroupVersion: metricsGroup + "/v1beta1",
		APIResources: []metav1.APIResource{r("nodes", "NodeMetrics", false), r("pods", "PodMetrics", true)},
	}
}

// metrics serves that group; false is for other paths.
func (s *Server) metrics(w http.ResponseWriter, q *request) bool {
	rest, ok := strings.CutPrefix(q.URL.Path, "/apis/"+metricsGroup+"/v1beta1/")
	if !ok {
		return false
	}
	err := s.measure(w, q, strings.Split(strings.Trim(rest, "/"), "/"))
	if err != nil {
		s.fail(w, q, err)
	}
	return true
}

func (s *Server) measure(w http.ResponseWriter, q *request, parts []string) error {
	switch {
	case q.Method != http.MethodGet:
		return errVerb
	case s.Node == nil:
		return errNoNode
	}
	sel, err := labels.Parse(q.URL.Query().Get("labelSelector"))
	if err != nil {
		return bad("labelSelector: %v", err)
	}
	chosen := store.Selector{Labels: sel}
	if parts[0] == "namespaces" && len(parts) > 2 {
		chosen.Namespace, parts = parts[1], parts[2:]
	}
	kind, one := "PodMetrics", s.podMetrics
	switch {
	case parts[0] == "nodes" && chosen.Namespace == "" && len(parts) < 3:
		kind, one = "NodeMetrics", s.nodeMetrics
	case parts[0] != "pods", len(parts) > 2, len(parts) == 2 && chosen.Namespace == "":
		return errNowhere
	}
	if len(parts) == 2 {
		obj, err := s.s.Get(parts[0], chosen.Namespace, parts[1])
		if err != nil {
			return err
		}
		m, err := one(obj)
		if err != nil {
			return err
		}
		reply(w, http.StatusOK, m)
		return nil
	}
	l, err := s.s.List(parts[0], chosen, 0, "")
	if err != nil {
		return err
	}
	out := measuredList{TypeMeta: metav1.TypeMeta{APIVersion: metricsGroup + "/v1beta1", Kind: kind + "List"}, Items: []measured{}}
	for _, obj := range l.Items {
		m, err := one(obj)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		out.Items = append(out.Items, *m)
	}
	reply(w, http.StatusOK, out)
	return nil
}

func newMeasured(kind string, obj store.Object, at time.Time, window time.Duration) *measured {
	return &measured{
		TypeMeta:  metav1.TypeMeta{APIVersion: metricsGroup + "/v1beta1", Kind: kind},
		Metadata:  metav1.ObjectMeta{Name: obj.GetName(), Namespace: obj.GetNamespace(), Labels: obj.GetLabels(), CreationTimestamp: metav1.NewTime(at)},
		Timestamp: metav1.NewTime(at), Window: metav1.Duration{Duration: window},
	}
}

func (s *Server) podMetrics(obj store.Object) (*measured, error) {
	p, err := s.Node.PodMetrics(obj.GetNamespace(), obj.GetName())
	if err != nil {
		return nil, err
	}
	m := newMeasured("PodMetrics", obj, p.Time, p.Window)
	for _, c := range p.Containers {
		m.Containers = append(m.Containers, measuredContainer{c.Name, usage(c.MicroCPU, c.Memory)})
	}
	slices.SortFunc(m.Containers, func(a, b measuredContainer) int { return strings.Compare(a.Name, b.Name) })
	return m, nil
}

func (s *Server) nodeMetrics(obj store.Object) (*measured, error) {
	u, err := s.Node.NodeMetrics()
	if err != nil {
		return nil, err
	}
	m := newMeasured("NodeMetrics", obj, u.Time, u.Window)
	m.Usage = usage(u.MicroCPU, u.Memory)
	return m, nil
}
