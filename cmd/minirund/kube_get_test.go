package main

import (
	"bytes"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/internal/testenv"
)

// TestRootKubeGet_LikeKubectl: kube get prints what kubectl prints of the same
// objects.
func TestRootKubeGet_LikeKubectl(t *testing.T) {
	testenv.RequireRoot(t) // since kubectl is installed where root tests run
	kubectl, err := exec.LookPath("kubectl")
	if err != nil {
		t.Fatalf("%v: tools/deps.sh installs it", err)
	}
	h := newKubeHost(t, false)
	t.Setenv("MINIRUND_SOCKET", h.socket)
	srv := httptest.NewServer(h.server)
	defer srv.Close()
	for i, name := range []string{"web-2", "web-1", "api", "db"} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{"app": name[:2]}}}
		p.Spec.RestartPolicy = corev1.RestartPolicyAlways
		p.Spec.NodeName = "here"
		memory := []string{"4Gi", "1Gi", "3Gi", "2Gi"}[i]
		p.Spec.Containers = []corev1.Container{
			{Name: "c", Image: "i:1", Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"memory": resource.MustParse(memory)}}},
			{Name: "d", Image: "i:2"},
		}
		if name == "api" {
			p.Labels = nil
			p.Annotations = map[string]string{"a.b/c": "x"}
		} else {
			p.Labels["example.com/tier"] = "t" + name
		}
		h.create("pods", p)
		h.ready(p)
	}
	h.create("configmaps", &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings", Namespace: "default"}, Data: map[string]string{"a": "1", "b": "2"}})

	for _, line := range []string{
		"pods -o name",
		"pods --no-headers -o name --sort-by metadata.name",
		"pods -o custom-columns=NAME:.metadata.name,Images:.spec.containers[*].image,none:.none,START:status.startTime",
		"pods -o custom-columns=A:.metadata.annotations,L:.metadata.labels.app,I:{.spec.containers[0].name} --no-headers",
		"pods -o custom-columns=NAME:.metadata.name,M:.spec.containers[*].resources.limits.memory --sort-by .spec.containers[0].resources.limits.memory",
		"pods -o custom-columns=NAME:.metadata.name --sort-by {.metadata.name}",
		"pod web-1 -o custom-columns=NAME:.metadata.name,GEN:.metadata.generation,READY:.status.containerStatuses[*].ready",
		"pods -o custom-columns=N:..name --field-selector metadata.name=none",
		"pods -o jsonpath={.items[*].metadata.name} --sort-by .metadata.name",
		"pods -o jsonpath={.items[*]['metadata.name','status.podIP']}",
		"pods -o jsonpath={.items[0,2].metadata.name}",
		"pods -o jsonpath={.items[0:3:2].metadata.name}",
		"pods -o jsonpath={.items[-1:].metadata.name}",
		"pods -o jsonpath={..image}",
		`pods -o jsonpath={.items[?(@.metadata.name=="db")].spec.containers[1].image}`,
		`pods -o jsonpath={range.items[*]}{.metadata.name}{"\t"}{.spec.containers[*].name}{"\n"}{end}`,
		`pod api -o jsonpath={.metadata.annotations.a\.b/c}`,
		"pod api -o jsonpath={.none}",
		"pod api -o jsonpath={.spec.containers[0].resources}",
		"pod api -o jsonpath={.status.containerStatuses[0].ready},{.metadata.generation}",
		"configmap settings -o jsonpath={.data}",
		"pods --field-selector metadata.name!=db,status.phase=Running -o name",
		"pods --field-selector spec.hostNetwork=false,spec.nodeName=here -l app -o name",
	} {
		same(t, h, srv.URL, kubectl, line)
	}
	// Ages may differ by a second between two commands, so they are not compared.
	for _, line := range []string{
		"pods", "pods --sort-by=.metadata.name", "pods -L app,example.com/tier", "pods -L app -L none --show-labels", "pods --no-headers --sort-by .spec.containers[0].resources.limits.memory",
		"pods -A --show-labels", "pods web-1 db", "pods,configmaps -L app", "pods -o wide -l app=we --sort-by .metadata.name",
	} {
		same(t, h, srv.URL, kubectl, line)
	}
	code, out := h.kube(t.Context(), "", "get", "pods", "--sort-by", ".metadata.nothing")
	if code != 1 || out != "minirun: --sort-by: no object has anything at \".metadata.nothing\"\n" {
		t.Errorf("exit status %d: %s", code, out)
	}
}

// same compares what the two print.
func same(t *testing.T, h *kubeHost, url, kubectl, line string) {
	t.Helper()
	args := strings.Fields(line)
	for i, a := range args {
		args[i] = strings.Replace(a, "{range.", "{range .", 1)
	}
	cmd := exec.CommandContext(t.Context(), kubectl, append([]string{"--server", url, "--kubeconfig", "/dev/null", "--cache-dir", t.TempDir(), "get"}, args...)...)
	cmd.WaitDelay = testenv.Timeout(20 * time.Second)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	want, err := cmd.Output()
	if err != nil {
		t.Errorf("kubectl %s: %v, %s", line, err, errs.String())
		return
	}
	code, got := h.kube(t.Context(), "", append([]string{"get"}, args...)...)
	if code != 0 || masked(got) != masked(string(want)) {
		t.Errorf("%s: exit status %d\ngot\n%s\nkubectl prints\n%s", line, code, got, want)
	}
}
