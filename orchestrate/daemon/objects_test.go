package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// The store of the daemon gives services addresses from its ranges, and the
// controllers work on what the API has stored.
func TestObjects(t *testing.T) {
	dir := t.TempDir()
	o := Options{Data: filepath.Join(dir, "data"), Socket: filepath.Join(dir, "s"), Bare: true, ServiceRanges: []netip.Prefix{netip.MustParsePrefix("10.77.0.0/24")}}
	_, end := begin(t, o)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", o.Socket)
	}}}
	resp, err := client.Post("http://x/api/v1/namespaces/default/services", "application/json",
		bytes.NewBufferString(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"web"},"spec":{"type":"NodePort","ports":[{"port":80}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	var svc corev1.Service
	if err != nil || resp.StatusCode != http.StatusCreated || json.Unmarshal(text, &svc) != nil {
		t.Fatalf("%v, %s: %s", err, resp.Status, text)
	}
	ip, err := netip.ParseAddr(svc.Spec.ClusterIP)
	if err != nil || !o.ServiceRanges[0].Contains(ip) || svc.Spec.Ports[0].NodePort < 30000 {
		t.Errorf("%+v", svc.Spec)
	}
	// It is still there after a start, although the range is another one now.
	if err := end(); err != nil {
		t.Fatal(err)
	}
	get, _ := begin(t, Options{Data: o.Data, Socket: o.Socket, Bare: true})
	if code, _ := get("/api/v1/namespaces/default/services/web"); code != http.StatusOK {
		t.Errorf("after a start: %d", code)
	}
}
