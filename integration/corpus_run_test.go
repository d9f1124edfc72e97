package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/minirun/minirun/internal/testenv"
)

// rowsOfContainers are about what an image asks of whoever runs it, and about the
// store while containers run.
var rowsOfContainers = []struct {
	name string
	test func(c *corpus)
}{
	{"18 store that others can reach", (*corpus).closed},
	{"49 user that overflows", (*corpus).userOverflow},
	{"50 passwd that leads out", (*corpus).passwd},
	{"51 working directory that is a descriptor", (*corpus).workDir},
	{"52 volume that leads out", (*corpus).volumes},
	{"53 labels for the host", (*corpus).labels},
	{"55 runtime that is written to", (*corpus).selfExe},
	{"56 commit through links", (*corpus).commitLinks},
	{"58 user namespace and the store", (*corpus).ownStore},
	{"60 store that has changed", (*corpus).changedStore},
}

// image loads an image with the test's root file system, more entries and a
// configuration, and returns its name.
func (c *corpus) image(config map[string]any, more ...imageEntry) string {
	c.t.Helper()
	b := &imageBlobs{name: c.name(), layers: [][]byte{imageRootfs(c.t), imageLayer(c.t, append(more, imageEntry{name: "second", data: "layer"})...)}, config: config}
	c.accepts(b)
	return b.name
}

// runs runs a container of the image, with flags.
func (c *corpus) runs(image string, flags ...string) testenv.Result {
	c.t.Helper()
	return c.do(append(append([]string{"run", "--rm"}, flags...), "--image", image, c.id())...)
}

func (c *corpus) closed() {
	c.image(nil, imageEntry{name: "suid", data: "x", mode: 0o4755})
	for _, dir := range []string{"", "overlay/layers", "overlay/snapshots", "overlay/staging", "blobs", "unpacked"} {
		st, err := os.Stat(filepath.Join(c.store, dir))
		if err != nil || st.Mode().Perm()&0o077 != 0 && dir != "blobs" && dir != "unpacked" {
			c.t.Errorf("%q: %v, %v", dir, st, err)
		}
	}
	for _, name := range c.entries("overlay/layers") {
		if st, err := os.Stat(filepath.Join(c.store, "overlay/layers", name)); err != nil || st.Mode().Perm() != 0o700 {
			c.t.Errorf("layer %s: %v, %v", name, st.Mode(), err)
		}
	}
}

func (c *corpus) userOverflow() {
	for _, user := range []string{"4294967296", "-1", "0:4294967296"} {
		b := &imageBlobs{name: c.name(), layers: [][]byte{imageRootfs(c.t)}, config: map[string]any{"User": user, "Cmd": []string{"id", "-u"}}}
		path := filepath.Join(c.t.TempDir(), "image.tar")
		writeFile(c.t, path, string(b.docker(c.t)))
		if r := c.bounded("image", "load", "--quiet", "--unpacker", c.kind, path); r.Code != 0 {
			continue
		}
		if r := c.runs(b.name); r.Code == 0 || r.Stdout != "" {
			c.t.Errorf("user %q: %+v", user, r)
		}
	}
}

func (c *corpus) passwd() {
	secret := filepath.Join(c.t.TempDir(), "passwd")
	writeFile(c.t, secret, "evil:x:0:0::/:/bin/sh\n")
	for name, e := range map[string]imageEntry{
		"link":  {name: "etc/passwd", link: secret},
		"magic": {name: "etc/passwd", link: "/proc/self/root" + secret},
		"zero":  {name: "etc/passwd", link: "/dev/zero"},
		"huge":  {name: "etc/passwd", data: strings.Repeat("#\n", 1<<20) + "evil:x:0:0::/:/bin/sh\n"},
	} {
		image := c.image(map[string]any{"User": "evil", "Cmd": []string{"id", "-u"}}, e)
		if r := c.runs(image); r.Code == 0 || r.Stdout != "" {
			c.t.Errorf("%s: %+v", name, r)
		}
	}
}

func (c *corpus) workDir() {
	canary := atNewCanary(c.t)
	for _, i := range []int{3, 7} {
		image := c.image(map[string]any{"WorkingDir": fmt.Sprintf("/proc/self/fd/%d", i), "Cmd": []string{"sh", "-c", "ls -d /proc/self/cwd/../../../../../.." + canary.dir}})
		if r := c.runs(image); strings.Contains(r.Stdout, "canary") {
			c.t.Errorf("descriptor %d: %+v", i, r)
		}
		if i == 7 { // through a link, too
			image = c.image(map[string]any{"WorkingDir": "/wd/new", "Cmd": []string{"sh", "-c", "ls -d /proc/self/cwd/../../../../../.." + canary.dir}}, imageEntry{name: "wd", link: fmt.Sprintf("/proc/self/fd/%d", i)})
			if r := c.runs(image); strings.Contains(r.Stdout, "canary") {
				c.t.Errorf("descriptor %d by a link: %+v", i, r)
			}
		}
	}
	canary.check()
}

func (c *corpus) volumes() {
	canary := atNewCanary(c.t)
	for _, path := range []string{"/abs", "/rel", "/../../.." + canary.dir, "/magic"} {
		image := c.image(map[string]any{"Volumes": map[string]any{path: map[string]any{}}, "Cmd": []string{"sh", "-c", "cat " + path + "/secret; echo seen > " + path + "/new"}},
			imageEntry{name: "abs", link: canary.dir}, imageEntry{name: "rel", link: strings.Repeat("../", 20) + canary.dir[1:]}, imageEntry{name: "magic", link: "/proc/1/root" + canary.dir})
		if r := c.runs(image); strings.Contains(r.Stdout, "canary") {
			c.t.Errorf("volume %q: %+v", path, r)
		}
		canary.check()
	}
}

func (c *corpus) labels() {
	ran := filepath.Join(c.t.TempDir(), "ran")
	labels := map[string]string{}
	for _, name := range strings.Fields("io.minirun.log io.minirun.image.manifest io.minirun.hooks run.oci.handler run.oci.hooks.stdout run.oci.seccomp.receiver run.oci.keep_original_groups " +
		"org.systemd.property.ExecStartPre org.criu.config io.containerd.runc.v2.group io.kubernetes.cri.log-uri containerd.io/logger") {
		labels[name] = "binary:///bin/touch?" + ran
	}
	image := c.image(map[string]any{"Labels": labels, "Env": []string{"LD_PRELOAD=" + ran}, "Cmd": []string{"true"}})
	id := c.id()
	if r := c.do("run", "--image", image, id); r.Code != 0 {
		c.t.Errorf("%+v", r)
	}
	state := c.must("state", id)
	for name := range labels {
		if strings.HasPrefix(name, "io.minirun.") && name != "io.minirun.image.manifest" || strings.HasPrefix(name, "run.oci.") || strings.HasPrefix(name, "org.systemd.") {
			if strings.Contains(state, `"`+name+`"`) {
				c.t.Errorf("the label %s is an annotation: %s", name, state)
			}
		}
	}
	if strings.Contains(state, `"io.minirun.image.manifest":"binary`) {
		c.t.Errorf("a label has replaced what the container was made from: %s", state)
	}
	c.must("delete", id)
	if _, err := os.Lstat(ran); err == nil {
		c.t.Error("a label has run a program")
	}
}

func (c *corpus) selfExe() {
	binary, supervisor := testenv.Binary(c.t), testenv.Supervisor(c.t)
	before := [...][32]byte{atHash(c.t, binary), atHash(c.t, supervisor)}
	script := "for f in /proc/self/exe /proc/1/exe /proc/*/exe; do echo evil > $f; done 2> /dev/null; true"
	image := c.image(map[string]any{"Entrypoint": []string{"/evil"}, "Cmd": []string{"x"}}, imageEntry{name: "evil", data: "#!/proc/self/exe\n"}, imageEntry{name: "exe", link: "/proc/self/exe"})
	c.runs(image)
	c.runs(image, "--entrypoint", "/exe")
	id := c.id()
	if r := c.do("run", "--detach", "--image", image, "--entrypoint", "sleep", id, "1000"); r.Code != 0 {
		c.t.Fatalf("%+v", r)
	}
	for range 5 {
		c.do("exec", id, "/evil")
		c.do("exec", id, "sh", "-c", script)
	}
	c.must("delete", "--force", id)
	if ([...][32]byte{atHash(c.t, binary), atHash(c.t, supervisor)}) != before {
		c.t.Error("a program of the host has changed")
	}
}

// commitLinks: what a container has turned into links is committed as links.
func (c *corpus) commitLinks() {
	canary := atNewCanary(c.t)
	image := c.image(map[string]any{"Cmd": []string{"sh"}}, imageEntry{name: "d/"}, imageEntry{name: "d/secret", data: "of the image"})
	id := c.id()
	if r := c.do("run", "--image", image, id, "sh", "-c", "rm -r /d; ln -s "+canary.dir+" /d; ln -s "+canary.dir+"/secret /f; ln -s /proc/self/root"+canary.dir+" /m; mkdir /new; ln -s ../../../../../../.."+canary.dir+" /new/up"); r.Code != 0 {
		c.t.Fatalf("%+v", r)
	}
	out := c.name()
	c.must("commit", "--quiet", "--unpacker", c.kind, id, out)
	c.must("delete", id)
	if got := c.must("run", "--rm", "--image", out, c.id(), "sh", "-c", "for l in /d /f /m /new/up; do readlink $l; done"); got != canary.dir+"\n"+canary.dir+"/secret\n/proc/self/root"+canary.dir+"\n../../../../../../.."+canary.dir+"\n" {
		c.t.Errorf("the links are %q", got)
	}
	archive := filepath.Join(c.t.TempDir(), "out.tar")
	c.must("image", "save", "--quiet", "--output", archive, out)
	if strings.Contains(readFile(c.t, archive), "canarycanary") || strings.Contains(readFile(c.t, archive), "\x00canary\x00") {
		c.t.Error("the image has content of the host")
	}
	canary.check()
}

// ownStore: root of a user namespace owns nothing of the store, and layers keep
// the owners that they have.
func (c *corpus) ownStore() {
	image := c.image(map[string]any{"Cmd": []string{"sh"}}, imageEntry{name: "mine", data: "x", uid: 7, gid: 8})
	owners := func() string {
		var all []string
		err := filepath.Walk(filepath.Join(c.store, "overlay"), func(path string, st os.FileInfo, err error) error {
			if err == nil && !strings.Contains(path, "/snapshots/") {
				s := st.Sys().(*syscall.Stat_t)
				all = append(all, fmt.Sprintf("%s %d:%d %o", path, s.Uid, s.Gid, s.Mode))
			}
			return err
		})
		if err != nil {
			c.t.Fatal(err)
		}
		return strings.Join(all, "\n")
	}
	before := owners()
	r := c.do("run", "--rm", "--image", image, "--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536", c.id(), "sh", "-c", "stat -c %u:%g /mine; chown 0:0 /mine; chmod 4777 /mine; ls "+c.store)
	if !strings.HasPrefix(r.Stdout, "7:8\n") || !strings.Contains(r.Stderr, "No such file") {
		c.t.Errorf("%+v", r)
	}
	if after := owners(); after != before {
		c.t.Errorf("the store was\n%s\nand is\n%s", before, after)
	}
	for line := range strings.Lines(before) {
		if strings.Contains(line, "/fs/") || strings.Contains(line, "/fs ") {
			continue // the image's own owners
		}
		if !strings.Contains(line, " 0:0 ") {
			c.t.Errorf("not root's: %s", line)
		}
	}
}

// changedStore: a blob, and what was made of it, change behind our back.
func (c *corpus) changedStore() {
	c.store += "-changed" // in which nothing else is
	second := imageLayer(c.t, imageEntry{name: "second", data: "layer"})
	b := &imageBlobs{name: c.name(), layers: [][]byte{imageRootfs(c.t), second}, config: map[string]any{"Cmd": []string{"cat", "/second"}}}
	path := filepath.Join(c.t.TempDir(), "image.tar")
	writeFile(c.t, path, string(imageLayer(c.t, b.oci(c.t)...)))
	load := func() { c.t.Helper(); c.must("image", "load", "--quiet", "--unpacker", c.kind, path) }
	load()
	flip := func(path string, at int64) {
		c.t.Helper()
		content := []byte(readFile(c.t, path))
		content[min(at, int64(len(content))-1)] ^= 1
		if err := os.WriteFile(path, content, 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
	digest := strings.TrimPrefix(imageDigest(imageZstd(second)), "sha256:")
	flip(filepath.Join(c.store, "blobs/sha256", digest), 530)
	if r := c.do("image", "verify", b.name); r.Code != 1 || !strings.Contains(r.Stderr, digest) {
		c.t.Errorf("verify: %+v", r)
	}
	if r := c.do("image", "fsck", "--quiet"); r.Code != 1 || !strings.Contains(r.Stdout, digest) {
		c.t.Errorf("fsck: %+v", r)
	}
	if r := c.runs(b.name); r.Stdout != "layer" {
		c.t.Errorf("what was unpacked before: %+v", r)
	}
	c.do("image", "fsck", "--quiet", "--repair")
	load() // the blob is back
	c.must("image", "fsck", "--quiet")
	c.must("image", "verify", b.name)
	if c.kind == "extract" {
		return // of a tree there is nothing to compare with
	}
	for _, file := range []string{"tar", "entries", "image"} {
		found, _ := filepath.Glob(filepath.Join(c.store, "overlay/layers/*.index", file))
		for _, path := range found {
			if st, err := os.Stat(path); err == nil && st.Size() < 20<<10 {
				flip(path, 513)
			}
		}
		if r := c.do("image", "fsck", "--quiet"); r.Code != 1 || !strings.Contains(r.Stdout, file+": ") {
			c.t.Errorf("%s: fsck: %+v", file, r)
		}
		if r := c.do("image", "fsck", "--quiet", "--repair"); !strings.Contains(r.Stdout, "removed") {
			c.t.Errorf("%s: fsck --repair: %+v", file, r)
		}
		load() // archives that are blobs have gone with them
		c.must("image", "fsck", "--quiet")
		if r := c.runs(b.name); r.Stdout != "layer" {
			c.t.Errorf("after the repair of %s: %+v", file, r)
		}
	}
}
