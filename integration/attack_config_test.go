package integration

import (
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
)

// What an image may say about itself has a limit, and in config.json it can be
// three times as long: every byte that is no UTF-8 is written as U+FFFD there. A
// container whose config.json is too long to be read again ran, but nobody could
// get into it.
func TestRootAttackImageConfigSize(t *testing.T) {
	setup(t)
	images := atNewImages(t)
	for name, label := range map[string]string{
		"long":      strings.Repeat("x", 4<<20-1000),
		"no UTF-8":  strings.Repeat("\xff", 2<<20),
		"separator": strings.Repeat("\u2028", 1<<20),
	} {
		images.must(`{"Cmd": ["/bin/true"], "Labels": {"k": "` + label + `"}}`)
		r := images.run(nil)
		if r.Code == 0 || !strings.Contains(r.Stderr, "is the limit") || len(r.Stderr) > 1000 {
			t.Errorf("%s: status %d, %.300s", name, r.Code, r.Stderr)
		}
		if r := images.do("list", "--quiet"); r.Stdout != "" {
			t.Errorf("%s: %q is left", name, r.Stdout)
		}
	}
	images.must(`{"Cmd": ["/bin/cat"], "Labels": {"k": "` + strings.Repeat("x", 1<<20) + `"}}`)
	id := testenv.UniqueID(t)
	if r := images.do("create", "--image", "attack", id); r.Code != 0 {
		t.Fatalf("create: %.300s", r.Stderr)
	}
	if r := images.do("exec", id, "/bin/echo", "in"); r.Stdout != "in\n" {
		t.Errorf("control: %.300s", r.Stderr)
	}
}

// A file that minirun reads for an image is a device of the host's: to open it
// could be to use it. One without a driver tells by its error that it was tried.
func TestRootAttackImageDevice(t *testing.T) {
	setup(t)
	images := atNewImages(t)
	for name, want := range map[string]string{"etc/passwd": `the container's /etc/passwd is no regular file`, "etc/group": `the container's /etc/group is no regular file`} {
		images.must(`{"Cmd": ["/bin/true"], "User": "user"}`, atFile{name: name, device: true, mode: 0o644})
		if r := images.run(nil); r.Code == 0 || !strings.Contains(r.Stderr, want) {
			t.Errorf("%s: %+v, want %q", name, r, want)
		}
	}
	images.must(`{"Cmd": ["/bin/true"], "User": "user"}`)
	if r := images.run(nil); r.Code != 0 {
		t.Errorf("control: %+v", r)
	}
}
