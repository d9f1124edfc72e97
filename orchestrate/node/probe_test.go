package node

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/minirun/minirun/internal/testenv"
)

// What a probe over HTTP sends, and what it makes of answers, with and without TLS.
func TestHTTPProbe(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, code, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		switch path {
		case "code":
			w.WriteHeader(atoi(code))
		case "headers":
			if got, want := fmt.Sprintf("%s %v %v %v", r.Host, r.Header["User-Agent"], r.Header["Accept"], r.Header["X-Two"]), r.URL.Query().Get("want"); got != want {
				t.Errorf("the server got %q, want %q", got, want)
			}
		case "here":
			http.Redirect(w, r, "/code/204", http.StatusFound)
		case "away":
			http.Redirect(w, r, "http://198.51.100.1/", http.StatusFound)
		case "round":
			http.Redirect(w, r, "/round", http.StatusFound)
		case "long":
			for range 100 {
				_, _ = w.Write(make([]byte, 1<<10))
			}
		case "hangs":
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}
	})
	type headers = []corev1.HTTPHeader
	for scheme, server := range map[string]*httptest.Server{"HTTP": httptest.NewServer(handler), "HTTPS": httptest.NewTLSServer(handler)} {
		defer server.Close()
		u, err := url.Parse(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		want := func(host, text string) string { return "/headers?want=" + url.QueryEscape(host+" "+text) }
		for _, tt := range []struct {
			path       string
			headers    headers
			warns, err string
		}{
			{"/code/200", nil, "", ""},
			{"code/399", nil, "", ""},
			{"/code/400", nil, "", "HTTP probe failed with statuscode: 400"},
			{"/code/500", nil, "", "HTTP probe failed with statuscode: 500"},
			{"/here", nil, "", ""},
			{"/away", nil, "Probe terminated redirects", ""},
			{"/round", nil, "", "stopped after 10 redirects"},
			{"/long", nil, "", ""},
			{want(u.Host, "[kube-probe/1.34] [*/*] []"), nil, "", ""},
			{want("web.example", "[mine] [text/plain] [1 2]"), headers{{Name: "host", Value: "web.example"}, {Name: "user-agent", Value: "mine"}, {Name: "Accept", Value: "text/plain"}, {Name: "X-Two", Value: "1"}, {Name: "X-Two", Value: "2"}}, "", ""},
			{want(u.Host, "[kube-probe/1.34] [] []"), headers{{Name: "Accept", Value: ""}}, "", ""},
			{"/hangs", nil, "", "deadline exceeded"},
		} {
			timeout := testenv.Timeout(20 * time.Second)
			if tt.path == "/hangs" {
				timeout = 50 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			text, err := new(worker).httpGet(ctx, &corev1.Container{}, &corev1.HTTPGetAction{Path: tt.path, Host: u.Hostname(), Port: intstr.Parse(u.Port()), Scheme: corev1.URIScheme(scheme), HTTPHeaders: tt.headers})
			cancel()
			if (text == "") != (tt.warns == "") || !strings.Contains(text, tt.warns) {
				t.Errorf("%s %s: %q", scheme, tt.path, text)
			}
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s %s: %v", scheme, tt.path, err)
			}
		}
	}
}
