package api

import (
	"reflect"
	"testing"
)

// TestMeanings: every name of the list is a field of its type.
func TestMeanings(t *testing.T) {
	for typ, m := range meanings() {
		known := map[string]reflect.Type{}
		collect(typ, known)
		for _, f := range m.has {
			if known[f] == nil {
				t.Errorf("%v has no field %q", typ, f)
			}
			if m.idle[f] != "" {
				t.Errorf("%v: %q is both", typ, f)
			}
		}
		for f := range m.idle {
			if known[f] == nil {
				t.Errorf("%v has no field %q", typ, f)
			}
		}
	}
}

func TestEffective(t *testing.T) {
	all, err := NewRegistry().Decode([]byte(`
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  schedulerName: mine
  tolerations: [{operator: Exists}]
  schedulingGates: []
  ephemeralContainers: []
  runtimeClassName: kata
  containers:
  - name: c
    image: i
    securityContext: {runAsUser: 1, windowsOptions: {hostProcess: true}}
  volumes:
  - name: v
    nfs: {server: s, path: /}
`))
	if err != nil {
		t.Fatal(err)
	}
	wrong, idle := Effective(all)
	var paths []string
	for _, w := range append(wrong, idle...) {
		paths = append(paths, w.Path)
	}
	want := []string{"spec.runtimeClassName", "spec.containers[0].securityContext.windowsOptions", "spec.volumes[0].nfs", "spec.schedulerName"}
	if !reflect.DeepEqual(paths, want) {
		t.Errorf("%q, want %q", paths, want)
	}
	if wrong[0].Line != 10 || wrong[0].Column != 3 {
		t.Errorf("line %d, column %d", wrong[0].Line, wrong[0].Column)
	}
}
