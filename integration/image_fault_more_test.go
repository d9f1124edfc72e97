package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
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
	undo func()
	more func(what string) // looks further at what it leaves
}

// faultCommands are those that need more around them than an archive: a registry, a
// container, a volume. What they make is gone after undo, whether it was made or not.
func (h *imageHost) faultCommands(t *testing.T) []faultCommand {
	src := newPullSource(t, 100<<10)
	id := h.background("mkdir /made; head -c 40000 /dev/zero > /made/f; rm /bin/cat")
	rm := func(name string) func() { return func() { _ = h.do("image", "rm", name) } }
	return []faultCommand{
		{"pull", 31, 60, []string{"pull", "--progress", "none", src.name}, rm(src.name), func(what string) {
			if left := h.entries("partial"); len(left) > 0 { // gc was there
				t.Errorf("%s: partial has %q", what, left)
			}
		}},
		{"commit", 29, 7, []string{"commit", "--quiet", id, "committed"}, rm("committed"), func(what string) {
			eventually(t, what+": the container runs on", func() bool { return h.status(id) == "running" })
		}},
		{"volume create", 1, 1, []string{"volume", "create", "new"}, func() { _ = h.do("volume", "rm", "--force", "new") }, func(what string) {
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
		}},
	}
}

// A disk that fails during pull, commit and volume create: each call in turn says EIO.
func TestRootImageFaultEIO(t *testing.T) {
	h := imageSetup(t).base()
	for _, tt := range h.faultCommands(t) {
		points, failed := 0, 0
		for n := 1; ; n += tt.step {
			what := tt.name + ": EIO at call " + strconv.Itoa(n)
			code, stderr, reached := failedRun(t, unix.EIO, n, h.storeCall, h.command(tt.args...)...)
			if code != 0 {
				failed++
				if !reached || strings.Contains(stderr, "panic") || !strings.Contains(stderr, "input/output error") {
					t.Errorf("%s: status %d, %s", what, code, stderr)
				}
			}
			points++
			h.sound(what)
			tt.more(what)
			if t.Failed() {
				t.Fatal(what)
			}
			tt.undo()
			if !reached {
				break
			}
		}
		t.Logf("%s: %d points, %d failed", tt.name, points, failed)
		if points < 4 || failed == 0 {
			t.Errorf("%s: %d points, of which %d failed", tt.name, points, failed)
		}
	}
}

// The disk is full for pull, commit and volume create, to some pages.
func TestRootImageFaultFull(t *testing.T) {
	h := imageSetup(t)
	disk := filepath.Join(t.TempDir(), "disk")
	imageDisk(t, disk, "size=64m")
	h.store = filepath.Join(disk, "store")
	h.base()
	// Containers go before their disk does.
	defer func() {
		imageResize(t, disk, "size=64m")
		defer reapContainers()()
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
			h.sound(what) // gc works on the full disk
			tt.more(what)
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
		if failed == 0 {
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
