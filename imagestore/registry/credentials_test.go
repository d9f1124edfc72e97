package registry_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/minirun/minirun/imagestore/registry"
)

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFiles_Get(t *testing.T) {
	dir := t.TempDir()
	docker := write(t, filepath.Join(dir, "config.json"), `{"auths": {
		"https://index.docker.io/v1/": {"auth": "aHViOnB3"},
		"http://old.example/v2/": {"username": "old", "password": "pw:x"},
		"quay.example": {"auth": "cXVheTpwdw=="},
		"quay.example/team": {"auth": "dGVhbTpwdw=="},
		"quay.example/team/app": {"identitytoken": "idt"},
		"raw.example": {"registrytoken": "bearer"},
		"empty.example": {},
		"bad.example": {"auth": "!"}
	}, "HttpHeaders": {}}`)
	podman := write(t, filepath.Join(dir, "auth.json"), `{"auths": {"empty.example": {"auth": "cG9kOnB3"}, "quay.example": {"auth": "cG9kOnB3"}}}`)
	f := &registry.Files{Paths: []string{filepath.Join(dir, "none"), docker, podman}}
	for _, tt := range []struct {
		host, repo string
		want       registry.Credential
	}{
		{"docker.io", "library/alpine", registry.Credential{Username: "hub", Password: "pw"}},
		{"old.example", "x", registry.Credential{Username: "old", Password: "pw:x"}},
		{"quay.example", "other/app", registry.Credential{Username: "quay", Password: "pw"}},
		{"quay.example", "teammate/app", registry.Credential{Username: "quay", Password: "pw"}},
		{"quay.example", "team/x", registry.Credential{Username: "team", Password: "pw"}},
		{"quay.example", "team/app", registry.Credential{IdentityToken: "idt"}},
		{"raw.example", "x", registry.Credential{RegistryToken: "bearer"}},
		{"empty.example", "x", registry.Credential{Username: "pod", Password: "pw"}},
		{"quay.example:5000", "x", registry.Credential{}},
		{"unknown.example", "x", registry.Credential{}},
	} {
		got, err := f.Get(t.Context(), tt.host, tt.repo)
		if err != nil || got != tt.want {
			t.Errorf("%s/%s: %+v, %v, want %+v", tt.host, tt.repo, got, err, tt.want)
		}
	}
	if _, err := f.Get(t.Context(), "bad.example", "x"); err == nil || !strings.Contains(err.Error(), `auths["bad.example"].auth`) {
		t.Errorf("bad auth: %v", err)
	}
	for name, text := range map[string]string{"no JSON": "{", "a list": "[]", "wrong type": `{"auths": 3}`} {
		bad := &registry.Files{Paths: []string{write(t, filepath.Join(dir, "bad.json"), text)}}
		if _, err := bad.Get(t.Context(), "x.example", "x"); err == nil || !strings.Contains(err.Error(), "bad.json") {
			t.Errorf("%s: %v", name, err)
		}
	}
	empty := &registry.Files{Paths: []string{write(t, filepath.Join(dir, "empty.json"), "\n")}}
	if got, err := empty.Get(t.Context(), "x.example", "x"); err != nil || got != (registry.Credential{}) {
		t.Errorf("an empty file: %+v, %v", got, err)
	}
}

func TestFiles_Put(t *testing.T) {
	dir := t.TempDir()
	real := write(t, filepath.Join(dir, "real/config.json"), `{"psFormat": "table", "auths": {"https://r.example/v1/": {"auth": "b2xkOnB3"}, "other.example": {"auth": "eDp5", "email": "kept"}}, "detachKeys": {"deep": [1, 2.50]}}`)
	link := filepath.Join(dir, "config.json")
	if err := os.Symlink("real/config.json", link); err != nil {
		t.Fatal(err)
	}
	f := &registry.Files{Paths: []string{link}}
	where, err := f.Put(t.Context(), "r.example", registry.Credential{Username: "u", Password: "p:w"})
	if err != nil || where != link {
		t.Fatal(where, err)
	}
	if st, err := os.Lstat(link); err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is %v, %v", st, err)
	}
	if st, err := os.Stat(real); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	b, err := os.ReadFile(real)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"psFormat": "table"`, `"email": "kept"`, `2.50`, `"auth": "dTpwOnc="`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%s is not in %s", want, b)
		}
	}
	if strings.Contains(string(b), "https://r.example") {
		t.Errorf("the other spelling is still in %s", b)
	}
	if got, err := f.Get(t.Context(), "r.example", "x"); err != nil || got.Password != "p:w" {
		t.Errorf("%+v, %v", got, err)
	}
	if removed, err := f.Remove(t.Context(), "r.example"); !removed || err != nil {
		t.Errorf("remove: %v, %v", removed, err)
	}
	if removed, err := f.Remove(t.Context(), "r.example"); removed || err != nil {
		t.Errorf("remove again: %v, %v", removed, err)
	}
	if names, _ := os.ReadDir(filepath.Join(dir, "real")); len(names) != 1 {
		t.Errorf("left: %v", names)
	}

	// From nothing, by many at once: none is lost.
	many := &registry.Files{Paths: []string{filepath.Join(dir, "new/sub/config.json")}}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			if _, err := many.Put(t.Context(), fmt.Sprintf("r%d.example", i), registry.Credential{Username: "u", Password: "p"}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var c struct{ Auths map[string]any }
	b, _ = os.ReadFile(many.Paths[0])
	if err := json.Unmarshal(b, &c); err != nil || len(c.Auths) != 16 {
		t.Errorf("%d logins, %v", len(c.Auths), err)
	}
	// The hub is known by its old name.
	if _, err := many.Put(t.Context(), "docker.io", registry.Credential{Username: "u", Password: "p"}); err != nil {
		t.Error(err)
	}
	if b, _ := os.ReadFile(many.Paths[0]); !strings.Contains(string(b), `"https://index.docker.io/v1/"`) {
		t.Errorf("%s", b)
	}
	// A damaged file is not thrown away.
	bad := write(t, filepath.Join(dir, "bad.json"), "{ oops")
	if _, err := (&registry.Files{Paths: []string{bad}}).Put(t.Context(), "r.example", registry.Credential{Username: "u", Password: "p"}); err == nil {
		t.Error("a damaged file was replaced")
	}
	if b, _ := os.ReadFile(bad); string(b) != "{ oops" {
		t.Errorf("the damaged file is %q now", b)
	}
}

// helper writes a credential helper that keeps one secret in a file.
func helper(t *testing.T, name, script string) (calls string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte("#!/bin/sh\ncd '"+dir+"'\necho \"$1\" >> calls\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return filepath.Join(dir, "calls")
}

func TestFiles_Helper(t *testing.T) {
	calls := helper(t, "test", `case $1 in
get) read -r host; [ "$host" = r.example ] || [ "$host" = https://index.docker.io/v1/ ] || { echo credentials not found in native keychain; exit 1; }
     [ -e secret ] || { echo credentials not found in native keychain; exit 1; }
     cat secret ;;
store) cat > secret ;;
erase) rm secret ;;
esac
`)
	f := &registry.Files{Paths: []string{write(t, filepath.Join(t.TempDir(), "config.json"), `{"credHelpers": {"r.example": "test"}}`)}}
	if got, err := f.Get(t.Context(), "r.example", "x"); err != nil || got != (registry.Credential{}) {
		t.Errorf("nothing there: %+v, %v", got, err)
	}
	cred := registry.Credential{Username: "u", Password: "top secret"}
	where, err := f.Put(t.Context(), "r.example", cred)
	if err != nil || where != "docker-credential-test" {
		t.Fatal(where, err)
	}
	if b, _ := os.ReadFile(f.Paths[0]); strings.Contains(string(b), "dTp0") || !strings.Contains(string(b), `"r.example": {}`) {
		t.Errorf("the file is %s", b)
	}
	if got, err := f.Get(t.Context(), "r.example", "x"); err != nil || got != cred {
		t.Errorf("%+v, %v", got, err)
	}
	if removed, err := f.Remove(t.Context(), "r.example"); !removed || err != nil {
		t.Errorf("remove: %v, %v", removed, err)
	}
	if got, err := f.Get(t.Context(), "r.example", "x"); err != nil || got != (registry.Credential{}) {
		t.Errorf("after remove: %+v, %v", got, err)
	}
	if b, _ := os.ReadFile(calls); strings.Join(strings.Fields(string(b)), " ") != "get store get get erase get" {
		t.Errorf("calls: %s", b)
	}
	if _, err := f.Put(t.Context(), "r.example", registry.Credential{IdentityToken: "idt"}); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Get(t.Context(), "r.example", "x"); err != nil || got.IdentityToken != "idt" || got.Username != "" {
		t.Errorf("identity token: %+v, %v", got, err)
	}
}

func TestFiles_HelperFails(t *testing.T) {
	helper(t, "broken", "echo no keyring for you; exit 1\n")
	helper(t, "nonsense", "echo '{\"Username\": \"u\", \"Secret\": \"leaked'\n")
	for name, want := range map[string]string{
		"broken":   "docker-credential-broken get: exit status 1: no keyring for you",
		"nonsense": "its answer is no JSON",
		"missing":  "docker-credential-missing: exec",
		"../evil":  "that is no name",
	} {
		f := &registry.Files{Paths: []string{write(t, filepath.Join(t.TempDir(), "config.json"), fmt.Sprintf(`{"credsStore": %q}`, name))}}
		_, err := f.Get(t.Context(), "r.example", "x")
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "leaked") {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

func TestParseHost(t *testing.T) {
	for in, want := range map[string]string{
		"": "docker.io", "index.docker.io": "docker.io", "https://index.docker.io/v1/": "docker.io", "registry.example": "registry.example",
		"http://localhost:5000/": "localhost:5000", "[::1]:5000": "[::1]:5000", "127.0.0.1:1": "127.0.0.1:1",
	} {
		if got, err := registry.ParseHost(in); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"a b", "alpine", "x.example:port", "../x", "user@x.example"} {
		if got, err := registry.ParseHost(in); err == nil {
			t.Errorf("%q is taken as %q", in, got)
		}
	}
}
