package merge

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

func doc(t testing.TB, text []byte) map[string]any {
	t.Helper()
	var m map[string]any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&m); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return m
}

func text(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// unordered sorts all lists.
func unordered(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			v[k] = unordered(e)
		}
	case []any:
		for i, e := range v {
			v[i] = unordered(e)
		}
		slices.SortFunc(v, func(a, b any) int { return strings.Compare(text(a), text(b)) })
	}
	return v
}

// TestStrategicVectors compares with what Kubernetes' own package answers.
func TestStrategicVectors(t *testing.T) {
	f, err := os.Open("testdata/strategic.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := 0
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		n++
		var v struct {
			Kind             string
			Doc, Patch, Want json.RawMessage
			Error            bool
		}
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		typ := reflect.TypeFor[appsv1.Deployment]()
		if v.Kind == "Pod" {
			typ = reflect.TypeFor[corev1.Pod]()
		}
		got, err := Strategic(doc(t, v.Doc), doc(t, v.Patch), typ)
		switch {
		case v.Error && err == nil:
			t.Errorf("line %d: no error\ndoc   %s\npatch %s\ngot   %s", n, v.Doc, v.Patch, text(got))
		case v.Error:
		case err != nil:
			t.Errorf("line %d: %v\ndoc   %s\npatch %s", n, err, v.Doc, v.Patch)
		default:
			// It leaves directives in elements that are new. An object with such a
			// field is none, so here they go.
			want, _ := undirected(doc(t, v.Want))
			var have any = got
			if bytes.Contains(v.Patch, []byte(`"$patch":"delete"`)) {
				// It moves elements within the array that it takes the order from.
				have, want = unordered(have), unordered(want)
			}
			if !reflect.DeepEqual(have, want) {
				t.Errorf("line %d\ndoc   %s\npatch %s\ngot   %s\nwant  %s", n, v.Doc, v.Patch, text(got), text(want))
			}
		}
	}
	if err := lines.Err(); err != nil || n < 200 {
		t.Errorf("%d vectors: %v", n, err)
	}
}

// TestApply goes through what a manager may do to an object, one after the other.
func TestApply(t *testing.T) {
	typ := reflect.TypeFor[appsv1.Deployment]()
	live := doc(t, []byte(`{"metadata":{"name":"web","annotations":{"deployment.kubernetes.io/revision":"3"}},"spec":{"replicas":2,
		"strategy":{"type":"RollingUpdate","rollingUpdate":{"maxSurge":"25%"}},"template":{"spec":{"containers":[{"name":"proxy","image":"p:1"}]}}}}`))
	had, others := Fields{}, Fields{}
	step := func(config, want string) {
		t.Helper()
		c := doc(t, []byte(config))
		if err := Apply(live, c, typ, had, others); err != nil {
			t.Fatal(err)
		}
		had = Owned(c, typ)
		// What is stored is read again.
		raw, err := json.Marshal(had)
		if err != nil {
			t.Fatal(err)
		}
		if had, err = ParseFields(raw); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(live, doc(t, []byte(want))) {
			t.Errorf("applied %s\ngot  %s\nwant %s", config, text(live), want)
		}
	}
	const meta = `"metadata":{"name":"web","annotations":{"deployment.kubernetes.io/revision":"3"}}`
	step(`{"metadata":{"name":"web","annotations":{"a":"1"}},"spec":{"template":{"spec":{"containers":[{"name":"c","image":"a:1","ports":[{"containerPort":53,"protocol":"UDP"},{"containerPort":53}],
		"env":[{"name":"A","value":"1"},{"name":"B","value":"2"}],"livenessProbe":{"exec":{"command":["true"]}}}]}}}}`,
		`{"metadata":{"name":"web","annotations":{"a":"1","deployment.kubernetes.io/revision":"3"}},"spec":{"replicas":2,"strategy":{"type":"RollingUpdate","rollingUpdate":{"maxSurge":"25%"}},"template":{"spec":{"containers":[
		{"name":"c","image":"a:1","ports":[{"containerPort":53,"protocol":"UDP"},{"containerPort":53}],"env":[{"name":"A","value":"1"},{"name":"B","value":"2"}],"livenessProbe":{"exec":{"command":["true"]}}},{"name":"proxy","image":"p:1"}]}}}}`)
	// Defaults come, and somebody else changes things.
	c := live["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)["containers"].([]any)[0].(map[string]any)
	c["livenessProbe"].(map[string]any)["periodSeconds"] = json.Number("10")
	c["ports"].([]any)[1].(map[string]any)["protocol"] = "TCP"
	c["env"] = append(c["env"].([]any), map[string]any{"name": "X", "value": "theirs"})
	// What is not said any more goes, with its defaults; what others set stays.
	step(`{"metadata":{"name":"web"},"spec":{"strategy":{"type":"Recreate"},"template":{"spec":{"containers":[{"name":"c","image":"a:2","ports":[{"containerPort":53}],"env":[{"name":"B","value":"3"}]}]}}}}`,
		`{`+meta+`,"spec":{"replicas":2,"strategy":{"type":"Recreate"},"template":{"spec":{"containers":[
		{"name":"c","image":"a:2","ports":[{"containerPort":53,"protocol":"TCP"}],"env":[{"name":"B","value":"3"},{"name":"X","value":"theirs"}]},{"name":"proxy","image":"p:1"}]}}}}`)
	// A second manager wants the same variable: it stays when the first drops it.
	others = Owned(doc(t, []byte(`{"spec":{"template":{"spec":{"containers":[{"name":"c","env":[{"name":"B","value":"3"}]}]}}}}`)), typ)
	step(`{"metadata":{"name":"web"},"spec":{"template":{"spec":{"containers":[{"name":"c","image":"a:2"}]}}}}`,
		`{`+meta+`,"spec":{"replicas":2,"template":{"spec":{"containers":[{"name":"c","image":"a:2","env":[{"name":"B","value":"3"},{"name":"X","value":"theirs"}]},{"name":"proxy","image":"p:1"}]}}}}`)
	// Another container: the old one goes, and theirs does not.
	others = Fields{}
	step(`{"metadata":{"name":"web"},"spec":{"template":{"spec":{"containers":[{"name":"d","image":"a:3"}]}}}}`,
		`{`+meta+`,"spec":{"replicas":2,"template":{"spec":{"containers":[{"name":"d","image":"a:3"},{"name":"proxy","image":"p:1"}]}}}}`)
	if err := Apply(live, doc(t, []byte(`{"spec":{"template":{"spec":{"containers":[{"name":"d"},{"name":"d"}]}}}}`)), typ, had, others); err == nil {
		t.Error("two containers of one name were applied")
	}
	if err := Apply(live, doc(t, []byte(`{"spec":{"template":{"spec":{"containers":[{"image":"d"}]}}}}`)), typ, had, others); err == nil {
		t.Error("a container without a name was applied")
	}
}
