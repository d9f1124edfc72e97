package main

import (
	"context"
	"io"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/minirun/minirun/internal/testenv"
)

// TestKubePortForward: ports by number and name, of a pod and of a service, until it
// is interrupted.
func TestKubePortForward(t *testing.T) {
	h := newKubeHost(t, false)
	t.Setenv("MINIRUND_SOCKET", h.socket)
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{"app": "one"}}
	}
	h.create("pods", &corev1.Pod{ObjectMeta: meta("one"), Status: corev1.PodStatus{Phase: corev1.PodRunning}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{Name: "echo", ContainerPort: 7}}}},
	}})
	h.create("pods", &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "new", Namespace: "default"}, Status: corev1.PodStatus{Phase: corev1.PodPending}})
	h.create("services", &corev1.Service{ObjectMeta: meta("front"), Spec: corev1.ServiceSpec{ClusterIP: "10.96.1.1", Selector: map[string]string{"app": "one"}, Ports: []corev1.ServicePort{
		{Name: "e", Port: 80, TargetPort: intstr.FromString("echo")}, {Name: "bye", Port: 81, TargetPort: intstr.FromInt32(9)}, {Name: "u", Port: 53, Protocol: corev1.ProtocolUDP},
	}}})
	for args, want := range map[string]string{
		"new 80":         "pod/new does not run: it is Pending",
		"none 80":        "not found",
		"one :0":         "there is no port 0",
		"one x:80":       `"x:80": want [LOCAL:]PORT`,
		"svc/front :7":   `service "front" has no port 7`,
		"svc/front :53":  "only TCP is forwarded",
		"one :telnet":    `pod "one" has no port called "telnet"`,
		"one 80 --hello": "hello",
	} {
		if code, out := h.kube(t.Context(), "", append([]string{"port-forward"}, words(args)...)...); code == 0 || !strings.Contains(out, want) {
			t.Errorf("%s: status %d, %s", args, code, out)
		}
	}
	for _, tt := range []struct{ args, to, sent, want string }{
		{"one :7", "7", "hello", "hello"},
		{"pod/one :echo", "7", "hello", "hello"},
		{"svc/front :80", "7", "hello", "hello"},
		{"svc/front :bye", "9", "", "bye"},
		{"one :8", "8", "", ""},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), testenv.Timeout(20*time.Second))
		var out syncBuffer
		var wg sync.WaitGroup
		wg.Go(func() {
			if code := run(ctx, append([]string{"minirund", "kube", "port-forward"}, words(tt.args)...), strings.NewReader(""), &out, &out); code != 0 {
				t.Errorf("%s: status %d", tt.args, code)
			}
		})
		line := regexp.MustCompile(`Forwarding from (127\.0\.0\.1:\d+) -> ` + tt.to + "\n")
		for !line.MatchString(out.String()) && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		if ctx.Err() != nil {
			t.Fatalf("%s: %s", tt.args, out.String())
		}
		c, err := net.Dial("tcp", line.FindStringSubmatch(out.String())[1])
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, tt.sent)
		c.(*net.TCPConn).CloseWrite()
		if got, err := io.ReadAll(c); err != nil || string(got) != tt.want {
			t.Errorf("%s: %q, %v", tt.args, got, err)
		}
		c.Close()
		for tt.to == "8" && !strings.Contains(out.String(), "connection refused") && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		if ctx.Err() != nil {
			t.Errorf("%s: %s", tt.args, out.String())
		}
		cancel()
		wg.Wait()
	}
}
