package controller

import (
	"errors"
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/minirun/minirun/orchestrate/batch"
	"github.com/minirun/minirun/orchestrate/services"
	"github.com/minirun/minirun/orchestrate/store"
)

// Admission gives the kinds of a store what must be decided in the moment of a
// write: addresses of Services, and that nothing new comes into a namespace that
// is being deleted.
func Admission(kinds []store.Kind, r services.Ranges) ([]store.Kind, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	out := make([]store.Kind, len(kinds))
	for i, k := range kinds {
		switch out[i] = k; k.Name {
		case namespaces:
			out[i].Admit = admitNamespace
		case serviceKind:
			out[i].Admit = func(s *store.Store, old, n store.Object) error {
				if err := inNamespace(s, k.Name, old, n); err != nil {
					return err
				}
				return assign(s, old, n, r)
			}
		case jobs:
			out[i].Admit = func(s *store.Store, old, n store.Object) error {
				if old == nil {
					batch.Prepare(n.(*batchv1.Job))
				}
				return inNamespace(s, k.Name, old, n)
			}
		case pods:
			out[i].Admit = func(s *store.Store, old, n store.Object) error {
				if p := n.(*corev1.Pod); old == nil && p.Status.Phase == "" {
					p.Status.Phase = corev1.PodPending
				}
				return inNamespace(s, k.Name, old, n)
			}
		default:
			out[i].Admit = func(s *store.Store, old, n store.Object) error { return inNamespace(s, k.Name, old, n) }
		}
	}
	return out, nil
}

// inNamespace refuses what is new in a namespace that goes.
func inNamespace(s *store.Store, kind string, old, n store.Object) error {
	if old != nil || n.GetNamespace() == "" {
		return nil
	}
	ns, err := s.Get(namespaces, "", n.GetNamespace())
	if err != nil || ns.GetDeletionTimestamp() == nil {
		return nil
	}
	return apierrors.NewForbidden(schema.ParseGroupResource(kind), n.GetName(),
		fmt.Errorf("unable to create new content in namespace %s because it is being terminated", n.GetNamespace()))
}

// assign gives a Service its addresses and ports.
func assign(s *store.Store, old, n store.Object, r services.Ranges) error {
	all, err := list[*corev1.Service](s, serviceKind, "")
	if err != nil {
		return err
	}
	var before *corev1.Service
	if old != nil {
		before = old.(*corev1.Service)
	}
	err = services.Assign(n.(*corev1.Service), before, all, r)
	var full *services.FullError
	var wrong utilerrors.Aggregate
	switch {
	case errors.As(err, &full):
		return apierrors.NewInternalError(err)
	case errors.As(err, &wrong):
		var l field.ErrorList
		for _, e := range wrong.Errors() {
			var f *field.Error
			if errors.As(e, &f) {
				l = append(l, f)
			}
		}
		return apierrors.NewInvalid(schema.GroupKind{Kind: "Service"}, n.GetName(), l)
	}
	return err
}

func admitNamespace(_ *store.Store, old, obj store.Object) error {
	n := obj.(*corev1.Namespace)
	if old == nil {
		prepareNamespace(n)
	}
	return nil
}
