package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRootCrashUnpack kills the unpacking of an image of two layers at system
// calls all over its way. Whatever is in its place afterwards is whole: a
// container runs or minirun unpacks again by itself, and gc leaves nothing of the
// dead. It covers both ways of unpacking, on a kernel that has both.
func TestRootCrashUnpack(t *testing.T) {
	h := imageSetup(t).base()
	// Two layers: the base, and what a container adds to it.
	id := h.background("echo whole > /note; mkdir /sub; echo more > /sub/f; rm /bin/cat")
	h.must("commit", "--quiet", "--no-unpack", id, "two")
	h.must("delete", "--force", id)
	h.must("image", "rm", "base") // its layer stays one of two's blobs
	forget := func() {
		t.Helper()
		layers := filepath.Join(h.store, "overlay/layers")
		list, err := os.ReadDir(layers)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			if err := os.RemoveAll(filepath.Join(layers, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, kind := range []string{"auto", "extract"} {
		points := 0
		for n := 1; ; n += 13 {
			forget()
			// From the first staging directory on.
			code, reached := tracedRun(t, minirunItself, n, []uint64{unix.SYS_MKDIRAT, sysMkdir}, h.command("image", "unpack", "--quiet", "--unpacker", kind, "two")...)
			if !reached {
				if code != 0 {
					t.Fatalf("%s: unpack under trace: exit status %d", kind, code)
				}
				break
			}
			points++
			if points%4 == 0 {
				// Whoever comes next finds half of it, and starts a container.
				if r := h.do("run", "--rm", "--image", "two", h.id(), "sh", "-c", "read x </note; echo $x; read x </sub/f; echo $x; test -e /bin/cat || echo gone"); r.Stdout != "whole\nmore\ngone\n" {
					t.Errorf("%s: killed at call %d, then run: %+v", kind, n, r)
				}
			}
			h.must("image", "gc", "--quiet")
			if left := h.entries("overlay/staging"); left != nil {
				t.Errorf("%s: killed at call %d: gc leaves %q", kind, n, left)
			}
			for _, name := range h.entries("overlay/layers") {
				if strings.HasSuffix(name, ".index") {
					for _, file := range []string{"tar", "entries", "parents"} {
						if _, err := os.Stat(filepath.Join(h.store, "overlay/layers", name, file)); err != nil {
							t.Errorf("%s: killed at call %d: a layer without its %s: %v", kind, n, file, err)
						}
					}
				}
			}
		}
		t.Logf("%s: %d crash points", kind, points)
		if points < 10 {
			t.Errorf("%s: only %d crash points", kind, points)
		}
		if r := h.do("run", "--rm", "--image", "two", h.id(), "sh", "-c", "read x </note; echo $x"); r.Stdout != "whole\n" {
			t.Errorf("%s: in the end: %+v", kind, r)
		}
	}
}
