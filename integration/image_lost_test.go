package integration

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// reboot makes the store one of another boot: what is in memory is gone, and the
// snapshots say that they were made in a boot before this one.
func (h *imageHost) reboot() {
	h.t.Helper()
	boot := strings.TrimSpace(readFile(h.t, "/proc/sys/kernel/random/boot_id"))
	other := "0" + boot[1:8]
	if boot[0] == '0' {
		other = "1" + boot[1:8]
	}
	for _, key := range h.entries("overlay/snapshots") {
		link := filepath.Join(h.store, "overlay/snapshots", key, "owner")
		owner, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(owner, boot[:8]+":") {
			h.t.Fatalf("snapshot %s says of its owner %q, %v", key, owner, err)
		}
		if err := os.Remove(link); err != nil {
			h.t.Fatal(err)
		}
		if err := os.Symlink(other+owner[8:], link); err != nil {
			h.t.Fatal(err)
		}
	}
}

// forgetContainer is what a reboot does to a record that is in memory.
func (h *imageHost) forgetContainer(id string) {
	h.t.Helper()
	if err := os.RemoveAll(filepath.Join(h.root, id)); err != nil {
		h.t.Fatal(err)
	}
	for _, root := range cgroupMounts() {
		if err := os.Remove(filepath.Join(root, "minirun-"+id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			h.t.Fatal(err)
		}
	}
}

// After a reboot the records of containers are gone, and so nothing would ever remove
// their snapshots. They keep no image and no layer any more, and gc says what it has
// done: what the containers have written is kept, until somebody does not want it.
func TestRootImageLost(t *testing.T) {
	h := imageSetup(t).base()
	ended := func(script string, flags ...string) (id, key string) {
		t.Helper()
		id = h.id()
		h.must(append(append([]string{"create", "--image", "base"}, flags...), id, "sh", "-c", script)...)
		h.must("start", id)
		h.waitStatus(id, "stopped")
		for _, k := range h.entries("overlay/snapshots") {
			if strings.HasPrefix(k, id+".") {
				key = k
			}
		}
		return id, key
	}
	wrote, wroteKey := ended("echo precious > /data")
	idle, idleKey := ended("true")
	temporary, temporaryKey := ended("echo x > /data", "--rm")
	alive, aliveKey := ended("echo mine > /data")
	unknown, unknownKey := ended("echo old > /data")
	h.must("volume", "create", "kept")

	// In this boot a record that is gone proves nothing: something may still run.
	h.forgetContainer(wrote)
	h.forgetContainer(idle)
	h.forgetContainer(temporary)
	h.forgetContainer(unknown)
	h.must("image", "gc", "--quiet")
	if got := len(h.entries("overlay/snapshots")); got != 5 {
		t.Fatalf("%d snapshots after gc in the same boot, want 5", got)
	}
	if r := h.do("image", "rm", "base"); r.Code == 0 || !strings.Contains(r.Stderr, wrote) {
		t.Errorf("rm in the same boot: %+v", r)
	}

	h.reboot()
	// A snapshot that does not say whose it is stays: of an older minirun.
	if err := os.Remove(filepath.Join(h.store, "overlay/snapshots", unknownKey, "owner")); err != nil {
		t.Fatal(err)
	}
	plan := h.must("image", "gc", "--dry-run", "--no-trunc")
	for _, want := range []string{
		"stays  snapshot  " + wroteKey, "what it has written moves to overlay/lost/" + wroteKey, "container " + wrote + " is lost: its record " + h.root + "/" + wrote + " went with an earlier boot",
		"goes   snapshot  " + idleKey, "goes   snapshot  " + temporaryKey, "stays  snapshot  " + aliveKey, "stays  snapshot  " + unknownKey,
	} {
		if !strings.Contains(plan, want) {
			t.Errorf("gc --dry-run does not say %q:\n%s", want, plan)
		}
	}
	// They do not keep the image, and the others do.
	r := h.do("image", "rm", "base")
	if r.Code == 0 || strings.Contains(r.Stderr, wrote) || strings.Contains(r.Stderr, idle) || !strings.Contains(r.Stderr, alive) || !strings.Contains(r.Stderr, unknown) {
		t.Errorf("rm: %+v", r)
	}
	out := h.must("image", "gc")
	lost := filepath.Join(h.store, "overlay/lost", wroteKey)
	if !strings.Contains(out, "container "+wrote+" is lost: its record "+h.root+"/"+wrote+" went with an earlier boot. What it had written is in "+lost+"/upper, ") ||
		!strings.Contains(out, "image gc --lost removes it") || !strings.Contains(out, "removed 2 snapshots of lost containers\n") {
		t.Errorf("gc: %q", out)
	}
	if got := readFile(t, lost+"/upper/data"); got != "precious\n" {
		t.Errorf("what was written is %q", got)
	}
	if got := h.entries("overlay/snapshots"); len(got) != 2 {
		t.Errorf("snapshots %q, want those of %s and %s", got, alive, unknown)
	}
	// The one whose record has survived works as before.
	h.must("commit", "--quiet", alive, "committed")
	if got := h.must("run", "--rm", "--image", "committed", h.id(), "cat", "/data"); got != "mine\n" {
		t.Errorf("the container with a record: %q", got)
	}
	h.must("image", "rm", "committed")
	h.must("delete", alive)
	if err := os.RemoveAll(filepath.Join(h.store, "overlay/snapshots", unknownKey)); err != nil {
		t.Fatal(err)
	}

	// What is kept claims nothing: the image goes with all its layers.
	h.must("image", "rm", "base")
	if got := h.entries("overlay/layers"); len(got) > 0 {
		t.Errorf("layers %q are left", got)
	}
	h.sound("with data of a lost container")
	var use struct {
		Groups []struct {
			Kind  string
			Count int
		}
	}
	counted := 0
	if err := json.Unmarshal([]byte(h.must("image", "du", "--format", "json")), &use); err != nil {
		t.Fatal(err)
	}
	for _, g := range use.Groups {
		if g.Kind == "lost" {
			counted = g.Count
		}
	}
	if counted != 1 {
		t.Errorf("du: %+v, want one of the kind lost", use)
	}
	if again := h.must("image", "gc"); strings.Contains(again, "lost") || readFile(t, lost+"/upper/data") != "precious\n" {
		t.Errorf("gc again: %q", again)
	}
	h.must("image", "gc", "--lost", "--quiet")
	if got := h.entries("overlay/lost"); len(got) > 0 {
		t.Errorf("lost after gc --lost: %q", got)
	}
}
