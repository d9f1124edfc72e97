package registry_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minirun/minirun/imagestore/registry"
	"github.com/minirun/minirun/imagestore/registrytest"
)

func TestHosts_Certificates(t *testing.T) {
	b := build(t, 20)
	srv := registrytest.New(t, registrytest.Options{TLS: true})
	publish(srv, "test/one", b, "v1")
	name := srv.Host() + "/test/one:v1"
	if err := pull(t, quick(), name); err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
		t.Errorf("without the authority: %v", err)
	}
	for file, text := range map[string]string{
		"ca.crt": "",
		"ca.pem": `ca = "ca.pem"`,
		"c.pem":  `ca = ["c.pem"]`,
		"x.pem":  `skip_verify = true`,
	} {
		base := hostsDir(t, srv.Host(), text)
		dir := filepath.Join(base, srv.Host())
		if text == "" { // docker's way
			if err := os.Remove(filepath.Join(dir, "hosts.toml")); err != nil {
				t.Fatal(err)
			}
		}
		writeCA(t, dir, file, srv)
		o := quick()
		o.HostDirs = []string{filepath.Join(base, "none"), base}
		if err := pull(t, o, name); err != nil {
			t.Errorf("%s with %q: %v", file, text, err)
		}
	}
	// A client certificate goes to the host and not to where it redirects.
	srv = registrytest.New(t, registrytest.Options{TLS: true, ClientCerts: true})
	publish(srv, "test/one", b, "v1")
	name = srv.Host() + "/test/one:v1"
	cdn := registrytest.New(t, registrytest.Options{TLS: true, ClientCerts: true})
	publish(cdn, "test/one", b)
	srv.Fail(registrytest.Fault{Path: "/blobs/", RedirectTo: cdn.URL + "/"})
	for _, text := range []string{"skip_verify = true\nclient = [[\"client.cert\", \"client.key\"]]", "skip_verify = true\nclient = \"both.pem\"", ""} {
		base := hostsDir(t, srv.Host(), text)
		dir := filepath.Join(base, srv.Host())
		cert, key := clientCert(t, dir)
		c, _ := os.ReadFile(cert)
		k, _ := os.ReadFile(key)
		if err := os.WriteFile(filepath.Join(dir, "both.pem"), append(c, k...), 0o600); err != nil {
			t.Fatal(err)
		}
		if text == "" {
			if err := os.Remove(filepath.Join(dir, "hosts.toml")); err != nil {
				t.Fatal(err)
			}
			writeCA(t, dir, "ca.crt", srv)
			writeCA(t, dir, "cdn.crt", cdn)
		}
		srv.Reset()
		cdn.Reset()
		o := quick()
		o.HostDirs = []string{base}
		if err := pull(t, o, name); err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if r := srv.Requests(); !r[0].ClientCert {
			t.Errorf("%q: the registry got no certificate", text)
		}
		for _, r := range cdn.Requests() {
			if r.ClientCert {
				t.Errorf("%q: the other host got the certificate", text)
			}
		}
	}
}

// Mirrors come in the order of the file; what one cannot do the next one does.
func TestHosts_Mirrors(t *testing.T) {
	b := build(t, 21)
	big := b.Layers[1].Digest
	for _, tt := range []struct {
		name   string
		fault  registrytest.Fault // of the first mirror
		first  int64              // bytes of blobs of it
		second int64
		origin int64
	}{
		{name: "works", first: blobBytes(b)},
		{name: "has no blob", fault: registrytest.Fault{Path: string(big), Status: 404}, first: blobBytes(b) - b.Layers[1].Size, second: b.Layers[1].Size},
		{name: "fails", fault: registrytest.Fault{Path: string(big), Status: 502}, first: blobBytes(b) - b.Layers[1].Size, second: b.Layers[1].Size},
		{name: "wants a login", fault: registrytest.Fault{Path: "/", Status: 403, Method: "HEAD"}, first: blobBytes(b)},
		{name: "ends early", fault: registrytest.Fault{Path: string(big), Cut: 1000}, first: blobBytes(b) - b.Layers[1].Size + 1000, second: b.Layers[1].Size - 1000},
		{name: "lies", fault: registrytest.Fault{Path: string(big), Flip: 5}, first: blobBytes(b), second: b.Layers[1].Size},
	} {
		t.Run(tt.name, func(t *testing.T) {
			first := registrytest.New(t, registrytest.Options{Prefix: "/cache/hub"})
			second := registrytest.New(t, registrytest.Options{Prefix: "/deep/v2"})
			origin := registrytest.New(t, registrytest.Options{})
			for _, srv := range []*registrytest.Server{first, second, origin} {
				publish(srv, "test/one", b, "v1")
			}
			if tt.fault.Path != "" {
				first.Fail(tt.fault)
			}
			o := quick()
			o.Parallel = 1
			o.HostDirs = []string{hostsDir(t, "registry.example_5000_", fmt.Sprintf("server = %q\n[host.%q]\ncapabilities = [\"pull\", \"resolve\"]\noverride_path = true\n[host.%q.header]\nx-from = [\"a\", \"b\"]\n[host.%q]\n",
				origin.URL, first.URL+"/cache/hub", first.URL+"/cache/hub", second.URL+"/deep"))}
			if err := pull(t, o, "registry.example:5000/test/one:v1"); err != nil {
				t.Fatal(err)
			}
			if a, b, c := first.BlobBytes(), second.BlobBytes(), origin.BlobBytes(); a != tt.first || b != tt.second || c != tt.origin {
				t.Errorf("%d, %d and %d bytes of blobs, want %d, %d and %d", a, b, c, tt.first, tt.second, tt.origin)
			}
			for _, r := range first.Requests() {
				if !strings.Contains(r.Query, "ns=registry.example%3A5000") || len(r.Header["X-From"]) != 2 {
					t.Errorf("the mirror got %+v", r)
				}
			}
		})
	}
}

// A tag is only asked of a mirror that may resolve; a mirror that is not there
// costs one attempt.
func TestHosts_Capabilities(t *testing.T) {
	b := build(t, 22)
	mirror, origin := registrytest.New(t, registrytest.Options{}), registrytest.New(t, registrytest.Options{})
	publish(mirror, "test/one", b, "v1")
	publish(origin, "test/one", b, "v1")
	o := quick()
	o.HostDirs = []string{hostsDir(t, "_default", fmt.Sprintf("server = %q\n[host.\"http://127.0.0.1:1\"]\n[host.%q]\ncapabilities = [\"pull\"]\n", origin.URL, mirror.URL))}
	if err := pull(t, o, "registry.example/test/one:v1"); err != nil {
		t.Fatal(err)
	}
	if mirror.Count("HEAD", "") != 0 || origin.Count("HEAD", "") != 1 || origin.BlobBytes() != 0 || mirror.BlobBytes() != blobBytes(b) {
		t.Errorf("mirror: %+v, origin: %+v", mirror.Requests(), origin.Requests())
	}
}

// Lists of referrers are asked of a mirror that may give them or resolve, in containerd's words.
func TestHosts_Referrers(t *testing.T) {
	b := build(t, 24)
	for capabilities, want := range map[string]bool{
		`"pull", "resolve", "referrers"`: true,
		`"pull", "referrers"`:            true,
		`"pull", "resolve"`:              true,
		`"pull"`:                         false,
	} {
		mirror, origin := registrytest.New(t, registrytest.Options{}), registrytest.New(t, registrytest.Options{})
		publish(mirror, "test/one", b, "v1")
		publish(origin, "test/one", b, "v1")
		sig, _ := sign(t, mirror, "test/one", b)
		o := quick()
		o.HostDirs = []string{hostsDir(t, "_default", fmt.Sprintf("server = %q\n[host.%q]\ncapabilities = [%s]\n", origin.URL, mirror.URL, capabilities))}
		res, err := client(t, o).Pull(t.Context(), newStore(t), reference(t, "registry.example/test/one:v1"), registry.PullOptions{Referrers: true})
		if err != nil {
			t.Errorf("%s: %v", capabilities, err)
			continue
		}
		if got := len(res.Referrers) == 1 && res.Referrers[0].Digest == sig.Digest; got != want {
			t.Errorf("%s: referrers %+v of the mirror, want some: %v", capabilities, res.Referrers, want)
		}
	}
}

func TestHosts_Errors(t *testing.T) {
	for text, want := range map[string]string{
		"server = ":                "hosts.toml",
		"capabilities = 3":         "hosts.toml",
		`ca = "none.pem"`:          "none.pem: no such file",
		`ca = 3`:                   "want a text or a list of texts",
		`client = "x.pem"`:         `client certificate "`,
		"server = \"ftp://x\"":     `"ftp://x" is no URL of a host`,
		`capabilities = ["fly"]`:   `"fly" is none of pull, resolve, push and referrers`,
		"[host.\"https://u:p@x\"]": "is no URL of a host",
		"[host.\"https://x\"]\ndial_timeout = \"soon\"": "dial_timeout",
	} {
		o := quick()
		o.HostDirs = []string{hostsDir(t, "registry.example", text)}
		if err := pull(t, o, "registry.example/x"); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "registry.example") {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
}

// Who asks for https gets https.
func TestHosts_NoFallback(t *testing.T) {
	b := build(t, 23)
	srv := registrytest.New(t, registrytest.Options{})
	publish(srv, "test/one", b, "v1")
	o := quick()
	o.HostDirs = []string{hostsDir(t, srv.Host(), fmt.Sprintf("server = \"https://%s\"", srv.Host()))}
	err := pull(t, o, srv.Host()+"/test/one:v1")
	if err == nil || !strings.Contains(err.Error(), "speaks plain http and not https") {
		t.Errorf("https was asked for: %v", err)
	}
}
