package clients

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Both registries are at these addresses of the sandbox, which has a loopback
// interface of its own.
const (
	plainRegistry = "127.0.0.1:5000"
	tlsRegistry   = "registry.test:5001" // by https, with a certificate of the test's own authority, and a password
)

// registry is distribution's, from Debian's package docker-registry, with its
// content in a directory of the test.
type registry struct {
	*client
	dir string
}

// The password s3cret, for bcrypt.
const registryUsers = "alice:$2y$04$IRERgSSvEIqtBVw5CjwPYOkfPCG.6T1yhOKSbhuOpDAKTvluA/rYC\n"

// plainRegistry starts the registry that everybody may write to.
func (c *client) plainRegistry() *registry {
	c.t.Helper()
	r := &registry{c, filepath.Join(c.dir, "plain")}
	c.startRegistry("plain", plainRegistry, "", "")
	return r
}

// tlsRegistry starts the registry with certificate and password, and returns the
// file of its authority.
func (c *client) tlsRegistry() (r *registry, authority string) {
	c.t.Helper()
	ca, cert, key := c.certificate("registry.test")
	c.exec("sh", "-c", "echo '127.0.0.1 registry.test' >>/etc/hosts")
	users := c.write("htpasswd", registryUsers, 0o600)
	c.startRegistry("secret", tlsRegistry,
		fmt.Sprintf("  tls:\n    certificate: %q\n    key: %q\n", cert, key),
		fmt.Sprintf("auth:\n  htpasswd:\n    realm: test\n    path: %q\n", users))
	return &registry{c, filepath.Join(c.dir, "secret")}, ca
}

func (c *client) startRegistry(name, host, http, auth string) {
	c.t.Helper()
	_, port, _ := net.SplitHostPort(host)
	conf := c.write(name+".yml", fmt.Sprintf(`version: 0.1
log:
  level: error
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: %q
  delete:
    enabled: true
http:
  addr: "127.0.0.1:%s"
  secret: test
%s%s`, filepath.Join(c.dir, name), port, http, auth), 0o600)
	c.serve(name+".log", func() bool {
		conn, err := c.dial("127.0.0.1:" + port)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}, "/usr/bin/docker-registry", "serve", conf)
}

// dial connects to an address in the sandbox.
func (s *sandbox) dial(addr string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this function
		ns, err := unix.Open("/proc/"+s.pid+"/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(ns, unix.CLONE_NEWNET)
			unix.Close(ns)
		}
		if err != nil {
			done <- result{nil, err}
			return
		}
		conn, err := net.Dial("tcp", addr)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// request speaks to the registry without any tool in between.
func (r *registry) request(method, path, mediaType string, body []byte) (int, http.Header, []byte) {
	r.t.Helper()
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return r.dial(plainRegistry) }, DisableKeepAlives: true}
	req, err := http.NewRequest(method, path, bytes.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if !strings.Contains(path, "://") {
		req.URL.Scheme, req.URL.Host = "http", plainRegistry
	}
	if mediaType != "" {
		req.Header.Set("Content-Type", mediaType)
		req.Header.Set("Accept", mediaType)
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return res.StatusCode, res.Header, b
}

// put uploads a blob or, with a media type, a manifest, and returns its digest.
func (r *registry) put(repository, tag, mediaType string, b []byte) string {
	r.t.Helper()
	digest := "sha256:" + sha256Hex(string(b))
	path := "/v2/" + repository + "/manifests/" + tag
	if tag == "" {
		path = "/v2/" + repository + "/manifests/" + digest
	}
	if mediaType == "" {
		code, h, _ := r.request("POST", "/v2/"+repository+"/blobs/uploads/", "", nil)
		if code != http.StatusAccepted {
			r.t.Fatalf("begin an upload: status %d", code)
		}
		sep := "?"
		if path = h.Get("Location"); strings.Contains(path, "?") {
			sep = "&"
		}
		path, mediaType = path+sep+"digest="+digest, "application/octet-stream"
	}
	if code, _, out := r.request("PUT", path, mediaType, b); code != http.StatusCreated {
		r.t.Fatalf("PUT %s: status %d\n%s", path, code, out)
	}
	return digest
}

// blob is content as it lies in the registry's directory.
func (r *registry) blob(digest string) []byte {
	r.t.Helper()
	hex := strings.TrimPrefix(digest, "sha256:")
	b, err := os.ReadFile(filepath.Join(r.dir, "docker/registry/v2/blobs/sha256", hex[:2], hex, "data"))
	if err != nil {
		r.t.Errorf("the registry has no %s: %v", digest, err)
	}
	return b
}

// tag is the digest that a tag stands for.
func (r *registry) tag(repository, tag string) string {
	r.t.Helper()
	b, err := os.ReadFile(filepath.Join(r.dir, "docker/registry/v2/repositories", repository, "_manifests/tags", tag, "current/link"))
	if err != nil {
		r.t.Errorf("the registry has no %s:%s: %v", repository, tag, err)
	}
	return string(b)
}

// parts are the members of manifests and indexes that name other content.
type parts struct {
	MediaType string
	Config    struct{ Digest string }
	Layers    []struct{ MediaType, Digest string }
	Manifests []struct{ MediaType, Digest string }
}

func (r *registry) parts(digest string) (p parts) {
	r.t.Helper()
	if err := json.Unmarshal(r.blob(digest), &p); err != nil {
		r.t.Fatalf("%s: %v", digest, err)
	}
	return p
}

// all is a manifest or index with everything that it leads to.
func (r *registry) all(digest string) []string {
	p := r.parts(digest)
	list := []string{digest}
	for _, m := range p.Manifests {
		list = append(list, r.all(m.Digest)...)
	}
	for _, l := range p.Layers {
		list = append(list, l.Digest)
	}
	if p.Config.Digest != "" {
		list = append(list, p.Config.Digest)
	}
	return list
}

// exec runs a program of the machine in the sandbox and returns what it prints.
func (c *client) exec(args ...string) string {
	c.t.Helper()
	r := c.run(args...)
	if r.Code != 0 {
		c.t.Fatalf("%q: exit status %d\n%s%s", args, r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

func (c *client) skopeo(args ...string) string {
	c.t.Helper()
	return c.exec(append([]string{"/usr/bin/skopeo", "--insecure-policy"}, args...)...)
}

// certificate makes an authority and a certificate of it for a host.
func (c *client) certificate(host string) (ca, cert, key string) {
	c.t.Helper()
	issue := func(serial int64, tmpl, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			c.t.Fatal(err)
		}
		if by == nil {
			parent, by = tmpl, k
		}
		tmpl.SerialNumber = big.NewInt(serial)
		tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-24*time.Hour), time.Now().Add(24*time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &k.PublicKey, by)
		if err != nil {
			c.t.Fatal(err)
		}
		made, err := x509.ParseCertificate(der)
		if err != nil {
			c.t.Fatal(err)
		}
		return made, k
	}
	file := func(name, kind string, der []byte) string {
		return c.write(name, string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})), 0o600)
	}
	root, rootKey := issue(1, &x509.Certificate{Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	leaf, leafKey := issue(2, &x509.Certificate{Subject: pkix.Name{CommonName: host}, DNSNames: []string{host}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, root, rootKey)
	der, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		c.t.Fatal(err)
	}
	return file("ca.crt", "CERTIFICATE", root.Raw), file("server.crt", "CERTIFICATE", leaf.Raw), file("server.key", "PRIVATE KEY", der)
}
