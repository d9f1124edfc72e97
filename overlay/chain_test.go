package overlay

import (
	"encoding/base64"
	"encoding/hex"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestParentLink(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		b := make([]byte, 32)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		c := ChainID(prefix + hex.EncodeToString(b))
		link := parentLink(c)
		if want := prefix + base64.RawURLEncoding.EncodeToString(b); link != want {
			t.Fatalf("%s: got %s, want %s", c, link, want)
		}
		if len(link) >= 60 {
			t.Fatalf("%d bytes do not fit into an inode of ext4", len(link))
		}
		if ids, ok := parseParentLink(link); !ok || len(ids) != 1 || ids[0] != c {
			t.Fatalf("%s: got %q, %v", link, ids, ok)
		}
	}
	if ids, ok := parseParentLink(parentLink("")); !ok || len(ids) != 0 {
		t.Errorf("nothing: got %q, %v", ids, ok)
	}
	a := parentLink(ChainID(prefix + strings.Repeat("ab", 32)))
	for _, bad := range []string{"", "x", prefix, a[:len(a)-1], a + "A", "md5:" + a[4:], a[:20] + "/" + a[21:], a[:20] + "=" + a[21:], a[:len(a)-1] + "t", "none\n"} {
		if ids, ok := parseParentLink(bad); ok {
			t.Errorf("%q: taken for %q", bad, ids)
		}
	}
}
