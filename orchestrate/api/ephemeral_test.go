package api

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestValidateEphemeral(t *testing.T) {
	r := NewRegistry()
	k := r.Resource("", "v1", "pods")
	pod := func(ephemeral string) *corev1.Pod {
		t.Helper()
		all, err := r.Decode([]byte(`
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: default}
spec:
  initContainers: [{name: i, image: x}]
  containers: [{name: c, image: x}]
  volumes: [{name: v, emptyDir: {}}]
  ephemeralContainers: ` + ephemeral))
		if err != nil {
			t.Fatalf("%v: %s", err, ephemeral)
		}
		Default(all[0].Object)
		return all[0].Object.(*corev1.Pod)
	}
	const one = `{name: e, image: x, targetContainerName: c, stdin: true, tty: true}`
	for _, c := range []struct{ old, wanted, err string }{
		{`[]`, `[]`, ""},
		{`[]`, `[` + one + `]`, ""},
		{`[` + one + `]`, `[` + one + `, {name: f, image: y, securityContext: {privileged: true}, env: [{name: A, value: b}], volumeMounts: [{name: v, mountPath: /v}]}]`, ""},
		{`[` + one + `]`, `[{name: f, image: y}, ` + one + `]`, ""},
		{`[` + one + `]`, `[]`, `spec.ephemeralContainers: Forbidden: existing ephemeral containers "e" may not be removed`},
		{`[` + one + `]`, `[{name: e, image: y}]`, `spec.ephemeralContainers: Forbidden: existing ephemeral containers "e" may not be changed`},
		{`[]`, `[{name: e, image: x, targetContainerName: none}]`, `spec.ephemeralContainers[0].targetContainerName: Not found: "none"`},
		{`[]`, `[{name: e, image: x}, {name: f, image: x, targetContainerName: e}]`, `spec.ephemeralContainers[1].targetContainerName: Not found: "e"`},
		{`[]`, `[{name: c, image: x}]`, `spec.ephemeralContainers[0].name: Duplicate value: "c"`},
		{`[]`, `[{name: i, image: x}]`, `spec.ephemeralContainers[0].name: Duplicate value: "i"`},
		{`[]`, `[{name: e, image: x}, {name: e, image: x}]`, `spec.ephemeralContainers[1].name: Duplicate value: "e"`},
		{`[]`, `[{name: E, image: x}]`, `spec.ephemeralContainers[0].name: Invalid value: "E"`},
		{`[]`, `[{name: e}]`, `spec.ephemeralContainers[0].image: Required value`},
		{`[]`, `[{name: e, image: x, ports: [{containerPort: 80}]}]`, `spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container`},
		{`[]`, `[{name: e, image: x, resources: {limits: {cpu: 1}}}]`, `spec.ephemeralContainers[0].resources: Forbidden: cannot be set for an Ephemeral Container`},
		{`[]`, `[{name: e, image: x, livenessProbe: {exec: {command: [a]}}}]`, `spec.ephemeralContainers[0].livenessProbe: Forbidden`},
		{`[]`, `[{name: e, image: x, readinessProbe: {exec: {command: [a]}}}]`, `spec.ephemeralContainers[0].readinessProbe: Forbidden`},
		{`[]`, `[{name: e, image: x, startupProbe: {exec: {command: [a]}}}]`, `spec.ephemeralContainers[0].startupProbe: Forbidden`},
		{`[]`, `[{name: e, image: x, lifecycle: {preStop: {exec: {command: [a]}}}}]`, `spec.ephemeralContainers[0].lifecycle: Forbidden`},
		{`[]`, `[{name: e, image: x, restartPolicy: Always}]`, `spec.ephemeralContainers[0].restartPolicy: Forbidden`},
		{`[]`, `[{name: e, image: x, volumeMounts: [{name: v, mountPath: /v, subPath: a}]}]`, `spec.ephemeralContainers[0].volumeMounts[0].subPath: Forbidden: cannot be set for an Ephemeral Container`},
		{`[]`, `[{name: e, image: x, volumeMounts: [{name: v, mountPath: /v, subPathExpr: a}]}]`, `spec.ephemeralContainers[0].volumeMounts[0].subPathExpr: Forbidden`},
		{`[]`, `[{name: e, image: x, volumeMounts: [{name: w, mountPath: /v}]}]`, `spec.ephemeralContainers[0].volumeMounts[0].name: Not found: "w"`},
	} {
		old, wanted := pod(c.old), pod(c.wanted)
		wanted.Spec.Containers[0].Image = "another" // which does not count
		n := WithEphemeral(old, wanted)
		err := ValidateEphemeral(k, n, old)
		switch {
		case c.err == "" && err != nil, c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s to %s: %v, want %q", c.old, c.wanted, err, c.err)
		case n.Spec.Containers[0].Image != "x":
			t.Errorf("another field has changed: %+v", n.Spec.Containers)
		}
	}
	// Nowhere else.
	p := pod(`[` + one + `]`)
	if err := Validate(k, p, nil); err == nil || !strings.Contains(err.Error(), "spec.ephemeralContainers: Forbidden: cannot be set on create") {
		t.Errorf("created with one: %v", err)
	}
	if err := Validate(k, p, pod(`[]`)); err == nil || !strings.Contains(err.Error(), "pod updates may not change fields other than") {
		t.Errorf("updated with one: %v", err)
	}
	if err := Validate(k, p, p); err != nil {
		t.Errorf("as it is: %v", err)
	}
	if c := p.Spec.EphemeralContainers[0]; c.ImagePullPolicy != corev1.PullAlways || c.TerminationMessagePath == "" || c.TerminationMessagePolicy == "" {
		t.Errorf("without defaults: %+v", c)
	}
	all, err := r.Decode([]byte(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: d, namespace: default}
spec:
  selector: {matchLabels: {a: b}}
  template:
    metadata: {labels: {a: b}}
    spec: {containers: [{name: c, image: x}], ephemeralContainers: [{name: e, image: x}]}
`))
	if err != nil {
		t.Fatal(err)
	}
	Default(all[0].Object)
	if err := Validate(all[0].Kind, all[0].Object, nil); err == nil || !strings.Contains(err.Error(), "spec.template.spec.ephemeralContainers: Forbidden: ephemeral containers not allowed in pod template") {
		t.Errorf("in a template: %v", err)
	}
}
