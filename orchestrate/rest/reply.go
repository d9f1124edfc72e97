package rest

import (
	"encoding/json"
	"net/http"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/orchestrate/api"
	"github.com/minirun/minirun/orchestrate/store"
)

func reply(w http.ResponseWriter, code int, doc any) {
	text, err := json.Marshal(doc)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	w.Write(append(text, '\n'))
}

// fail answers with an error.
func (s *Server) fail(w http.ResponseWriter, q *request, err error) {
	st := api.StatusOf(q.kind, q.name, err)
	reply(w, int(st.Code), st)
}

// typed is an object that says what it is, as all do on the wire.
func typed(k *api.Kind, obj store.Object) store.Object {
	if obj.GetObjectKind().GroupVersionKind() == k.GroupVersionKind {
		return obj
	}
	obj = obj.DeepCopyObject().(store.Object)
	obj.GetObjectKind().SetGroupVersionKind(k.GroupVersionKind)
	return obj
}

// object answers with one.
func (s *Server) object(w http.ResponseWriter, q *request, code int, obj store.Object) error {
	if q.sub == "scale" {
		reply(w, code, scaleOf(obj))
		return nil
	}
	if q.Method == http.MethodGet && q.wantsTable() {
		t, err := s.table(q, metav1.ListMeta{ResourceVersion: obj.GetResourceVersion()}, true, obj)
		if err == nil {
			reply(w, code, t)
		}
		return err
	}
	reply(w, code, typed(q.kind, obj))
	return nil
}

// size finds the number of replicas in an object that has one.
func size(obj store.Object) (want **int32, have int32, selector *metav1.LabelSelector) {
	switch o := obj.(type) {
	case *appsv1.Deployment:
		return &o.Spec.Replicas, o.Status.Replicas, o.Spec.Selector
	case *appsv1.ReplicaSet:
		return &o.Spec.Replicas, o.Status.Replicas, o.Spec.Selector
	case *appsv1.StatefulSet:
		return &o.Spec.Replicas, o.Status.Replicas, o.Spec.Selector
	}
	return new(*int32), 0, nil
}

func scaleOf(obj store.Object) *autoscalingv1.Scale {
	want, have, selector := size(obj)
	sc := &autoscalingv1.Scale{
		TypeMeta: metav1.TypeMeta{APIVersion: "autoscaling/v1", Kind: "Scale"},
		ObjectMeta: metav1.ObjectMeta{
			Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
			ResourceVersion: obj.GetResourceVersion(), CreationTimestamp: obj.GetCreationTimestamp(),
		},
		Status: autoscalingv1.ScaleStatus{Replicas: have},
	}
	if *want != nil {
		sc.Spec.Replicas = **want
	}
	if s, err := metav1.LabelSelectorAsSelector(selector); err == nil {
		sc.Status.Selector = s.String()
	}
	return sc
}

// rescale is an object with the size that a Scale asks for.
func rescale(old store.Object, text []byte) (store.Object, error) {
	var sc autoscalingv1.Scale
	if err := json.Unmarshal(text, &sc); err != nil {
		return nil, bad("Scale: %v", err)
	}
	obj := old.DeepCopyObject().(store.Object)
	want, _, _ := size(obj)
	*want = &sc.Spec.Replicas
	obj.SetResourceVersion(sc.ResourceVersion)
	return obj, nil
}

// deletion is how an object goes.
func deletion(old store.Object, o *metav1.DeleteOptions) store.DeleteOptions {
	var d store.DeleteOptions
	if p := o.Preconditions; p != nil {
		if p.UID != nil {
			d.UID = *p.UID
		}
		if p.ResourceVersion != nil {
			d.Revision = *p.ResourceVersion
		}
	}
	if p := o.PropagationPolicy; p != nil {
		switch *p {
		case metav1.DeletePropagationForeground:
			d.Finalizers = []string{metav1.FinalizerDeleteDependents}
		case metav1.DeletePropagationOrphan:
			d.Finalizers = []string{metav1.FinalizerOrphanDependents}
		}
	}
	// Only pods stand for something that takes time to end, once it has begun.
	if p, ok := old.(*corev1.Pod); ok && p.Spec.NodeName != "" {
		switch {
		case o.GracePeriodSeconds != nil:
			d.Grace = *o.GracePeriodSeconds
		case p.Spec.TerminationGracePeriodSeconds != nil:
			d.Grace = *p.Spec.TerminationGracePeriodSeconds
		}
	}
	return d
}
