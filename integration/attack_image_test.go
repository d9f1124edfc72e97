package integration

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
)

// atImages is a store of images for one test.
type atImages struct {
	t     testing.TB
	store string
}

func atNewImages(t testing.TB) *atImages {
	t.Helper()
	testenv.Supervisor(t)
	root := testenv.StateRoot(t)
	store := filepath.Join(t.TempDir(), "store")
	t.Cleanup(func() { // before the directories go
		r := testenv.Run(t, "list", "--quiet")
		for _, id := range strings.Fields(r.Stdout) {
			if r := testenv.Run(t, "--root", root, "--store", store, "delete", "--force", id); r.Code != 0 {
				t.Errorf("delete --force %s: %+v", id, r)
			}
		}
	})
	return &atImages{t, store}
}

func (i *atImages) do(args ...string) testenv.Result {
	i.t.Helper()
	return testenv.Run(i.t, append([]string{"--root", testenv.StateRoot(i.t), "--store", i.store}, args...)...)
}

// run runs a command in a new container of the image.
func (i *atImages) run(flags []string, command ...string) testenv.Result {
	i.t.Helper()
	args := append([]string{"run", "--rm", "--image", "attack"}, flags...)
	return i.do(append(append(args, testenv.UniqueID(i.t)), command...)...)
}

// atFile is a file of a layer.
type atFile struct {
	name, data, link string
	mode             int64
	uid, gid         int
	device           bool // a character device that has no driver
}

// load makes an image "attack" with busybox, a passwd file, the files and the
// configuration, and loads it. config is what follows "config": in the image's
// configuration.
func (i *atImages) load(config string, files ...atFile) testenv.Result {
	i.t.Helper()
	busybox := readFile(i.t, testenv.Busybox(i.t))
	all := append([]atFile{
		{name: "bin/", mode: 0o755},
		{name: "bin/busybox", data: busybox, mode: 0o755},
		{name: "etc/", mode: 0o755},
		{name: "etc/passwd", data: "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n", mode: 0o644},
		{name: "etc/group", data: "root:x:0:\nuser:x:1000:\nextra:x:29:user\n", mode: 0o644},
		{name: "proc/", mode: 0o755},
		{name: "sys/", mode: 0o755},
		{name: "dev/", mode: 0o755},
		{name: "tmp/", mode: 0o1777},
	}, files...)
	for _, n := range strings.Fields("sh id env cat pwd echo ls grep stat chmod readlink mkdir touch true") {
		all = append(all, atFile{name: "bin/" + n, link: "busybox"})
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, f := range all {
		h := &tar.Header{Name: f.name, Mode: f.mode, Uid: f.uid, Gid: f.gid, Size: int64(len(f.data)), Typeflag: tar.TypeReg}
		switch {
		case strings.HasSuffix(f.name, "/"):
			h.Typeflag = tar.TypeDir
		case f.link != "":
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.link, 0o777
		case f.device:
			h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, 1<<12-1, 1<<20-1
		}
		if err := w.WriteHeader(h); err != nil {
			i.t.Fatal(err)
		}
		if _, err := w.Write([]byte(f.data)); err != nil {
			i.t.Fatal(err)
		}
	}
	w.Close()
	if config == "" {
		config = `{"Cmd": ["/bin/sh"]}`
	}
	image := fmt.Sprintf(`{"architecture": %q, "os": "linux", "config": %s, "rootfs": {"type": "layers", "diff_ids": ["sha256:%x"]}}`,
		runtime.GOARCH, config, sha256.Sum256(layer.Bytes()))
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{"attack:latest"}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		i.t.Fatal(err)
	}
	var archive bytes.Buffer
	w = tar.NewWriter(&archive)
	for name, data := range map[string][]byte{"manifest.json": manifest, "config.json": []byte(image), "layer.tar": layer.Bytes()} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			i.t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			i.t.Fatal(err)
		}
	}
	w.Close()
	file := filepath.Join(filepath.Dir(i.store), "image.tar")
	if err := os.WriteFile(file, archive.Bytes(), 0o644); err != nil {
		i.t.Fatal(err)
	}
	return i.do("image", "load", "--input", file)
}

// must is load for an image that has to be accepted.
func (i *atImages) must(config string, files ...atFile) {
	i.t.Helper()
	if r := i.load(config, files...); r.Code != 0 {
		i.t.Fatalf("image load: %+v", r)
	}
}

func atConfig(t testing.TB, fields map[string]any) string {
	t.Helper()
	b, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// I22, CVE-2026-57231: a variable without a value is not taken from the host.
func TestRootAttackImageEnv(t *testing.T) {
	setup(t)
	images := atNewImages(t)
	t.Setenv("AWS_SECRET_ACCESS_KEY", "topsecret")
	for _, entry := range []string{"AWS_SECRET_ACCESS_KEY", "*", "AWS_*", "", "=", "=x", "PATH"} {
		if r := images.load(atConfig(t, map[string]any{"Env": []string{entry}, "Cmd": []string{"/bin/env"}})); r.Code != 0 {
			continue // refused at the door
		}
		r := images.run(nil)
		if strings.Contains(r.Stdout, "topsecret") || r.Code == 0 && !strings.HasPrefix(entry, "=") {
			t.Errorf("Env %q: %+v", entry, r)
		}
	}
	images.must(atConfig(t, map[string]any{"Env": []string{"A=$AWS_SECRET_ACCESS_KEY", "B=${AWS_SECRET_ACCESS_KEY}"}, "Cmd": []string{"/bin/env"}}))
	if r := images.run(nil); r.Code != 0 || strings.Contains(r.Stdout, "topsecret") || !strings.Contains(r.Stdout, "A=$AWS_SECRET_ACCESS_KEY\n") {
		t.Errorf("references: %+v", r)
	}
	// The control: the user may ask for it.
	if r := images.run([]string{"-e", "AWS_SECRET_ACCESS_KEY"}); !strings.Contains(r.Stdout, "AWS_SECRET_ACCESS_KEY=topsecret\n") {
		t.Errorf("-e NAME: %+v", r)
	}
}

// R2, R28: an image's USER and -u, with a passwd file that lies.
func TestRootAttackImageUser(t *testing.T) {
	setup(t)
	images := atNewImages(t)
	passwd := atFile{name: "etc/passwd", mode: 0o644, data: "1000:x:0:0::/:/bin/sh\n4294967296:x:0:0::/:/bin/sh\n-1:x:0:0::/:/bin/sh\n0x10:x:0:0::/:/bin/sh\n" +
		"big:x:4294967296:0::/:/bin/sh\nneg:x:-1:0::/:/bin/sh\nempty:x:::/:/bin/sh\n:x:0:0::/:/bin/sh\ngood:x:7:8::/:/bin/sh\n+5:x:0:0::/:/bin/sh\n2147483648:x:0:0::/:\n"}
	junk := []string{"4294967296", "-1", "0x10", "big", "neg", "empty", ":", "nobody", "2147483648", "+5", "1:-1", "1:x", " ", "0 ", "good:4294967296"}
	for _, u := range junk {
		if r := images.load(atConfig(t, map[string]any{"User": u, "Cmd": []string{"/bin/id", "-u"}}), passwd); r.Code != 0 {
			continue
		}
		if r := images.run(nil); r.Code == 0 {
			t.Errorf("User %q of the image runs as %q", u, r.Stdout)
		}
	}
	images.must(atConfig(t, map[string]any{"Cmd": []string{"/bin/id", "-u"}}), passwd)
	for _, u := range junk {
		if r := images.run([]string{"-u", u}); r.Code == 0 {
			t.Errorf("-u %q runs as %q", u, r.Stdout)
		}
	}
	for u, want := range map[string]string{"1000": "1000\n", "good": "7\n", "good:29": "7\n", "1": "1\n", "": "0\n"} {
		if r := images.run([]string{"-u", u}); r.Code != 0 || r.Stdout != want {
			t.Errorf("-u %q: %+v, want %q", u, r, want)
		}
	}
}

// I12, CVE-2023-25153: the files that users are looked up in are the image's.
func TestRootAttackImagePasswd(t *testing.T) {
	setup(t)
	images := atNewImages(t)
	secret := filepath.Join(t.TempDir(), "passwd")
	writeFile(t, secret, "evil:x:4242:4242::/:/bin/sh\n")
	huge := strings.Repeat("#\n", 1<<20) + "evil:x:4242:4242::/:/bin/sh\n"
	for name, files := range map[string][]atFile{
		"link to the host":          {{name: "etc/passwd", link: secret}},
		"relative link to the host": {{name: "etc/passwd", link: atRelative(secret)}},
		"directory link":            {{name: "etc/passwd", link: "/proc/1/root" + secret}},
		"magic link":                {{name: "etc/passwd", link: "/proc/self/root" + secret}},
		"huge":                      {{name: "etc/passwd", data: huge, mode: 0o644}},
	} {
		images.must(`{"Cmd": ["/bin/id", "-u"], "User": "evil"}`, files...)
		if r := images.run(nil); r.Code == 0 {
			t.Errorf("%s: %+v", name, r)
		}
	}
	images.must(`{"Cmd": ["/bin/id", "-u"], "User": "evil"}`, atFile{name: "etc/passwd", data: "evil:x:4242:4242::/:/bin/sh\n", mode: 0o644})
	if r := images.run(nil); r.Stdout != "4242\n" {
		t.Errorf("control: %+v", r)
	}
}

// I21, I11, CVE-2026-55686, CVE-2022-23648: working directories and volumes of
// an image that lead out of it.
func TestRootAttackImagePaths(t *testing.T) {
	setup(t)
	canary := atNewCanary(t)
	images := atNewImages(t)
	links := []atFile{
		{name: "abs", link: canary.dir},
		{name: "rel", link: atRelative(canary.dir)},
		{name: "magic", link: "/proc/self/root" + canary.dir},
		{name: "fd", link: "/proc/self/fd/7"},
		{name: "cwd", link: "/proc/1/cwd"},
		{name: "up", link: "../../../../../../../.."},
	}
	for _, path := range []string{
		"/abs", "/abs/new/dir", "/rel", "/rel/new", "/magic", "/magic/new", "/fd", "/fd/..", "/cwd", "/up" + canary.dir, "/..", "/../../..", "../../.." + canary.dir,
		"relative", "", "/tmp/a/../../../../.." + canary.dir, "/proc/self/fd/8", "/" + strings.Repeat("d/", 500), "/nul\x00l",
	} {
		config := map[string]any{"WorkingDir": path, "Cmd": []string{"/bin/sh", "-c", "pwd; touch here; mkdir x; ls"}}
		if r := images.load(atConfig(t, config), links...); r.Code == 0 {
			if r := images.run(nil); strings.Contains(r.Stdout, "secret") || strings.Contains(r.Stderr, "panic") {
				t.Errorf("WorkingDir %q: %+v", path, r)
			}
		}
		canary.check()
		config = map[string]any{"Volumes": map[string]any{path: map[string]any{}}, "Cmd": []string{"/bin/sh", "-c", "ls " + strings.ReplaceAll(path, "\x00", "")}}
		if r := images.load(atConfig(t, config), links...); r.Code == 0 {
			if r := images.run(nil); strings.Contains(r.Stdout, "secret") || strings.Contains(r.Stderr, "panic") {
				t.Errorf("Volumes %q: %+v", path, r)
			}
		}
		canary.check()
	}
	// The control: a directory that is there, and one that is not.
	images.must(`{"WorkingDir": "/tmp/new/dir", "Cmd": ["/bin/pwd"]}`)
	if r := images.run(nil); r.Stdout != "/tmp/new/dir\n" {
		t.Errorf("%+v", r)
	}
	if r := images.run([]string{"-v", canary.dir + ":/tmp/seen"}, "ls", "/tmp/seen"); !strings.Contains(r.Stdout, "secret") {
		t.Errorf("a volume shows nothing, so nothing above could have: %+v", r)
	}
}

// R27, CVE-2022-36109: permissions denied to a group hold for its members, also
// after a program with the setgid bit has changed the group.
func TestRootAttackNegativeGroup(t *testing.T) {
	setup(t)
	images := atNewImages(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	images.must("",
		atFile{name: "secret", data: "x", mode: 0o604, gid: 1000},
		atFile{name: "bin/attack-read", data: readFile(t, exe), mode: 0o2755, gid: 50})
	for user, want := range map[string]int{"1001:1001": 0, "1000:1000": 1, "user": 1, "1002:1000": 1} {
		if r := images.run([]string{"-u", user}, "/bin/attack-read", "/secret"); r.Code != want || !strings.HasPrefix(r.Stdout, "gid 50\n") {
			t.Errorf("-u %s: %+v, want status %d with gid 50", user, r, want)
		}
	}
}

// R32: the default profile of images denies AF_ALG sockets, in every ABI.
func TestRootAttackAFAlg(t *testing.T) {
	setup(t)
	images := atNewImages(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	images.must("", atFile{name: "bin/attack-afalg", data: readFile(t, exe), mode: 0o755})
	free := images.run([]string{"--security-opt", "seccomp=unconfined"}, "/bin/attack-afalg")
	r := images.run(nil, "/bin/attack-afalg")
	for _, l := range atLines(r.Stdout) {
		if strings.Contains(l, "alg") && !strings.HasSuffix(l, unix.EPERM.Error()) && !strings.HasSuffix(l, unix.EAFNOSUPPORT.Error()) && !strings.HasSuffix(l, unix.ENOSYS.Error()) {
			t.Errorf("default profile: %s", l)
		}
		if strings.Contains(l, "64 unix") && !strings.HasSuffix(l, "<nil>") {
			t.Errorf("default profile: %s", l)
		}
	}
	if n := len(atLines(r.Stdout)); n != 6 {
		t.Errorf("%+v", r)
	}
	// The control: without the profile there are such sockets, or at least the call is not forbidden.
	for _, l := range atLines(free.Stdout) {
		if strings.HasSuffix(l, unix.EPERM.Error()) {
			t.Errorf("without a profile: %s", l)
		}
	}
	t.Logf("without a profile:\n%swith the default profile:\n%s", free.Stdout, r.Stdout)
}

// R31: what the store and the state root hold is for root alone.
func TestRootAttackStorePrivate(t *testing.T) {
	setup(t)
	images := atNewImages(t)
	images.must("", atFile{name: "bin/suid", data: "x", mode: 0o4755})
	id := testenv.UniqueID(t)
	if r := images.do("run", "-d", "--image", "attack", id, "/bin/sh", "-c", "read x"); r.Code != 0 {
		t.Fatalf("%+v", r)
	}
	for _, root := range []string{images.store, testenv.StateRoot(t)} {
		open := 0
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil //nolint:nilerr // not to be seen
			}
			info, err := d.Info()
			if err != nil {
				return nil //nolint:nilerr // gone
			}
			if d.IsDir() && info.Mode().Perm()&0o077 == 0 {
				return fs.SkipDir // nobody else gets below
			}
			open++
			if !d.IsDir() && info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
				t.Errorf("%s: %v can be reached by everybody", path, info.Mode())
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if root == testenv.StateRoot(t) && open > 0 {
			t.Errorf("%s is open to others", root)
		}
	}
}
