package daemon

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// How long certificates are valid. Nobody renews those that clients have: who starts
// minirund anew gets a new one in the kubeconfig file. The server makes its own anew
// when a part of its time is left.
const (
	authorityLife = 20 * 365 * 24 * time.Hour
	clientLife    = 5 * 365 * 24 * time.Hour
	serverLife    = 365 * 24 * time.Hour
	serverRenewal = 90 * 24 * time.Hour
)

// Kubeconfig is the path of the file that kubectl reads, in the directory of --data.
func (o *Options) Kubeconfig() string { return filepath.Join(o.Data, "kubeconfig") }

// secureListener opens the address where the API is served over TLS 1.3 to who has
// a certificate of our authority, and writes such a one to the kubeconfig file. There
// are no other users: the certificate is as good as root's shell.
func (d *Daemon) secureListener() (net.Listener, *tls.Config, error) {
	ca, err := openAuthority(filepath.Join(d.o.Data, "tls"))
	if err != nil {
		return nil, nil, err
	}
	l, err := net.Listen("tcp", d.o.Listen)
	if err != nil {
		return nil, nil, &listenError{d.o.Listen, err}
	}
	at := l.Addr().(*net.TCPAddr)
	if err := d.writeKubeconfig(ca, at); err != nil {
		return nil, nil, errors.Join(err, l.Close())
	}
	s := &serverCertificate{ca: ca, ips: reachable(at.IP)}
	if _, err := s.get(nil); err != nil {
		return nil, nil, errors.Join(err, l.Close())
	}
	clients := x509.NewCertPool()
	clients.AddCert(ca.cert)
	return l, &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients, GetCertificate: s.get,
	}, nil
}

type listenError struct {
	address string
	err     error
}

func (e *listenError) Error() string {
	var op *net.OpError
	if errors.As(e.err, &op) {
		return fmt.Sprintf("listen on %q: %v", e.address, op.Err)
	}
	return fmt.Sprintf("listen on %q: %v", e.address, e.err)
}
func (e *listenError) Unwrap() error { return e.err }

// Hint says how to go on.
func (e *listenError) Hint() string {
	return "--listen wants an address of this host and a port that is free, such as 127.0.0.1:6443"
}

// reachable are the addresses that a listener can be reached at.
func reachable(ip net.IP) []net.IP {
	ips := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	if !ip.IsUnspecified() {
		return append(ips, ip)
	}
	addrs, _ := net.InterfaceAddrs() // without them there is loopback
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			ips = append(ips, n.IP)
		}
	}
	return ips
}

// authority signs the certificates of the server and its clients.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte // the certificate
}

// openAuthority reads the authority in a directory, or makes one.
func openAuthority(dir string) (*authority, error) {
	if err := privateDir(dir); err != nil {
		return nil, err
	}
	cert, key := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	text, err := os.ReadFile(cert)
	if errors.Is(err, fs.ErrNotExist) { // it is written last
		return newAuthority(cert, key)
	}
	if err != nil {
		return nil, err
	}
	secret, err := os.ReadFile(key)
	if err != nil {
		return nil, &authorityError{dir, err}
	}
	pair, err := tls.X509KeyPair(text, secret)
	if err != nil {
		return nil, &authorityError{dir, err}
	}
	private, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	switch {
	case !ok || !pair.Leaf.IsCA:
		return nil, &authorityError{dir, errors.New("it is none of ours")}
	case time.Now().After(pair.Leaf.NotAfter):
		return nil, &authorityError{dir, fmt.Errorf("it ended on %s", pair.Leaf.NotAfter.Format(time.DateOnly))}
	}
	return &authority{pair.Leaf, private, text}, nil
}

type authorityError struct {
	dir string
	err error
}

func (e *authorityError) Error() string {
	return fmt.Sprintf("certificate authority in %q: %v", e.dir, e.err)
}
func (e *authorityError) Unwrap() error { return e.err }

// Hint says how to go on.
func (e *authorityError) Hint() string {
	return fmt.Sprintf("remove %s and a new one is made; clients need the new kubeconfig file then", e.dir)
}

func newAuthority(certPath, keyPath string) (*authority, error) {
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "minirund"}, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	cert, key, err := issue(template, authorityLife, nil)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(replaceFile(keyPath, key), replaceFile(certPath, cert)); err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	return &authority{pair.Leaf, pair.PrivateKey.(*ecdsa.PrivateKey), cert}, nil
}

// issue makes a key and a certificate for it, both PEM, signed by ca or by itself.
func issue(c *x509.Certificate, life time.Duration, ca *authority) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if c.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return nil, nil, err
	}
	now := time.Now()
	c.NotBefore, c.NotAfter = now.Add(-time.Hour), now.Add(life)
	parent, signer := c, private
	if ca != nil {
		parent, signer = ca.cert, ca.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &private.PublicKey, signer)
	if err != nil {
		return nil, nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), nil
}

// serverCertificate is that of the listener, made anew before it ends.
type serverCertificate struct {
	ca  *authority
	ips []net.IP

	mu   sync.Mutex
	pair *tls.Certificate
}

func (s *serverCertificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// One that begins in the future was made before the clock was set back.
	if s.pair != nil && time.Until(s.pair.Leaf.NotAfter) > serverRenewal && time.Until(s.pair.Leaf.NotBefore) < 0 {
		return s.pair, nil
	}
	names := []string{"localhost"}
	if h, err := os.Hostname(); err == nil && h != "" {
		names = append(names, h)
	}
	cert, key, err := issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "minirund"}, DNSNames: names, IPAddresses: s.ips,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, serverLife, s.ca)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err == nil {
		s.pair = &pair
	}
	return s.pair, err
}

// writeKubeconfig writes the file that kubectl reads, in the YAML that is JSON, with a new certificate. Older
// ones stay valid.
func (d *Daemon) writeKubeconfig(ca *authority, at *net.TCPAddr) error {
	cert, key, err := issue(&x509.Certificate{
		Subject:  pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, clientLife, ca)
	if err != nil {
		return err
	}
	server := *at
	if server.IP.IsUnspecified() {
		server.IP = net.IPv4(127, 0, 0, 1)
	}
	const name = "minirund"
	named := func(key string, value any) []any { return []any{map[string]any{"name": name, key: value}} }
	text, err := json.MarshalIndent(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": name,
		"clusters": named("cluster", map[string]any{"server": "https://" + server.String(), "certificate-authority-data": ca.pem}),
		"users":    named("user", map[string]any{"client-certificate-data": cert, "client-key-data": key}),
		"contexts": named("context", map[string]any{"cluster": name, "user": name}),
	}, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(d.o.Kubeconfig(), text)
}

// replaceFile writes a file that only we read, whole or not at all, durably.
func replaceFile(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}
