package node

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// The variables are those that a kubelet makes.
func TestLinkVariables(t *testing.T) {
	s := &corev1.Service{}
	s.Name = "my-db"
	s.Spec.ClusterIP = "10.96.0.7"
	s.Spec.Ports = []corev1.ServicePort{{Name: "sql-in", Port: 5432}, {Name: "gossip", Port: 7946, Protocol: corev1.ProtocolUDP}}
	text := func() string {
		var lines []string
		for _, e := range linkVariables(s) {
			lines = append(lines, e[0]+"="+e[1])
		}
		return strings.Join(lines, "\n")
	}
	if got, want := text(), `MY_DB_SERVICE_HOST=10.96.0.7
MY_DB_SERVICE_PORT=5432
MY_DB_SERVICE_PORT_SQL_IN=5432
MY_DB_SERVICE_PORT_GOSSIP=7946
MY_DB_PORT=tcp://10.96.0.7:5432
MY_DB_PORT_5432_TCP=tcp://10.96.0.7:5432
MY_DB_PORT_5432_TCP_PROTO=tcp
MY_DB_PORT_5432_TCP_PORT=5432
MY_DB_PORT_5432_TCP_ADDR=10.96.0.7
MY_DB_PORT_7946_UDP=udp://10.96.0.7:7946
MY_DB_PORT_7946_UDP_PROTO=udp
MY_DB_PORT_7946_UDP_PORT=7946
MY_DB_PORT_7946_UDP_ADDR=10.96.0.7`; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	s.Spec.ClusterIP, s.Spec.Ports = "fd00::7", []corev1.ServicePort{{Port: 80}}
	if got, want := text(), `MY_DB_SERVICE_HOST=fd00::7
MY_DB_SERVICE_PORT=80
MY_DB_PORT=tcp://[fd00::7]:80
MY_DB_PORT_80_TCP=tcp://[fd00::7]:80
MY_DB_PORT_80_TCP_PROTO=tcp
MY_DB_PORT_80_TCP_PORT=80
MY_DB_PORT_80_TCP_ADDR=fd00::7`; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, none := range []string{"", "None"} {
		if s.Spec.ClusterIP = none; text() != "" {
			t.Errorf("address %q: %s", none, text())
		}
	}
}

// What a container sets itself wins, and can be made of the others.
func TestEnvironment_Services(t *testing.T) {
	c := &corev1.Container{Env: []corev1.EnvVar{{Name: "URL", Value: "http://$(A_SERVICE_HOST):$(A_SERVICE_PORT)"}, {Name: "A_SERVICE_PORT", Value: "1"}}}
	env, err := environment(&corev1.Pod{}, c, &sources{}, [][2]string{{"A_SERVICE_HOST", "10.96.0.7"}, {"A_SERVICE_PORT", "80"}})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range env {
		got[e[0]] = e[1]
	}
	if got["URL"] != "http://10.96.0.7:80" || got["A_SERVICE_PORT"] != "1" || got["A_SERVICE_HOST"] != "10.96.0.7" {
		t.Errorf("%q", env)
	}
}
