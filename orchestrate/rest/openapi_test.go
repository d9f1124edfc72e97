package rest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/minirun/minirun/orchestrate/api"
)

// kubectl leaves checks of fields to us if the document of a kind's group says that
// its patch has the parameter; and explains what schemas say.
func TestOpenAPI(t *testing.T) {
	c := serve(t)
	index := c.do("GET", "/openapi/v3", "", 200)["paths"].(map[string]any)
	docs := map[string]map[string]any{}
	for at, v := range index {
		url := v.(map[string]any)["serverRelativeURL"].(string)
		docs[at] = c.do("GET", url, "", 200)
	}
	for _, k := range api.Kinds() {
		at := "apis/" + k.GroupVersion().String()
		if k.Group == "" {
			at = "api/v1"
		}
		doc := docs[at]
		if doc == nil {
			t.Errorf("%s: no document at %s", k.Name(), at)
			continue
		}
		gvk := fmt.Sprint(map[string]any{"group": k.Group, "version": k.Version, "kind": k.Kind})
		found := false
		for path, verbs := range doc["paths"].(map[string]any) {
			patch, ok := verbs.(map[string]any)["patch"].(map[string]any)
			if !ok || fmt.Sprint(patch["x-kubernetes-group-version-kind"]) != gvk {
				continue
			}
			if !strings.HasSuffix(path, "/"+k.Resource+"/{name}") {
				t.Errorf("%s is at %s", k.Name(), path)
			}
			for _, p := range patch["parameters"].([]any) {
				found = found || p.(map[string]any)["name"] == "fieldValidation"
			}
		}
		if !found {
			t.Errorf("%s: its patch has no fieldValidation", k.Name())
		}
	}
	schemas := docs["apis/apps/v1"]["components"].(map[string]any)["schemas"].(map[string]any)
	field := func(schema, name string) map[string]any {
		t.Helper()
		s, ok := schemas[schema].(map[string]any)
		if !ok {
			t.Fatalf("no schema %s", schema)
		}
		return s["properties"].(map[string]any)[name].(map[string]any)
	}
	if d := schemas["io.k8s.api.apps.v1.Deployment"].(map[string]any); fmt.Sprint(d["x-kubernetes-group-version-kind"]) != "[map[group:apps kind:Deployment version:v1]]" {
		t.Errorf("Deployment: %v", d)
	}
	for _, tt := range []struct{ schema, field, want string }{
		{"io.k8s.api.apps.v1.DeploymentSpec", "replicas", "map[format:int32 type:integer]"},
		{"io.k8s.api.core.v1.PodSpec", "containers", "map[items:map[allOf:[map[$ref:#/components/schemas/io.k8s.api.core.v1.Container]]] type:array x-kubernetes-patch-merge-key:name x-kubernetes-patch-strategy:merge]"},
		{"io.k8s.api.core.v1.HTTPGetAction", "port", "map[format:int-or-string type:string]"},
		{"io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "creationTimestamp", "map[format:date-time type:string]"},
		{"io.k8s.api.apps.v1.Deployment", "kind", "map[type:string]"},
	} {
		if got := fmt.Sprint(field(tt.schema, tt.field)); got != tt.want {
			t.Errorf("%s.%s: %s, want %s", tt.schema, tt.field, got, tt.want)
		}
	}
	// Every reference leads to a schema of the same document.
	for at, doc := range docs {
		schemas := doc["components"].(map[string]any)["schemas"].(map[string]any)
		var walk func(v any)
		walk = func(v any) {
			switch v := v.(type) {
			case map[string]any:
				if ref, ok := v["$ref"].(string); ok && schemas[strings.TrimPrefix(ref, "#/components/schemas/")] == nil {
					t.Errorf("%s: %s leads nowhere", at, ref)
				}
				for _, x := range v {
					walk(x)
				}
			case []any:
				for _, x := range v {
					walk(x)
				}
			}
		}
		walk(doc)
	}
	c.do("GET", "/openapi/v3/apis/nothing/v1", "", 404)
}
