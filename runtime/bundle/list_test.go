package bundle

import (
	"fmt"
	"testing"
)

func TestMask(t *testing.T) {
	for list, want := range map[string]string{
		"": "[]", "0": "[1 0 0 0 0 0 0 0]", "0-3,7": "[143 0 0 0 0 0 0 0]", " 1 , 8-9": "[2 3 0 0 0 0 0 0]",
		"64": "[0 0 0 0 0 0 0 0 1 0 0 0 0 0 0 0]",
	} {
		if got := fmt.Sprint(Mask(list)); got != want {
			t.Errorf("%q: %s, want %s", list, got, want)
		}
	}
	if n := len(Mask("0-99999999")); n != 1024 {
		t.Errorf("a list that was not checked makes %d bytes", n)
	}
}
