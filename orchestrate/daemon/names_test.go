package daemon

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestServiceName(t *testing.T) {
	meta := metav1.ObjectMeta{Namespace: "prod", Name: "web"}
	ready, not, host, port, number := true, false, "web-0", "http", int32(8080)
	eps := []*discoveryv1.EndpointSlice{{
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.1.0.2"}, Hostname: &host, Conditions: discoveryv1.EndpointConditions{Ready: &ready}},
			{Addresses: []string{"10.1.0.3"}},
			{Addresses: []string{"10.1.0.4"}, Conditions: discoveryv1.EndpointConditions{Ready: &not}},
		},
		Ports: []discoveryv1.EndpointPort{{Name: &port, Port: &number}},
	}}
	ports := []corev1.ServicePort{{Name: "http", Port: 80}}
	for _, tt := range []struct {
		name string
		spec corev1.ServiceSpec
		want string
	}{
		{"cluster", corev1.ServiceSpec{ClusterIP: "10.96.0.7", ClusterIPs: []string{"10.96.0.7", "fd96::7"}, Ports: ports}, "[10.96.0.7 fd96::7] [{http TCP 80}] []  true"},
		{"none yet", corev1.ServiceSpec{}, "[] [] []  false"},
		{"headless", corev1.ServiceSpec{ClusterIP: "None", Ports: ports}, "[] [{http TCP 80}] [{web-0 10.1.0.2 [{http TCP 8080}]} { 10.1.0.3 [{http TCP 8080}]}]  true"},
		{"headless, also who is not ready", corev1.ServiceSpec{ClusterIP: "None", PublishNotReadyAddresses: true}, "[] [] [{web-0 10.1.0.2 [{http TCP 8080}]} { 10.1.0.3 [{http TCP 8080}]} { 10.1.0.4 [{http TCP 8080}]}]  true"},
		{"external", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "db.example.com."}, "[] [] [] db.example.com true"},
		{"external, bad", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "a b"}, "[] [] [] a b false"},
	} {
		n, ok := serviceName(&corev1.Service{ObjectMeta: meta, Spec: tt.spec}, eps)
		if got := fmt.Sprint(n.Addresses, " ", n.Ports, " ", n.Endpoints, " ", n.External, " ", ok); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}
