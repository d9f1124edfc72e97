package rest

import (
	"reflect"
	"strings"
	"testing"
)

const applyYAML = `
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {a: "1", b: "2"}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: c
        image: example/app:1
        livenessProbe: {httpGet: {port: 80}}
        env: [{name: A, value: "1"}]
`

func TestApply(t *testing.T) {
	c := serve(t)
	const kind = "application/apply-patch+yaml "
	at1 := kind + deploymentsPath + "/web?fieldManager=one"
	c.do("PATCH", kind+deploymentsPath+"/web", applyYAML, 400) // without a manager
	c.do("PATCH", kind+deploymentsPath+"/other?fieldManager=one", applyYAML, 400)
	d := c.do("PATCH", at1+"&dryRun=All", applyYAML, 201)
	if at(d, "/spec/replicas") != 1.0 {
		t.Errorf("%v", d)
	}
	c.do("GET", deploymentsPath+"/web", "", 404)
	d = c.do("PATCH", at1, applyYAML, 201)
	if at(d, "/metadata/managedFields/0/manager") != "one" || at(d, "/metadata/managedFields/0/fieldsV1/f:spec/f:template/f:spec/f:containers/k:{\"name\":\"c\"}/f:image") == nil {
		t.Errorf("%v", at(d, "/metadata/managedFields"))
	}
	again := c.do("PATCH", at1, applyYAML, 200)
	if !reflect.DeepEqual(d, again) {
		t.Errorf("what changes nothing was written:\n%v\n%v", d, again)
	}
	// Others change it, and a second manager applies a part.
	c.do("PATCH", "application/merge-patch+json "+deploymentsPath+"/web/scale", `{"spec":{"replicas":6}}`, 200)
	c.do("PATCH", kind+deploymentsPath+"/web?fieldManager=two", `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","labels":{"b":"2"}}}`, 200)
	small := strings.Replace(strings.Replace(applyYAML, "        livenessProbe: {httpGet: {port: 80}}\n", "", 1), `  labels: {a: "1", b: "2"}`+"\n", "", 1)
	d = c.do("PATCH", at1, small, 200)
	if at(d, "/spec/replicas") != 6.0 || at(d, "/spec/template/spec/containers/0/livenessProbe") != nil || !reflect.DeepEqual(at(d, "/metadata/labels"), map[string]any{"b": "2"}) {
		t.Errorf("%v", d)
	}
	if m := at(d, "/metadata/managedFields").([]any); len(m) != 2 {
		t.Errorf("%v", m)
	}
	c.do("PATCH", at1, strings.Replace(small, "name: web\n", "name: web\n  resourceVersion: \"1\"\n", 1), 409)
	c.do("PATCH", at1, strings.Replace(small, "name: c\n", "name: C\n", 1), 422)
	c.do("PATCH", at1+"&fieldValidation=Strict", strings.Replace(small, "image:", "imag:", 1), 400)
	if d := c.do("PATCH", at1+"&dryRun=All", strings.Replace(small, "        image:", "        stdinOnce: true\n        volumeDevices: [{name: x, devicePath: /dev/x}]\n        image:", 1), 200); !strings.Contains(d["warnings"].(string), "volumeDevices") || strings.Contains(d["warnings"].(string), "stdinOnce") {
		t.Errorf("%v", d["warnings"])
	}

	// What kubectl has kept account of until now goes on, and its account stays right.
	const cm = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m","annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{\"data\":{\"a\":\"1\",\"b\":\"2\"}}"}},"data":{"a":"1","b":"2","c":"3"}}`
	c.do("POST", configMaps, cm, 201)
	d = c.do("PATCH", kind+configMaps+"/m?fieldManager=one", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m"},"data":{"a":"4"}}`, 200)
	if !reflect.DeepEqual(at(d, "/data"), map[string]any{"a": "4", "c": "3"}) || !strings.Contains(at(d, "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration").(string), `"a":"4"`) {
		t.Errorf("%v", d)
	}
	// Secrets as text.
	const secrets = "/api/v1/namespaces/default/secrets"
	c.do("PATCH", kind+secrets+"/s?fieldManager=one", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"stringData":{"a":"1","b":"2"}}`, 201)
	d = c.do("PATCH", kind+secrets+"/s?fieldManager=one", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"stringData":{"b":"3"}}`, 200)
	if !reflect.DeepEqual(at(d, "/data"), map[string]any{"b": "Mw=="}) {
		t.Errorf("%v", d)
	}
}
