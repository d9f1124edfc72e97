package rest

import (
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

const protobufAt = "application/vnd.kubernetes.protobuf "

// protobuf is what a typed client sends.
func protobuf(t *testing.T, version, kind string, m interface{ Marshal() ([]byte, error) }) string {
	t.Helper()
	raw, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: version, Kind: kind}, Raw: raw}
	b, err := u.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return "k8s\x00" + string(b)
}

// Typed clients send protobuf, as kubectl create configmap does, and take JSON.
func TestProtobuf(t *testing.T) {
	c := serve(t)
	const path = "/api/v1/namespaces/default/configmaps"
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm", Labels: map[string]string{"a": "b"}}, Data: map[string]string{"k": "v\x00"}, BinaryData: map[string][]byte{"b": {0, 255}}}
	body := protobuf(t, "v1", "ConfigMap", m)
	got := c.do("POST", protobufAt+path, body, 201)
	if data := got["data"].(map[string]any); data["k"] != "v\x00" || got["binaryData"].(map[string]any)["b"] != "AP8=" {
		t.Errorf("got %v", got)
	}
	uid := got["metadata"].(map[string]any)["uid"].(string)
	// What is cut off or changed is refused, whatever it is, or is an object.
	for n := range body {
		for _, b := range []string{body[:n], body[:n] + "\xff" + body[n+1:]} {
			r, err := http.NewRequestWithContext(t.Context(), "POST", "http://minirund"+path+"?dryRun=All", strings.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", strings.TrimSpace(protobufAt))
			resp, err := c.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode >= 500 {
				t.Errorf("%q: status %d", b, resp.StatusCode)
			}
		}
	}
	for _, tt := range []struct{ kind, body, want string }{
		{protobufAt, "{}", "the body does not begin with"},
		{protobufAt, protobuf(t, "v1", "Nothing", m), "Nothing"},
		{protobufAt, protobuf(t, "v1", "Secret", &corev1.Secret{}), "the path is of configmaps"},
	} {
		if st := c.do("POST", tt.kind+path, tt.body, 400); !strings.Contains(st["message"].(string), tt.want) {
			t.Errorf("%q: %v", tt.body, st)
		}
	}
	if st := c.do("POST", "application/cbor "+path, "\xa0", 415); st["reason"] != "UnsupportedMediaType" {
		t.Errorf("cbor: %v", st)
	}
	other := "0"
	wrong := protobuf(t, "v1", "DeleteOptions", &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &other}})
	c.do("DELETE", protobufAt+path+"/cm", wrong, 409)
	right := metav1.NewUIDPreconditions(uid)
	c.do("DELETE", protobufAt+path+"/cm", protobuf(t, "v1", "DeleteOptions", &metav1.DeleteOptions{Preconditions: right}), 200)
	c.do("GET", path+"/cm", "", 404)
}
