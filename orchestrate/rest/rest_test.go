package rest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/testenv"
	"github.com/minirun/minirun/orchestrate/api"
	"github.com/minirun/minirun/orchestrate/store"
)

// client speaks to a server over a unix socket.
type client struct {
	t *testing.T
	s *store.Store
	http.Client
	server *Server
	path   string
}

func serve(t *testing.T) *client {
	t.Helper()
	r := api.NewRegistry()
	s, err := store.Open(filepath.Join(t.TempDir(), "store.db"), r.Stored(), store.Options{History: 50})
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t: t, s: s}
	path := filepath.Join(t.TempDir(), "s")
	c.path = path
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c.server = New(s, r)
	srv := httptest.NewUnstartedServer(c.server)
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	c.Client = http.Client{Transport: tr}
	t.Cleanup(func() {
		s.Close() // ends the watches, without which the server would not
		tr.CloseIdleConnections()
		srv.Close()
	})
	c.do("POST", "/api/v1/namespaces", `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"default"}}`, 201)
	return c
}

// do sends a request and gives the answer, whose status must be want. The type
// of a patch stands before its path.
func (c *client) do(method, path, body string, want int) map[string]any {
	c.t.Helper()
	kind, at, ok := strings.Cut(path, " ")
	if !ok {
		kind, at = "application/json", path
	}
	r, err := http.NewRequestWithContext(c.t.Context(), method, "http://minirund"+at, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Content-Type", kind)
	resp, err := c.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(text, &doc); err != nil {
		c.t.Fatalf("%s %s: %v: %s", method, path, err, text)
	}
	if resp.StatusCode != want {
		c.t.Fatalf("%s %s: status %d, want %d: %s", method, path, resp.StatusCode, want, text)
	}
	if w := resp.Header.Values("Warning"); len(w) > 0 {
		doc["warnings"] = strings.Join(w, "; ")
	}
	if want >= 400 && (doc["kind"] != "Status" || doc["code"] != float64(want) || doc["reason"] == "" || doc["message"] == "") {
		c.t.Errorf("%s %s: no Status: %s", method, path, text)
	}
	return doc
}

// at reads a value by its path.
func at(doc any, path string) any {
	v, err := find(doc, path)
	if err != nil {
		return nil
	}
	return v
}

const (
	deploymentsPath = "/apis/apps/v1/namespaces/default/deployments"
	configMaps      = "/api/v1/namespaces/default/configmaps"
	web             = `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"selector":{"matchLabels":{"app":"web"}},
	"template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"name":"c","image":"example/app:1"}]}}},"status":{"replicas":9}}`
)

func TestObjects(t *testing.T) {
	c := serve(t)
	d := c.do("POST", deploymentsPath, web, 201)
	if at(d, "/spec/replicas") != 1.0 || at(d, "/status/replicas") != nil || at(d, "/metadata/namespace") != "default" || at(d, "/metadata/uid") == "" {
		t.Errorf("created %v", d)
	}
	c.do("POST", deploymentsPath, web, 409)
	c.do("POST", "/apis/apps/v1/namespaces/nowhere/deployments", web, 404)
	if st := c.do("GET", deploymentsPath+"/nothing", "", 404); at(st, "/reason") != "NotFound" || at(st, "/details/name") != "nothing" || at(st, "/details/kind") != "deployments" {
		t.Errorf("%v", st)
	}
	st := c.do("POST", deploymentsPath, strings.Replace(web, `"c"`, `"C"`, 1), 422)
	if at(st, "/details/causes/0/field") != "spec.template.spec.containers[0].name" {
		t.Errorf("%v", st)
	}
	c.do("POST", deploymentsPath, `{"apiVersion":`, 400)
	c.do("POST", deploymentsPath, `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"}}`, 400)
	c.do("POST", deploymentsPath, strings.Replace(web, `"name":"web"`, `"name":"web","namespace":"other"`, 1), 400)
	c.do("POST", deploymentsPath, strings.Repeat(" ", maxBody+1), 413)

	// Unknown fields.
	typo := strings.Replace(web, `"selector"`, `"replcas":3,"selector"`, 1)
	typo = strings.Replace(typo, `"name":"web"`, `"name":"typo"`, 1)
	if st := c.do("POST", deploymentsPath+"?fieldValidation=Strict", typo, 400); !strings.Contains(fmt.Sprint(st["message"]), `spec.replcas: unknown field "replcas", did you mean "replicas"`) {
		t.Errorf("%v", st)
	}
	if d := c.do("POST", deploymentsPath+"?fieldValidation=Warn&dryRun=All", typo, 201); !strings.Contains(fmt.Sprint(d["warnings"]), "spec.replcas") {
		t.Errorf("%v", d)
	}
	c.do("GET", deploymentsPath+"/typo", "", 404) // it was dry

	// PUT: with the version it is based on, and without the status.
	text := func(d map[string]any) string {
		b, _ := json.Marshal(d)
		return string(b)
	}
	at(d, "/spec").(map[string]any)["replicas"] = 3
	d["status"] = map[string]any{"replicas": 5}
	d2 := c.do("PUT", deploymentsPath+"/web", text(d), 200)
	if at(d2, "/spec/replicas") != 3.0 || at(d2, "/status/replicas") != nil || at(d2, "/metadata/generation") != 2.0 {
		t.Errorf("%v", d2)
	}
	if st := c.do("PUT", deploymentsPath+"/web", text(d), 409); at(st, "/reason") != "Conflict" {
		t.Errorf("%v", st)
	}
	c.do("PUT", deploymentsPath+"/other", text(d2), 404)
	d2["status"] = map[string]any{"replicas": 5}
	at(d2, "/spec").(map[string]any)["replicas"] = 77
	d3 := c.do("PUT", deploymentsPath+"/web/status", text(d2), 200)
	if at(d3, "/spec/replicas") != 3.0 || at(d3, "/status/replicas") != 5.0 || at(d3, "/metadata/generation") != 2.0 {
		t.Errorf("%v", d3)
	}
	at(d3, "/spec/selector/matchLabels").(map[string]any)["app"] = "other"
	c.do("PUT", deploymentsPath+"/web", text(d3), 422)

	// Scale.
	sc := c.do("GET", deploymentsPath+"/web/scale", "", 200)
	if sc["kind"] != "Scale" || at(sc, "/spec/replicas") != 3.0 || at(sc, "/status/replicas") != 5.0 || at(sc, "/status/selector") != "app=web" {
		t.Errorf("%v", sc)
	}
	at(sc, "/spec").(map[string]any)["replicas"] = 4
	c.do("PUT", deploymentsPath+"/web/scale", text(sc), 200)
	c.do("PUT", deploymentsPath+"/web/scale", text(sc), 409)
	c.do("PATCH", "application/merge-patch+json "+deploymentsPath+"/web/scale", `{"spec":{"replicas":6}}`, 200)
	c.do("PATCH", "application/merge-patch+json "+deploymentsPath+"/web/scale", `{"spec":{"replicas":-6}}`, 422)
	if d := c.do("GET", deploymentsPath+"/web", "", 200); at(d, "/spec/replicas") != 6.0 {
		t.Errorf("%v", d)
	}

	// Patches.
	c.do("PATCH", "application/merge-patch+json "+deploymentsPath+"/web", `{"metadata":{"labels":{"a":"1","b":"2"}},"spec":{"paused":true}}`, 200)
	d = c.do("PATCH", "application/merge-patch+json "+deploymentsPath+"/web", `{"metadata":{"labels":{"a":null}}}`, 200)
	if !reflect.DeepEqual(at(d, "/metadata/labels"), map[string]any{"b": "2"}) || at(d, "/spec/paused") != true {
		t.Errorf("%v", d)
	}
	d = c.do("PATCH", "application/json-patch+json "+deploymentsPath+"/web", `[{"op":"test","path":"/spec/paused","value":true},{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"example/app:2"}]`, 200)
	if at(d, "/spec/template/spec/containers/0/image") != "example/app:2" {
		t.Errorf("%v", d)
	}
	c.do("PATCH", "application/json-patch+json "+deploymentsPath+"/web", `[{"op":"test","path":"/spec/paused","value":false}]`, 422)
	c.do("PATCH", "application/merge-patch+json "+deploymentsPath+"/web", `{"metadata":{"resourceVersion":"1"}}`, 409)
	d = c.do("PATCH", "application/strategic-merge-patch+json "+deploymentsPath+"/web", `{"spec":{"template":{"spec":{"containers":[{"name":"c","env":[{"name":"A","value":"1"}]},{"name":"d","image":"e"}]}}}}`, 200)
	if at(d, "/spec/template/spec/containers/0/image") != "example/app:2" || at(d, "/spec/template/spec/containers/0/env/0/value") != "1" || at(d, "/spec/template/spec/containers/1/name") != "d" {
		t.Errorf("%v", d)
	}
	c.do("PATCH", "application/strategic-merge-patch+json "+deploymentsPath+"/web", `{"spec":{"template":{"spec":{"containers":[{"image":"e"}]}}}}`, 422)
	c.do("PATCH", "application/strategic-merge-patch+json "+deploymentsPath+"/web/scale", `{"spec":{"replicas":6}}`, 200)
	c.do("PATCH", "application/other "+deploymentsPath+"/web", `{}`, 415)

	// Deletion.
	c.do("DELETE", deploymentsPath+"/web", `{"preconditions":{"uid":"other"}}`, 409)
	c.do("DELETE", deploymentsPath+"/web?propagationPolicy=Sideways", "", 400)
	c.do("DELETE", deploymentsPath+"/web?dryRun=All", "", 200)
	if d := c.do("DELETE", deploymentsPath+"/web", `{"propagationPolicy":"Foreground"}`, 200); at(d, "/metadata/deletionTimestamp") == nil || at(d, "/metadata/finalizers/0") != "foregroundDeletion" {
		t.Errorf("%v", d)
	}
	if st := c.do("DELETE", "/api/v1/namespaces/default", "", 403); !strings.Contains(fmt.Sprint(st["message"]), "may not be deleted") {
		t.Errorf("%v", st)
	}
	c.do("DELETE", "/api/v1/namespaces", "", 405)
	c.do("POST", deploymentsPath+"/web", "{}", 405)
	for _, p := range []string{"/", "/api/v1/widgets", "/apis/apps/v1/deployments/web", "/api/v1/namespaces/default/nodes", "/nothing"} {
		c.do("GET", p, "", 404)
	}
}

// A pod that was placed has time to end, one that was not has nothing to.
func TestDeletePods(t *testing.T) {
	c := serve(t)
	const path = "/api/v1/namespaces/default/pods"
	pod := func(name, node string) {
		c.do("POST", path, fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q},"spec":{"nodeName":%q,"containers":[{"name":"c","image":"i"}]}}`, name, node), 201)
	}
	pod("a", "here")
	if p := c.do("DELETE", path+"/a", "", 200); at(p, "/metadata/deletionGracePeriodSeconds") != 30.0 {
		t.Errorf("%v", p)
	}
	c.do("DELETE", path+"/a?gracePeriodSeconds=0", "", 200)
	c.do("GET", path+"/a", "", 404)
	pod("b", "")
	c.do("DELETE", path+"/b", "", 200)
	c.do("GET", path+"/b", "", 404)
}

func TestLists(t *testing.T) {
	c := serve(t)
	for i := range 7 {
		c.do("POST", configMaps, fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c%d","labels":{"odd":"%v"}}}`, i, i%2 == 1), 201)
	}
	names := func(l map[string]any) (out string) {
		for _, i := range l["items"].([]any) {
			if at(i, "/kind") != "ConfigMap" {
				t.Errorf("an item without its kind: %v", i)
			}
			out += at(i, "/metadata/name").(string) + " "
		}
		return out
	}
	l := c.do("GET", configMaps, "", 200)
	if names(l) != "c0 c1 c2 c3 c4 c5 c6 " || l["kind"] != "ConfigMapList" || at(l, "/metadata/resourceVersion") != "8" {
		t.Errorf("%v", l)
	}
	for query, want := range map[string]string{
		"labelSelector=odd%3Dtrue": "c1 c3 c5 ", "labelSelector=odd+notin+(true)": "c0 c2 c4 c6 ", "fieldSelector=metadata.name%3Dc2": "c2 ",
		"fieldSelector=metadata.name!%3Dc2,metadata.namespace%3Ddefault&labelSelector=odd%3Dfalse": "c0 c4 c6 ",
	} {
		if got := names(c.do("GET", configMaps+"?"+query, "", 200)); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	if l := c.do("GET", "/api/v1/configmaps", "", 200); len(l["items"].([]any)) != 7 {
		t.Errorf("in all namespaces: %v", l)
	}
	if l := c.do("GET", "/api/v1/namespaces/other/configmaps", "", 200); len(l["items"].([]any)) != 0 {
		t.Errorf("in another namespace: %v", l)
	}
	for _, query := range []string{"labelSelector=((", "fieldSelector=data.x%3D1", "limit=x", "continue=x", "watch=true&resourceVersion=x", "watch=1&timeoutSeconds=x"} {
		c.do("GET", configMaps+"?"+query, "", 400)
	}
	got, page := "", ""
	for {
		l := c.do("GET", configMaps+"?limit=3"+page, "", 200)
		got += names(l) + "| "
		next := at(l, "/metadata/continue")
		if next == nil {
			break
		}
		page = "&continue=" + next.(string)
	}
	if got != "c0 c1 c2 | c3 c4 c5 | c6 | " {
		t.Errorf("in pages: %s", got)
	}
}

// lines opens a watch.
func (c *client) lines(query string) func() (kind, name string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), testenv.Timeout(60*time.Second))
	c.t.Cleanup(cancel)
	r, _ := http.NewRequestWithContext(ctx, "GET", "http://minirund"+configMaps+"?watch=true"+query, nil)
	resp, err := c.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { resp.Body.Close() })
	in := bufio.NewReader(resp.Body)
	return func() (string, string) {
		c.t.Helper()
		text, err := in.ReadBytes('\n')
		if err == io.EOF && len(bytes.TrimSpace(text)) == 0 {
			return "EOF", ""
		}
		var e map[string]any
		if err != nil || json.Unmarshal(text, &e) != nil {
			c.t.Fatalf("%v: %s", err, text)
		}
		name, _ := at(e, "/object/metadata/name").(string)
		if reason := at(e, "/object/reason"); reason != nil {
			name = reason.(string)
		}
		return e["type"].(string), name
	}
}

func TestWatches(t *testing.T) {
	c := serve(t)
	make := func(name string) {
		c.do("POST", configMaps, fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q,"labels":{"l":%q}}}`, name, name), 201)
	}
	make("a")
	l := c.do("GET", configMaps, "", 200)
	all, rest, some := c.lines(""), c.lines("&resourceVersion="+at(l, "/metadata/resourceVersion").(string)), c.lines("&labelSelector=l%3Db")
	make("b")
	c.do("PATCH", "application/merge-patch+json "+configMaps+"/b", `{"metadata":{"labels":{"l":"x"}}}`, 200)
	c.do("DELETE", configMaps+"/a", "", 200)
	for what, w := range map[string]struct {
		next func() (string, string)
		want string
	}{
		"all":  {all, "ADDED a, ADDED b, MODIFIED b, DELETED a, "},
		"rest": {rest, "ADDED b, MODIFIED b, DELETED a, "},
		"some": {some, "ADDED b, DELETED b, "},
	} {
		got := ""
		for len(got) < len(w.want) {
			kind, name := w.next()
			got += kind + " " + name + ", "
		}
		if got != w.want {
			t.Errorf("%s: %s, want %s", what, got, w.want)
		}
	}
	if kind, _ := c.lines("&timeoutSeconds=1&resourceVersion=5")(); kind != "EOF" {
		t.Errorf("a watch that is over: %s", kind)
	}
	for i := range 60 {
		make(fmt.Sprint("x", i))
	}
	if st := c.do("GET", configMaps+"?watch=true&resourceVersion=2", "", 410); at(st, "/reason") != "Expired" {
		t.Errorf("%v", st)
	}
	c.s.Close()
	for {
		if kind, _ := all(); kind == "EOF" {
			break
		}
	}
}

func TestDiscovery(t *testing.T) {
	c := serve(t)
	if v := c.do("GET", "/version", "", 200); at(v, "/major") != "1" {
		t.Errorf("%v", v)
	}
	if v := c.do("GET", "/api", "", 200); at(v, "/versions/0") != "v1" {
		t.Errorf("%v", v)
	}
	// Everything that is announced can be listed.
	lists := []string{"/api/v1"}
	for _, g := range c.do("GET", "/apis", "", 200)["groups"].([]any) {
		v := at(g, "/preferredVersion/groupVersion").(string)
		lists = append(lists, "/apis/"+v)
		if one := c.do("GET", "/apis/"+at(g, "/name").(string), "", 200); at(one, "/preferredVersion/groupVersion") != v {
			t.Errorf("%v", one)
		}
	}
	n := 0
	for _, path := range lists {
		for _, r := range c.do("GET", path, "", 200)["resources"].([]any) {
			// What is only created is a question.
			if name := at(r, "/name").(string); !strings.Contains(name, "/") && !reflect.DeepEqual(at(r, "/verbs"), []any{"create"}) {
				n++
				if l := c.do("GET", path+"/"+name, "", 200); l["kind"] != at(r, "/kind").(string)+"List" {
					t.Errorf("%s: %v", name, l["kind"])
				}
			}
		}
	}
	if n != len(api.Kinds()) {
		t.Errorf("%d of %d kinds are announced", n, len(api.Kinds()))
	}
	if st := c.do("GET", "/api/v2", "", 404); st["details"] == nil {
		t.Errorf("no details, which clients read: %v", st)
	}
	c.do("GET", "/apis/example.com", "", 404)
	c.do("POST", "/version", "{}", 405)
}

func TestJSONPatch(t *testing.T) {
	const doc = `{"a":[1,2,3],"b":{"c/d":"x","e~f":null},"g":{}}`
	for _, tt := range []struct{ patch, want string }{
		{`[{"op":"add","path":"/a/1","value":9}]`, `{"a":[1,9,2,3],"b":{"c/d":"x","e~f":null},"g":{}}`},
		{`[{"op":"add","path":"/a/-","value":9}]`, `{"a":[1,2,3,9],"b":{"c/d":"x","e~f":null},"g":{}}`},
		{`[{"op":"add","path":"/a/3","value":9}]`, `{"a":[1,2,3,9],"b":{"c/d":"x","e~f":null},"g":{}}`},
		{`[{"op":"remove","path":"/a/0"},{"op":"remove","path":"/b/c~1d"}]`, `{"a":[2,3],"b":{"e~f":null},"g":{}}`},
		{`[{"op":"replace","path":"/b/e~0f","value":{"x":1}}]`, `{"a":[1,2,3],"b":{"c/d":"x","e~f":{"x":1}},"g":{}}`},
		{`[{"op":"move","from":"/a","path":"/g/h"}]`, `{"b":{"c/d":"x","e~f":null},"g":{"h":[1,2,3]}}`},
		{`[{"op":"copy","from":"/a","path":"/g/h"},{"op":"add","path":"/a/0","value":0}]`, `{"a":[0,1,2,3],"b":{"c/d":"x","e~f":null},"g":{"h":[1,2,3]}}`},
		{`[{"op":"test","path":"/a","value":[1,2,3]},{"op":"test","path":"/b/e~0f","value":null}]`, doc},
		{`[{"op":"add","path":"","value":{"z":1}}]`, `{"z":1}`},
		{`[{"op":"add","path":"/x/y","value":1}]`, ""},
		{`[{"op":"remove","path":"/x"}]`, ""},
		{`[{"op":"replace","path":"/x","value":1}]`, ""},
		{`[{"op":"add","path":"/a/5","value":1}]`, ""},
		{`[{"op":"add","path":"/a/01","value":1}]`, ""},
		{`[{"op":"remove","path":"/a/3"}]`, ""},
		{`[{"op":"add","path":"/a/b","value":1}]`, ""},
		{`[{"op":"add","path":"a","value":1}]`, ""},
		{`[{"op":"add","path":"/a"}]`, ""},
		{`[{"op":"move","from":"/b","path":"/b/x"}]`, ""},
		{`[{"op":"test","path":"/a/0","value":2}]`, ""},
		{`[{"op":"frob","path":"/a"}]`, ""},
		{`{"op":"add"}`, ""},
	} {
		d, err := document([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		d, err = jsonPatch(d, []byte(tt.patch))
		got, _ := json.Marshal(d)
		if (err != nil) != (tt.want == "") || tt.want != "" && string(got) != tt.want {
			t.Errorf("%s: %s, %v, want %s", tt.patch, got, err, tt.want)
		}
	}
}

func FuzzJSONPatch(f *testing.F) {
	f.Add(`{"a":[1]}`, `[{"op":"move","from":"/a/0","path":"/b"}]`)
	f.Fuzz(func(t *testing.T, text, patch string) {
		doc, err := document([]byte(text))
		if err != nil {
			return
		}
		if doc, err = jsonPatch(doc, []byte(patch)); err == nil {
			if _, err := json.Marshal(doc); err != nil {
				t.Error(err)
			}
		}
	})
}
