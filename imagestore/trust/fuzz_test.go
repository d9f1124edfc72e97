package trust_test

import (
	"crypto/ed25519"
	"encoding/json"
	"strings"
	"testing"

	"github.com/minirun/minirun/imagestore/reference"
	"github.com/minirun/minirun/imagestore/trust"
)

// fuzzKey signs everything: what a fuzzer makes must get past the signature.
var fuzzKey = signer{ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))}

// FuzzParse reads policies. One that is taken says the same when it is read once more,
// and no member of it was overlooked: what encoding/json makes of the file agrees.
func FuzzParse(f *testing.F) {
	keys, _ := json.Marshal(map[string]string{"release": fuzzKey.public(f)})
	for _, seed := range []string{
		`{"version":1,"default":"reject"}`,
		`{"version":1,"default":"accept","rules":{"docker.io/library/alpine":"accept","localhost:5000":"reject"}}`,
		`{"version":1,"keys":` + string(keys) + `,"default":{"signedBy":["release"]},"rules":{"a.example/b":{"signedBy":["release"],"as":"c.example/d"},"a.example/b:v1":"reject","a.example/b@sha256:` + strings.Repeat("a", 64) + `":"accept"}}`,
		`{"version":1,"default":"reject","default":"accept"}`,
		`{"version":1,"Default":"accept","default":"reject"}`,
		`{"version":2,"default":"accept"}`, `{"version":1,"default":"accept","rules":{"alpine":"accept"}}`,
		`{"version":1,"keys":{"a":"-----BEGIN PUBLIC KEY-----\n"},"default":"reject"}`, "", "[]", "{}", `{"version":1,"default":"accept"} {}`, strings.Repeat(`{"rules":`, 50),
	} {
		f.Add([]byte(seed), "docker.io/library/alpine:latest")
	}
	f.Fuzz(func(t *testing.T, b []byte, name string) {
		p, err := trust.Parse(b)
		if err != nil {
			return
		}
		var plain struct {
			Version int
			Keys    map[string]string
			Default any
			Rules   map[string]any
		}
		if err := json.Unmarshal(b, &plain); err != nil || plain.Version != 1 {
			t.Fatalf("taken, and encoding/json says %v, version %d: %q", err, plain.Version, b)
		}
		rule := p.Rule(name)
		said := plain.Default
		if rule.Scope != "default" {
			said = plain.Rules[rule.Scope]
			if !strings.HasPrefix(name, rule.Scope) && reference.Clip(name) != "" {
				if ref, err := reference.Parse(name); err != nil || !strings.HasPrefix(ref.String(), rule.Scope) && !strings.HasPrefix(ref.Repository(), rule.Scope) && !strings.HasPrefix(ref.Repository()+"@"+string(ref.Digest), rule.Scope) {
					t.Fatalf("the rule %q counts for %q", rule.Scope, name)
				}
			}
		}
		_, object := said.(map[string]any)
		if (rule.Action == trust.Accept) != (said == "accept") || (rule.Action == trust.Reject) != (said == "reject") || (rule.Action == trust.Signed) != object || object && len(rule.Keys) == 0 {
			t.Fatalf("%q says %v of %q, the rule is %+v", b, said, name, rule)
		}
		if by, err := rule.Check(name, nil, nil); err == nil && (by != nil || rule.Action != trust.Accept) {
			t.Fatalf("%q is trusted without a signature by %+v", name, rule)
		}
	})
}

// FuzzPayload reads payloads that a trusted key has signed. One that is taken names the
// digest and the repository, whoever reads it.
func FuzzPayload(f *testing.F) {
	const name = "registry.example/app:v1"
	digest := "sha256:" + strings.Repeat("ab", 32)
	good := `{"critical":{"identity":{"docker-reference":"registry.example/app"},"image":{"docker-manifest-digest":"` + digest + `"},"type":"cosign container image signature"},"optional":null}`
	for _, seed := range []string{
		good,
		strings.Replace(good, "/app", "/app:v1", 1), strings.Replace(good, "/app", "/app@"+digest, 1), strings.Replace(good, "null", `{"creator":"x","timestamp":1}`, 1),
		strings.Replace(good, `"critical"`, `"Critical"`, 1), strings.Replace(good, `"optional":null`, `"optional":null,"critical":{}`, 1),
		strings.Replace(good, `"image":{`, `"image":{"Docker-Manifest-Digest":"sha256:0",`, 1), strings.Replace(good, "cosign container", "atomic container", 1),
		good + "x", good[:len(good)-2], "", "null", strings.Repeat("[", 100), "\xff",
	} {
		f.Add([]byte(seed))
	}
	rule := func(t *testing.T) trust.Rule {
		key, err := trust.ParseKey("release", []byte(fuzzKey.public(t)))
		if err != nil {
			t.Fatal(err)
		}
		return trust.Rule{Scope: "registry.example", Action: trust.Signed, Keys: []*trust.Key{key}}
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		r := rule(t)
		signature := fuzzKey.sign(t, string(payload))
		if _, err := r.Check(name, []reference.Digest{reference.Digest(digest)}, []trust.Signature{signature}); err != nil {
			return
		}
		var plain struct {
			Critical struct {
				Identity struct {
					Ref string `json:"docker-reference"`
				}
				Image struct {
					Digest string `json:"docker-manifest-digest"`
				}
				Type string
			}
		}
		if err := json.Unmarshal(payload, &plain); err != nil {
			t.Fatalf("taken, and encoding/json says %v: %q", err, payload)
		}
		c := plain.Critical
		if c.Image.Digest != digest || c.Type != "cosign container image signature" || !strings.HasPrefix(c.Identity.Ref, "registry.example/app") {
			t.Fatalf("taken, though it says %+v", c)
		}
		// The same signature is none for another image, name or payload.
		other := "sha256:" + strings.Repeat("cd", 32)
		if by, err := r.Check(name, []reference.Digest{reference.Digest(other)}, []trust.Signature{signature}); err == nil {
			t.Fatalf("taken for another digest, by %v", by)
		}
		if by, err := r.Check("registry.example/other:v1", []reference.Digest{reference.Digest(digest)}, []trust.Signature{signature}); err == nil {
			t.Fatalf("taken for another repository, by %v", by)
		}
		signature.Payload = append(signature.Payload, ' ')
		if by, err := r.Check(name, []reference.Digest{reference.Digest(digest)}, []trust.Signature{signature}); err == nil {
			t.Fatalf("taken with another payload, by %v", by)
		}
	})
}
