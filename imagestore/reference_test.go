package imagestore

import (
	"errors"
	"strings"
	"testing"

	"github.com/distribution/reference"
)

func TestNormalize(t *testing.T) {
	hex64 := strings.Repeat("ab", 32)
	tests := []struct{ in, full, short string }{
		{"alpine", "docker.io/library/alpine:latest", "alpine:latest"},
		{"alpine:3.19", "docker.io/library/alpine:3.19", "alpine:3.19"},
		{"minirun/demo", "docker.io/minirun/demo:latest", "minirun/demo:latest"},
		{"docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"},
		{"index.docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"},
		{"localhost/x", "localhost/x:latest", "localhost/x:latest"},
		{"localhost:5000/x/y:1", "localhost:5000/x/y:1", "localhost:5000/x/y:1"},
		{"quay.io/a/b", "quay.io/a/b:latest", "quay.io/a/b:latest"},
		{"HOST/a", "HOST/a:latest", "HOST/a:latest"},
		{"[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"},
		{"docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"},
		{"a__b/c--d.e", "docker.io/a__b/c--d.e:latest", "a__b/c--d.e:latest"},
		{"a@sha256:" + hex64, "docker.io/library/a@sha256:" + hex64, "a@sha256:" + hex64},
		{"a:1@sha256:" + hex64, "docker.io/library/a:1@sha256:" + hex64, "a:1@sha256:" + hex64},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			got, err := Normalize(tt.in)
			if err != nil || got != tt.full {
				t.Fatalf("Normalize(%q) = %q, %v, want %q", tt.in, got, err, tt.full)
			}
			if got := Familiar(tt.full); got != tt.short {
				t.Errorf("Familiar(%q) = %q, want %q", tt.full, got, tt.short)
			}
		})
	}
	for _, bad := range []string{
		"", "A", "a:", "a:-x", "a/", "/a", "a//b", "a@", "a@sha256:12", "a@md5:" + hex64, "a..b", "a___b", "-a", "a-", "a b", "../x",
		"a:" + strings.Repeat("t", 129), strings.Repeat("a", 256), "x/" + strings.Repeat("a", 255), hex64, "host:port/a", "[]/a", "[::1]x/a", "a.:5/b", "é",
	} {
		_, err := Normalize(bad)
		var re *ReferenceError
		if !errors.As(err, &re) {
			t.Errorf("Normalize(%q) = %v, want a ReferenceError", bad, err)
		}
	}
}

// compareWithReference is the differential test: docker's own parser decides.
func compareWithReference(t *testing.T, s string) {
	t.Helper()
	want, wantErr := reference.ParseNormalizedNamed(s)
	got, err := ParseReference(s)
	if err != nil {
		if wantErr == nil {
			// The one difference: digests that could never be looked up.
			if d, ok := want.(reference.Digested); ok && !validDigest(d.Digest().String()) {
				return
			}
			t.Fatalf("ParseReference(%q): %v, reference reads %q", s, err, want)
		}
		return
	}
	if wantErr != nil {
		t.Fatalf("ParseReference(%q) = %q, reference says %v", s, got, wantErr)
	}
	want = reference.TagNameOnly(want)
	if got.String() != want.String() {
		t.Fatalf("ParseReference(%q) = %q, reference has %q", s, got, want)
	}
	if f := reference.FamiliarString(want); got.Familiar() != f {
		t.Fatalf("Familiar(%q) = %q, reference has %q", s, got.Familiar(), f)
	}
	if again, err := ParseReference(got.String()); err != nil || again != got {
		t.Fatalf("ParseReference(%q) = %+v, %v, want the fixed point %+v", got.String(), again, err, got)
	}
}

var referenceSeeds = []string{
	"a", "a:b", "a/b", "a/b:c", "a.b/c", "a:5/c", "A/b", "a/B", "localhost", "localhost/a", "docker.io/a/b", "index.docker.io/a",
	"[::1]/a", "[fe80::1%eth0]/a", "a@sha256:" + "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
	"a@sha512:00000000000000000000000000000000", "a_b", "a__b", "a___b", "a-.b", "a.-b", "a--b", "a:_", "a:.", "a:b:c", "x/y/z:1.2-3_4", "a.b.c:443/d/e@sha256:x",
	"a@sha256:ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef0123456789", "a@", "@", ":", "/", "a/:b", "docker.io//a", "docker.io/", "index.docker.io/", "a-.b/c.d:1/x", "a..b/c", ".a/b", "a./b", "-.b/c",
}

func TestParseReference_MatchesDistribution(t *testing.T) {
	for _, s := range referenceSeeds {
		compareWithReference(t, s)
	}
	// Every string of up to five bytes from the letters that matter.
	const alphabet = "aA0.-_:/@["
	var all func(prefix string, n int)
	all = func(prefix string, n int) {
		compareWithReference(t, prefix)
		if n == 0 {
			return
		}
		for i := range len(alphabet) {
			all(prefix+alphabet[i:i+1], n-1)
		}
	}
	all("", 5)
}

func FuzzNormalize(f *testing.F) {
	for _, s := range referenceSeeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { compareWithReference(t, s) })
}

func TestParseDigest(t *testing.T) {
	hex := strings.Repeat("0f", 32)
	for _, good := range []string{"sha256:" + hex, "sha512:" + hex + hex} {
		if _, err := ParseDigest(good); err != nil {
			t.Errorf("ParseDigest(%q): %v", good, err)
		}
	}
	for _, bad := range []string{
		"", ":", "sha256", "sha256:", "sha256:" + hex[1:], "sha256:" + hex + "0", "sha256:" + strings.ToUpper(hex), "SHA256:" + hex,
		"md5:" + hex[:32], "sha512:" + hex, "sha256:../../../../" + hex[:50], "sha256:" + hex[:63] + "/", "sha256:" + hex[:60] + "\x00\x00\x00\x00",
		"../sha256:" + hex, "sha256::" + hex[1:], "sha384:" + hex + hex[:32],
	} {
		if d, err := ParseDigest(bad); err == nil {
			t.Errorf("ParseDigest(%q) = %q, want an error", bad, d)
		}
	}
}
