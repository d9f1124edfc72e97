package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/minirun/minirun/orchestrate/store"
)

const deployment = `apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  namespace: default
spec:
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      containers:
      - name: c
        image: example/app:1
        resources:
          limits: {memory: 64Mi}
        readinessProbe:
          httpGet: {port: 80}
`

// one reads a single object.
func one(t testing.TB, text string) Decoded {
	t.Helper()
	all, err := NewRegistry().Decode([]byte(text))
	if err != nil || len(all) != 1 {
		t.Fatalf("%d objects, %v", len(all), err)
	}
	return all[0]
}

func TestDecode(t *testing.T) {
	all, err := NewRegistry().Decode([]byte("# nothing\n---\n" + deployment + "---\n---\n" + `{"apiVersion":"v1","kind":"List","items":[
	{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"x":"y"}},
	{"apiVersion":"v1","kind":"Secret","metadata":{"name":"b"},"data":{"x":"eQ=="}}]}`))
	if err != nil || len(all) != 3 || Strict(all) != nil {
		t.Fatalf("%d objects, %v, %v", len(all), err, Strict(all))
	}
	d := all[0].Object.(*appsv1.Deployment)
	if q := d.Spec.Template.Spec.Containers[0].Resources.Limits[corev1.ResourceMemory]; q.Value() != 64<<20 || all[0].Kind.Name() != "deployments.apps" || all[0].Line != 3 {
		t.Errorf("%+v at line %d", d, all[0].Line)
	}
	if all[1].Object.(*corev1.ConfigMap).Data["x"] != "y" || string(all[2].Object.(*corev1.Secret).Data["x"]) != "y" {
		t.Errorf("%+v, %+v", all[1].Object, all[2].Object)
	}
	c := one(t, "apiVersion: v1\nkind: ConfigMap\nmetadata: &m {name: a, labels: {x: 'yes', y: \"1\"}}\ndata: {when: 2020-01-01, none: ~}\n").Object.(*corev1.ConfigMap)
	if fmt.Sprint(c.Data, c.Labels) != "map[when:2020-01-01] map[x:yes y:1]" {
		t.Errorf("%v, %v", c.Data, c.Labels)
	}
}

func TestDecode_Errors(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"a: b: c", "mapping values are not allowed in this context"},
		{"\n\n\ta: b", "line 3"},
		{"- a", "line 1, column 1: want an object, have a list"},
		{"kind: Pod", "apiVersion and kind must be set"},
		{"kind: Pod\napiVersion: apps/v1", `no kind "Pod" in "apps/v1", did you mean "v1"`},
		{"kind: Deploymnet\napiVersion: apps/v1", `no kind "Deploymnet" in "apps/v1", did you mean "Deployment"`},
		{"kind: Widget\napiVersion: example.com/v1", `no kind "Widget" in "example.com/v1"`},
		{"kind: Pod\napiVersion: v1\nkind: Pod", `line 3, column 1: key "kind" is there twice`},
		{strings.Replace(deployment, "selector:", "replicas: three\n  selector:", 1), "line 7, column 13: spec.replicas: want a number, have a string"},
		{strings.Replace(deployment, "selector:", "replicas: 1.5\n  selector:", 1), "spec.replicas: 1.5 does not fit"},
		{strings.Replace(deployment, "selector:", "replicas: 99999999999\n  selector:", 1), "spec.replicas: 99999999999 does not fit"},
		{strings.Replace(deployment, "64Mi", "lots", 1), "line 17, column 28: spec.template.spec.containers[0].resources.limits[memory]: quantities must match"},
		{strings.Replace(deployment, "- name: c", "- name: [c]", 1), "line 14, column 15: spec.template.spec.containers[0].name: want a string, have a list"},
		{strings.Replace(deployment, "{app: web}", "{app: 1}", 1), "spec.selector.matchLabels[app]: want a string, have a number"},
		{"a: &a [1,1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]", "too large"},
		{strings.Repeat("[", 200) + strings.Repeat("]", 200), "too large"},
		{"a: &a [*a]", "a"},
		{"kind: !!set {a}\napiVersion: v1", "apiVersion and kind"},
		{"? [a]\n: b", "a key must be a string"},
	} {
		_, err := NewRegistry().Decode([]byte(tt.text))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.60q: %v, want %q", tt.text, err, tt.want)
		}
	}
}

func TestDecode_UnknownFields(t *testing.T) {
	for _, tt := range []struct{ from, to, want string }{
		{"selector:", "replcas: 3\n  selector:", `line 7, column 3: spec.replcas: unknown field "replcas", did you mean "replicas"`},
		{"readinessProbe", "readynessProbe", `line 18, column 9: spec.template.spec.containers[0].readynessProbe: unknown field "readynessProbe", did you mean "readinessProbe"`},
		{"kind:", "Kind: x\nkind:", `line 2, column 1: Kind: unknown field "Kind", did you mean "kind"`},
		{"httpGet: {", "httpGet: {frobnicate: 1, ", `spec.template.spec.containers[0].readinessProbe.httpGet.frobnicate: unknown field "frobnicate"`},
	} {
		o := one(t, strings.Replace(deployment, tt.from, tt.to, 1))
		err := Strict([]Decoded{o})
		if err == nil || !strings.HasSuffix(err.Error(), tt.want) {
			t.Errorf("%v, want %q", err, tt.want)
		}
		// Left out, not taken for its neighbour.
		if d := o.Object.(*appsv1.Deployment); d.Spec.Replicas != nil || d.Kind != "Deployment" {
			t.Errorf("%+v", d)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(deployment)
	f.Add("kind: Pod\napiVersion: v1\nspec: {containers: [{}]}")
	r := NewRegistry()
	f.Fuzz(func(t *testing.T, text string) {
		all, err := r.Decode([]byte(text))
		if err != nil {
			return
		}
		for _, o := range all {
			Default(o.Object)
			Validate(o.Kind, o.Object, nil)
			if _, err := json.Marshal(o.Object); err != nil {
				t.Error(err)
			}
		}
	})
}

// Every kind: what it says of itself is what it is, and a plain object of it
// survives reading, defaults and writing.
func TestKinds(t *testing.T) {
	r := NewRegistry()
	for _, k := range r.Kinds() {
		text := fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"metadata":{"name":"x"}}`, k.GroupVersion().String(), k.Kind)
		o := one(t, text)
		if o.Kind.GroupVersionKind != k.GroupVersionKind || reflect.TypeOf(o.Object) != reflect.TypeOf(k.New()) || r.Resource(k.Group, k.Version, k.Resource) != k {
			t.Errorf("%s is read as %T", k.Kind, o.Object)
		}
		if err := Prepare(k, o.Object); err != nil {
			t.Error(err)
		}
		once, _ := json.Marshal(o.Object)
		Default(o.Object)
		if twice, _ := json.Marshal(o.Object); string(once) != string(twice) {
			t.Errorf("%s: defaults of defaults differ: %s, %s", k.Kind, once, twice)
		}
		_, status := reflect.TypeOf(o.Object).Elem().FieldByName("Status")
		if status != k.Status {
			t.Errorf("%s has a status: %v", k.Kind, status)
		}
	}
	if r.Resource("", "v1", "widgets") != nil {
		t.Error("there are widgets")
	}
}

// Who is killed last for lack of memory is said by classes that exist without objects.
func TestDefault_SystemPriority(t *testing.T) {
	for class, want := range map[string]int32{"system-node-critical": 2000001000, "system-cluster-critical": 2000000000, "mine": 0} {
		p := one(t, "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {priorityClassName: "+class+", containers: [{name: c, image: i}]}").Object.(*corev1.Pod)
		Default(p)
		if got := p.Spec.Priority; (got == nil) != (want == 0) || got != nil && *got != want {
			t.Errorf("%s: %v", class, got)
		}
	}
}

// Only init containers have a restart policy of their own, and only one.
func TestValidate_ContainerRestartPolicy(t *testing.T) {
	for text, want := range map[string]string{
		"initContainers: [{name: i, image: i, restartPolicy: Always}]":                                       "",
		"initContainers: [{name: i, image: i, restartPolicy: Never}]":                                        "spec.initContainers[0].restartPolicy",
		"initContainers: [{name: i, image: i}, {name: j, image: i}, {name: k, image: i, restartPolicy: Oh}]": "spec.initContainers[2].restartPolicy",
	} {
		for c, more := range map[string]string{"{name: c, image: i}": "", "{name: c, image: i, restartPolicy: Always}": "spec.containers[0].restartPolicy: Forbidden: may not be set for non-init containers"} {
			o := one(t, "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: n}\nspec: {"+text+", containers: ["+c+"]}")
			Default(o.Object)
			err := Validate(o.Kind, o.Object, nil)
			if (err == nil) != (want+more == "") || err != nil && (!strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), more)) {
				t.Errorf("%s, %s: %v", text, c, err)
			}
		}
	}
}

func TestDefault(t *testing.T) {
	o := one(t, deployment)
	d := o.Object.(*appsv1.Deployment)
	d.Status.Replicas = 7
	if err := Prepare(o.Kind, d); err != nil {
		t.Fatal(err)
	}
	s, c := d.Spec, d.Spec.Template.Spec.Containers[0]
	if d.Status.Replicas != 0 || *s.Replicas != 1 || *s.RevisionHistoryLimit != 10 || *s.ProgressDeadlineSeconds != 600 || s.Strategy.RollingUpdate.MaxSurge.String() != "25%" || s.Strategy.RollingUpdate.MaxUnavailable.String() != "25%" {
		t.Errorf("%+v", d)
	}
	if q := c.Resources.Requests[corev1.ResourceMemory]; q.String() != "64Mi" || c.ImagePullPolicy != corev1.PullIfNotPresent || c.ReadinessProbe.PeriodSeconds != 10 || c.ReadinessProbe.HTTPGet.Path != "/" {
		t.Errorf("%+v", c)
	}
	if p := d.Spec.Template.Spec; p.RestartPolicy != corev1.RestartPolicyAlways || *p.TerminationGracePeriodSeconds != 30 {
		t.Errorf("%+v", p)
	}
	for image, want := range map[string]corev1.PullPolicy{
		"a": corev1.PullAlways, "a:latest": corev1.PullAlways, "host:5000/a": corev1.PullAlways, "a:1": corev1.PullIfNotPresent,
		"host:5000/a:1": corev1.PullIfNotPresent, "a@sha256:0": corev1.PullIfNotPresent,
	} {
		if got := pullPolicy(image); got != want {
			t.Errorf("%s: %s", image, got)
		}
	}
	secret := one(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: b}").Object.(*corev1.Secret)
	if Default(secret); string(secret.Data["a"]) != "b" || secret.StringData != nil || secret.Type != corev1.SecretTypeOpaque {
		t.Errorf("%+v", secret)
	}
}

func TestValidate(t *testing.T) {
	const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: n}\nspec:\n  containers: [{name: c, image: i}]\n"
	const service = "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: n}\nspec: {ports: [{port: 80}]}\n"
	const cron = "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: s, namespace: n}\nspec: {schedule: '* * * * *', jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}}\n"
	for _, base := range []string{deployment, pod, service, cron} {
		o := one(t, base)
		Default(o.Object)
		if err := Validate(o.Kind, o.Object, nil); err != nil {
			t.Errorf("%s: %v", base, err)
		}
	}
	for _, tt := range []struct{ base, from, to, want string }{
		{deployment, "name: web", "name: Web", "metadata.name: Invalid value"},
		{deployment, "name: web", "labels: {'a b': x}", "metadata.labels"},
		{deployment, "  namespace: default\n", "", "metadata.namespace: Required"},
		{deployment, "matchLabels: {app: web}", "matchLabels: {app: other}", "spec.template.metadata.labels: Invalid value"},
		{deployment, "    matchLabels: {app: web}", "    matchLabels: {}", "spec.selector: Invalid value"},
		{deployment, "selector:", "replicas: -1\n  selector:", "spec.replicas: Invalid value: -1"},
		{deployment, "selector:", "strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 0}}\n  selector:", "may not be 0 when `maxSurge` is 0"},
		{deployment, "selector:", "strategy: {rollingUpdate: {maxSurge: 0%, maxUnavailable: 0%}}\n  selector:", "may not be 0 when `maxSurge` is 0"},
		{deployment, "selector:", "strategy: {rollingUpdate: {maxUnavailable: 101%}}\n  selector:", "must not be greater than 100%"},
		{deployment, "selector:", "strategy: {rollingUpdate: {maxSurge: x}}\n  selector:", "spec.strategy.rollingUpdate.maxSurge: Invalid value"},
		{deployment, "selector:", "strategy: {type: Recreate, rollingUpdate: {maxSurge: 1}}\n  selector:", "spec.strategy.rollingUpdate: Forbidden"},
		{deployment, "selector:", "strategy: {type: Canary}\n  selector:", "spec.strategy.type: Unsupported value"},
		// Row p13 of the vectors.
		{deployment, "selector:", "progressDeadlineSeconds: 10\n  minReadySeconds: 10\n  selector:", "must be greater than minReadySeconds"},
		{deployment, "      containers:", "      restartPolicy: Never\n      containers:", "spec.template.spec.restartPolicy: Unsupported value"},
		// Row q6 of the vectors.
		{deployment, "readinessProbe:", "livenessProbe: {successThreshold: 2, tcpSocket: {port: 1}}\n        readinessProbe:", "livenessProbe.successThreshold: Invalid value: 2: must be 1"},
		{deployment, "httpGet: {port: 80}", "periodSeconds: 5", "readinessProbe: Required value: must specify a handler type"},
		{deployment, "httpGet: {port: 80}", "httpGet: {port: 0}", "readinessProbe.httpGet.port"},
		{deployment, "limits: {memory: 64Mi}", "{limits: {memory: 1Mi}, requests: {memory: 2Mi}}", "resources.requests[memory]: Invalid value"},
		{pod, "[{name: c, image: i}]", "[]", "spec.containers: Required"},
		{pod, "[{name: c, image: i}]", "[{name: c, image: i}, {name: c, image: i}]", "spec.containers[1].name: Duplicate"},
		{pod, "image: i", "volumeMounts: [{name: v, mountPath: /x}]", "spec.containers[0].volumeMounts[0].name: Not found"},
		{pod, "image: i", "ports: [{containerPort: 70000}]", "spec.containers[0].ports[0].containerPort"},
		{pod, "image: i", "env: [{value: x}]", "spec.containers[0].env[0].name: Required"},
		{pod, "image: i", "x: 1", "spec.containers[0].image: Required"},
		{pod, "  containers", "  volumes: [{name: v, emptyDir: {}, hostPath: {path: /a/../b}}]\n  containers", "spec.volumes[0]: Forbidden"},
		{pod, "  containers", "  volumes: [{name: v, hostPath: {path: /a/../b}}]\n  containers", "spec.volumes[0].hostPath.path"},
		{pod, "  containers", "  restartPolicy: Sometimes\n  containers", "spec.restartPolicy: Unsupported"},
		{service, "port: 80", "port: 0", "spec.ports[0].port"},
		{service, "{port: 80}", "{port: 80}, {port: 80}", "spec.ports[1]: Duplicate"},
		{service, "port: 80", "port: 80, nodePort: 30000", "spec.ports[0].nodePort: Forbidden"},
		{cron, "* * * * *", "* * *", "spec.schedule"},
		{cron, "restartPolicy: Never", "restartPolicy: Always", "spec.jobTemplate.spec.template.spec.restartPolicy"},
	} {
		changed := strings.Replace(tt.base, tt.from, tt.to, 1)
		if changed == tt.base {
			t.Fatalf("%q is not in the text", tt.from)
		}
		changed = strings.Replace(changed, "resources:\n          {", "resources: {", 1)
		o := one(t, changed)
		Default(o.Object)
		err := Validate(o.Kind, o.Object, nil)
		var invalid *InvalidError
		if !errors.As(err, &invalid) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.to, err, tt.want)
		}
	}
}

func TestValidate_Immutable(t *testing.T) {
	for _, tt := range []struct{ text, from, to, want string }{
		{deployment, "app: web", "app: other", "spec.selector: Invalid value"},
		{"apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: n}\nspec: {containers: [{name: c, image: i}]}", "name: c", "name: d", "spec: Forbidden"},
		{"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: p, namespace: n}\nimmutable: true\ndata: {a: b}", "a: b", "a: c", "data: Forbidden"},
		{"apiVersion: v1\nkind: Secret\nmetadata: {name: p, namespace: n}\ntype: a", "type: a", "type: b", "type: Invalid value"},
	} {
		a, b := one(t, tt.text), one(t, strings.ReplaceAll(tt.text, tt.from, tt.to))
		Default(a.Object)
		Default(b.Object)
		if err := Validate(b.Kind, b.Object, a.Object); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.to, err, tt.want)
		}
		if err := Validate(a.Kind, a.Object.DeepCopyObject().(store.Object), a.Object); err != nil {
			t.Errorf("no change: %v", err)
		}
	}
	image := one(t, "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: n}\nspec: {containers: [{name: c, image: i}]}")
	Default(image.Object)
	n := image.Object.DeepCopyObject().(*corev1.Pod)
	n.Spec.Containers[0].Image = "j"
	if err := Validate(image.Kind, n, image.Object); err != nil {
		t.Errorf("another image: %v", err)
	}
}

// What is no YAML is said with its place, which the library does not tell by itself.
func TestYAMLPlaces(t *testing.T) {
	for text, want := range map[string]string{
		"a: b\nmetadata: {name: x\nspec: 1": "line 3, column 5: did not find expected ',' or '}'",
		"a: b\nc:\n\td: e\n":                "line 3, column 1: found character that cannot start any token",
		"a: [1, 2\n":                        "line 2, column 1: did not find expected ',' or ']'",
		"a: \"b\n":                          "line 2, column 1: found unexpected end of stream",
		"a: b\n  c: d\n":                    "line 2, column 4: mapping values are not allowed in this context",
		"a: b\n---\nb: *x\n":                "unknown anchor 'x' referenced",
		"{\"a\": 1,, }":                     "line 1, column 9: did not find expected node content",
		"a: \x01\n":                         "control characters are not allowed",
	} {
		_, err := NewRegistry().Decode([]byte(text))
		if err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func TestStatusOf(t *testing.T) {
	k := NewRegistry().Resource("apps", "v1", "deployments")
	o := one(t, strings.Replace(deployment, "name: web", "name: Web", 1))
	Default(o.Object)
	for _, tt := range []struct {
		err    error
		code   int32
		reason metav1.StatusReason
	}{
		{&store.NotFoundError{Kind: "deployments.apps", Name: "web"}, http.StatusNotFound, metav1.StatusReasonNotFound},
		{&store.ExistsError{Kind: "deployments.apps", Name: "web"}, http.StatusConflict, metav1.StatusReasonAlreadyExists},
		{&store.ConflictError{Kind: "deployments.apps", Name: "web", Why: "x"}, http.StatusConflict, metav1.StatusReasonConflict},
		{&store.GoneError{Revision: 1, Oldest: 5}, http.StatusGone, metav1.StatusReasonExpired},
		{Validate(k, o.Object, nil), http.StatusUnprocessableEntity, metav1.StatusReasonInvalid},
		{&SyntaxError{Err: errors.New("x")}, http.StatusBadRequest, metav1.StatusReasonBadRequest},
		{errors.New("disk"), http.StatusInternalServerError, metav1.StatusReasonInternalError},
	} {
		st := StatusOf(k, "web", fmt.Errorf("wrapped: %w", tt.err))
		if st.Code != tt.code || st.Reason != tt.reason || st.Status != "Failure" || st.Kind != "Status" || st.Details.Name != "web" {
			t.Errorf("%v: %+v", tt.err, st)
		}
		if tt.reason == metav1.StatusReasonInvalid && (len(st.Details.Causes) == 0 || st.Details.Causes[0].Field != "metadata.name") {
			t.Errorf("causes %+v", st.Details.Causes)
		}
	}
	var _ runtime.Object = &metav1.Status{}
}
