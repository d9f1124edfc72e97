package registry

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// ports leads connections to a host's ports to what is to answer there.
type ports struct {
	mu     sync.Mutex
	at     map[string]string // by port; others refuse
	dialed []string
}

func (p *ports) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	_, port, _ := net.SplitHostPort(addr)
	p.mu.Lock()
	p.dialed = append(p.dialed, port)
	to := p.at[port]
	p.mu.Unlock()
	if to == "" {
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	return (&net.Dialer{}).DialContext(ctx, network, to)
}

// notTLS answers TLS with the greeting of another protocol, and anything else by http.
func notTLS(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 4096)
			_, _ = c.Read(b)
			if b[0] == 0x16 {
				_, _ = io.WriteString(c, "SSH-2.0-somebody else\r\n")
			} else {
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			}
			c.Close()
		}
	}()
	return l.Addr().String()
}

// Plain http is for hosts that may be spoken to by it, and only where https cannot be.
func TestFallback(t *testing.T) {
	var plain atomic.Int32
	web := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { plain.Add(1) }))
	defer web.Close()
	safe := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer safe.Close()
	other := notTLS(t)
	webAt, safeAt := web.Listener.Addr().String(), safe.Listener.Addr().String()
	for name, tt := range map[string]struct {
		host     string
		insecure bool
		at       map[string]string
		proxy    string
		fails    string
		dialed   string
	}{
		"443 refused":                     {host: "registry.example", insecure: true, at: map[string]string{"80": webAt}, dialed: "443 80"},
		"443 refused, localhost":          {host: "localhost", at: map[string]string{"80": webAt}, dialed: "443 80"},
		"443 refused, not insecure":       {host: "registry.example", at: map[string]string{"80": webAt}, fails: "connection refused", dialed: "443"},
		"a port refused":                  {host: "registry.example:5000", insecure: true, at: map[string]string{"80": webAt}, fails: "connection refused", dialed: "5000"},
		"443 given and refused":           {host: "registry.example:443", insecure: true, at: map[string]string{"80": webAt}, fails: "connection refused", dialed: "443"},
		"both refused":                    {host: "registry.example", insecure: true, fails: "(by plain http: ", dialed: "443 80"},
		"another protocol":                {host: "registry.example:5000", insecure: true, at: map[string]string{"5000": other}, dialed: "5000 5000"},
		"another protocol, not insecure":  {host: "registry.example:5000", at: map[string]string{"5000": other}, fails: "does not look like a TLS handshake", dialed: "5000"},
		"a certificate that is not right": {host: "localhost", at: map[string]string{"443": safeAt, "80": webAt}, fails: "certificate", dialed: "443"},
		"https":                           {host: "localhost", insecure: true, at: map[string]string{"443": safeAt, "80": webAt}, dialed: "443"},
		"the proxy refuses":               {host: "registry.example", insecure: true, at: map[string]string{"80": webAt}, proxy: "http://proxy.example:3128", fails: "proxyconnect", dialed: "3128"},
	} {
		c := New(Options{Insecure: tt.insecure, HostDirs: []string{t.TempDir()}})
		list, err := c.hosts(tt.host)
		if err != nil {
			t.Fatal(err)
		}
		e, p := list[0], &ports{at: tt.at}
		transport := e.own.Transport.(*http.Transport)
		transport.DialContext, transport.Proxy = p.dial, nil
		if tt.proxy != "" {
			u, _ := url.Parse(tt.proxy)
			transport.Proxy = http.ProxyURL(u)
		}
		ask := func() error {
			resp, err := c.send(t.Context(), e, call{what: "ping", method: http.MethodGet})
			if err == nil {
				resp.Body.Close()
			}
			return err
		}
		err = ask()
		if tt.fails == "" && err != nil || tt.fails != "" && (err == nil || !strings.Contains(err.Error(), tt.fails)) {
			t.Errorf("%s: error %v, want %q", name, err, tt.fails)
		}
		if got := strings.Join(p.dialed, " "); got != tt.dialed {
			t.Errorf("%s: ports %s were asked, want %s", name, got, tt.dialed)
		}
		switch name {
		case "both refused": // https is up again: it is what counts
			p.at = map[string]string{"443": safeAt, "80": webAt}
			plain.Store(0)
			if err := ask(); err != nil || plain.Load() != 0 {
				t.Errorf("%s: then %v, %d requests by plain http", name, err, plain.Load())
			}
		case "https": // what it was sent by https does not go by http later
			transport.CloseIdleConnections()
			p.at = map[string]string{"80": webAt}
			plain.Store(0)
			if err := ask(); !errors.Is(err, syscall.ECONNREFUSED) || plain.Load() != 0 {
				t.Errorf("%s: then %v, %d requests by plain http", name, err, plain.Load())
			}
		}
		transport.CloseIdleConnections()
	}
}
