package integration

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/minirun/minirun/internal/kfeature"
	"golang.org/x/sys/unix"
)

// A container of an image in a user namespace: everything in its root belongs to
// whom the image says, as the container counts, layers and volumes are those of
// everybody else, and what commit makes has no trace of the host's ids.
func TestRootImageUserNamespace(t *testing.T) {
	h := imageSetup(t).base()
	if err := kfeature.OverlayAppendFD.Supported(); err != nil {
		t.Skipf("this kernel has no idmapped layers by descriptor (Linux 6.13): %v", err)
	}
	const script = `mkdir -m 2770 /d; echo x > /d/x; chown 5:6 /d /d/x; chmod 6755 /d/x; touch /home/user/new; chown 65535:65535 /d; rm /etc/group; ln /d/x /y; mkfifo /f; chown 7 /bin/busybox; echo v > /vol/v; chown 8:9 /vol/v
truncate -s 1M /sparse; chown 3:4 /sparse`
	id := h.background(script, "--uidmap", "0:100000:65536", "--gidmap", "0:200000:65536", "-v", "vol:/vol")
	root := h.rootOf(id)
	var st syscall.Stat_t
	if err := syscall.Lstat(root+"/d/x", &st); err != nil || st.Uid != 100005 || st.Gid != 200006 || st.Mode&0o7777 != 0o6755 {
		t.Errorf("the host sees /d/x as %d:%d %o (%v)", st.Uid, st.Gid, st.Mode, err)
	}
	if got := h.must("exec", id, "sh", "-c", "id -u; id -g; stat -c '%u:%g' / /etc /home/user /home/user/new /bin/sh /d /d/x /y /vol /vol/v"); got != "0\n0\n0:0\n0:0\n1000:1000\n0:0\n0:0\n65535:65535\n5:6\n5:6\n0:0\n8:9\n" {
		t.Errorf("the container sees %q", got)
	}
	if status := readFile(t, "/proc/"+strconv.Itoa(h.pid(id))+"/status"); !strings.Contains(status, "\nUid:\t100000\t100000\t") || !strings.Contains(status, "\nGid:\t200000\t") {
		t.Errorf("on the host it is %s", status)
	}
	if got := h.out("stat -c '%u:%g' /v /v/v", "-v", "vol:/v"); got != "0:0\n8:9\n" { // no user namespace: the same volume
		t.Errorf("another container sees the volume as %q", got)
	}
	// Capabilities and ACLs, set inside.
	caps := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	nscaps := caps[:3] + "\x03" + caps[4:] + "\xa0\x86\x01\x00" // of root 100000
	acl := "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\xa9\x86\x01\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x06\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff"
	for _, x := range [][2]string{{"security.capability", nscaps}, {"system.posix_acl_access", acl}} {
		if err := unix.Setxattr(root+"/home/user/new", x[0], []byte(x[1]), 0); err != nil {
			t.Fatalf("%s: %v", x[0], err)
		}
	}
	h.must("commit", "-q", id, "new")
	if n := len(h.manifest("new").Layers); n != 2 {
		t.Errorf("%d layers", n)
	}
	plain := h.background("", "--image", "new")
	tree := treeOf(t, h.rootOf(plain))
	want := treeOf(t, root)
	shift := strings.NewReplacer(" 100000:200000 ", " 0:0 ", " 100005:200006 ", " 5:6 ", " 101000:201000 ", " 1000:1000 ", " 165535:265535 ", " 65535:65535 ", " 100007:200000 ", " 7:0 ", " 100003:200004 ", " 3:4 ")
	for path, line := range want {
		want[path] = shift.Replace(line)
	}
	delete(want, "/home/user/new")
	made := tree["/home/user/new"]
	delete(tree, "/home/user/new")
	delete(want, "/vol")
	delete(tree, "/vol") // where the volume was
	sameTree(t, "committed", tree, want)
	var b [64]byte
	path := h.rootOf(plain) + "/home/user/new"
	if n, err := unix.Getxattr(path, "security.capability", b[:]); err != nil || string(b[:n]) != caps {
		t.Errorf("capabilities %q, %v", b[:max(n, 0)], err)
	}
	if n, err := unix.Getxattr(path, "system.posix_acl_access", b[:]); err != nil || !strings.Contains(string(b[:n]), "\x02\x00\x04\x00\x09\x00\x00\x00") {
		t.Errorf("ACL %q, %v", b[:max(n, 0)], err)
	}
	if !strings.Contains(made, " 0:0 ") {
		t.Errorf("/home/user/new: %q", made)
	}
	// The same tree in yet another namespace, whose ids nobody else has.
	one, two := h.background("", "--image", "new", "--userns=auto"), h.background("", "--image", "new", "--userns", "auto")
	for _, id := range []string{one, two} {
		if got := h.must("exec", id, "stat", "-c", "%u:%g", "/d/x", "/"); got != "5:6\n0:0\n" {
			t.Errorf("%s sees %q", id, got)
		}
	}
	if a, b := h.must("exec", one, "cat", "/proc/self/uid_map"), h.must("exec", two, "cat", "/proc/self/uid_map"); a == b || strings.Contains(a, " 0 ") && strings.Fields(a)[1] == "0" {
		t.Errorf("id maps %q and %q", a, b)
	}
	first := h.must("exec", one, "cat", "/proc/self/uid_map")
	h.must("delete", "--force", one)
	if got := h.must("run", "--rm", "--image", "base", "--userns", "auto", h.id(), "cat", "/proc/self/uid_map"); got != first {
		t.Errorf("ids of a deleted container are not used again: %q, want %q", got, first)
	}
	// A container that has the same ids sees the host's files as nobody's.
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if got := h.do("run", "--rm", "--image", "base", "--userns", "auto", "-v", dir+":/host", h.id(), "sh", "-c", "stat -c %u /host; touch /host/x"); !strings.HasPrefix(got.Stdout, "65534\n") || !strings.Contains(got.Stderr, "Permission denied") {
		t.Errorf("a directory of the host: %+v", got)
	}
	for _, tt := range []struct {
		want string
		args []string
	}{
		{"ID:HOSTID:N", []string{"--uidmap", "0:1"}},
		{"three numbers", []string{"--uidmap", "0:x:1"}},
		{"range of ids", []string{"--uidmap", "0:4294967295:1"}},
		{"range of ids", []string{"--uidmap", "0:1:0"}},
		{"must have the id 0", []string{"--uidmap", "1:100000:1"}},
		{"chooses the ids", []string{"--userns", "auto", "--uidmap", "0:1:1"}},
		{"want host or auto", []string{"--userns", "keep-id"}},
		{"without a user namespace", []string{"--userns", "auto", "--privileged"}},
	} {
		h.refused(tt.want, append(append([]string{"run", "--image", "base"}, tt.args...), h.id(), "true")...)
	}
}
