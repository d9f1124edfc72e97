package cgroups

import (
	"errors"
	"path"
	"strings"
	"testing"
)

func TestCleanPath(t *testing.T) {
	tests := []struct{ path, id, want string }{
		{"", "web", "/minirun-web"},
		{"/", "web", ""},
		{"/docker/abc", "", "/docker/abc"},
		{"docker/abc", "", "/docker/abc"},
		{"//docker/./abc/", "", "/docker/abc"},
		{"/a:b:c", "", "/a:b:c"},
		{"/kubepods/pod:1:2/x", "", "/kubepods/pod:1:2/x"},
		{"system.slice:docker:1234", "", "!systemd"},
		{":minirun:1234", "", "!systemd"},
		{"/a/../b", "", "!.."},
		{"..", "", "!.."},
		{"/a/b..c", "", "/a/b..c"},
		{"/a\x00b", "", "!NUL"},
		{"/a\nb", "", "!NUL"},
		{"/" + strings.Repeat("x", 256), "", "!255"},
		{strings.Repeat("/abcdefg", 500), "", "!3500"},
		{"", "", "!file name"},
		{"", "a/b", "!file name"},
		{"", "..", "/minirun-.."},
		{"./.", "", "!root"},
		{"", strings.Repeat("x", 247), "/minirun-" + strings.Repeat("x", 247)},
		{"", strings.Repeat("x", 248), "/" + strings.Repeat("x", 248)},
	}
	for _, tt := range tests {
		got, err := CleanPath(tt.path, tt.id)
		if why, bad := strings.CutPrefix(tt.want, "!"); bad || tt.want == "" {
			pe, ok := errors.AsType[*PathError](err)
			if !ok || !strings.Contains(err.Error(), why) || pe.Hint() == "" {
				t.Errorf("CleanPath(%q, %q) = %q, %v; want an error with %q", tt.path, tt.id, got, err, why)
			}
		} else if err != nil || got != tt.want {
			t.Errorf("CleanPath(%q, %q) = %q, %v; want %q", tt.path, tt.id, got, err, tt.want)
		}
	}
}

func TestCleanPath_SystemdHint(t *testing.T) {
	_, err := CleanPath("system.slice:docker:1234", "")
	want := "use --systemd-cgroup, or set linux.cgroupsPath to a path such as /minirun/1234"
	if pe, ok := errors.AsType[*PathError](err); !ok || pe.Hint() != want {
		t.Errorf("got %v with hint %q, want hint %q", err, pe.Hint(), want)
	}
}

func TestSub(t *testing.T) {
	g := Open("/sys/fs/cgroup", "/a")
	if s, err := g.Sub("b/c"); err != nil || s.Path != "/a/b/c" || s.Dir() != "/sys/fs/cgroup/a/b/c" {
		t.Errorf("got %+v, %v", s, err)
	}
	for _, bad := range []string{"..", "b/../../c", "", "/", "b\x00"} {
		if s, err := g.Sub(bad); err == nil {
			t.Errorf("Sub(%q) = %q", bad, s.Path)
		}
	}
}

func FuzzCleanPath(f *testing.F) {
	for _, s := range []string{"", "/", "a", "/a/b", "../x", "a:b:c", "/a/./b//", "/..", "\x00"} {
		f.Add(s, "id")
	}
	f.Fuzz(func(t *testing.T, p, id string) {
		got, err := CleanPath(p, id)
		if err != nil {
			return
		}
		if got == "/" || !path.IsAbs(got) || path.Clean(got) != got || strings.ContainsAny(got, "\x00\n") {
			t.Fatalf("CleanPath(%q, %q) = %q", p, id, got)
		}
		if again, err := CleanPath(got, id); err != nil || again != got {
			t.Fatalf("CleanPath(%q) = %q, %v: not stable", got, again, err)
		}
	})
}
