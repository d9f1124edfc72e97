package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseRanges(t *testing.T) {
	for text, want := range map[string]string{
		"": "[]", "10.96.0.0/16": "[10.96.0.0/16]", "10.96.0.0/16, fd00::/112": "[10.96.0.0/16 fd00::/112]",
		"10.96.0.1/16": "it begins at 10.96.0.0/16", "10.96.0.0": "want an address and a length", "10.96.0.0/16,": "want an address and a length",
	} {
		list, err := ParseRanges(text)
		got := fmt.Sprint(list)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// The range is remembered, what is said counts more, and what is remembered wrongly
// is said so.
func TestChooseRanges(t *testing.T) {
	dir := t.TempDir()
	choose := func(flag string) (string, error) {
		t.Helper()
		list, err := ParseRanges(flag)
		if err != nil {
			t.Fatal(err)
		}
		d := &Daemon{o: Options{Data: dir, Bare: true, ServiceRanges: list}}
		err = d.chooseRanges()
		return fmt.Sprint(d.o.ServiceRanges), err
	}
	for _, tt := range [][2]string{{"", "[10.96.0.0/16]"}, {"10.97.0.0/16,fd00::/112", "[10.97.0.0/16 fd00::/112]"}, {"", "[10.97.0.0/16 fd00::/112]"}, {"10.98.0.0/24", "[10.98.0.0/24]"}, {"", "[10.98.0.0/24]"}} {
		if got, err := choose(tt[0]); err != nil || got != tt[1] {
			t.Errorf("%q: %s, %v, want %s", tt[0], got, err, tt[1])
		}
	}
	if _, err := choose("10.98.0.0/30"); err == nil || !strings.Contains(err.Error(), "fewer than 8 addresses") {
		t.Errorf("a small range: %v", err)
	}
	if got, err := choose(""); err != nil || got != "[10.98.0.0/24]" {
		t.Errorf("after one that was refused: %s, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(dir, rangesFile), []byte("nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := choose(""); err == nil || !strings.Contains(err.Error(), rangesFile) {
		t.Errorf("a damaged file: %v", err)
	}
}

// What is for one alone is so until its end.
func TestClaim(t *testing.T) {
	d := &Daemon{o: Options{Images: t.TempDir(), ServiceTable: fmt.Sprintf("test_%d", os.Getpid())}}
	release, err := d.claim()
	if err != nil {
		t.Fatal(err)
	}
	var shared *SharedError
	if _, err := d.claim(); !errors.As(err, &shared) || !strings.Contains(err.Error(), "network") {
		t.Errorf("the same network: %v", err)
	}
	other := &Daemon{o: Options{Images: t.TempDir(), ServiceTable: d.o.ServiceTable}}
	if _, err := other.claim(); !errors.As(err, &shared) || !strings.Contains(err.Error(), "table") {
		t.Errorf("the same table: %v", err)
	}
	release()
	if release, err = other.claim(); err != nil {
		t.Errorf("after the end: %v", err)
	} else {
		release()
	}
}
