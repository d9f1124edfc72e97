package controller

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/orchestrate/api"
	"github.com/minirun/minirun/orchestrate/services"
	"github.com/minirun/minirun/orchestrate/store"
)

var ranges = services.Ranges{
	CIDRs:     []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:96::/112")},
	FirstPort: services.FirstNodePort, LastPort: services.LastNodePort,
}

// create stores a new object with its defaults.
func create[P store.Object](c *cluster, kind string, obj P) P {
	c.t.Helper()
	api.Default(obj)
	if obj.GetNamespace() == "" && !slices.Contains([]string{nodes, namespaces, volumeKind, classKind}, kind) {
		obj.SetNamespace("default")
	}
	stored, err := c.s.Create(kind, obj)
	if err != nil {
		c.t.Fatal(err)
	}
	return stored.(P)
}

// get gives an object that must be there.
func get[P store.Object](c *cluster, kind, name string) P {
	c.t.Helper()
	obj, err := c.s.Get(kind, "default", name)
	if err != nil {
		c.t.Fatal(err)
	}
	return obj.(P)
}

// pass lets time pass until nothing is left to do.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func service(name string, change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}},
	}}
	if change != nil {
		change(s)
	}
	return s
}

func TestServices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		svc := create(c, serviceKind, service("web", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeLoadBalancer }))
		if svc.Spec.ClusterIP == "" || svc.Spec.Ports[0].NodePort == 0 {
			t.Fatalf("stored without addresses: %+v", svc.Spec)
		}
		count := func() (n, is int) {
			l, _ := list[*discoveryv1.EndpointSlice](c.s, endpointSlices, "default")
			for _, sl := range l {
				for _, e := range sl.Endpoints {
					if n++; *e.Conditions.Ready {
						is++
					}
				}
			}
			return n, is
		}
		c.apply(func(*appsv1.Deployment) {})
		c.settle(time.Minute)
		pass(time.Second)
		if n, is := count(); n != 10 || is != 10 {
			t.Errorf("%d endpoints, %d ready", n, is)
		}
		e := get[*corev1.Endpoints](c, endpointsKind, "web") //nolint:staticcheck // it is served
		if len(e.Subsets) != 1 || len(e.Subsets[0].Addresses) != 10 {
			t.Errorf("%+v", e.Subsets)
		}
		// The address of the host is that of its load balancers.
		if in := get[*corev1.Service](c, serviceKind, "web").Status.LoadBalancer.Ingress; in != nil {
			t.Errorf("%v without a node", in)
		}
		node := create(c, nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "here"}})
		node = node.DeepCopy()
		node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "here"}, {Type: corev1.NodeInternalIP, Address: "192.0.2.7"}, {Type: corev1.NodeInternalIP, Address: "2001:db8::7"}}
		if _, err := c.s.Update(nodes, node, store.Status); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		if in := get[*corev1.Service](c, serviceKind, "web").Status.LoadBalancer.Ingress; len(in) != 1 || in[0].IP != "192.0.2.7" {
			t.Errorf("%v", in)
		}
		// One pod goes: its endpoint says so before it is gone.
		p := c.pods()[0]
		if _, err := c.s.Delete(pods, p.Namespace, p.Name, store.DeleteOptions{Grace: 30}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		l, _ := list[*discoveryv1.EndpointSlice](c.s, endpointSlices, "default")
		found := false
		for _, e := range l[0].Endpoints {
			if e.TargetRef.UID == p.UID {
				found = *e.Conditions.Terminating && !*e.Conditions.Ready && *e.Conditions.Serving
			}
		}
		if !found {
			t.Errorf("%s does not terminate: %+v", p.Name, l[0].Endpoints)
		}
		// A pod that loses the label is none any more; one deleted slice comes back.
		lost := c.pods()[3].DeepCopy()
		lost.Labels = map[string]string{"app": "other"}
		if _, err := c.s.Update(pods, lost, store.Main); err != nil {
			t.Fatal(err)
		}
		if _, err := c.s.Delete(endpointSlices, "default", l[0].Name, store.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		pass(10 * time.Second)
		if n, is := count(); n != 10 || is != 10 {
			t.Errorf("%d endpoints, %d ready", n, is)
		}
		at := c.s.Revision()
		c.stopController()
		c.startController()
		pass(24 * time.Hour)
		if now := c.s.Revision(); now != at {
			t.Errorf("%d writes at rest", now-at)
		}
		// What belongs to it goes with it.
		if _, err := c.s.Delete(serviceKind, "default", "web", store.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		if _, err := c.s.Get(endpointsKind, "default", "web"); err == nil {
			t.Error("endpoints stay")
		}
		if n, _ := count(); n != 0 {
			t.Errorf("%d endpoints stay", n)
		}
	})
}

// Addresses are never handed out twice, whoever asks at the same time and
// however often the store is opened anew.
func TestServices_Addresses(t *testing.T) {
	dir := t.TempDir()
	kinds, err := Admission(api.NewRegistry().Stored(), ranges)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for round := range 3 {
		s, err := store.Open(dir+"/store.db", kinds, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 8)
		for i := range 8 {
			go func() {
				for k := range 5 {
					svc := service(fmt.Sprintf("s%d-%d-%d", round, i, k), func(s *corev1.Service) {
						s.Namespace, s.Spec.Type = "default", corev1.ServiceTypeNodePort
						dual := corev1.IPFamilyPolicyRequireDualStack
						s.Spec.IPFamilyPolicy = &dual
					})
					api.Default(svc)
					if _, err := s.Create(serviceKind, svc); err != nil {
						done <- err
						return
					}
				}
				done <- nil
			}()
		}
		for range 8 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		all, _ := list[*corev1.Service](s, serviceKind, "")
		if len(all) != 40*(round+1) {
			t.Errorf("%d services", len(all))
		}
		for _, svc := range all {
			for _, what := range []string{svc.Spec.ClusterIPs[0], svc.Spec.ClusterIPs[1], fmt.Sprint(svc.Spec.Ports[0].NodePort)} {
				if who := seen[what]; who != "" && who != svc.Name {
					t.Errorf("%s is of %s and %s", what, who, svc.Name)
				}
				seen[what] = svc.Name
			}
		}
		taken := service("taken", func(s *corev1.Service) { s.Namespace, s.Spec.ClusterIP = "default", all[0].Spec.ClusterIP })
		api.Default(taken)
		if _, err := s.Create(serviceKind, taken); err == nil || !strings.Contains(err.Error(), "already allocated") {
			t.Errorf("%v", err)
		} else if st := api.StatusOf(api.NewRegistry().Resource("", "v1", "services"), "taken", err); st.Code != 422 || len(st.Details.Causes) != 1 {
			t.Errorf("%+v", st)
		}
		s.Close()
	}
	small := services.Ranges{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/29")}, FirstPort: 1, LastPort: 2}
	if kinds, err = Admission(api.NewRegistry().Stored(), small); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.TempDir()+"/store.db", kinds, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range 7 {
		svc := service(fmt.Sprint("s", i), func(s *corev1.Service) { s.Namespace = "default" })
		api.Default(svc)
		_, err = s.Create(serviceKind, svc)
		if (err == nil) != (i < 6) {
			t.Errorf("service %d: %v", i, err)
		}
	}
	if st := api.StatusOf(nil, "x", err); st.Code != 500 || !strings.Contains(st.Message, "range is full") {
		t.Errorf("%+v", st)
	}
}

func TestNamespaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		synctest.Wait()
		for _, name := range []string{"default", "kube-system"} {
			obj, err := c.s.Get(namespaces, "", name)
			if err != nil {
				t.Fatal(err)
			}
			if ns := obj.(*corev1.Namespace); ns.Status.Phase != corev1.NamespaceActive || ns.Labels[corev1.LabelMetadataName] != name {
				t.Errorf("%+v", ns)
			}
		}
		create(c, namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
		d := &appsv1.Deployment{}
		d.Namespace, d.Name = "shop", "web"
		d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
		d.Spec.Template.Labels = map[string]string{"app": "web"}
		d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "example/app:1"}}
		create(c, deployments, d)
		create(c, serviceKind, service("web", func(s *corev1.Service) { s.Namespace = "shop" }))
		create(c, "configmaps", &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "x", Finalizers: []string{"example.com/wait"}}})
		create(c, "configmaps", &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "y"}})
		pass(5 * time.Second)
		if _, err := c.s.Delete(namespaces, "", "shop", store.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		// Nothing new comes in, not even from controllers.
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "late"}}
		if _, err := c.s.Create("configmaps", cm); err == nil || api.StatusOf(nil, "", err).Code != 403 {
			t.Errorf("%v", err)
		}
		for range 5 {
			pass(time.Second)
			c.stopController()
			c.startController()
		}
		pass(time.Minute)
		obj, err := c.s.Get(namespaces, "", "shop")
		if err != nil {
			t.Fatal("it did not wait for the finalizer")
		}
		ns := obj.(*corev1.Namespace)
		if ns.Status.Phase != corev1.NamespaceTerminating || !strings.Contains(fmt.Sprint(ns.Status.Conditions), "Some resources are remaining: configmaps has 1 resource instances") {
			t.Errorf("%+v", ns.Status)
		}
		obj, _ = c.s.Get("configmaps", "shop", "x")
		held := obj.DeepCopyObject().(*corev1.ConfigMap)
		held.Finalizers = nil
		if _, err := c.s.Update("configmaps", held, store.Main); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		if _, err := c.s.Get(namespaces, "", "shop"); err == nil {
			t.Error("it is still there")
		}
		for _, kind := range c.s.Kinds() {
			if l, _ := c.s.List(kind, store.Selector{Namespace: "shop"}, 0, ""); len(l.Items) > 0 {
				t.Errorf("%d %s are left", len(l.Items), kind)
			}
		}
		if _, err := c.s.Get("configmaps", "default", "y"); err != nil {
			t.Error("another namespace lost something")
		}
		create(c, namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
	})
}
