package apply

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/overlay"
)

// sharing makes snapshots of one indexed layer and says which file system each is over.
type sharing struct {
	*testing.T
	s    *overlay.Store
	top  overlay.ChainID
	made int
}

func newSharing(t *testing.T) *sharing {
	sh := &sharing{T: t, s: openStore(t)}
	needIndex(t, sh.s)
	raw := archive(t, file("f", strings.Repeat("x", 9000)))
	var err error
	if sh.top, _, err = Layer(context.Background(), sh.s, "", digest(raw), bytes.NewReader(raw), Options{Kind: Index}); err != nil {
		t.Fatal(err)
	}
	return sh
}

// mount mounts a container's root, and returns what it offers to share.
func (sh *sharing) mount() (root int, share *overlay.Share) {
	sh.Helper()
	sh.made++
	sn, err := sh.s.PrepareFor("c"+strconv.Itoa(sh.made), sh.top, "")
	if err != nil {
		sh.Fatal(err)
	}
	defer sn.Close()
	fd, err := sn.Mount()
	if err != nil {
		sh.Fatal(err)
	}
	sh.Cleanup(func() { unix.Close(fd) })
	if raw, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/f", fd)); err != nil || len(raw) != 9000 {
		sh.Fatalf("the file has %d bytes, %v", len(raw), err)
	}
	share = sn.Share()
	if share != nil {
		sh.Cleanup(share.Close)
	}
	return fd, share
}

// holder is a process that has the descriptor as its number 3, until it is ended.
func (sh *sharing) holder(fd int) (pid int, start uint64, end func()) {
	sh.Helper()
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		sh.Fatal(err)
	}
	f := os.NewFile(uintptr(dup), "held")
	cmd := exec.Command("sleep", "1000")
	cmd.ExtraFiles = []*os.File{f}
	if err := cmd.Start(); err != nil {
		sh.Fatal(err)
	}
	f.Close()
	ended := false
	end = func() {
		if !ended {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			ended = true
		}
	}
	sh.Cleanup(end)
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
	if err != nil {
		sh.Fatal(err)
	}
	field := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	if start, err = strconv.ParseUint(field[19], 10, 64); err != nil {
		sh.Fatal(err)
	}
	return cmd.Process.Pid, start, end
}

// Containers over one image have one file system below them, as long as somebody keeps
// it, and their writable layers stay apart.
func TestRootShare(t *testing.T) {
	sh := newSharing(t)
	root, first := sh.mount()
	if first == nil {
		t.Fatal("nothing to share")
	}
	if _, again := sh.mount(); again == nil {
		t.Error("shared with a container that nobody has announced")
	}
	pid, start, end := sh.holder(first.Mount)
	first.Announce(pid, start, 3)
	second, again := sh.mount()
	if again != nil {
		t.Error("mounted again, although it is announced")
	}
	if err := os.WriteFile(fmt.Sprintf("/proc/self/fd/%d/f", second), []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/f", root)); err != nil || len(raw) != 9000 {
		t.Errorf("what one has written is in the other: %q, %v", raw, err)
	}
	end()
	if raw, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/f", second)); err != nil || string(raw) != "mine" {
		t.Errorf("after the end of who kept it: %q, %v", raw, err)
	}
	if _, again := sh.mount(); again == nil {
		t.Error("shared with a process that has ended")
	}
}

// What is announced and is not so does no harm: the image is mounted anew.
func TestRootShareNot(t *testing.T) {
	sh := newSharing(t)
	_, first := sh.mount()
	if first == nil {
		t.Fatal("nothing to share")
	}
	pid, start, _ := sh.holder(first.Mount)
	link := filepath.Join(sh.s.Root(), overlay.Indexed.Dir(sh.top), "holder")
	first.Announce(pid, start, 3)
	good, err := os.Readlink(link)
	if err != nil {
		t.Fatal(err)
	}
	other, err := unix.Open(t.TempDir(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(other)
	elsewhere, began, _ := sh.holder(other)
	f := strings.Fields(good) // process, start, descriptor, device, image
	with := func(i int, word string) string {
		g := append([]string{}, f...)
		g[i] = word
		return strings.Join(g, " ")
	}
	for name, text := range map[string]string{
		"a process that was started at another time": with(1, strconv.FormatUint(start+1, 10)),
		"no process":                      with(0, "4194304"),
		"a path for a process":            with(0, "../"+f[0]),
		"another descriptor":              with(2, "0"),
		"a descriptor that is not open":   with(2, "99"),
		"a path for a descriptor":         with(2, "../cwd"),
		"another file system":             with(3, "1"),
		"another image":                   with(4, f[4]+"1"),
		"a process with another tree":     strings.Join([]string{strconv.Itoa(elsewhere), strconv.FormatUint(began, 10), "3", f[3], f[4]}, " "),
		"something else than a directory": with(2, "1"),
		"nonsense":                        "nonsense",
		"too many words":                  good + " 1",
	} {
		if err := os.Remove(link); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(text, link); err != nil {
			t.Fatal(err)
		}
		if _, again := sh.mount(); again == nil {
			t.Errorf("%s (%q): it was taken", name, text)
		}
	}
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(link, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, again := sh.mount(); again == nil {
		t.Error("a file was taken for a link")
	}
	first.Announce(pid, start, 3) // in its place
	if _, again := sh.mount(); again != nil {
		t.Error("what is right was not taken")
	}
	// The image was made anew: the one that is mounted may be damaged.
	image := filepath.Join(filepath.Dir(link), "image")
	raw, err := os.ReadFile(image)
	if err == nil {
		err = os.WriteFile(image+".new", raw, 0o400)
	}
	if err == nil {
		err = os.Rename(image+".new", image)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, again := sh.mount(); again == nil {
		t.Error("shared with one over a file that is gone")
	}
}
