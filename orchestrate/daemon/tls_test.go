package daemon

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// kubeconfig is what a client learns from the file.
type kubeconfig struct {
	server string
	ca     *x509.CertPool
	client tls.Certificate
}

func readKubeconfig(t *testing.T, path string) *kubeconfig {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Clusters []struct {
			Cluster struct {
				Server string
				CA     []byte `json:"certificate-authority-data"`
			}
		}
		Users []struct {
			User struct {
				Cert []byte `json:"client-certificate-data"`
				Key  []byte `json:"client-key-data"`
			}
		}
	}
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	k := &kubeconfig{server: c.Clusters[0].Cluster.Server, ca: x509.NewCertPool()}
	if !k.ca.AppendCertsFromPEM(c.Clusters[0].Cluster.CA) {
		t.Fatal("the kubeconfig file has no authority")
	}
	if k.client, err = tls.X509KeyPair(c.Users[0].User.Cert, c.Users[0].User.Key); err != nil {
		t.Fatal(err)
	}
	return k
}

// get asks for something with a configuration.
func (k *kubeconfig) get(t *testing.T, c *tls.Config) (int, error) {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: c, ForceAttemptHTTP2: true, DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: tr}).Get(k.server + "/api/v1/namespaces/default")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// Who has the kubeconfig file is served, and nobody else; a restart changes nothing
// for those who have a copy.
func TestListen(t *testing.T) {
	o := options(t)
	o.Listen = "127.0.0.1:0"
	_, end := begin(t, o)
	k := readKubeconfig(t, o.Kubeconfig())
	good := func(k *kubeconfig) *tls.Config {
		return &tls.Config{RootCAs: k.ca, Certificates: []tls.Certificate{k.client}}
	}
	if code, err := k.get(t, good(k)); code != 200 {
		t.Fatalf("with the kubeconfig file: %d, %v", code, err)
	}
	for path, want := range map[string]os.FileMode{o.Kubeconfig(): 0o600, filepath.Join(o.Data, "tls"): 0o700 | os.ModeDir, filepath.Join(o.Data, "tls", "ca.key"): 0o600} {
		if st, err := os.Stat(path); err != nil || st.Mode() != want {
			t.Errorf("%s: mode %v, %v, want %v", path, st.Mode(), err, want)
		}
	}

	// Others. The authority's own certificate is for signing alone, and a server's is
	// none of a client.
	ca, err := openAuthority(filepath.Join(o.Data, "tls"))
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := openAuthority(filepath.Join(t.TempDir(), "tls"))
	if err != nil {
		t.Fatal(err)
	}
	pair := func(c *x509.Certificate, life time.Duration, ca *authority) tls.Certificate {
		t.Helper()
		cert, key, err := issue(c, life, ca)
		if err != nil {
			t.Fatal(err)
		}
		p, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	admin := func() *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	}
	server := (&serverCertificate{ca: ca})
	ofServer, err := server.get(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]tls.Certificate{
		"no certificate":             {},
		"another authority's":        pair(admin(), time.Hour, stranger),
		"one signed by itself":       pair(admin(), time.Hour, nil),
		"one that has ended":         pair(admin(), -time.Minute, ca),
		"the server's":               *ofServer,
		"one signed by the client's": pair(admin(), time.Hour, &authority{cert: k.client.Leaf, key: k.client.PrivateKey.(*ecdsa.PrivateKey)}),
	} {
		config := &tls.Config{RootCAs: k.ca, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c, nil }}
		if code, err := k.get(t, config); err == nil {
			t.Errorf("with %s: status %d", name, code)
		}
	}
	old := good(k)
	old.MaxVersion = tls.VersionTLS12
	if code, err := k.get(t, old); err == nil {
		t.Errorf("with TLS 1.2: status %d", code)
	}
	plain := &kubeconfig{server: strings.Replace(k.server, "https:", "http:", 1)}
	if code, err := plain.get(t, nil); err == nil && code != 400 {
		t.Errorf("without TLS: status %d", code)
	}
	// Nor does a client trust another server.
	if _, err := k.get(t, &tls.Config{RootCAs: x509.NewCertPool(), Certificates: []tls.Certificate{k.client}}); err == nil {
		t.Error("any server is trusted")
	}

	if err := end(); err != nil {
		t.Fatal(err)
	}
	get, end := begin(t, o)
	now := readKubeconfig(t, o.Kubeconfig())
	k.server = now.server // at another port
	if code, err := k.get(t, good(k)); code != 200 {
		t.Errorf("with a copy of the kubeconfig file: %d, %v", code, err)
	}
	if code, err := k.get(t, good(now)); code != 200 {
		t.Errorf("with the new kubeconfig file: %d, %v", code, err)
	}
	if _, body := get(StatusPath); !strings.Contains(body, `"listen":"`+strings.TrimPrefix(k.server, "https://")+`"`) || !strings.Contains(body, `"kubeconfig":"`+o.Kubeconfig()+`"`) {
		t.Errorf("status: %s", body)
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}

	// Without the directory there is a new authority, and copies are worth nothing.
	if err := os.RemoveAll(filepath.Join(o.Data, "tls")); err != nil {
		t.Fatal(err)
	}
	begin(t, o)
	k.server = readKubeconfig(t, o.Kubeconfig()).server
	if code, err := k.get(t, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{k.client}}); err == nil {
		t.Errorf("with a certificate that was taken back: status %d", code)
	}
}

// What cannot be is an error before anything is served.
func TestListen_Refused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	refused := func(o Options, want string) {
		t.Helper()
		err := Run(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", o.Listen, err, want)
		}
		var h interface{ Hint() string }
		if !errors.As(err, &h) {
			t.Errorf("%v: no hint", err)
		}
		if _, err := os.Lstat(o.Socket); err == nil {
			t.Error("the socket is there")
		}
	}
	o := options(t)
	for at, want := range map[string]string{
		l.Addr().String(): "address already in use", "6443": "missing port in address", "192.0.2.77:0": "cannot assign requested address", "127.0.0.1:99999": "invalid port",
	} {
		o.Listen = at
		refused(o, want)
	}
	// A damaged authority is not replaced in silence: its clients would be out.
	o.Listen = "127.0.0.1:0"
	for _, name := range []string{"ca.crt", "ca.key"} {
		path := filepath.Join(o.Data, "tls", name)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range [][]byte{nil, text[:len(text)/2], []byte("x")} {
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			refused(o, "certificate authority in")
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Killed between the two files of a new one: no client has had it.
	if err := os.Remove(filepath.Join(o.Data, "tls", "ca.crt")); err != nil {
		t.Fatal(err)
	}
	_, end := begin(t, o)
	if err := end(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Chmod(filepath.Join(o.Data, "tls"), 0o777); err != nil {
		t.Fatal(err)
	}
	refused(o, "others may write to it")
}

// The server's certificate is made anew before it ends.
func TestServerCertificate(t *testing.T) {
	ca, err := openAuthority(filepath.Join(t.TempDir(), "tls"))
	if err != nil {
		t.Fatal(err)
	}
	s := &serverCertificate{ca: ca, ips: []net.IP{net.IPv4(192, 0, 2, 1)}}
	one, err := s.get(nil)
	if err != nil {
		t.Fatal(err)
	}
	if two, _ := s.get(nil); two != one {
		t.Error("each connection has a certificate of its own")
	}
	for _, name := range []string{"192.0.2.1", "localhost"} {
		if err := one.Leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	s.pair.Leaf.NotAfter = time.Now().Add(serverRenewal - time.Hour)
	if two, err := s.get(nil); err != nil || two == one {
		t.Errorf("an old certificate stays: %v", err)
	}
	// It was made while the clock was ahead.
	three, _ := s.get(nil)
	s.pair.Leaf.NotBefore = time.Now().Add(time.Hour)
	if four, err := s.get(nil); err != nil || four == three || four.Leaf.NotBefore.After(time.Now()) {
		t.Errorf("a certificate of the future stays: %v", err)
	}
}
