package integration

import (
	"archive/tar"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

// userImages is an ordinary user with a store of images.
func userImages(t *testing.T) *userBox { return withImages(t, newUserBox(t, nil)) }

func withImages(t *testing.T, u *userBox) *userBox {
	t.Helper()
	sibling := filepath.Join(filepath.Dir(u.bin()), "minirund")
	if err := os.WriteFile(sibling, []byte(readFile(t, testenv.Supervisor(t))), 0o755); err != nil {
		t.Fatal(err)
	}
	u.env = []string{"HOME=" + u.dir, "XDG_DATA_HOME=", "MINIRUN_STORE="}
	return u
}

// manyOwners is an archive of the tests' root, with files of three users.
func manyOwners(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	root := os.DirFS(testenv.Rootfs(t))
	err = fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		link, _ := os.Readlink(filepath.Join(testenv.Rootfs(t), name))
		h, err := tar.FileInfoHeader(info, link)
		if err != nil {
			return err
		}
		h.Name, h.Uid, h.Gid, h.Uname, h.Gname = name, 0, 0, "", ""
		if err := w.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
			return err
		}
		b, err := fs.ReadFile(root, name)
		if err == nil {
			_, err = w.Write(b)
		}
		return err
	})
	for _, h := range []tar.Header{{Name: "one", Uid: 1, Gid: 2, Mode: 0o640}, {Name: "thousand", Uid: 1000, Gid: 1001, Mode: 0o4755}, {Name: "own", Typeflag: tar.TypeDir, Uid: 1000, Mode: 0o700}} {
		err = errors.Join(err, w.WriteHeader(&h))
	}
	if err := errors.Join(err, w.Close(), os.Chmod(path, 0o644)); err != nil {
		t.Fatal(err)
	}
}

// Ordinary users have images and containers of them, in a store of their own, with
// the ids that /etc/subuid grants.
func TestRootRootlessImage(t *testing.T) {
	setup(t)
	u := userImages(t)
	manyOwners(t, u.bundle+"/many.tar")
	// What is in PATH is nobody's promise.
	evil := u.dir + "/newuidmap"
	if err := os.WriteFile(evil, []byte("#!/bin/sh\ntouch "+u.dir+"/executed\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	u.env = append(u.env, "PATH="+u.dir+":"+os.Getenv("PATH"))
	u.must("image", "import", "--quiet", "--change", `CMD ["sh"]`, u.bundle+"/many.tar", "many")
	store := u.dir + "/.local/share/minirun"
	if !strings.HasPrefix(u.must("images", "--quiet"), "sha256:") && u.must("images") == "" {
		t.Error("the image is not listed")
	}

	a := testenv.UniqueID(t)
	const look = "stat -c '%n %u %g %a' /one /thousand /own; touch /new; stat -c '%u %g' /new; tr -s ' ' </proc/self/uid_map; exit 7"
	r := u.do("run", "--rm", "--image", "many", a, "sh", "-c", look)
	if want := "/one 1 2 640\n/thousand 1000 1001 4755\n/own 1000 0 700\n0 0\n 0 0 1\n 1 1 65536\n"; r.Code != 7 || r.Stdout != want || r.Stderr != "" {
		t.Errorf("got %+v, want status 7 and %q", r, want)
	}
	if _, err := os.Stat(u.dir + "/executed"); err == nil {
		t.Error("a newuidmap in PATH was executed")
	}
	// On the host the files are of those ids; no id is the host's root.
	var layers []string
	_ = filepath.WalkDir(store, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			t.Error(err)
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			t.Error(err)
		}
		uid := st.Uid
		if uid != userID && (uid < userFirst || uid >= userFirst+65536) {
			t.Errorf("%s belongs to %d", path, uid)
		}
		if d.Name() == "thousand" {
			layers = append(layers, path)
			if uid != userFirst+999 {
				t.Errorf("%s belongs to %d", path, uid)
			}
		}
		return nil
	})
	if len(layers) != 1 {
		t.Errorf("extracted: %v", layers)
	}

	// What runs as another user than its owner is reached from outside, and ends.
	u.must("run", "--detach", "--user", "1000", "--image", "many", "-v", "data:/own", a, "sh", "-c", "echo begun; touch /own/mine; while :; do sleep 1000; done")
	t.Cleanup(func() { u.do("delete", "--force", a) })
	eventually(t, "the volume has the file", func() bool { return u.do("exec", a, "test", "-e", "/own/mine").Code == 0 })
	if got := u.must("exec", "-u", "0", a, "sh", "-c", "id -u; cat /proc/1/comm; stat -c %u /own/mine"); got != "0\nsh\n1000\n" {
		t.Errorf("exec: %q", got)
	}
	if got := u.must("logs", a); got != "begun\n" {
		t.Errorf("logs: %q", got)
	}
	if got := u.must("list"); !strings.Contains(got, a) || !strings.Contains(got, "running") || strings.Contains(got, "root") {
		t.Errorf("list: %q", got)
	}
	u.must("delete", "--force", a)
	if got := u.must("list", "--quiet"); got != "" {
		t.Errorf("left: %q", got)
	}
	if got := u.must("run", "--rm", "--user", "1000", "--image", "many", "-v", "data:/own", a, "ls", "/own"); got != "mine\n" {
		t.Errorf("the volume has %q", got)
	}
	if r := u.do("image", "mount", "many"); r.Code != 1 || !strings.Contains(r.Stderr, "an ordinary user's mounts end with the command") {
		t.Errorf("image mount: %+v", r)
	}
	u.must("volume", "rm", "data")
	u.must("image", "rm", "many")
	u.must("image", "gc", "--quiet")
	if r := u.do("image", "fsck"); r.Code != 0 || r.Stdout != "the store is in order\n" {
		t.Errorf("fsck: %+v", r)
	}
	for _, dir := range []string{"overlay/layers", "overlay/snapshots", "overlay/staging", "volumes"} {
		if left, _ := os.ReadDir(store + "/" + dir); len(left) > 0 {
			t.Errorf("%s has %v", dir, left)
		}
	}
}

// Containers of images are connected as those of bundles are.
func TestRootUsernet_Image(t *testing.T) {
	for _, kind := range []string{"pasta", "slirp4netns"} {
		t.Run(kind, func(t *testing.T) {
			u := withImages(t, usernetBox(t))
			manyOwners(t, u.bundle+"/many.tar")
			u.must("image", "import", "--quiet", "--change", `CMD ["sh"]`, u.bundle+"/many.tar", "many")
			a := testenv.UniqueID(t)
			u.must("run", "--detach", "--network", kind, "-p", "127.0.0.1:8080:80", "--image", "many", a, "nc", "-ll", "-p", "80", "-e", "sh", "-c", "read x; echo hello $x")
			t.Cleanup(func() { u.do("delete", "--force", a) })
			if got := u.must("port", a); got != "80/tcp -> 127.0.0.1:8080\n" {
				t.Errorf("port: %q", got)
			}
			if got := ask(t, "127.0.0.1:8080"); got != "hello you\n" {
				t.Errorf("the port answers %q", got)
			}
			u.must("delete", "--force", a)
			eventually(t, "the helper has ended", func() bool { return len(usernetProcesses(t)) == 0 })
		})
	}
}

// Without ids, or without those who write the maps, nothing is made, and the user
// learns what to do.
func TestRootRootlessImageRefused(t *testing.T) {
	setup(t)
	u := userImages(t)
	refused := func(texts ...string) {
		t.Helper()
		r := u.do("image", "import", "--quiet", u.bundle+"/many.tar", "many")
		for _, want := range texts {
			if r.Code != 1 || !strings.Contains(r.Stderr, want) {
				t.Errorf("got %+v, want %q", r, want)
			}
		}
		if _, err := os.Stat(u.dir + "/.local"); err == nil {
			t.Error("a store was made")
		}
	}
	manyOwners(t, u.bundle+"/many.tar")
	for _, none := range []string{"", "other:600000:65536\n", "tester:600000:0\n", "tester:x:65536\n", "tester:600000\n"} {
		u.subordinate = none
		refused(`/etc/subuid grants user "tester" no ids`, "hint: as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 tester")
	}
	u.subordinate = "tester:600000:65536\ntester:4294967295:65536\n" // the kernel takes no such range
	refused("newuidmap or newgidmap did not write the maps of a user namespace")
	u.subordinate = "54321:600000:65536\n" // by number
	u.env = append(u.env, "MINIRUN_OWN_USERNS=1")
	refused("images have files of many users")
	u.env = u.env[:len(u.env)-1]
	u.must("image", "import", "--quiet", u.bundle+"/many.tar", "many")
	u.must("image", "rm", "many")
}
