package rest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/orchestrate/store"
)

var errNoNode = &problem{http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "no node runs pods here"}

// podSub is what serves a subresource of a pod that is no part of the object.
func podSub(q *request) func(*Server, http.ResponseWriter, *request) error {
	if q.kind.Name() != "pods" || q.name == "" {
		return nil
	}
	switch q.sub {
	case "log":
		return (*Server).logs
	case "exec":
		return (*Server).exec
	case "attach":
		return (*Server).attach
	case "portforward":
		return (*Server).forward
	case "eviction":
		return (*Server).evict
	case "binding":
		return (*Server).bind
	}
	return nil
}

// flushed is a response that is sent as it is written. What comes later than an
// error must not begin it.
type flushed struct {
	w     http.ResponseWriter
	c     *http.ResponseController
	begun bool
}

func (f *flushed) Write(p []byte) (int, error) {
	if !f.begun {
		f.begun = true
		f.w.Header().Set("Content-Type", "text/plain")
		f.w.WriteHeader(http.StatusOK)
	}
	n, err := f.w.Write(p)
	if err == nil {
		err = f.c.Flush()
	}
	return n, err
}

func (s *Server) logs(w http.ResponseWriter, q *request) error {
	if q.Method != http.MethodGet {
		return errVerb
	}
	if s.Node == nil {
		return errNoNode
	}
	o, err := logOptions(q)
	if err != nil {
		return err
	}
	if _, err := s.container(q, &o.Container); err != nil {
		return err
	}
	out := &flushed{w: w, c: http.NewResponseController(w)}
	err = s.Node.Logs(q.Context(), q.namespace, q.name, o, out)
	if err == nil && !out.begun {
		_, err = out.Write(nil)
	}
	if out.begun {
		return errAnswered
	}
	return err
}

func logOptions(q *request) (*LogOptions, error) {
	query := q.URL.Query()
	o := &LogOptions{PodLogOptions: corev1.PodLogOptions{Container: query.Get("container"), Follow: flag(q, "follow"), Previous: flag(q, "previous"), Timestamps: flag(q, "timestamps")}}
	if v := query.Get("run"); v != "" {
		n, err := strconv.ParseInt(v, 10, 32)
		if err != nil || o.Previous {
			return nil, bad("run %q must be a number, and does not go with previous", v)
		}
		run := int32(n)
		o.Run = &run
	}
	for name, to := range map[string]**int64{"sinceSeconds": &o.SinceSeconds, "tailLines": &o.TailLines, "limitBytes": &o.LimitBytes} {
		v := query.Get(name)
		if v == "" {
			continue
		}
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 0 || n == 0 && name != "tailLines" {
			return nil, bad("%s %q must be a number that is not negative", name, v)
		}
		*to = &n
	}
	if v := query.Get("sinceTime"); v != "" {
		t, err := time.Parse(time.RFC3339, v)
		if err != nil {
			return nil, bad("sinceTime %q: %v", v, err)
		}
		o.SinceTime = &metav1.Time{Time: t}
		if o.SinceSeconds != nil {
			return nil, bad("at most one of sinceTime or sinceSeconds may be specified")
		}
	}
	return o, nil
}

// success is the answer to what has no better one.
func success(w http.ResponseWriter, code int) error {
	reply(w, code, metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusSuccess, Code: int32(code)})
	return nil
}

// evict deletes a pod: there are no disruption budgets that could forbid it.
func (s *Server) evict(w http.ResponseWriter, q *request) error {
	if q.Method != http.MethodPost {
		return errVerb
	}
	text, err := s.body(q)
	if err != nil {
		return err
	}
	var e struct {
		Metadata      metav1.ObjectMeta
		DeleteOptions metav1.DeleteOptions
	}
	if err := json.Unmarshal(text, &e); err != nil {
		return bad("Eviction: %v", err)
	}
	if n := e.Metadata.Name; n != "" && n != q.name {
		return bad("the name of the object (%s) does not match the name on the URL (%s)", n, q.name)
	}
	pod, err := s.s.Get("pods", q.namespace, q.name)
	if err != nil {
		return err
	}
	if !q.dryRun && len(e.DeleteOptions.DryRun) == 0 {
		if _, err := s.s.Delete("pods", q.namespace, q.name, deletion(pod, &e.DeleteOptions)); err != nil {
			return err
		}
	}
	return success(w, http.StatusCreated)
}

// bind gives a pod its node.
func (s *Server) bind(w http.ResponseWriter, q *request) error {
	if q.Method != http.MethodPost {
		return errVerb
	}
	text, err := s.body(q)
	if err != nil {
		return err
	}
	var b corev1.Binding
	if err := json.Unmarshal(text, &b); err != nil {
		return bad("Binding: %v", err)
	}
	if b.Target.Name == "" || b.Target.Kind != "" && b.Target.Kind != "Node" {
		return bad("the target of a binding must be a Node")
	}
	if _, err := s.s.Get("nodes", "", b.Target.Name); err != nil {
		return err
	}
	old, err := s.s.Get("pods", q.namespace, q.name)
	if err != nil {
		return err
	}
	pod := old.DeepCopyObject().(*corev1.Pod)
	if pod.Spec.NodeName != "" {
		return &problem{http.StatusConflict, metav1.StatusReasonConflict, fmt.Sprintf("pod %s is already assigned to node %q", q.name, pod.Spec.NodeName)}
	}
	pod.Spec.NodeName = b.Target.Name
	if !q.dryRun {
		if _, err := s.s.Update("pods", pod, store.Main); err != nil {
			return err
		}
	}
	return success(w, http.StatusCreated)
}
