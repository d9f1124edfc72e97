package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minirun/minirun/imagestore/imagetest"
	"github.com/minirun/minirun/imagestore/registrytest"
)

func serve(t *testing.T, o registrytest.Options, repo string, b *imagetest.Built, tags ...string) *registrytest.Server {
	t.Helper()
	srv := registrytest.New(t, o)
	for _, d := range append(b.Layers, b.Config) {
		srv.AddBlob(repo, b.Blobs[d.Digest])
	}
	srv.AddManifest(repo, b.Manifest.MediaType, b.Blobs[b.Manifest.Digest], tags...)
	return srv
}

// lonely keeps the logins and the configuration of whoever runs the test out of it.
func lonely(t *testing.T) (config string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("REGISTRY_AUTH_FILE", "")
	t.Setenv("XDG_RUNTIME_DIR", dir)
	t.Setenv("XDG_CONFIG_HOME", dir)
	return filepath.Join(dir, "config.json")
}

func TestPullCommand(t *testing.T) {
	lonely(t)
	b, _ := image(t, "x", "one")
	srv := serve(t, registrytest.Options{}, "test/one", b, "v1", "latest")
	store := filepath.Join(t.TempDir(), "store")
	name := srv.Host() + "/test/one:v1"
	id := b.Config.Digest.Short()
	if got := ok(t, store, "pull", "--no-unpack", name); got != "pulled "+name+" "+id+"\n" {
		t.Errorf("pull prints %q", got)
	}
	if got := ok(t, store, "image", "pull", "--no-unpack", name); got != "up to date: "+name+" "+id+"\n" {
		t.Errorf("again: %q", got)
	}
	if got := ok(t, store, "pull", "--no-unpack", "-q", name, srv.Host()+"/test/one"); got != strings.Repeat(string(b.Config.Digest)+"\n", 2) {
		t.Errorf("pull -q prints %q", got)
	}
	if got := ok(t, store, "image", "verify", name); got != name+" is complete\n" {
		t.Errorf("verify: %q", got)
	}

	// JSON: one object a line, the last one has the result.
	out := ok(t, filepath.Join(t.TempDir(), "store"), "pull", "--no-unpack", "--progress", "json", name)
	var last event
	var total int64
	for line := range strings.Lines(out) {
		last = event{}
		if err := json.Unmarshal([]byte(line), &last); err != nil || last.Image != name {
			t.Fatalf("line %q: %v", line, err)
		}
		if last.Event == "progress" {
			total = last.Total
		}
	}
	if last.Event != "done" || last.ID != string(b.Config.Digest) || last.Digest != string(b.Manifest.Digest) || total == 0 {
		t.Errorf("JSON: %s", out)
	}

	code, out, _ := minirun(t, store, nil, "pull", "--progress", "json", srv.Host()+"/test/none")
	if err := json.Unmarshal([]byte(out), &last); err != nil || code != 1 || last.Event != "error" || last.Image != srv.Host()+"/test/none:latest" || !strings.Contains(last.Text, "404 not found") {
		t.Errorf("JSON of an error: status %d, %q", code, out)
	}

	for want, args := range map[string][]string{
		`pull "` + srv.Host() + `/test/none:latest": manifest latest at ` + srv.Host() + ": 404 not found": {srv.Host() + "/test/none"},
		"hint: to have it all the same, to push it elsewhere for example: --platform linux/":               {"--platform", "linux/s390x", srv.Host() + "/test/one"},
		`invalid registry host`:                   {"-x.example/y"},
		`platform "linux" is not OS/ARCHITECTURE`: {"--platform", "linux", name},
		"give --platform or --all-platforms":      {"--platform", "linux/amd64", "--all-platforms", name},
		`"loud" is none of auto, plain, json`:     {"--progress", "loud", name},
		"flag --parallel: 0 is not 1 to 64":       {"--parallel", "0", name},
		"connection refused":                      {"127.0.0.1:1/x"},
	} {
		if args[0] == "-x.example/y" {
			args = []string{"--", args[0]}
		}
		if got := fails(t, store, nil, append([]string{"pull"}, args...)...); !strings.Contains(got, want) {
			t.Errorf("pull %q: %q, want %q", args, got, want)
		}
	}
}

func TestLoginCommand(t *testing.T) {
	config := lonely(t)
	b, _ := image(t, "x", "one")
	srv := serve(t, registrytest.Options{User: "alice", Password: "s3cret", Bearer: true}, "test/one", b, "v1")
	name := srv.Host() + "/test/one:v1"
	store := filepath.Join(t.TempDir(), "store")
	if got := fails(t, store, nil, "pull", name); !strings.Contains(got, "wants a login") || !strings.Contains(got, "hint: minirun login "+srv.Host()+"\n") {
		t.Errorf("without a login: %q", got)
	}
	if got := fails(t, store, strings.NewReader("wrong\n"), "login", "-u", "alice", "--password-stdin", srv.Host()); !strings.Contains(got, "does not accept the credentials") || strings.Contains(got, "wrong\n") {
		t.Errorf("wrong password: %q", got)
	}
	if _, err := os.Lstat(config); err == nil {
		t.Error("a wrong password was kept")
	}
	code, out, errOut := minirun(t, store, strings.NewReader("s3cret\n"), "login", "--username", "alice", "--password-stdin", "http://"+srv.Host()+"/v2/")
	if code != 0 || out != "logged in to "+srv.Host()+" as alice\n" || !strings.Contains(errOut, config) {
		t.Errorf("login: %d, %q, %q", code, out, errOut)
	}
	if st, err := os.Stat(config); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	ok(t, store, "pull", "--no-unpack", name)
	if got := ok(t, store, "logout", srv.Host()); got != "logged out from "+srv.Host()+"\n" {
		t.Errorf("logout: %q", got)
	}
	if got := fails(t, store, nil, "pull", "--no-unpack", name); !strings.Contains(got, "wants a login") {
		t.Errorf("after logout: %q", got)
	}
	for want, args := range map[string][]string{
		"there is no login to " + srv.Host():  {"logout", srv.Host()},
		"standard input is no terminal":       {"login", srv.Host()},
		"--password-stdin needs --username":   {"login", "--password-stdin", srv.Host()},
		`registry "a b": want a host`:         {"login", "a b"},
		"name and password must not be empty": {"login", "-u", "alice", "--password-stdin", srv.Host()},
		"a name with a colon cannot be sent":  {"login", "-u", "a:b", "--password-stdin", srv.Host()},
	} {
		in := ""
		if strings.Contains(want, "colon") {
			in = "x"
		}
		if got := fails(t, store, strings.NewReader(in), args...); !strings.Contains(got, want) {
			t.Errorf("%q: %q, want %q", args, got, want)
		}
	}
}

func TestPushCommand(t *testing.T) {
	lonely(t)
	b, path := image(t, "test/one:1", "one")
	store := filepath.Join(t.TempDir(), "store")
	ok(t, store, "image", "load", "--no-unpack", path)
	srv := registrytest.New(t, registrytest.Options{})
	name := srv.Host() + "/test/one:v1"
	img := strings.TrimSpace(ok(t, store, "images", "--format", "json"))
	if got := ok(t, store, "push", "test/one:1", name); !strings.HasPrefix(got, "pushed "+name+" sha256:") {
		t.Errorf("push prints %q, image %s", got, img)
	}
	if _, _, found := srv.Manifest("test/one", "v1"); !found {
		t.Error("the registry has no manifest")
	}
	ok(t, store, "image", "tag", "test/one:1", name)
	if got := ok(t, store, "image", "push", "-q", "--parallel", "1", name); !strings.HasPrefix(got, "sha256:") || strings.Count(got, "\n") != 1 {
		t.Errorf("push -q prints %q", got)
	}
	var last event
	for line := range strings.Lines(ok(t, store, "push", "--progress", "json", name)) {
		if err := json.Unmarshal([]byte(line), &last); err != nil {
			t.Fatal(err)
		}
	}
	if last.Event != "done" || last.Image != name || !strings.HasPrefix(last.Digest, "sha256:") {
		t.Errorf("JSON: %+v", last)
	}
	code, out, _ := minirun(t, store, nil, "push", "--progress", "json", name, "127.0.0.1:1/x")
	if err := json.Unmarshal([]byte(out[strings.LastIndex(strings.TrimSpace(out), "\n")+1:]), &last); err != nil || code != 1 || last.Event != "error" || !strings.Contains(last.Text, "connection refused") {
		t.Errorf("JSON of an error: status %d, %q", code, out)
	}
	// It comes back as the same image.
	ok(t, store, "image", "rm", "--force", b.Config.Digest.Hex())
	if got := ok(t, store, "pull", "--no-unpack", name); got != "pulled "+name+" "+b.Config.Digest.Short()+"\n" {
		t.Errorf("pull: %q", got)
	}
	for want, args := range map[string][]string{
		`image "none" does not exist`:             {"none"},
		"invalid registry host":                   {name, "-x.example/y"},
		`platform "linux" is not OS/ARCHITECTURE`: {"--platform", "linux", name},
		"connection refused":                      {name, "127.0.0.1:1/x"},
	} {
		if got := fails(t, store, nil, append([]string{"push"}, args...)...); !strings.Contains(got, want) {
			t.Errorf("push %q: %q, want %q", args, got, want)
		}
	}
}
