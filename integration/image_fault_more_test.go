package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/minirun/minirun/imagestore/registrytest"
	"golang.org/x/sys/unix"
)

// faultCommand is a command that writes to a store.
type faultCommand struct {
	name string
	step int // between the calls that fail
	page int // between the sizes of the disk, in pages
	args []string
	// before makes what it needs; after takes away what is nobody's business but the
	// command's, such as its container; undo is for what it has made.
	before, after, undo func()
	more                func(what string) // looks further at what it leaves
}

// faultCommands are those that need more around them than an archive: a registry, a
// container, a volume. What they make is gone after undo, whether it was made or not.
func (h *imageHost) faultCommands(t *testing.T) []faultCommand {
	src := newPullSource(t, 100<<10)
	id := h.background("mkdir /made; head -c 40000 /dev/zero > /made/f; rm /bin/cat")
	rm := func(name string) func() { return func() { _ = h.do("image", "rm", name) } }
	filled := h.id()
	h.load(&imageBlobs{name: "filling", layers: [][]byte{imageRootfs(t, imageEntry{name: "data/a", data: strings.Repeat("a", 30000)}, imageEntry{name: "data/b/c", data: "c\n"})}})
	var pushed []struct {
		ID     string
		Layers []struct{ Digest string }
	}
	if err := json.Unmarshal([]byte(h.must("image", "inspect", "filling")), &pushed); err != nil || len(pushed) != 1 {
		t.Fatalf("inspect: %v", err)
	}
	place := t.TempDir()
	noUnpack := func() {
		_ = h.do("image", "rm", "small")
		h.load(&imageBlobs{name: "small", layers: [][]byte{imageLayer(t, imageEntry{name: "small", data: strings.Repeat("small", 9000), mode: 0o644})}}, "--no-unpack")
	}
	return []faultCommand{
		{
			name: "pull", step: 31, page: 60, args: []string{"pull", "--progress", "none", src.name}, undo: rm(src.name),
			more: func(what string) {
				if left := h.entries("partial"); len(left) > 0 { // gc was there
					t.Errorf("%s: partial has %q", what, left)
				}
			},
		},
		{
			name: "commit", step: 29, page: 7, args: []string{"commit", "--quiet", id, "committed"}, undo: rm("committed"),
			more: func(what string) {
				eventually(t, what+": the container runs on", func() bool { return h.status(id) == "running" })
			},
		},
		{
			name: "volume create", step: 1, page: 1, args: []string{"volume", "create", "new"},
			undo: func() { _ = h.do("volume", "rm", "--force", "new") },
			more: func(what string) {
				if r := h.do("volume", "list", "--quiet"); r.Code != 0 || r.Stderr != "" || r.Stdout != "" && r.Stdout != "new\n" {
					t.Errorf("%s: volume list: %+v", what, r)
				}
				if left := slices.DeleteFunc(h.entries("volumes"), func(s string) bool { return s == "new" || strings.HasPrefix(s, ".") }); len(left) > 0 {
					t.Errorf("%s: volumes has %q", what, left)
				}
				h.must("volume", "prune")
				if left := slices.DeleteFunc(h.entries("volumes"), func(s string) bool { return s == "new" }); len(left) > 0 {
					t.Errorf("%s: after prune, volumes has %q", what, left)
				}
			},
		},
		{
			name: "volume fill", step: 25, page: 5, args: []string{"run", "--rm", "--image", "filling", "-v", "named:/data", filled, "true"},
			after: func() { h.converge("volume fill", filled) },
			undo:  func() { h.must("volume", "prune", "--all") },
			more: func(what string) {
				if r := h.do("volume", "list"); r.Code != 0 || r.Stderr != "" {
					t.Errorf("%s: volume list: %+v", what, r)
				}
				r := h.do("run", "--rm", "--image", "filling", "-v", "named:/data", h.id(), "sh", "-c", "wc -c </data/a; cat /data/b/c")
				if (r.Code != 0 || r.Stdout != "30000\nc\n") && !strings.Contains(r.Stderr, "no space left on device") {
					t.Errorf("%s: the volume is not whole: %+v", what, r)
				}
			},
		},
		{
			name: "unpack", step: 23, page: 4, args: []string{"image", "unpack", "--quiet", "small"},
			before: noUnpack, undo: func() {},
			more: func(what string) {
				if r := h.do("image", "verify", "small"); r.Code != 0 {
					t.Errorf("%s: verify: %+v", what, r)
				}
			},
		},
		{
			name: "mount", step: 7, page: 1, args: []string{"image", "mount", "filling", place},
			after: func() { h.must("image", "unmount", "--all") }, undo: func() {},
		},
		{
			name: "push", step: 11, page: 1, args: []string{"push", "--progress", "none", "filling", src.Host() + "/pushed/app:v1"},
			undo: func() {
				src.RemoveBlob("pushed/app", pushed[0].ID)
				for _, l := range pushed[0].Layers {
					src.RemoveBlob("pushed/app", l.Digest)
				}
			},
		},
	}
}

// A disk that fails during these commands: each call in turn says EIO.
func TestRootImageFaultEIO(t *testing.T) {
	h := imageSetup(t).base()
	for _, tt := range h.faultCommands(t) {
		h.fails(tt, 4)
	}
}

// The disk is full for these commands, to some pages.
func TestRootImageFaultFull(t *testing.T) {
	h := imageSetup(t)
	disk := filepath.Join(t.TempDir(), "disk")
	imageDisk(t, disk, "size=64m")
	h.store = filepath.Join(disk, "store")
	h.base()
	// Containers go before their disk does.
	defer func() {
		imageResize(t, disk, "size=64m")
		defer reapContainers(t)()
		for _, id := range strings.Fields(h.must("list", "--quiet")) {
			h.must("delete", "--force", id)
		}
	}()
	commands := h.faultCommands(t)
	used := func() uint64 {
		var st unix.Statfs_t
		if err := unix.Statfs(disk, &st); err != nil {
			t.Fatal(err)
		}
		return (st.Blocks - st.Bfree) * uint64(st.Bsize)
	}
	for _, tt := range commands {
		if tt.before != nil {
			tt.before()
		}
		before, failed := used(), 0
		for free := 0; ; free += tt.page {
			imageResize(t, disk, fmt.Sprintf("size=%d", before+uint64(free)*uint64(os.Getpagesize())))
			r := h.do(tt.args...)
			what := fmt.Sprintf("%s with %d pages", tt.name, free)
			if r.Code != 0 {
				failed++
				if !strings.Contains(r.Stderr, "no space left on device") || strings.Contains(r.Stderr, "panic") {
					t.Errorf("%s: %+v", what, r)
				}
			}
			if tt.after != nil {
				tt.after()
			}
			h.sound(what) // gc works on the full disk
			if tt.more != nil {
				tt.more(what)
			}
			if t.Failed() {
				t.Fatal(what)
			}
			tt.undo()
			if r.Code == 0 {
				break
			}
			if failed > 200 {
				t.Fatalf("%s: it still fails", what)
			}
		}
		imageResize(t, disk, "size=64m")
		t.Logf("%s: %d sizes were too small", tt.name, failed)
		if failed == 0 && tt.name != "push" {
			t.Errorf("%s: it never failed", tt.name)
		}
	}
}

// Writing down that an image is trusted is interrupted everywhere: the image runs
// afterwards, another one does not, and nothing is left.
func TestRootTrustCrash(t *testing.T) {
	h := imageSetup(t)
	for _, v := range []string{"DOCKER_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"} {
		t.Setenv(v, t.TempDir())
	}
	s := &signedSource{registrytest.New(t, registrytest.Options{}), t}
	key := newSignatureKey(t, "ed25519")
	t.Setenv("MINIRUN_TRUST_POLICY", filepath.Join(t.TempDir(), "trust.json"))
	s.policy(fmt.Sprintf(`{"version":1,"keys":{"release":%s},"default":"reject","rules":{%q:{"signedBy":["release"]}}}`, imageJSON(t, key.public(t)), s.Host()))
	name := s.Host() + "/app:v1"
	s.signature("app", key, s.image("app", "good", "v1"), s.Host()+"/app", false, nil)
	h.must("pull", "--quiet", "--progress", "none", name)
	h.must("image", "tag", name, "unsigned") // the rule for this name rejects it
	record := func() string {
		list, err := filepath.Glob(h.store + "/unpacked/*.trust")
		if err != nil || len(list) > 1 {
			t.Fatalf("records %q, %v", list, err)
		}
		if len(list) == 0 {
			return ""
		}
		return list[0]
	}
	for _, eio := range []bool{false, true} {
		points := 0
		for n := 1; ; n++ {
			if path := record(); path != "" {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
			var reached bool
			what := fmt.Sprintf("killed at call %d", n)
			args := h.command("image", "trust", "--quiet", name)
			if eio {
				what = fmt.Sprintf("EIO at call %d", n)
				var code int
				var stderr string
				code, stderr, reached = failedRun(t, unix.EIO, n, h.storeCall, args...)
				if code != 0 && !strings.Contains(stderr, "input/output error") && !strings.Contains(stderr, "is not trusted") || strings.Contains(stderr, "panic") {
					t.Errorf("%s: status %d, %s", what, code, stderr)
				}
			} else {
				_, reached = tracedRun(t, minirunItself, n, []uint64{unix.SYS_FLOCK}, args...)
			}
			points++
			if path := record(); path != "" { // so it is whole
				policy := readFile(t, os.Getenv("MINIRUN_TRUST_POLICY"))
				if got, want := readFile(t, path), "minirun trust 1\n"+name+"\n"+policy; got != want {
					t.Errorf("%s: the record is %q, want %q", what, got, want)
				}
			}
			if points%4 == 1 || !reached {
				if r := h.do("run", "--rm", "--pull", "never", "--image", name, h.id()); r.Code != 0 || r.Stdout != "good" {
					t.Errorf("%s: run: %+v", what, r)
				}
				if r := h.do("run", "--rm", "--pull", "never", "--image", "unsigned", h.id()); r.Code == 0 || !strings.Contains(r.Stderr, "is not trusted") {
					t.Errorf("%s: run of another name: %+v", what, r)
				}
				h.sound(what)
				for _, e := range h.entries("unpacked") {
					if strings.HasPrefix(e, "new") {
						t.Errorf("%s: unpacked has %q", what, e)
					}
				}
			}
			if t.Failed() {
				t.Fatal(what)
			}
			if !reached {
				break
			}
		}
		t.Logf("EIO %v: %d points", eio, points)
		if points < 5 {
			t.Errorf("EIO %v: only %d points", eio, points)
		}
	}
}
