package apply

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/overlay"
)

func rootAttacks(t *testing.T, canary string) []attackCase {
	caps := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // cap_net_bind_service=ep, v2
	capsV3 := "\x01\x00\x00\x03\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xa0\x86\x01\x00"
	one := func(ents ...ent) [][]byte { return [][]byte{archive(t, ents...)} }
	mode := func(path string, want uint32, uid, gid uint32) func(*testing.T, string, Result) {
		return func(t *testing.T, layer string, _ Result) {
			t.Helper()
			var st unix.Stat_t
			if err := unix.Lstat(filepath.Join(layer, path), &st); err != nil || st.Mode != want || st.Uid != uid || st.Gid != gid {
				t.Errorf("%s: %o %d:%d, %v, want %o %d:%d", path, st.Mode, st.Uid, st.Gid, err, want, uid, gid)
			}
		}
	}
	xattrs := func(path string, want ...string) func(*testing.T, string, Result) {
		return func(t *testing.T, layer string, _ Result) {
			t.Helper()
			buf := make([]byte, 4096)
			n, err := unix.Llistxattr(filepath.Join(layer, path), buf)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 })
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("%s: attributes %q, want %q", path, got, want)
			}
		}
	}
	return []attackCase{
		{name: "10 attributes through links", layers: one(symlink("a", canary).own(7, 7), symlink("b", canary+"/file").mode(0).own(7, 7).pax("SCHILY.xattr.user.a", "x"),
			hardlink("c", "b"), file("c", "").mode(0).own(7, 7))},
		{
			name: "17 devices", layers: one(file("null", "").typ(tar.TypeChar).dev(1, 3).mode(0o666).own(0, 5), file("disk", "").typ(tar.TypeBlock).dev(254, 300000).mode(0o660), file("p", "").typ(tar.TypeFifo).mode(0o622)),
			check: func(t *testing.T, l string, r Result) {
				mode("null", unix.S_IFCHR|0o666, 0, 5)(t, l, r)
				mode("disk", unix.S_IFBLK|0o660, 0, 0)(t, l, r)
				mode("p", unix.S_IFIFO|0o622, 0, 0)(t, l, r)
				var st unix.Stat_t
				if err := unix.Lstat(l+"/disk", &st); err != nil || unix.Major(st.Rdev) != 254 || unix.Minor(st.Rdev) != 300000 {
					t.Errorf("disk is %d:%d, %v", unix.Major(st.Rdev), unix.Minor(st.Rdev), err)
				}
			},
		},
		{name: "19 set-user-ID kept", layers: one(file("a", "x").mode(0o6755).own(1000, 1001), hardlink("b", "a")), check: mode("b", unix.S_IFREG|0o6755, 1000, 1001)},
		{name: "19 set-user-ID lost by the last entry", layers: one(file("a", "x").mode(0o6755), file("a", "x").mode(0o755)), check: mode("a", unix.S_IFREG|0o755, 0, 0)},
		{name: "19 set-group-ID directory", layers: one(dir("d").mode(0o2775).own(0, 33), file("d/f", "x"), dir("d/e")), check: func(t *testing.T, l string, r Result) {
			mode("d", unix.S_IFDIR|0o2775, 0, 33)(t, l, r)
			mode("d/f", unix.S_IFREG|0o644, 0, 0)(t, l, r) // not inherited
			mode("d/e", unix.S_IFDIR|0o755, 0, 0)(t, l, r)
		}},
		{name: "19 sticky", layers: one(dir("tmp").mode(0o1777)), check: mode("tmp", unix.S_IFDIR|0o1777, 0, 0)},
		{name: "19 big owner", layers: one(file("a", "").own(1<<32-2, 1<<32-2)), check: mode("a", unix.S_IFREG|0o644, 1<<32-2, 1<<32-2)},
		{name: "20 capabilities and labels", layers: one(file("a", "x").own(5, 5).pax("SCHILY.xattr.security.capability", caps, "SCHILY.xattr.security.selinux", "x",
			"SCHILY.xattr.security.ima", "x", "SCHILY.xattr.security.evm", "x", "SCHILY.xattr.user.mine", "x")), check: xattrs("a", "security.capability", "user.mine")},
		{name: "20 capabilities v3", layers: one(file("a", "x").pax("SCHILY.xattr.security.capability", capsV3)), check: xattrs("a", "security.capability")},
		{name: "20 damaged capabilities", layers: one(file("a", "x").pax("SCHILY.xattr.security.capability", "x")), want: ErrInvalid},
		{name: "23 trusted", layers: one(file("a", "x").pax("SCHILY.xattr.trusted.other", "x", "SCHILY.xattr.system.unknown", "x")), check: xattrs("a")},
		{name: "libarchive attributes", layers: one(dir("a").pax("LIBARCHIVE.xattr.user.with%20space", "eA")), check: xattrs("a", "user.with space")},
		{name: "default ACL does not act while unpacking", layers: one(dir("d").pax("SCHILY.xattr.system.posix_acl_default",
			"\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x02\x00\x07\x00\x05\x00\x00\x00\x04\x00\x07\x00\xff\xff\xff\xff\x10\x00\x07\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff"),
			file("d/f", "x")), check: func(t *testing.T, l string, r Result) {
			xattrs("d", "system.posix_acl_default")(t, l, r)
			xattrs("d/f")(t, l, r)
		}},
		{name: "35 hole", layers: [][]byte{raw(sparse("f", 3<<30))}, check: func(t *testing.T, l string, r Result) {
			var st unix.Stat_t
			if err := unix.Lstat(l+"/f", &st); err != nil || st.Size != 3<<30 || st.Blocks > 64 && r.Kind == overlay.Extracted {
				t.Errorf("size %d, %d blocks, %v, want %d in a few", st.Size, st.Blocks, err, 3<<30)
			}
			if r.Bytes != 3<<30 {
				t.Errorf("counted %d bytes", r.Bytes)
			}
		}},
	}
}

func TestRootMalicious(t *testing.T) { runAttacks(t, rootAttacks) }

// TestRootCorpus has rows of the corpus that are about more than what is in an
// archive; see docs/security.md.
func TestRootCorpus(t *testing.T) {
	for _, row := range []struct {
		name string
		test func(t *testing.T)
	}{
		{"11 names exchanged while unpacking", testRace},
		{"14 opaque root", testOpaqueRoot},
		{"18 closed to users", testClosedToUsers},
		{"38 many markers", testManyMarkers},
		{"57 one layer on two parents", testOtherParent},
		{"59 damaged image", testDamagedImage},
		{"60 damaged layer", testDamagedLayer},
	} {
		t.Run(row.name, func(t *testing.T) { eachKind(t, row.test) })
	}
}

// Users of the host must not reach what an image brings (CVE-2021-41091).
func testClosedToUsers(t *testing.T) {
	s := openStore(t)
	c := mustApply(t, s, "", file("sh", "x").mode(0o6755))
	content := layerDir(s, c) + "/sh"
	switch kindUnderTest {
	case Index:
		content = filepath.Join(s.Root(), overlay.Indexed.Dir(c), overlay.ArchiveFile)
	case apart:
		needRedirects(t, s)
		content = filepath.Join(s.Root(), overlay.Indexed.Dir(c), overlay.LargeDir, "1")
	}
	if _, err := os.Lstat(content); err != nil {
		t.Fatal(err)
	}
	sn, err := s.Prepare("k", c)
	if err != nil {
		t.Fatal(err)
	}
	for p := filepath.Dir(s.Root()); len(p) > 4; p = filepath.Dir(p) { // the temporary directory itself is open
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
		if filepath.Dir(p) == os.TempDir() {
			break
		}
	}
	if err := os.Chmod(s.Root(), 0o755); err != nil { // even if the store's own directory is
		t.Fatal(err)
	}
	for path, ok := range map[string]bool{s.Root(): true, content: false, sn.UpperDir(): false, sn.RootfsDir(): false, s.Root() + "/staging/.": false} {
		cmd := exec.Command("/bin/ls", "-ld", path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if (err == nil) != ok {
			t.Errorf("user 65534, %s: %v: %s", path, err, out)
		}
	}
}

func testOpaqueRoot(t *testing.T) {
	s := openStore(t)
	a := mustApply(t, s, "", file("f", "1"), dir("d"), file("d/x", "1"), dir("e"), file("e/x", "1"))
	b := mustApply(t, s, a, file("d/y", "2"), file(whOpaque, ""), file("g", "2"))
	got := strings.Join(view(t, s, b), "\n")
	want := "/ 40755 0:0 0\n/d 40755 0:0 0\n/d/y 100644 0:0 1000000000 2\n/g 100644 0:0 1000000000 2"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestRootHardLinkAcrossLayers(t *testing.T) {
	s := openStore(t)
	caps := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	a := mustApply(t, s, "", dir("bin").own(3, 3).mode(0o711), file("bin/a", "body").mode(0o4755).own(7, 8).pax("SCHILY.xattr.security.capability", caps, "SCHILY.xattr.user.x", "y"),
		symlink("bin/l", "/etc/passwd"), file("bin/p", "").typ(tar.TypeFifo))
	mid := mustApply(t, s, a, file("other", ""))
	c := mustApply(t, s, mid, hardlink("b", "bin/a"), hardlink("/bin/c", "./b"), hardlink("l2", "bin/l"), hardlink("p2", "bin/p"))
	dir := layerDir(s, c)
	if a, b, c := inodeOf(t, dir+"/bin/a"), inodeOf(t, dir+"/b"), inodeOf(t, dir+"/bin/c"); a != b || b != c {
		t.Errorf("inodes %d %d %d, want one", a, b, c)
	}
	for _, x := range []string{"security.capability", "user.x"} {
		buf := make([]byte, 100)
		if n, err := unix.Lgetxattr(dir+"/b", x, buf); err != nil || n == 0 {
			t.Errorf("%s: %v", x, err)
		}
	}
	got := strings.Join(view(t, s, c), "\n")
	for _, want := range []string{
		"/b 104755 7:8 1000000000 body", "/bin 40711 3:3 1000000000\n", "/bin/a 104755 7:8 1000000000 body", "/bin/c 104755 7:8 1000000000 body",
		"/l2 120777 0:0 1000000000 -> /etc/passwd", "/p2 10644 0:0 1000000000",
	} {
		if !strings.Contains(got+"\n", want) {
			t.Errorf("missing %q in\n%s", want, got)
		}
	}
	// The target is taken away in the same layer: only the link remains.
	d := mustApply(t, s, mid, hardlink("b", "bin/a"), whiteoutOf("bin/a"))
	got = strings.Join(view(t, s, d), "\n")
	if strings.Contains(got, "/bin/a ") || !strings.Contains(got, "/b 104755 7:8 1000000000 body") {
		t.Errorf("whiteout of a link's target:\n%s", got)
	}
	// Links before their target.
	e := mustApply(t, s, "", hardlink("x", "y"), hardlink("d/z", "y"), file("y", "late"))
	if inodeOf(t, layerDir(s, e)+"/x") != inodeOf(t, layerDir(s, e)+"/y") || inodeOf(t, layerDir(s, e)+"/d/z") != inodeOf(t, layerDir(s, e)+"/y") {
		t.Error("forward links are not links")
	}
	if _, _, err := apply(s, mid, archive(t, hardlink("x", "bin"))); !errors.Is(err, ErrInvalid) {
		t.Errorf("link to a directory below: %v", err)
	}
}

// Names in staging are exchanged while unpacking.
func testRace(t *testing.T) {
	canary := filepath.Join(t.TempDir(), "canary")
	if err := os.Mkdir(canary, 0o700); err != nil {
		t.Fatal(err)
	}
	s := openStore(t)
	kind := kindUnderTest
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		swaps := 0
		for {
			select {
			case <-stop:
				done <- swaps
				return
			default:
			}
			for _, layer := range glob(s.Root() + "/staging/layer-*") {
				at, names, times := layer+"/fs", []string{"d"}, 50
				if kind != Extract {
					at, names, times = layer, []string{"tar", "rest", "entries", "sparse", "large"}, 3
				}
				_ = os.Symlink(canary, at+"/evil")
				for range times {
					for _, name := range names {
						if unix.Renameat2(unix.AT_FDCWD, at+"/evil", unix.AT_FDCWD, at+"/"+name, unix.RENAME_EXCHANGE) == nil {
							swaps++
						}
					}
				}
			}
		}
	}()
	ok, failed := 0, 0
	for i := range 12 {
		ents := []ent{file("first", fmt.Sprint(i))}
		for j := range 150 {
			ents = append(ents, file(fmt.Sprintf("d/%d/f", j), "x").mode(0o4755), symlink(fmt.Sprintf("d/l%d", j), "x"), hardlink(fmt.Sprintf("d/h%d", j), "first"), whiteoutOf(fmt.Sprintf("d/w%d", j)))
		}
		if _, _, err := apply(s, "", archive(t, ents...)); err == nil {
			ok++
		} else {
			failed++
		}
	}
	close(stop)
	if swaps := <-done; swaps == 0 {
		t.Error("no race happened")
	}
	if names, err := os.ReadDir(canary); err != nil || len(names) > 0 {
		t.Errorf("canary has %v, %v", names, err)
	}
	t.Logf("%d unpacked, %d failed", ok, failed)
}

func glob(pattern string) []string {
	m, _ := filepath.Glob(pattern)
	return m
}

// tmpfs is a file system of a given size that is mounted nowhere.
func tmpfs(t *testing.T, options ...string) string {
	t.Helper()
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer linux.Close(fs)
	for i := 0; i < len(options); i += 2 {
		if err := unix.FsconfigSetString(fs, options[i], options[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { linux.Close(fd) })
	return fmt.Sprintf("/proc/self/fd/%d", fd)
}

func TestRootFullDisk(t *testing.T) {
	for name, options := range map[string][]string{"blocks": {"size", "1m"}, "inodes": {"nr_inodes", "100"}} {
		t.Run(name, func(t *testing.T) {
			root := tmpfs(t, options...)
			s, err := overlay.OpenStore(root)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			b := bigArchive(t, 300)
			small := archive(t, file("fill", strings.Repeat("x", 500<<10)))
			c, _, err := apply(s, "", small)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				_, _, err := apply(s, "", b)
				if !errors.Is(err, unix.ENOSPC) {
					t.Fatalf("got %v, want ENOSPC", err)
				}
				if msg := err.Error(); strings.Contains(msg, "\n") || !strings.Contains(msg, "entry \"d") {
					t.Errorf("message %q", msg)
				}
				wantEmpty(t, s, 1)
			}
			if err := s.RemoveLayer(c); err != nil {
				t.Fatal(err)
			}
			if _, _, err := apply(s, "", archive(t, file("a", strings.Repeat("x", 700<<10)))); err != nil {
				t.Errorf("after making room: %v", err)
			}
			wantEmpty(t, s, 1)
		})
	}
}

// Markers over a big lower layer cost the same each.
func testManyMarkers(t *testing.T) {
	cost := func(n int) float64 {
		s := openStore(t)
		var lower, upper []ent
		for i := range n {
			lower = append(lower, file(fmt.Sprintf("d/%d", i), ""), file(fmt.Sprintf("o/%d/f", i), ""))
			upper = append(upper, whiteoutOf(fmt.Sprintf("d/%d", i)), file(fmt.Sprintf("o/%d/%s", i, whOpaque), ""))
		}
		a := mustApply(t, s, "", lower...)
		b := archive(t, upper...)
		var before, after unix.Rusage
		_ = unix.Getrusage(unix.RUSAGE_SELF, &before)
		_, res, err := Layer(t.Context(), s, a, digest(b), bytes.NewReader(b), testOptions())
		_ = unix.Getrusage(unix.RUSAGE_SELF, &after)
		if err != nil || res.Whiteouts != 2*n {
			t.Fatalf("%d whiteouts, %v, want %d", res.Whiteouts, err, 2*n)
		}
		cpu := func(r *unix.Rusage) float64 {
			return float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9
		}
		return cpu(&after) - cpu(&before)
	}
	small, big := cost(1000), cost(4000)
	t.Logf("CPU seconds: %.3f for 1,000 of each, %.3f for 4,000", small, big)
	if big > 4*small*2+0.2 {
		t.Errorf("four times the markers cost %.1f times as much", big/small)
	}
}
