package linux

import "testing"

func TestWholeMap(t *testing.T) {
	for text, want := range map[string]bool{
		"         0          0 4294967295\n": true,
		"0 0 4294967295":                     true,
		"":                                   false,
		"         0       1000          1\n": false,
		"0 1000 1\n1 100000 65536\n":         false,
		"0 0 1\n1 1 4294967294\n":            false,
	} {
		if got := wholeMap(text); got != want {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}
