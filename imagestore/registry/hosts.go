package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"
)

// DefaultHostDirs are the directories in which each registry may have a
// directory of its own, with a hosts.toml as containerd reads it or with
// certificates as docker does. The first directory that has one counts.
var DefaultHostDirs = []string{"/etc/minirun/certs.d", "/etc/containerd/certs.d", "/etc/docker/certs.d"}

// capability is what an endpoint may be used for.
type capability uint8

const (
	canPull    capability = 1 << iota // content by its digest
	canResolve                        // tags
	canPush
	canReferrers // lists of what is about an image
	canAll       = canPull | canResolve | canPush | canReferrers
)

// endpoint is one host that serves a registry: itself or a mirror.
type endpoint struct {
	registry string // docker.io, whatever the host is
	host     string // with port
	prefix   string // "/v2"
	can      capability
	header   http.Header
	mirror   bool
	own      *http.Client // with client certificates
	other    *http.Client // for where it redirects to

	mu       sync.Mutex
	scheme   string
	fallback bool  // plain http will do if the host does not speak https
	settled  bool  // it has answered: the scheme stays
	down     error // it could not be reached
}

// name is the host in errors.
func (e *endpoint) name() string { return e.host }

// registryName is what people log in to.
func (e *endpoint) registryName() string {
	if e.mirror {
		return e.host
	}
	return e.registry
}

func (e *endpoint) url(path string, query url.Values) *url.URL {
	e.mu.Lock()
	defer e.mu.Unlock()
	u := &url.URL{Scheme: e.scheme, Host: e.host, Path: e.prefix + "/" + path}
	if e.mirror { // so that a mirror of several registries knows which
		q := url.Values{"ns": {e.registry}}
		for k, v := range query {
			q[k] = v
		}
		query = q
	}
	u.RawQuery = query.Encode()
	return u
}

// owns tells whether u is at the endpoint: scheme, host and port are the same.
func (e *endpoint) owns(u *url.URL) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return u.Scheme == e.scheme && hostPort(u.Scheme, u.Host) == hostPort(e.scheme, e.host)
}

func (e *endpoint) isPlain() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.scheme == "http"
}

// plain switches to http if the endpoint may.
func (e *endpoint) plain() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fallback && !e.settled {
		e.scheme = "http"
	}
	return e.scheme == "http" // perhaps another goroutine did
}

// notPlain goes back to https: plain http was of no use either.
func (e *endpoint) notPlain() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fallback && !e.settled {
		e.scheme = "https"
	}
}

// answered keeps the scheme: what was sent by https does not go by http later.
func (e *endpoint) answered() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.settled = true
}

// noHTTPS tells errors that mean that https cannot be spoken at the endpoint. That
// of a proxy says nothing about it, and one about a certificate is none.
func (e *endpoint) noHTTPS(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "proxyconnect" {
		return false
	}
	var record tls.RecordHeaderError
	if errors.As(err, &record) {
		return record.Conn != nil // the first record was none
	}
	return errors.Is(err, syscall.ECONNREFUSED) && (&url.URL{Host: e.host}).Port() == ""
}

func (e *endpoint) setDown(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.down = err
}

func (e *endpoint) isDown() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.down
}

func hostPort(scheme, host string) string {
	u := url.URL{Host: host}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[scheme]
	}
	return strings.ToLower(u.Hostname()) + ":" + port
}

// isLoopback tells addresses of this machine. The name localhost counts: that
// it leads anywhere else takes control of this machine's resolver.
func isLoopback(host string) bool {
	name := (&url.URL{Host: host}).Hostname()
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true
	}
	ip := net.ParseIP(name)
	return ip != nil && ip.IsLoopback()
}

// security is how an endpoint is spoken to.
type security struct {
	roots      *x509.CertPool // nil: the system's
	certs      []tls.Certificate
	skipVerify bool
	dial       time.Duration
}

// clients returns the one for the host and the one for where it redirects to:
// that gets no client certificate, which would say who we are.
func (s *security) clients(stall time.Duration) (own, other *http.Client) {
	if s.dial <= 0 || s.dial > stall {
		s.dial = stall
	}
	make := func(certs []tls.Certificate) *http.Client {
		return &http.Client{
			Transport: &http.Transport{
				Proxy:                 http.ProxyFromEnvironment,
				DialContext:           (&net.Dialer{Timeout: s.dial, KeepAlive: 15 * time.Second}).DialContext,
				TLSHandshakeTimeout:   stall,
				ResponseHeaderTimeout: 0, // the watch of each request
				MaxIdleConnsPerHost:   8,
				IdleConnTimeout:       30 * time.Second,
				DisableCompression:    true,
				TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: s.roots, Certificates: certs, InsecureSkipVerify: s.skipVerify},
				// No HTTP/2: a stalled connection must be given up alone.
				Protocols: func() *http.Protocols { p := &http.Protocols{}; p.SetHTTP1(true); return p }(),
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return make(s.certs), make(nil)
}

// isCertificate tells a certificate that is not trusted.
func isCertificate(err error) bool {
	var verify *tls.CertificateVerificationError
	return errors.As(err, &verify)
}

// hosts returns the endpoints of a registry in the order in which they are
// tried: mirrors, then itself.
func (c *Client) hosts(registry string) ([]*endpoint, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if list, ok := c.endpoints[registry]; ok {
		return list, nil
	}
	list, err := c.loadHosts(registry)
	if err != nil {
		return nil, fmt.Errorf("configuration of %s: %w", registry, err)
	}
	c.endpoints[registry] = list
	return list, nil
}

func (c *Client) loadHosts(registry string) ([]*endpoint, error) {
	for _, base := range c.o.HostDirs {
		for _, name := range []string{registry, strings.ReplaceAll(registry, ":", "_") + "_", "_default"} {
			dir := filepath.Join(base, name)
			file := filepath.Join(dir, "hosts.toml")
			b, err := os.ReadFile(file)
			switch {
			case err == nil:
				list, err := c.parseHosts(registry, dir, b)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", file, err)
				}
				return list, nil
			case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrInvalid):
				return nil, err
			}
			sec, err := dockerCerts(dir)
			if err != nil {
				return nil, err
			}
			if sec != nil {
				e, err := c.newEndpoint(registry, "", *sec, false)
				return []*endpoint{e}, err
			}
		}
	}
	e, err := c.newEndpoint(registry, "", security{}, false)
	return []*endpoint{e}, err
}

// newEndpoint makes an endpoint at server, a host or a URL; empty: the
// registry's own. Its path gets /v2 unless overridePath says that it has all.
func (c *Client) newEndpoint(registry, server string, sec security, overridePath bool) (*endpoint, error) {
	e := &endpoint{registry: registry, can: canAll, prefix: "/v2", scheme: "https"}
	explicit := strings.Contains(server, "://")
	if server == "" {
		server = registry
		if registry == "docker.io" {
			server = "registry-1.docker.io"
		}
	}
	if !explicit {
		server = "https://" + server
	}
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("%q is no URL of a host", server)
	}
	e.scheme, e.host = u.Scheme, u.Host
	if p := trimSlash(u.Path); p != "" {
		e.prefix = p
		if !overridePath && !strings.HasSuffix(p, "/v2") {
			e.prefix = p + "/v2"
		}
	}
	if !explicit {
		e.fallback = c.o.Insecure || isLoopback(e.host)
	}
	if c.o.Insecure {
		sec.skipVerify = true
	}
	e.own, e.other = sec.clients(c.o.Stall)
	return e, nil
}

// dockerCerts reads a directory as docker does: *.crt are authorities, *.cert
// with *.key client certificates. It returns nil if it has none of them.
func dockerCerts(dir string) (*security, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	var authorities []string
	var pairs [][2]string
	for _, f := range entries {
		path := filepath.Join(dir, f.Name())
		switch filepath.Ext(f.Name()) {
		case ".crt":
			authorities = append(authorities, path)
		case ".cert":
			pairs = append(pairs, [2]string{path, strings.TrimSuffix(path, ".cert") + ".key"})
		}
	}
	if len(authorities)+len(pairs) == 0 {
		return nil, nil
	}
	sort.Strings(authorities)
	s := &security{}
	return s, s.load(authorities, pairs)
}

// load reads authorities, which come in addition to the system's, and pairs of
// client certificate and key.
func (s *security) load(authorities []string, pairs [][2]string) error {
	if len(authorities) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		for _, path := range authorities {
			b, err := os.ReadFile(path)
			if err != nil {
				return fmt.Errorf("certificate authority: %w", err)
			}
			if !pool.AppendCertsFromPEM(b) {
				return fmt.Errorf("certificate authority %q: it holds no certificate in PEM form", path)
			}
		}
		s.roots = pool
	}
	for _, p := range pairs {
		cert, err := tls.LoadX509KeyPair(p[0], p[1])
		if err != nil {
			return fmt.Errorf("client certificate %q: %w", p[0], err)
		}
		s.certs = append(s.certs, cert)
	}
	return nil
}
