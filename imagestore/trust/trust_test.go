package trust_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/imagestore/reference"
	"github.com/minirun/minirun/imagestore/trust"
	"github.com/minirun/minirun/imagestore/unpacked"
)

// signer is a private key that signs as cosign does.
type signer struct {
	key crypto.Signer
}

func (s signer) public(t testing.TB) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(s.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func (s signer) sign(t testing.TB, payload string) trust.Signature {
	t.Helper()
	message, opts := []byte(payload), crypto.SignerOpts(crypto.Hash(0))
	if _, ok := s.key.(*ecdsa.PrivateKey); ok {
		sum := sha256.Sum256(message)
		message, opts = sum[:], crypto.SHA256
	}
	raw, err := s.key.Sign(rand.Reader, message, opts)
	if err != nil {
		t.Fatal(err)
	}
	return trust.Signature{Payload: []byte(payload), Base64: base64.StdEncoding.EncodeToString(raw)}
}

func newECDSA(t testing.TB, curve elliptic.Curve) signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{k}
}

func newEd25519(t testing.TB) signer {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{k}
}

func payload(ref, digest string) string {
	return fmt.Sprintf(`{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, ref, digest)
}

var (
	digestA = "sha256:" + strings.Repeat("a", 64)
	digestB = "sha256:" + strings.Repeat("b", 64)
	digestC = "sha256:" + strings.Repeat("c", 64)
)

const (
	repo = "registry.example/team/app"
	name = repo + ":v1"
)

func policyOf(t testing.TB, text string) *trust.Policy {
	t.Helper()
	p, err := trust.Parse([]byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return p
}

func quoted(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestCheck(t *testing.T) {
	for keyName, good := range map[string]signer{"ecdsa": newECDSA(t, elliptic.P256()), "ed25519": newEd25519(t)} {
		other := newEd25519(t)
		p := policyOf(t, fmt.Sprintf(`{"version":1,"keys":{"release":%s},"default":"reject","rules":{"registry.example":{"signedBy":["release"]},"mirror.example":{"signedBy":["release"],"as":"registry.example/team/app"}}}`, quoted(t, good.public(t))))
		digests := []reference.Digest{reference.Digest(digestA), reference.Digest(digestB)}
		ok := payload(repo, digestA)
		tampered := good.sign(t, ok)
		tampered.Payload = bytes.Replace(tampered.Payload, []byte("sha256:a"), []byte("sha256:b"), 1)
		flipped := good.sign(t, ok)
		flipped.Base64 = flipped.Base64[:20] + string(flipped.Base64[20]^1) + flipped.Base64[21:]
		edit := func(from, to string) trust.Signature {
			changed := strings.Replace(ok, from, to, 1)
			if changed == ok {
				t.Fatalf("nothing to replace: %q", from)
			}
			return good.sign(t, changed)
		}
		for _, tt := range []struct {
			what string
			name string
			sig  trust.Signature
			want string // in the error
		}{
			{"good", name, good.sign(t, ok), ""},
			{"good, of the manifest that is used", name, good.sign(t, payload(repo, digestB)), ""},
			{"good, with the tag", name, good.sign(t, payload(name, digestA)), ""},
			{"good, with the digest", name, good.sign(t, payload(repo+"@"+digestA, digestA)), ""},
			{"good, of a name with a digest", repo + "@" + digestA, good.sign(t, payload(name, digestA)), ""},
			{"good, with annotations", name, edit(`"optional":null`, `"optional":{"creator":"x","timestamp":1,"more":[{"a":null}]}`), ""},
			{"good, without optional", name, edit(`,"optional":null`, ``), ""},
			{"good, of a mirror", "mirror.example/cache/app:v1", good.sign(t, ok), ""},
			{"of another digest", name, good.sign(t, payload(repo, digestC)), "it is of " + digestC},
			{"of no digest", name, good.sign(t, payload(repo, "")), "docker-manifest-digest"},
			{"of a digest that is none", name, good.sign(t, payload(repo, "x")), "it is of x"},
			{"for another repository", name, good.sign(t, payload("registry.example/team/other", digestA)), "it is for registry.example/team/other"},
			{"for another registry", name, good.sign(t, payload("evil.example/team/app", digestA)), "it is for evil.example/team/app"},
			{"for a longer name", name, good.sign(t, payload(repo+"/x", digestA)), "it is for"},
			{"for another tag", name, good.sign(t, payload(repo+":v2", digestA)), "it is for " + repo + ":v2"},
			{"for another digest", name, good.sign(t, payload(repo+"@"+digestC, digestA)), "it is for"},
			{"for nothing", name, good.sign(t, payload("", digestA)), "docker-reference"},
			{"for no name", name, good.sign(t, payload("..//", digestA)), "which is no name"},
			{"of a mirror for the mirror", "mirror.example/cache/app:v1", good.sign(t, payload("mirror.example/cache/app", digestA)), "it is for mirror.example"},
			{"wrong key", name, other.sign(t, ok), "by none of the keys"},
			{"payload changed", name, tampered, "its payload has changed"},
			{"signature changed", name, flipped, "good"},
			{"no base64", name, trust.Signature{Payload: []byte(ok), Base64: "!"}, "not base64"},
			{"empty", name, trust.Signature{}, "by none of the keys"},
			{"another type", name, edit("cosign container image signature", "atomic container signature"), "critical.type"},
			{"digest twice", name, edit(`"docker-manifest-digest":`, `"docker-manifest-digest":"`+digestC+`","docker-manifest-digest":`), "twice"},
			{"critical twice", name, edit(`{"critical":`, `{"critical":{},"critical":`), "twice"},
			{"digest in another case", name, edit(`docker-manifest-digest`, `Docker-Manifest-Digest`), "not known"},
			{"unknown member", name, edit(`"type":`, `"more":1,"type":`), `"more" is not known`},
			{"digest is a list", name, edit(`"docker-manifest-digest":"`+digestA+`"`, `"docker-manifest-digest":["`+digestA+`"]`), "want a string"},
			{"garbage behind", name, good.sign(t, ok+`{}`), "follows"},
			{"garbage", name, good.sign(t, "\x00\x01garbage"), "payload"},
			{"not UTF-8", name, edit(`"optional":null`, "\"optional\":\"\xff\""), "UTF-8"},
			{"no payload", name, good.sign(t, ""), "payload"},
			{"null", name, good.sign(t, "null"), "want an object"},
			{"nested", name, good.sign(t, `{"optional":`+strings.Repeat("[", 5000)+strings.Repeat("]", 5000)+`}`), "deep"},
			{"huge", name, good.sign(t, ok+strings.Repeat(" ", trust.MaxPayload)), "too large"},
			{"no name", "", good.sign(t, ok), "rejects"},
			{"no name of ours", "\n", good.sign(t, ok), "rejects"},
		} {
			rule := p.Rule(tt.name)
			by, err := rule.Check(tt.name, digests, []trust.Signature{other.sign(t, "x"), tt.sig})
			if tt.want == "" {
				if err != nil || by == nil || by.Name != "release" {
					t.Errorf("%s, %s: %v, %v", keyName, tt.what, by, err)
				}
				continue
			}
			var te *trust.Error
			if !errors.As(err, &te) || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s, %s: %v, want %q", keyName, tt.what, err, tt.want)
			}
			// A good one among bad ones is enough.
			if tt.name == name {
				if _, err := rule.Check(tt.name, digests, []trust.Signature{tt.sig, good.sign(t, ok)}); err != nil {
					t.Errorf("%s, %s and a good one: %v", keyName, tt.what, err)
				}
			}
		}
		rule := p.Rule(name)
		if _, err := rule.Check(name, digests, nil); err == nil || !strings.Contains(err.Error(), "no signature") {
			t.Errorf("unsigned: %v", err)
		}
		many := make([]trust.Signature, trust.MaxCount, trust.MaxCount+1)
		if _, err := rule.Check(name, digests, append(many, good.sign(t, ok))); err == nil {
			t.Error("a signature behind the limit counts")
		}
	}
}

func TestRule(t *testing.T) {
	key := quoted(t, newEd25519(t).public(t))
	p := policyOf(t, `{"version":1,"keys":{"k":`+key+`},"default":"reject","rules":{
		"registry.example":"accept", "registry.example/team":{"signedBy":["k"]}, "registry.example/team/app":"accept", "registry.example/team/app:bad":"reject",
		"registry.example/team/app@`+digestA+`":"reject", "localhost:5000":"accept", "docker.io/library/alpine":"accept"}}`)
	for name, want := range map[string]string{
		"registry.example/x": "registry.example", "registry.example/teams/app": "registry.example", "registry.example/team/x/y:z": "registry.example/team",
		"registry.example/team/app": "registry.example/team/app", "registry.example/team/app:good": "registry.example/team/app", "registry.example/team/app:bad": "registry.example/team/app:bad",
		"registry.example/team/app2": "registry.example/team", "registry.example/team/app@" + digestA: "registry.example/team/app@" + digestA, "registry.example/team/app@" + digestB: "registry.example/team/app",
		"registry.example:443/x": "default", "evil.registry.example/x": "default", "registry.example.evil/x": "default", "localhost:5000/a": "localhost:5000", "localhost/a": "default",
		"alpine": "docker.io/library/alpine", "docker.io/alpine:3": "docker.io/library/alpine", "alpine2": "default", "": "default", "BAD NAME": "default",
	} {
		if got := p.Rule(name).Scope; got != want {
			t.Errorf("%q: rule %q, want %q", name, got, want)
		}
	}
	var zero trust.Rule
	if _, err := zero.Check(name, nil, nil); err == nil {
		t.Error("a rule that says nothing accepts")
	}
}

func TestParse_Refuses(t *testing.T) {
	good := quoted(t, newEd25519(t).public(t))
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, _ := x509.MarshalPKCS8PrivateKey(newEd25519(t).key)
	private := quoted(t, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	for text, want := range map[string]string{
		``: "EOF", `null`: "want an object", `[]`: "want an object", `{}`: "version", `{"version":2,"default":"accept"}`: "version: want 1", `{"version":1}`: "default is missing",
		`{"version":1,"default":"maybe"}`: `"maybe"`, `{"version":1,"default":"accept","default":"reject"}`: "twice", `{"version":1,"default":"accept"}x`: "follows",
		`{"version":1,"default":"accept","Rules":{}}`: `"Rules" is not known`, `{"version":1,"default":null}`: "want an object", `{"version":1,"default":{}}`: "signedBy",
		`{"version":1,"default":{"signedBy":[]}}`: "signedBy", `{"version":1,"default":{"signedBy":["x"]}}`: `there is no key "x"`, `{"version":1,"default":{"signedBy":[1]}}`: "no key",
		`{"version":1,"default":{"signedby":["x"]}}`: "not known", `{"version":1,"default":"accept","rules":[]}`: "rules: want", `{"version":1,"default":"accept","rules":{"alpine":"reject"}}`: "docker.io/library/alpine",
		`{"version":1,"default":"accept","rules":{"docker.io/alpine":"reject"}}`: "docker.io/library/alpine", `{"version":1,"default":"accept","rules":{"":"reject"}}`: "rules", `{"version":1,"default":"accept","rules":{"registry.example/":"reject"}}`: "rules",
		`{"version":1,"default":"accept","rules":{"registry.example/*":"reject"}}`: "rules", `{"version":1,"default":"accept","rules":{"index.docker.io/library/x":"reject"}}`: "docker.io/library/x",
		`{"version":1,"default":"accept","keys":{"k":"x"}}`: "not PEM", `{"version":1,"default":"accept","keys":{"k":` + private + `}}`: `"PRIVATE KEY"`, `{"version":1,"default":"accept","keys":{"k":3}}`: "want a string",
		`{"version":1,"default":"accept","keys":{"k":` + quoted(t, signer{r}.public(t)) + `}}`:                             "want ECDSA P-256 or ed25519",
		`{"version":1,"default":"accept","keys":{"k":` + quoted(t, newECDSA(t, elliptic.P384()).public(t)) + `}}`:          "P-384",
		`{"version":1,"default":"accept","keys":{"k":` + quoted(t, newEd25519(t).public(t)+newEd25519(t).public(t)) + `}}`: "several",
		`{"version":1,"keys":{"k":` + good + `},"default":{"signedBy":["k"],"as":"app"}}`:                                  "as: want a repository", "\xff": "UTF-8", strings.Repeat("[", 100): "deep",
	} {
		if _, err := trust.Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.200s: %v, want %q", text, err, want)
		}
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trust.json")
	if _, err := trust.Load(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if err := os.WriteFile(path, []byte(`{"version":1,"default":"reject"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if p, err := trust.Load(path); err != nil || p.Rule(name).Action != trust.Reject {
		t.Errorf("%v, %v", p, err)
	}
	for _, mode := range []fs.FileMode{0o666, 0o664, 0o646, 0o602} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		var pe *unpacked.PolicyError
		if _, err := trust.Load(path); !errors.As(err, &pe) || !strings.Contains(err.Error(), "others can write to it") {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	if _, err := trust.Load(filepath.Dir(path)); err == nil {
		t.Error("a directory is a policy")
	}
	fifo := path + ".fifo"
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := trust.Load(fifo); err == nil || !strings.Contains(err.Error(), "regular file") {
		t.Errorf("a pipe: %v", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Repeat([]byte(" "), 1<<20+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := trust.Load(path); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("huge: %v", err)
	}
	if err := os.WriteFile(path, []byte(`{"version":1,`), 0o600); err != nil {
		t.Fatal(err)
	}
	var pe *trust.PolicyError
	if _, err := trust.Load(path); !errors.As(err, &pe) {
		t.Errorf("cut off: %v", err)
	}
}
