package trust_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minirun/minirun/imagestore/reference"
	"github.com/minirun/minirun/imagestore/trust"
)

// Signatures by the library that cosign signs with are good, for that image alone.
func TestCheck_Sigstore(t *testing.T) {
	const digest = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join("testdata/sigstore", name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	rule := func(kind string) *trust.Rule {
		key, err := trust.ParseKey(kind, read(kind+".pub"))
		if err != nil {
			t.Fatal(err)
		}
		return &trust.Rule{Scope: "registry.example", Action: trust.Signed, Keys: []*trust.Key{key}}
	}
	for _, kind := range []string{"ecdsa", "ed25519"} {
		s := trust.Signature{Payload: read(kind + ".payload"), Base64: string(read(kind + ".sig"))}
		check := func(r *trust.Rule, name, digest string, s trust.Signature) error {
			_, err := r.Check(name, []reference.Digest{reference.Digest(digest)}, []trust.Signature{s})
			return err
		}
		if err := check(rule(kind), "registry.example/prod/app:v1", digest, s); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		if err := check(rule(kind), "registry.example/prod/other:v1", digest, s); err == nil {
			t.Errorf("%s: good for another repository", kind)
		}
		if err := check(rule(kind), "registry.example/prod/app:v1", "sha256:"+strings.Repeat("0", 64), s); err == nil {
			t.Errorf("%s: good for another digest", kind)
		}
		if err := check(rule(map[string]string{"ecdsa": "ed25519", "ed25519": "ecdsa"}[kind]), "registry.example/prod/app:v1", digest, s); err == nil {
			t.Errorf("%s: good by another key", kind)
		}
		s.Payload = []byte(strings.Replace(string(s.Payload), `"7"`, `"8"`, 1))
		if err := check(rule(kind), "registry.example/prod/app:v1", digest, s); err == nil {
			t.Errorf("%s: good with another annotation", kind)
		}
	}
}
