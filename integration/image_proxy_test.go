package integration

import (
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// proxy is one of plain http, with a login, for requests and for connections.
type proxy struct {
	*httptest.Server
	requests, connections atomic.Int64
}

// newProxy leads what is for a name that nobody can resolve to plain and to secure.
func newProxy(t *testing.T, plain, secure *httptest.Server) *proxy {
	p := &proxy{}
	back, err := url.Parse(plain.URL)
	if err != nil {
		t.Fatal(err)
	}
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(back) }}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth(); !ok || user != "alice" || password != "s3cret" {
			w.Header().Set("Proxy-Authenticate", "Basic")
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		if r.Method != http.MethodConnect {
			p.requests.Add(1)
			forward.ServeHTTP(w, r)
			return
		}
		p.connections.Add(1)
		to, err := net.Dial("tcp", secure.Listener.Addr().String())
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer to.Close()
		w.WriteHeader(http.StatusOK)
		from, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer from.Close()
		go func() {
			_, _ = io.Copy(to, buffered)
			_ = to.Close()
		}()
		_, _ = io.Copy(from, to)
	}))
	t.Cleanup(func() {
		p.CloseClientConnections()
		p.Close()
	})
	return p
}

// Images come and go through a proxy, by http and by https. Its login is its own: no
// registry sees it.
func TestRootPullProxy(t *testing.T) {
	h := imageSetup(t)
	src := newPullSource(t, 1000)
	secure := httptest.NewUnstartedServer(src.Config.Handler)
	secure.StartTLS()
	t.Cleanup(func() {
		secure.CloseClientConnections()
		secure.Close()
	})
	p := newProxy(t, src.Server.Server, secure)
	for _, v := range []string{"NO_PROXY", "no_proxy", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"} {
		t.Setenv(v, "")
	}
	hosts := t.TempDir()
	for host, text := range map[string]string{
		"plain.invalid": "server = \"http://plain.invalid\"\n",
		"example.com":   "ca = \"ca.pem\"\n", // what the certificate of httptest is for
	} {
		if err := os.Mkdir(filepath.Join(hosts, host), 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(hosts, host, "hosts.toml"), text)
	}
	writeFile(t, filepath.Join(hosts, "example.com/ca.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})))
	set := func(user *url.Userinfo) {
		u := url.URL{Scheme: "http", User: user, Host: p.Listener.Addr().String()}
		t.Setenv("HTTP_PROXY", u.String())
		t.Setenv("HTTPS_PROXY", u.String())
	}
	set(url.UserPassword("alice", "s3cret"))
	for _, host := range []string{"plain.invalid", "example.com"} {
		name := host + "/test/app:v1"
		if out := h.must("pull", "--progress", "none", "--hosts-dir", hosts, name); !strings.HasPrefix(out, "pulled "+name) {
			t.Errorf("pull: %q", out)
		}
		h.must("push", "--progress", "none", "--hosts-dir", hosts, name, host+"/test/"+strings.ReplaceAll(host, ".", "-")+":v1")
		if _, _, ok := src.Manifest("test/"+strings.ReplaceAll(host, ".", "-"), "v1"); !ok {
			t.Errorf("what was pushed to %s did not arrive", host)
		}
		h.whole(name, "pulled from "+host)
	}
	if n, m := p.requests.Load(), p.connections.Load(); n < 5 || m < 1 {
		t.Errorf("the proxy got %d requests and %d connections", n, m)
	}
	for _, r := range src.Requests() { // those by https came as they were sent
		if len(r.Header["Proxy-Authorization"]) > 0 || r.Authorization != "" {
			t.Errorf("the registry got %v %q with %s %s", r.Header["Proxy-Authorization"], r.Authorization, r.Method, r.Path)
		}
	}
	// Without the login nothing goes through, and the error does not tell a wrong one.
	set(url.UserPassword("alice", "wr0ng"))
	for _, host := range []string{"plain.invalid", "example.com"} {
		r := h.do("pull", "--progress", "none", "--hosts-dir", hosts, host+"/test/app:v2")
		if r.Code != 1 || !strings.Contains(strings.ToLower(r.Stderr), "proxy auth") || strings.Contains(r.Stderr, "wr0ng") {
			t.Errorf("%s with a wrong login at the proxy: %+v", host, r)
		}
	}
	// Loopback addresses are nobody's business but the host's.
	h.must("pull", "--progress", "none", src.name)
}
