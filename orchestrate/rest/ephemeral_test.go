package rest

import (
	"strings"
	"testing"
)

// TestEphemeralContainers: what kubectl debug sends, and what it must not do.
func TestEphemeralContainers(t *testing.T) {
	c := serve(t)
	const path = "/api/v1/namespaces/default/pods"
	const sub = path + "/p/ephemeralcontainers"
	const strategic = "application/strategic-merge-patch+json "
	c.do("POST", path, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}`, 201)
	first := `{"spec":{"ephemeralContainers":[{"name":"e","image":"busybox","resources":{},"terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent","stdin":true,"tty":true,"targetContainerName":"c"}]}}`
	doc := c.do("PATCH", strategic+sub, first, 200)
	if at(doc, "/kind") != "Pod" || at(doc, "/spec/ephemeralContainers/0/name") != "e" || at(doc, "/spec/ephemeralContainers/0/terminationMessagePath") != "/dev/termination-log" || at(doc, "/metadata/generation") != 2.0 {
		t.Errorf("%v", doc)
	}
	// The next one, as kubectl sends it: with the order of all.
	doc = c.do("PATCH", strategic+sub, `{"spec":{"$setElementOrder/ephemeralContainers":[{"name":"e"},{"name":"f"}],"ephemeralContainers":[{"name":"f","image":"busybox"}],"containers":[{"name":"c","image":"other"}]},"metadata":{"labels":{"a":"b"}}}`, 200)
	if at(doc, "/spec/ephemeralContainers/1/name") != "f" || at(doc, "/spec/containers/0/image") != "i" || at(doc, "/metadata/labels") != nil {
		t.Errorf("%v", doc)
	}
	for _, r := range []struct {
		kind, body, want string
		code             int
	}{
		{strategic, `{"spec":{"ephemeralContainers":[{"name":"e","image":"other"}]}}`, `existing ephemeral containers "e" may not be changed`, 422},
		{strategic, `{"spec":{"ephemeralContainers":[{"name":"e","$patch":"delete"}]}}`, `existing ephemeral containers "e" may not be removed`, 422},
		{"application/merge-patch+json ", `{"spec":{"ephemeralContainers":null}}`, "may not be removed", 422},
		{"application/json-patch+json ", `[{"op":"add","path":"/spec/ephemeralContainers/-","value":{"name":"c","image":"i"}}]`, `spec.ephemeralContainers[2].name: Duplicate value: "c"`, 422},
		{"application/json-patch+json ", `[{"op":"add","path":"/spec/ephemeralContainers/-","value":{"name":"g","image":"i","ports":[{"containerPort":1}]}}]`, "spec.ephemeralContainers[2].ports: Forbidden: cannot be set for an Ephemeral Container", 422},
		{"application/apply-patch+yaml ", `{}`, "", 400},
	} {
		at := sub
		if strings.HasPrefix(r.kind, "application/apply") {
			at += "?fieldManager=m"
			r.code = 405
		}
		if doc := c.do("PATCH", r.kind+at, r.body, r.code); !strings.Contains(doc["message"].(string), r.want) {
			t.Errorf("%s: %v, want %q", r.body, doc["message"], r.want)
		}
	}
	// With PUT, and by what was read from there.
	doc = c.do("GET", sub, "", 200)
	if at(doc, "/spec/ephemeralContainers/1/name") != "f" {
		t.Errorf("%v", doc)
	}
	c.do("PUT", sub, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"ephemeralContainers":[]}}`, 422)
	// Not as a part of the pod.
	if doc := c.do("PATCH", strategic+path+"/p", `{"spec":{"ephemeralContainers":[{"name":"g","image":"i"}]}}`, 422); !strings.Contains(doc["message"].(string), "pod updates may not change fields") {
		t.Errorf("%v", doc["message"])
	}
	c.do("POST", path, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"q"},"spec":{"containers":[{"name":"c","image":"i"}],"ephemeralContainers":[{"name":"e","image":"i"}]}}`, 422)
	c.do("PATCH", strategic+path+"/none/ephemeralcontainers", first, 404)
	c.do("DELETE", sub, "", 405)
	c.do("GET", "/api/v1/namespaces/default/configmaps/p/ephemeralcontainers", "", 404)
	if doc := c.do("PATCH", strategic+sub+"?dryRun=All", `{"spec":{"ephemeralContainers":[{"name":"g","image":"i"}]}}`, 200); at(doc, "/spec/ephemeralContainers/0/name") == nil || at(c.do("GET", path+"/p", "", 200), "/spec/ephemeralContainers/2") != nil {
		t.Errorf("a dry run: %v", doc)
	}
	// The rest of a pod with some can be changed as before.
	c.do("PATCH", "application/merge-patch+json "+path+"/p", `{"metadata":{"labels":{"a":"b"}}}`, 200)
}
