package integration

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// keptAs is the descriptor as which a monitor keeps its image's mount.
const keptAs = 7

// Containers over one image have one file system below them, which the monitor of the
// first keeps for those who come later, and that goes with the last.
func TestRootShareImage(t *testing.T) {
	needIndex(t)
	h := imageSetup(t).base()
	// kept is the device of the image's file system that the monitor keeps; 0 for none.
	kept := func(id string) uint64 {
		var fs unix.Statfs_t
		var st unix.Stat_t
		path := "/proc/" + strconv.Itoa(h.monitorOf(id)) + "/fd/" + strconv.Itoa(keptAs)
		if err := unix.Statfs(path, &fs); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if fs.Type != 0xe0f5e1e2 {
			return 0
		}
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Dev
	}
	start := func(more ...string) string {
		id := h.id()
		h.must(append(append(append([]string{"run", "-d", "--image", "base"}, more...), id), "sleep", "1000")...)
		return id
	}
	says := func(id, want string) {
		t.Helper()
		if got := h.must("exec", id, "sh", "-c", "cat /mine 2>/dev/null; ls /bin/sh"); got != want+"/bin/sh\n" {
			t.Errorf("%s has %q", id, got)
		}
	}
	first := start()
	if kept(first) == 0 {
		t.Fatal("the first one keeps nothing")
	}
	second, mapped := start(), start("--userns", "auto")
	for _, id := range []string{second, mapped} {
		if kept(id) != 0 {
			t.Errorf("%s has mounted the image once more", id)
		}
	}
	h.must("exec", second, "sh", "-c", "echo second > /mine")
	says(first, "")
	says(second, "second\n")
	says(mapped, "")
	// Who keeps it goes: the others go on, and the next keeps another.
	h.must("delete", "--force", first)
	says(second, "second\n")
	third := start()
	if kept(third) == 0 {
		t.Error("nobody keeps the image that the third was mounted over")
	}
	// One whose monitor was killed.
	pid := h.monitorOf(third)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the monitor has ended", func() bool {
		s, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		return err != nil || strings.Contains(string(s), ") Z ")
	})
	fourth := start()
	if kept(fourth) == 0 {
		t.Error("taken out of a process that was killed")
	}
	says(fourth, "")
	h.must("image", "fsck")
	for _, id := range []string{second, mapped, third, fourth} {
		h.must("delete", "--force", id)
	}
	h.clean("at the end")
}
