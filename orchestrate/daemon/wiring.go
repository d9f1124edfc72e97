package daemon

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/orchestrate/controller"
	"github.com/minirun/minirun/orchestrate/host"
	"github.com/minirun/minirun/orchestrate/rest"
	"github.com/minirun/minirun/orchestrate/store"
)

// wire makes the parts of minirund and the API over them. What each of them does
// when it is made must not depend on the others running.
func (d *Daemon) wire() (http.Handler, error) {
	if err := d.namespaces("default", "kube-system"); err != nil {
		return nil, err
	}
	d.add("backups", d.backups)
	controllers, err := controller.New(controller.Options{Store: d.store, Log: d.o.Log, Volumes: filepath.Join(d.o.Data, "volumes")})
	if err != nil {
		return nil, err
	}
	d.add("controllers", controllers.Run)
	if !d.o.Bare {
		d.add("names", d.answerNames)
	}
	if !d.o.Bare {
		node, err := host.New(host.Options{Store: d.store, Log: d.o.Log, Dir: d.o.Data, Version: d.o.Version})
		if err != nil {
			return nil, err
		}
		d.add("node object", node.Run)
	}
	return d.handle(rest.New(d.store, d.registry)), nil
}

func (d *Daemon) add(name string, run func(context.Context) error) {
	d.parts = append(d.parts, &part{name: name, run: run})
}

// namespaces makes those that are always there.
func (d *Daemon) namespaces(names ...string) error {
	for _, n := range names {
		_, err := d.store.Create("namespaces", &corev1.Namespace{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
			ObjectMeta: metav1.ObjectMeta{Name: n, Labels: map[string]string{corev1.LabelMetadataName: n}},
			Spec:       corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}},
			Status:     corev1.NamespaceStatus{Phase: corev1.NamespaceActive},
		})
		var exists *store.ExistsError
		if err != nil && !errors.As(err, &exists) {
			return err
		}
	}
	return nil
}
