package apply

import (
	"testing"

	"github.com/minirun/minirun/overlay"
)

func TestChain(t *testing.T) {
	a, b, c := textDigest("a"), textDigest("b"), textDigest("c")
	if got := Chain("", a); got != overlay.ChainID(a) {
		t.Errorf("bottom: got %q, want %q", got, a)
	}
	ab := Chain(Chain("", a), b)
	if want := overlay.ChainID(textDigest(a + " " + b)); ab != want {
		t.Errorf("two: got %q, want %q", ab, want)
	}
	if got, want := Chain(ab, c), overlay.ChainID(textDigest(string(ab)+" "+c)); got != want {
		t.Errorf("three: got %q, want %q", got, want)
	}
}

func textDigest(s string) string { return digest([]byte(s)) }
