package rest

import (
	"net/http"
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/minirun/minirun/orchestrate/api"
)

// openAPI answers what kubectl asks before it applies something, whether we check
// fields, and what kubectl explain shows: OpenAPI 3.0, one document for each group
// and version, without descriptions. Version 2 is an empty document.
func (s *Server) openAPI(w http.ResponseWriter, r *http.Request) bool {
	path, ok := strings.CutPrefix(r.URL.Path, "/openapi/v3")
	switch {
	case r.URL.Path == "/openapi/v2":
		w.Header().Set("Content-Type", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
		w.WriteHeader(http.StatusOK)
	case !ok:
		return false
	case path == "":
		paths := map[string]any{}
		for _, k := range s.r.Kinds() {
			paths[groupPath(k)] = map[string]string{"serverRelativeURL": "/openapi/v3/" + groupPath(k)}
		}
		reply(w, http.StatusOK, map[string]any{"paths": paths})
	default:
		doc := s.document(strings.TrimPrefix(path, "/"))
		if doc == nil {
			return false
		}
		reply(w, http.StatusOK, doc)
	}
	return true
}

// groupPath is where a kind's group and version are: "api/v1", "apis/apps/v1".
func groupPath(k *api.Kind) string {
	if k.Group == "" {
		return "api/" + k.Version
	}
	return "apis/" + k.Group + "/" + k.Version
}

// document describes the kinds below a path, or is nil.
func (s *Server) document(at string) any {
	d := &describer{schemas: map[string]any{}}
	paths := map[string]any{}
	for _, k := range s.r.Kinds() {
		if groupPath(k) != at {
			continue
		}
		kind := map[string]string{"group": k.Group, "version": k.Version, "kind": k.Kind}
		path := "/" + at
		if k.Namespaced {
			path += "/namespaces/{namespace}"
		}
		body := map[string]any{"content": map[string]any{"application/json": map[string]any{"schema": d.of(reflect.TypeOf(k.New()).Elem())}}}
		d.schemas[schemaName(reflect.TypeOf(k.New()).Elem())].(map[string]any)["x-kubernetes-group-version-kind"] = []any{kind}
		var query []any
		for _, name := range []string{"dryRun", "fieldManager", "fieldValidation"} {
			query = append(query, map[string]any{"name": name, "in": "query", "schema": map[string]string{"type": "string"}})
		}
		verb := func(action string, body any) map[string]any {
			v := map[string]any{
				"parameters": query, "x-kubernetes-action": action, "x-kubernetes-group-version-kind": kind,
				"responses": map[string]any{"200": map[string]string{"description": "OK"}},
			}
			if body != nil {
				v["requestBody"] = body
			}
			return v
		}
		patch := verb("patch", nil)
		patch["parameters"] = append(query[:len(query):len(query)], map[string]any{"name": "force", "in": "query", "schema": map[string]string{"type": "boolean"}})
		paths[path+"/"+k.Resource] = map[string]any{"get": verb("list", nil), "post": verb("post", body)}
		paths[path+"/"+k.Resource+"/{name}"] = map[string]any{"get": verb("get", nil), "put": verb("put", body), "patch": patch, "delete": verb("delete", nil)}
	}
	if len(paths) == 0 {
		return nil
	}
	return map[string]any{
		"openapi": "3.0.0", "info": map[string]string{"title": "minirund", "version": "v" + major + "." + minor + ".0"},
		"paths": paths, "components": map[string]any{"schemas": d.schemas},
	}
}

// describer collects the schemas of types.
type describer struct{ schemas map[string]any }

// schemaName is "io.k8s.api.apps.v1.Deployment".
func schemaName(t reflect.Type) string {
	path := strings.TrimPrefix(t.PkgPath(), "k8s.io/")
	return "io.k8s." + strings.ReplaceAll(path, "/", ".") + "." + t.Name()
}

// of is the schema of a type, a reference if it is a struct.
func (d *describer) of(t reflect.Type) map[string]any {
	switch t {
	case reflect.TypeFor[metav1.Time](), reflect.TypeFor[metav1.MicroTime]():
		return map[string]any{"type": "string", "format": "date-time"}
	case reflect.TypeFor[metav1.Duration](), reflect.TypeFor[resource.Quantity]():
		return map[string]any{"type": "string"}
	case reflect.TypeFor[intstr.IntOrString]():
		return map[string]any{"type": "string", "format": "int-or-string"}
	case reflect.TypeFor[metav1.FieldsV1](), reflect.TypeFor[runtime.RawExtension]():
		return map[string]any{"type": "object"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return d.of(t.Elem())
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Int32, reflect.Uint8, reflect.Uint32:
		return map[string]any{"type": "integer", "format": "int32"}
	case reflect.Int, reflect.Int64:
		return map[string]any{"type": "integer", "format": "int64"}
	case reflect.Float32, reflect.Float64:
		return map[string]any{"type": "number", "format": "double"}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return map[string]any{"type": "string", "format": "byte"}
		}
		return map[string]any{"type": "array", "items": d.of(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": d.of(t.Elem())}
	case reflect.Struct:
		d.add(t)
		// Beside a reference stands what belongs to the field.
		return map[string]any{"allOf": []any{map[string]any{"$ref": "#/components/schemas/" + schemaName(t)}}}
	}
	return map[string]any{}
}

// add describes a struct.
func (d *describer) add(t reflect.Type) {
	name := schemaName(t)
	if d.schemas[name] != nil {
		return
	}
	properties := map[string]any{}
	schema := map[string]any{"type": "object", "properties": properties}
	d.schemas[name] = schema // before the fields: types may hold themselves
	var required []string
	var fields func(t reflect.Type)
	fields = func(t reflect.Type) {
		for i := range t.NumField() {
			f := t.Field(i)
			name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "-" || !f.IsExported() {
				continue
			}
			if name == "" && (f.Anonymous || strings.Contains(options, "inline")) {
				fields(f.Type)
				continue
			}
			p := d.of(f.Type)
			for tag, key := range map[string]string{"patchStrategy": "x-kubernetes-patch-strategy", "patchMergeKey": "x-kubernetes-patch-merge-key"} {
				if v := f.Tag.Get(tag); v != "" {
					p[key] = v
				}
			}
			properties[name] = p
			if !strings.Contains(options, "omitempty") && f.Type.Kind() != reflect.Pointer && f.Type.Kind() != reflect.Struct {
				required = append(required, name)
			}
		}
	}
	fields(t)
	if len(required) > 0 {
		schema["required"] = required
	}
}
