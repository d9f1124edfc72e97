package main

import (
	"go/format"
	"os"
	"path/filepath"
	"testing"
)

// TestUpToDate fails when the specification's types or the generator changed
// and `go generate ./runtime/bundle` was not run.
func TestUpToDate(t *testing.T) {
	for name, source := range files() {
		want, err := format.Source([]byte(source))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join("..", "..", name))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("%s is out of date: run go generate ./runtime/bundle", name)
		}
	}
}
