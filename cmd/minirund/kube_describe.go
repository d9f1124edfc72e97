package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	appsv1 "k8s.io/api/apps/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/minirun/minirun/orchestrate/store"
	"github.com/minirun/minirun/orchestrate/view"
	"github.com/urfave/cli/v2"
)

func kubeDescribe(u *ui) *cli.Command {
	return kubeAction(u, &cli.Command{
		Name: "describe", Usage: "show objects in full, with their events", ArgsUsage: "KIND [NAME...] | KIND/NAME...",
		Flags: []cli.Flag{namespaceFlag(), allNamespacesFlag(), selectorFlag()},
	}, 1, -1, func(k *kube) error {
		all, err := k.refs(k.c.Args().Slice())
		if err != nil {
			return err
		}
		var items []object
		err = k.forEach(all, func(r ref) error {
			if r.name != "" {
				var o object
				if err := k.api.Get(k.ctx, k.path(r), &o); err != nil {
					return err
				}
				items = append(items, o)
				return nil
			}
			l, err := k.list(r.kind, k.chosen())
			items = append(items, l...)
			return err
		})
		for i, o := range items {
			if i > 0 {
				fmt.Fprint(k.u.out, "\n\n")
			}
			text, err := k.describe(o)
			if err != nil {
				return err
			}
			fmt.Fprint(k.u.out, text)
		}
		if len(items) == 0 && err == nil {
			k.nothing(all[0].kind)
		}
		return err
	})
}

func (k *kube) describe(o object) (string, error) {
	x, err := k.registry.Find(o.str("apiVersion"), o.str("kind"))
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(o)
	if err != nil {
		return "", err
	}
	obj := x.New()
	if err := json.Unmarshal(text, obj); err != nil {
		return "", err
	}
	c := &view.Context{Now: time.Now()}
	ns := obj.GetNamespace()
	fields := []string{"involvedObject.kind=" + x.Kind, "involvedObject.name=" + obj.GetName()}
	if x.Kind != "Node" { // whose events carry its name as uid
		fields = append(fields, "involvedObject.uid="+string(obj.GetUID()))
	}
	if c.Events, err = listAs[corev1.Event](k, "events", ns, url.Values{"fieldSelector": {strings.Join(fields, ",")}}); err != nil {
		return "", err
	}
	owned := func(other store.Object) bool {
		for _, r := range other.GetOwnerReferences() {
			if r.UID == obj.GetUID() {
				return true
			}
		}
		return false
	}
	switch x.Name() {
	case "deployments.apps":
		c.Sets, err = listAs[appsv1.ReplicaSet](k, "replicasets", ns, nil)
		c.Sets = slices.DeleteFunc(c.Sets, func(s appsv1.ReplicaSet) bool { return !owned(&s) })
	case "services":
		c.Slices, err = listAs[discoveryv1.EndpointSlice](k, "endpointslices", ns, url.Values{"labelSelector": {discoveryv1.LabelServiceName + "=" + obj.GetName()}})
	case "replicasets.apps", "statefulsets.apps", "daemonsets.apps", "jobs.batch":
		c.Pods, err = listAs[corev1.Pod](k, "pods", ns, nil)
		c.Pods = slices.DeleteFunc(c.Pods, func(p corev1.Pod) bool { return !owned(&p) })
	case "nodes":
		c.Pods, err = listAs[corev1.Pod](k, "pods", "", url.Values{"fieldSelector": {"spec.nodeName=" + obj.GetName()}})
	}
	if err != nil {
		return "", err
	}
	return view.Describe(obj, c)
}
