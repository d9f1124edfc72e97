package registry_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minirun/minirun/imagestore/registry"
	"github.com/minirun/minirun/imagestore/registrytest"
)

const user, password = "alice", "s3cret:with colon"

func alice(host string) registry.One {
	return registry.One{Host: host, Credential: registry.Credential{Username: user, Password: password}}
}

func pull(t *testing.T, o registry.Options, name string) error {
	t.Helper()
	_, err := client(t, o).Pull(t.Context(), newStore(t), reference(t, name), registry.PullOptions{})
	return err
}

func TestAuth(t *testing.T) {
	b := build(t, 10)
	for _, tt := range []struct {
		name    string
		o       registrytest.Options
		cred    registry.Credential
		fails   string
		anybody bool
	}{
		{name: "basic", o: registrytest.Options{User: user, Password: password}, cred: registry.Credential{Username: user, Password: password}},
		{name: "basic, wrong", o: registrytest.Options{User: user, Password: password}, cred: registry.Credential{Username: user, Password: "x"}, fails: "does not accept the credentials"},
		{name: "basic, none", o: registrytest.Options{User: user, Password: password}, fails: "wants a login"},
		{name: "bearer", o: registrytest.Options{User: user, Password: password, Bearer: true}, cred: registry.Credential{Username: user, Password: password}},
		{name: "bearer, wrong", o: registrytest.Options{User: user, Password: password, Bearer: true}, cred: registry.Credential{Username: user, Password: "x"}, fails: "does not accept the credentials: wrong password"},
		{name: "bearer, none", o: registrytest.Options{User: user, Password: password, Bearer: true}, fails: "wants a login"},
		{name: "bearer for everybody", o: registrytest.Options{Bearer: true}},
		{name: "identity token", o: registrytest.Options{User: user, Password: password, Bearer: true}, cred: registry.Credential{IdentityToken: password}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := registrytest.New(t, tt.o)
			publish(srv, "test/one", b, "v1")
			o := quick()
			o.Credentials = registry.One{Host: srv.Host(), Credential: tt.cred}
			err := pull(t, o, srv.Host()+"/test/one:v1")
			if tt.fails == "" && err != nil || tt.fails != "" && (err == nil || !strings.Contains(err.Error(), tt.fails)) {
				t.Errorf("error %v, want %q", err, tt.fails)
			}
			var auth *registry.AuthError
			if tt.fails != "" && (!errors.As(err, &auth) || auth.Hint() != "minirun login "+srv.Host()) {
				t.Errorf("error %#v, want an AuthError", err)
			}
			if n := srv.Count("GET", "/token") + srv.Count("POST", "/token"); tt.o.Bearer && n != 1 {
				t.Errorf("%d tokens were asked for, want 1", n)
			}
			for _, r := range srv.Requests() {
				if r.Path != "/token" && tt.o.Bearer && strings.HasPrefix(r.Authorization, "Basic") {
					t.Errorf("%s %s got the password", r.Method, r.Path)
				}
				if r.Path == "/token" && r.Method == "GET" && !strings.Contains(r.Query, "repository%3Atest%2Fone%3Apull") {
					t.Errorf("token asked for with %q", r.Query)
				}
			}
		})
	}
}

// A token that expires while blobs come in is replaced.
func TestAuth_TokenExpires(t *testing.T) {
	b := build(t, 11)
	srv := registrytest.New(t, registrytest.Options{User: user, Password: password, Bearer: true})
	publish(srv, "test/one", b, "v1")
	srv.Fail(registrytest.Fault{Path: string(b.Layers[1].Digest), Times: 1, Do: func(*http.Request) { srv.ExpireTokens() }})
	srv.Fail(registrytest.Fault{Path: string(b.Layers[1].Digest), Cut: 1000, Times: 1})
	o := quick()
	o.Credentials = alice(srv.Host())
	if err := pull(t, o, srv.Host()+"/test/one:v1"); err != nil {
		t.Fatal(err)
	}
	if n := srv.Count("GET", "/token"); n < 2 {
		t.Errorf("%d tokens, want a second one", n)
	}
}

// stranger is another host, which wants to see credentials.
func stranger(t *testing.T, o registrytest.Options) *registrytest.Server {
	srv := registrytest.New(t, o)
	t.Cleanup(func() {
		if len(srv.Requests()) == 0 {
			t.Error("the other host was never asked: the test shows nothing")
		}
		for _, r := range srv.Requests() {
			text := fmt.Sprint(r.Authorization, r.Query, r.Header)
			for _, secret := range []string{"Basic", "Bearer", "YWxpY2U6", password, "token-", "X-Secret"} {
				if strings.Contains(text, secret) {
					t.Errorf("the other host got %q in %s %s: %s", secret, r.Method, r.Path, text)
				}
			}
			if r.ClientCert {
				t.Error("the other host got the client certificate")
			}
		}
	})
	return srv
}

// Blobs come from a CDN on another host, which asks for credentials, too: it gets
// none, no headers and no certificate; nor does the registry when the CDN sends
// us back there.
func TestAuth_RedirectElsewhere(t *testing.T) {
	b := build(t, 12)
	for _, bearer := range []bool{false, true} {
		srv := registrytest.New(t, registrytest.Options{User: user, Password: password, Bearer: bearer})
		publish(srv, "test/one", b, "v1")
		cdn := stranger(t, registrytest.Options{})
		publish(cdn, "test/one", b)
		srv.Fail(registrytest.Fault{Path: "/blobs/", RedirectTo: cdn.URL + "/"})
		o := quick()
		o.Credentials = alice(srv.Host())
		o.HostDirs = []string{hostsDir(t, srv.Host(), "server = \"http://"+srv.Host()+"\"\n[header]\nX-Secret = \"1\"\n")}
		if err := pull(t, o, srv.Host()+"/test/one:v1"); err != nil {
			t.Fatal(err)
		}
		if srv.BlobBytes() != 0 || cdn.BlobBytes() != blobBytes(b) {
			t.Errorf("%d and %d bytes of blobs, want all from the other host", srv.BlobBytes(), cdn.BlobBytes())
		}
		for _, r := range srv.Requests() {
			if r.Path != "/token" && r.Header.Get("X-Secret") == "" {
				t.Error("the registry did not get its header")
			}
		}

		// It asks for credentials.
		greedy := stranger(t, registrytest.Options{User: user, Password: password, Bearer: bearer})
		srv.Heal()
		srv.Fail(registrytest.Fault{Path: "/blobs/", RedirectTo: greedy.URL + "/"})
		if err := pull(t, o, srv.Host()+"/test/one:v1"); err == nil || !strings.Contains(err.Error(), "401") {
			t.Errorf("error %v, want 401", err)
		}

		// And back: whoever sends us there does not get our credentials used.
		back := stranger(t, registrytest.Options{})
		back.Fail(registrytest.Fault{Path: "/blobs/", RedirectTo: srv.URL + "/v2/test/one/manifests/v1"})
		srv.Heal()
		srv.Fail(registrytest.Fault{Path: "/blobs/", RedirectTo: back.URL + "/"})
		srv.Reset()
		if err := pull(t, o, srv.Host()+"/test/one:v1"); err == nil {
			t.Error("a blob by way of another host and back: no error")
		}
		last := srv.Requests()[len(srv.Requests())-1]
		if last.Path != "/v2/test/one/manifests/v1" || last.Authorization != "" {
			t.Errorf("the last request is %+v, want one without credentials", last)
		}
	}
}

// hostsDir is a directory with a hosts.toml for one registry.
func hostsDir(t *testing.T, host, text string) string {
	t.Helper()
	base := t.TempDir()
	dir := filepath.Join(base, host)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return base
}

// writeCA writes a test server's certificate as an authority.
func writeCA(t *testing.T, dir, name string, srv *registrytest.Server) {
	t.Helper()
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// A registry that is spoken to by https names a token service by http, or
// redirects to one: nothing goes there.
func TestAuth_Downgrade(t *testing.T) {
	b := build(t, 13)
	plain := registrytest.New(t, registrytest.Options{User: user, Password: password, Bearer: true})
	publish(plain, "test/one", b, "v1")
	for name, tt := range map[string]struct {
		realm, redirect, fails string
	}{
		"realm":             {realm: plain.URL + "/token", fails: "https must not become http"},
		"redirect":          {redirect: plain.URL + "/", fails: "redirected from https to http"},
		"realm is no URL":   {realm: "file:///token", fails: "no URL"},
		"realm with a name": {realm: "https://u:p@localhost/token", fails: "no URL"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := registrytest.New(t, registrytest.Options{TLS: true, User: user, Password: password, Bearer: true, Realm: tt.realm})
			publish(srv, "test/one", b, "v1")
			if tt.redirect != "" {
				srv.Fail(registrytest.Fault{Path: "/blobs/", RedirectTo: tt.redirect})
			}
			o := quick()
			base := hostsDir(t, srv.Host(), `ca = "ca.pem"`)
			writeCA(t, filepath.Join(base, srv.Host()), "ca.pem", srv)
			o.HostDirs = []string{base}
			o.Credentials = alice(srv.Host())
			err := pull(t, o, srv.Host()+"/test/one:v1")
			var security *registry.SecurityError
			if !errors.As(err, &security) || !strings.Contains(err.Error(), tt.fails) {
				t.Errorf("error %v, want %q", err, tt.fails)
			}
			if len(plain.Requests()) > 0 {
				t.Errorf("the plain host was asked: %+v", plain.Requests())
			}
		})
	}
}

// A token service at another host, by https, is what the specification has: it
// gets the password, but where it redirects to does not.
func TestAuth_RealmElsewhere(t *testing.T) {
	b := build(t, 14)
	realm := registrytest.New(t, registrytest.Options{User: user, Password: password, Bearer: true})
	srv := registrytest.New(t, registrytest.Options{User: user, Password: password, Bearer: true, Realm: realm.URL + "/token"})
	publish(srv, "test/one", b, "v1")
	o := quick()
	o.Credentials = alice(srv.Host())
	// Its tokens are not the registry's; it is asked, with the password, once.
	if err := pull(t, o, srv.Host()+"/test/one:v1"); err == nil || !strings.Contains(err.Error(), "does not accept") {
		t.Errorf("%v", err)
	}
	if n := realm.Count("GET", "/token"); n != 1 || !strings.HasPrefix(realm.Requests()[0].Authorization, "Basic") {
		t.Errorf("the token service was asked %d times: %+v", n, realm.Requests())
	}
	for _, r := range srv.Requests() {
		if strings.HasPrefix(r.Authorization, "Basic") {
			t.Error("the registry got the password")
		}
	}
}

// Credentials for one host are not for another, nor for a mirror.
func TestAuth_OtherHost(t *testing.T) {
	b := build(t, 15)
	mirror := stranger(t, registrytest.Options{User: user, Password: password})
	srv := registrytest.New(t, registrytest.Options{User: user, Password: password})
	publish(srv, "test/one", b, "v1")
	o := quick()
	o.Credentials = alice(srv.Host())
	o.HostDirs = []string{hostsDir(t, srv.Host(), fmt.Sprintf("server = %q\n[host.%q]\n", srv.URL, mirror.URL))}
	if err := pull(t, o, srv.Host()+"/test/one:v1"); err != nil {
		t.Error(err)
	}
}

// clientCert makes a certificate and its key.
func clientCert(t *testing.T, dir string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "client"}, NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(crand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	k, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "client.cert"), filepath.Join(dir, "client.key")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "EC PRIVATE KEY", Bytes: k}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

func TestCheck(t *testing.T) {
	for _, bearer := range []bool{false, true} {
		srv := registrytest.New(t, registrytest.Options{User: user, Password: password, Bearer: bearer})
		c := client(t, quick())
		if err := c.Check(t.Context(), srv.Host(), alice("").Credential); err != nil {
			t.Error(err)
		}
		var auth *registry.AuthError
		if err := c.Check(t.Context(), srv.Host(), registry.Credential{Username: user, Password: "no"}); !errors.As(err, &auth) || !auth.Rejected {
			t.Errorf("wrong password: %v", err)
		}
	}
	var warned bytes.Buffer
	o := quick()
	o.Warn = func(s string) { warned.WriteString(s) }
	srv := registrytest.New(t, registrytest.Options{})
	if err := client(t, o).Check(t.Context(), srv.Host(), alice("").Credential); err != nil || !strings.Contains(warned.String(), "lets everybody in") {
		t.Errorf("%v, warning %q", err, warned.String())
	}
}
