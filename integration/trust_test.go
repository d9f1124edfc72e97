package integration

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/minirun/minirun/imagestore/registrytest"
)

// signatureKey is a key that signs as cosign does.
type signatureKey struct{ crypto.Signer }

func newSignatureKey(t testing.TB, kind string) signatureKey {
	t.Helper()
	if kind == "ed25519" {
		_, k, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return signatureKey{k}
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signatureKey{k}
}

func (k signatureKey) public(t testing.TB) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func (k signatureKey) sign(t testing.TB, payload []byte) string {
	t.Helper()
	opts := crypto.SignerOpts(crypto.Hash(0))
	if _, ok := k.Signer.(*ecdsa.PrivateKey); ok {
		sum := sha256.Sum256(payload)
		payload, opts = sum[:], crypto.SHA256
	}
	raw, err := k.Sign(rand.Reader, payload, opts)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(raw)
}

// signedSource is a registry in which the test puts images and signatures.
type signedSource struct {
	*registrytest.Server
	t testing.TB
}

// image puts an image into a repository and returns the digest of its manifest.
func (s *signedSource) image(repo, content string, tags ...string) string {
	s.t.Helper()
	layer := imageRootfs(s.t, imageEntry{name: "content", data: content})
	blob := imageGzip(s.t, layer)
	config := (&imageBlobs{layers: [][]byte{layer}, config: map[string]any{"Cmd": []string{"cat", "/content"}}}).configBlob(s.t)
	s.AddBlob(repo, config)
	s.AddBlob(repo, blob)
	return s.AddManifest(repo, ociType+"manifest.v1+json", imageJSON(s.t, map[string]any{
		"schemaVersion": 2, "mediaType": ociType + "manifest.v1+json", "config": describe(ociType+"config.v1+json", config),
		"layers": []ociDescriptor{describe(ociType+"layer.v1.tar+gzip", blob)},
	}), tags...)
}

// signature puts a signature of the digest, made for a repository name, into the
// repository: under its tag, or as a referrer.
func (s *signedSource) signature(repo string, k signatureKey, digest, claimed string, referrer bool, change func(payload []byte) []byte) {
	s.t.Helper()
	payload := []byte(fmt.Sprintf(`{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, claimed, digest))
	signature := k.sign(s.t, payload)
	if change != nil {
		payload = change(payload)
	}
	config := []byte("{}")
	s.AddBlob(repo, config)
	s.AddBlob(repo, payload)
	layer := describe("application/vnd.dev.cosign.simplesigning.v1+json", payload)
	layer.Annotations = map[string]string{"dev.cosignproject.cosign/signature": signature}
	m := map[string]any{"schemaVersion": 2, "mediaType": ociType + "manifest.v1+json", "config": describe(ociType+"config.v1+json", config), "layers": []ociDescriptor{layer}}
	if referrer {
		_, b, _ := s.Manifest(repo, digest)
		subject := describe(ociType+"manifest.v1+json", b)
		subject.Digest = digest
		m["subject"], m["artifactType"] = subject, "application/vnd.dev.cosign.artifact.sig.v1+json"
		s.AddManifest(repo, ociType+"manifest.v1+json", imageJSON(s.t, m))
		return
	}
	s.AddManifest(repo, ociType+"manifest.v1+json", imageJSON(s.t, m), strings.Replace(digest, ":", "-", 1)+".sig")
}

// policy writes a policy file and makes it the one that counts.
func (s *signedSource) policy(text string) string {
	s.t.Helper()
	path := os.Getenv("MINIRUN_TRUST_POLICY")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// TestRootTrust goes from the registry to the container: what the policy does not
// accept is neither pulled nor run, however it came.
func TestRootTrust(t *testing.T) {
	h := imageSetup(t)
	for _, v := range []string{"DOCKER_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"} {
		t.Setenv(v, t.TempDir())
	}
	t.Setenv("MINIRUN_TRUST_POLICY", filepath.Join(t.TempDir(), "trust.json"))
	s := &signedSource{registrytest.New(t, registrytest.Options{}), t}
	key, ed, other := newSignatureKey(t, "ecdsa"), newSignatureKey(t, "ed25519"), newSignatureKey(t, "ecdsa")
	host := s.Host()
	rules := func(more string) string {
		keys, _ := json.Marshal(map[string]string{"release": key.public(t), "second": ed.public(t)})
		return fmt.Sprintf(`{"version":1,"keys":%s,"default":"reject","rules":{%q:{"signedBy":["release","second"]},%q:"accept",%q:"reject"%s}}`, keys, host, host+"/open", host+"/closed", more)
	}
	pull := func(name, want string) {
		t.Helper()
		before := readFileOrNone(h.store + "/index.json")
		r := h.do("pull", "--quiet", "--progress", "none", host+"/"+name)
		if want == "" && r.Code != 0 || want != "" && (r.Code != 1 || !strings.Contains(r.Stderr, want)) {
			t.Errorf("pull %s: %+v, want %q", name, r, want)
		}
		if after := readFileOrNone(h.store + "/index.json"); want != "" && after != before {
			t.Errorf("pull %s: index.json was\n%s\nand is\n%s", name, before, after)
		}
	}
	run := func(name, out, want string) {
		t.Helper()
		r := h.do("run", "--rm", "--pull", "never", "--image", name, h.id())
		if want == "" && (r.Code != 0 || r.Stdout != out) || want != "" && (r.Code != 1 || r.Stdout != "" || !strings.Contains(r.Stderr, want)) {
			t.Errorf("run %s: %+v, want %q, %q", name, r, out, want)
		}
	}
	// The file has been asked for and is not there, is broken, or is not only ours.
	s.image("open/one", "open", "v1")
	pull("open/one:v1", "no such file")
	path := s.policy(`{"version":1,"default":"accept"`)
	pull("open/one:v1", "trust policy")
	s.policy(rules(""))
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	pull("open/one:v1", "others can write to it")
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	s.policy(rules(""))
	pull("open/one:v1", "")
	run(host+"/open/one:v1", "open", "")
	if n := s.Count(http.MethodGet, ".sig"); n != 0 {
		t.Errorf("%d requests for signatures that nobody wants", n)
	}
	s.image("closed/one", "closed", "v1")
	n := len(s.Requests())
	pull("closed/one:v1", "the policy rejects it")
	if len(s.Requests()) != n {
		t.Error("the registry was asked for what is rejected")
	}

	d := s.image("app", "unsigned", "v1")
	pull("app:v1", "it has no signature")
	if n := s.Count(http.MethodGet, "/blobs/"); n != 3-1 {
		t.Errorf("%d blobs were fetched, those of open/one alone are 2", n)
	}
	for what, put := range map[string]func(repo, d string){
		"by none of the keys":         func(repo, d string) { s.signature(repo, other, d, host+"/"+repo, false, nil) },
		"it is for " + host + "/else": func(repo, d string) { s.signature(repo, key, d, host+"/else", false, nil) },
		"it is of sha256:" + strings.Repeat("0", 64): func(repo, d string) {
			fake := "sha256:" + strings.Repeat("0", 64)
			s.signature(repo, key, fake, host+"/"+repo, false, nil)
			mt, b, _ := s.Manifest(repo, strings.Replace(fake, ":", "-", 1)+".sig")
			s.AddManifest(repo, mt, b, strings.Replace(d, ":", "-", 1)+".sig") // somebody else's
		},
		"its payload has changed": func(repo, d string) {
			s.signature(repo, key, d, host+"/"+repo, true, func(p []byte) []byte { return append(p, ' ') })
		},
		"no signature": func(repo, d string) {
			s.signature(repo, key, d, host+"/"+repo, false, func(p []byte) []byte { return append(p, make([]byte, 1<<20)...) })
		},
	} {
		repo := fmt.Sprintf("bad%d", len(s.Requests()))
		put(repo, s.image(repo, repo, "v1"))
		pull(repo+":v1", what)
	}
	// The blob of the payload is not what its digest says.
	bad := s.image("flip", "flip", "v1")
	s.signature("flip", key, bad, host+"/flip", false, nil)
	s.Fail(registrytest.Fault{Path: "/flip/blobs/", Flip: 3})
	pull("flip:v1", "content has digest")
	s.Heal()

	// Signed, by either kind of key and found in either way.
	s.signature("app", key, d, host+"/app", false, nil)
	pull("app:v1", "")
	run(host+"/app:v1", "unsigned", "")
	d2 := s.image("referred", "referred", "v1")
	s.signature("referred", ed, d2, host+"/referred:v1", true, nil)
	pull("referred:v1", "")
	run(host+"/referred:v1", "referred", "")
	run(d2, "referred", "")
	// An index that is signed covers what is in it.
	inner := s.image("multi", "multi")
	_, b, _ := s.Manifest("multi", inner)
	entry := map[string]any{"mediaType": ociType + "manifest.v1+json", "digest": inner, "size": len(b), "platform": map[string]string{"os": "linux", "architecture": runtime.GOARCH}}
	index := s.AddManifest("multi", ociType+"index.v1+json", imageJSON(t, map[string]any{"schemaVersion": 2, "mediaType": ociType + "index.v1+json", "manifests": []any{entry}}), "v1")
	pull("multi:v1", "it has no signature")
	s.signature("multi", ed, index, host+"/multi", false, nil)
	pull("multi:v1", "")
	run(host+"/multi:v1", "multi", "")

	// The tag moves to what nobody has signed: the old image stays.
	s.image("app", "evil", "v1")
	pull("app:v1", "it has no signature")
	run(host+"/app:v1", "unsigned", "")
	// A mirror that may say what tags mean lies, and signs its lie.
	evil := &signedSource{registrytest.New(t, registrytest.Options{}), t}
	evil.signature("app", other, evil.image("app", "evil", "v1"), host+"/app", false, nil)
	hostsDir := t.TempDir()
	if err := os.Mkdir(filepath.Join(hostsDir, strings.Replace(host, ":", "_", 1)+"_"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(hostsDir, strings.Replace(host, ":", "_", 1)+"_", "hosts.toml"), fmt.Sprintf("server = %q\n[host.%q]\ncapabilities = [\"pull\", \"resolve\"]\n", s.URL, evil.URL))
	h.refused("by none of the keys", "pull", "--quiet", "--progress", "none", "--hosts-dir", hostsDir, host+"/app:v1")
	run(host+"/app:v1", "unsigned", "")
	// The registry is gone: everything is in the store.
	offline := func() {
		t.Helper()
		for _, name := range []string{"app", "referred", "multi"} {
			if got := h.must("image", "verify", "--policy", path, host+"/"+name+":v1"); !strings.Contains(got, "is signed by ") {
				t.Errorf("verify %s: %q", name, got)
			}
		}
	}
	s.Close()
	offline()
	keyFile := filepath.Join(t.TempDir(), "key.pub")
	writeFile(t, keyFile, key.public(t))
	if got := h.must("image", "verify", "--key", keyFile, host+"/app:v1"); !strings.Contains(got, "is signed by "+keyFile) {
		t.Errorf("verify --key: %q", got)
	}
	h.refused("is not trusted", "image", "verify", "--key", keyFile, host+"/referred:v1")
	h.refused("is not trusted", "image", "verify", "--policy", path, "--key", keyFile, host+"/referred:v1")
	h.refused("not PEM", "image", "verify", "--key", path, host+"/app:v1")
	h.refused("has no signature", "image", "verify", "--key", keyFile, host+"/open/one:v1")
	h.refused("no such file", "image", "verify", "--policy", path+".none", host+"/app:v1")

	// The policy changes: what was found before counts no more.
	s.policy(rules(fmt.Sprintf(`,%q:"reject"`, host+"/app")))
	run(host+"/app:v1", "", "the policy rejects it")
	run(host+"/referred:v1", "referred", "")
	s.policy(strings.Replace(rules(""), `"signedBy":["release","second"]`, `"signedBy":["release"]`, 1))
	run(host+"/referred:v1", "", "by none of the keys")
	run(host+"/app:v1", "unsigned", "")
	s.policy(rules(""))
	run(host+"/referred:v1", "referred", "")
	h.must("image", "gc", "--quiet")
	h.must("image", "fsck", "--quiet")
	offline()
	run(host+"/referred:v1", "referred", "")
	if got := h.must("image", "trust", host+"/app:v1", host+"/open/one:v1"); !strings.Contains(got, "signed by release\n") || !strings.Contains(got, "accepted without") {
		t.Errorf("image trust: %q", got)
	}
	if err := os.Chmod(path, 0o622); err != nil {
		t.Fatal(err)
	}
	run(host+"/app:v1", "", "others can write to it")
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	// What came in by another way is not run either, under whatever name.
	h.load(&imageBlobs{name: "loaded", layers: [][]byte{imageRootfs(t)}, config: map[string]any{"Cmd": []string{"true"}}})
	run("loaded", "", "the policy rejects it")
	h.must("image", "tag", "loaded", host+"/app:v2")
	run(host+"/app:v2", "", "no signature")
	id := strings.TrimSpace(h.must("image", "list", "--quiet", "--no-trunc", "loaded"))
	run(strings.Fields(id)[0], "", "is not trusted")
	// A record that lies about its policy or its name, or is cut off.
	records, _ := filepath.Glob(filepath.Join(h.store, "unpacked", "*.trust"))
	if len(records) < 3 {
		t.Errorf("records %q", records)
	}
	for _, r := range records {
		writeFile(t, r, "minirun trust 1\n"+host+"/app:v2 docker.io/library/loaded:latest\n{}")
	}
	run(host+"/app:v2", "", "no signature")
	run(host+"/app:v1", "unsigned", "")
	// Without a policy everything runs, as ever.
	t.Setenv("MINIRUN_TRUST_POLICY", "")
	run("loaded", "", "")

	// Signatures go where the image goes.
	archive := filepath.Join(t.TempDir(), "saved.tar")
	h.must("image", "save", "--quiet", "--output", archive, host+"/app:v1", host+"/referred:v1", host+"/multi:v1")
	t.Setenv("MINIRUN_TRUST_POLICY", path)
	h.store += "2"
	h.must("image", "load", "--quiet", archive)
	offline()
	run(host+"/app:v1", "unsigned", "")
	h.must("image", "rm", host+"/app:v1", host+"/referred:v1", host+"/multi:v1")
	if left := h.entries("blobs/sha256"); len(left) > 0 {
		t.Errorf("blobs are left: %q", left)
	}
}

func readFileOrNone(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}
