package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/testenv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func copyUpMount(dest string, options ...string) specs.Mount {
	return specs.Mount{Destination: dest, Type: "tmpfs", Source: "tmpfs", Options: append([]string{"tmpcopyup"}, options...)}
}

// fillCopyUp makes files of all kinds.
func fillCopyUp(t *testing.T, dir string) {
	t.Helper()
	for _, d := range []string{"d/e", "empty"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, filepath.Join(dir, "f"), "content\n")
	writeFile(t, filepath.Join(dir, "d/e/g"), "deep\n")
	writeFile(t, filepath.Join(dir, "big"), strings.Repeat("0123456789abcde\n", 200000))
	writeFile(t, filepath.Join(dir, "none"), "")
	for _, err := range []error{
		os.Symlink("../f", filepath.Join(dir, "d/link")), os.Symlink("/etc/shadow", filepath.Join(dir, "out")),
		unix.Mkfifo(filepath.Join(dir, "pipe"), 0o640),
		os.Chown(filepath.Join(dir, "f"), 100005, 100006), unix.Chmod(filepath.Join(dir, "f"), 0o6757),
		os.Chown(filepath.Join(dir, "d"), 100007, 100008), unix.Chmod(filepath.Join(dir, "d"), 0o2775),
		os.Lchown(filepath.Join(dir, "out"), 100009, 100010), unix.Chmod(dir, 0o1757), os.Chown(dir, 100001, 100002),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// What a tmpfs with the option tmpcopyup covers is in it.
func TestRootTmpCopyUp(t *testing.T) {
	setup(t)
	volume := t.TempDir()
	if err := os.Chmod(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	fillCopyUp(t, volume)
	const look = `cd $1 && for f in . f d d/e d/e/g d/link out pipe big none empty; do stat -c '%n %F %a %u:%g' $f; done; readlink out; readlink d/link; cat f d/e/g; md5sum <big; ls -A | wc -l`
	expect := func(root, f, d, out string) string {
		return ". directory 1757 " + root + "\nf regular file 6757 " + f + "\nd directory 2775 " + d + `
d/e directory 755 0:0
d/e/g regular file 644 0:0
d/link symbolic link 777 0:0
out symbolic link 777 ` + out + `
pipe fifo 640 0:0
big regular file 644 0:0
none regular empty file 644 0:0
empty directory 755 0:0
/etc/shadow
../f
content
deep
b77560f806f7b50b510a59bd03d69a94  -
7
`
	}
	for _, tt := range []struct {
		name  string
		box   func(*specs.Spec)
		place string
		want  string
		text  string // of mountinfo
	}{
		{"rootfs", func(s *specs.Spec) { s.Mounts = append(s.Mounts, copyUpMount("/data")) }, "/data", expect("100001:100002", "100005:100006", "100007:100008", "100009:100010"), "rw,relatime"},
		{"read-only", func(s *specs.Spec) { s.Mounts = append(s.Mounts, copyUpMount("/data", "ro", "nosuid")) }, "/data", expect("100001:100002", "100005:100006", "100007:100008", "100009:100010"), "ro,nosuid"},
		{"by a link", func(s *specs.Spec) { s.Mounts = append(s.Mounts, copyUpMount("/link")) }, "/data", expect("100001:100002", "100005:100006", "100007:100008", "100009:100010"), "rw,relatime"},
		{"of a volume", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, bindMount(filepath.Dir(volume), "/v"), copyUpMount("/v/"+filepath.Base(volume)))
		}, "/v/" + filepath.Base(volume), expect("100001:100002", "100005:100006", "100007:100008", "100009:100010"), "rw,relatime"},
		{"user namespace", func(s *specs.Spec) {
			withUser(s)
			s.Mounts = append(s.Mounts, copyUpMount("/data"))
		}, "/data", expect("1:2", "5:6", "7:8", "9:10"), "rw,relatime"},
	} {
		b := newBox(t, tt.box, writable, func(s *specs.Spec) {
			s.Process.Args = []string{"sh", "-c", look + "; grep \" $1 \" /proc/self/mountinfo; echo new > f", "sh", tt.place}
		})
		b.places("data", "v")
		fillCopyUp(t, b.rootfs("data"))
		if err := os.Symlink("data", b.rootfs("link")); err != nil {
			t.Fatal(err)
		}
		r := b.run()
		got, info, _ := strings.Cut(r.Stdout, "\n7\n")
		got += "\n7\n"
		if got != tt.want || !strings.Contains(info, tt.text) || !strings.Contains(info, "tmpfs") {
			t.Errorf("%s: %s%s\nwant\n%s%s", tt.name, r.Stdout, r.Stderr, tt.want, tt.text)
		}
		if text := readFile(t, b.rootfs("data", "f")) + readFile(t, filepath.Join(volume, "f")); text != "content\ncontent\n" {
			t.Errorf("%s: what was written into the copy is in the original: %q", tt.name, text)
		}
		b.gone()
	}
}

// Times, attributes of the user's and capabilities of programs are copied too.
func TestRootTmpCopyUpTimesAndAttributes(t *testing.T) {
	setup(t)
	xattrs := true // tmpfs has user.* since Linux 6.6; the rootfs may be on one
	b := newBox(t, writable, forever, func(s *specs.Spec) { s.Mounts = append(s.Mounts, copyUpMount("/data")) })
	b.places("data", "data/d", "data/d/e")
	writeFile(t, b.rootfs("data/d/f"), "x")
	capability := []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00") // cap_net_raw=ep
	if err := os.Symlink("f", b.rootfs("data/d/link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(b.rootfs("data/d/f"), "security.capability", capability, 0); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"data/d", "data/d/f"} {
		if err := unix.Setxattr(b.rootfs(name), "user.note", []byte("of "+name), 0); err != nil {
			t.Logf("%s: %v", name, err)
			xattrs = false
		}
	}
	for i, name := range []string{"data/d/f", "data/d/link", "data/d/e", "data/d", "data"} {
		when := []unix.Timespec{{Sec: 1000000000 + int64(i), Nsec: 5}, {Sec: 1100000000 + int64(i), Nsec: 7}}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, b.rootfs(name), when, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Fatal(err)
		}
	}
	b.up()
	root := "/proc/" + strconv.Itoa(b.pid()) + "/root/"
	for i, name := range []string{"data/d/f", "data/d/link", "data/d/e", "data/d", "data"} {
		var st unix.Stat_t
		if err := unix.Lstat(root+name, &st); err != nil {
			t.Fatal(err)
		}
		if st.Mtim.Sec != 1100000000+int64(i) || st.Mtim.Nsec != 7 {
			t.Errorf("%s was changed at %v", name, st.Mtim)
		}
	}
	get := func(name, attribute string) string {
		buf := make([]byte, 100)
		n, err := unix.Lgetxattr(root+name, attribute, buf)
		if err != nil {
			return err.Error()
		}
		return string(buf[:n])
	}
	if got := get("data/d/f", "security.capability"); got != string(capability) {
		t.Errorf("capabilities of the copy: %q", got)
	}
	for _, name := range []string{"data/d", "data/d/f"} {
		if got := get(name, "user.note"); xattrs && got != "of "+name && got != unix.EOPNOTSUPP.Error() {
			t.Errorf("%s has the attribute %q", name, got)
		}
	}
}

// Too much to copy is an error and leaves nothing.
func TestRootTmpCopyUpLimits(t *testing.T) {
	setup(t)
	many := func(n int) func(dir string) {
		return func(dir string) {
			for i := range n {
				writeFile(t, filepath.Join(dir, fmt.Sprintf("f%d", i)), "x")
			}
		}
	}
	for _, tt := range []struct {
		name  string
		fill  func(dir string)
		mount []specs.Mount
		texts []string // of an error; none: it works
	}{
		{"many files", many(3990), []specs.Mount{copyUpMount("/data")}, nil},
		{"too many files", many(4001), []specs.Mount{copyUpMount("/data")}, []string{"mounts[7].options", "more than 4000 files"}},
		{"too many bytes", func(dir string) { writeFile(t, filepath.Join(dir, "f"), strings.Repeat("x", 1<<20)) }, []specs.Mount{copyUpMount("/data", "size=64k")}, []string{"/data/f", "no space left on device"}},
		{"too deep", func(dir string) {
			if err := os.MkdirAll(dir+strings.Repeat("/d", 110), 0o755); err != nil {
				t.Fatal(err)
			}
		}, []specs.Mount{copyUpMount("/data")}, []string{"more than 100 directories deep"}},
		{"over another mount", func(string) {}, []specs.Mount{bindMount("/etc", "/data/x"), copyUpMount("/data")}, []string{"mounts[8].options", "mounts[7]"}},
		{"of a bind", func(string) {}, []specs.Mount{bindMount("/etc", "/data", "tmpcopyup")}, []string{"mounts[7].options", "tmpcopyup"}},
		{"nothing there", func(dir string) { _ = os.Remove(dir) }, []specs.Mount{copyUpMount("/data")}, nil},
		{"over a tmpfs", func(string) {}, []specs.Mount{{Destination: "/data", Type: "tmpfs", Source: "x"}, copyUpMount("/data/sub")}, nil},
	} {
		b := newBox(t, writable, func(s *specs.Spec) { s.Mounts = append(s.Mounts, tt.mount...) })
		b.places("data")
		tt.fill(b.rootfs("data"))
		r := b.run()
		if (r.Code == 0) != (tt.texts == nil) {
			t.Errorf("%s: %+v", tt.name, r)
		}
		for _, text := range tt.texts {
			if !strings.Contains(r.Stderr, text) {
				t.Errorf("%s: %q does not say %s", tt.name, r.Stderr, text)
			}
		}
		b.gone()
	}
}

// Another container that shares the directory swaps what is copied for links to
// the host's files: none of these gets into the container.
func TestRootAttackCopyUp(t *testing.T) {
	setup(t)
	for _, names := range [][2]string{{"x", "y"}, {"file", "other"}} {
		canary, volume := atNewCanary(t), t.TempDir()
		for _, d := range []string{"dir/x/sub", "dir/empty"} {
			if err := os.MkdirAll(filepath.Join(volume, d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range []string{"x/secret", "x/sub/file", "file"} {
			writeFile(t, filepath.Join(volume, "dir", f), "harmless")
		}
		for name, target := range map[string]string{"y": canary.dir, "other": canary.dir + "/secret"} {
			if err := os.Symlink(target, filepath.Join(volume, "dir", name)); err != nil {
				t.Fatal(err)
			}
		}
		b := newBox(t, writable, func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, bindMount(volume, "/v"), copyUpMount("/v/dir"))
		}, script("find /v/dir -type f -exec cat {} ';'"))
		stop := atRacer(t, filepath.Join(volume, "dir"), names[0], names[1])
		deadline := time.Now().Add(testenv.Timeout(800 * time.Millisecond))
		ran, refused := 0, 0
		for ran+refused < 3 || time.Now().Before(deadline) {
			r := b.run()
			if strings.Contains(r.Stdout, "canary") {
				t.Errorf("a file of the host was copied: %q", r.Stdout)
				break
			}
			if r.Code == 0 {
				ran++
			} else {
				refused++
			}
		}
		swaps := stop()
		canary.check()
		b.gone()
		if swaps < 100 {
			t.Errorf("%d swaps during %d creations: that is no race", swaps, ran+refused)
		}
		t.Logf("%v: %d swaps, %d containers ran, %d were refused", names, swaps, ran, refused)
	}
}

// The copies count against the container's memory.
func TestVMTmpCopyUpMemory(t *testing.T) {
	setup(t)
	limit := int64(8 << 20)
	b := newBox(t, writable, func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, copyUpMount("/data"))
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	})
	b.places("data")
	writeFile(t, b.rootfs("data", "f"), strings.Repeat("x", 32<<20))
	if r := b.run(); r.Code != 1 || !strings.Contains(r.Stderr, "memory") {
		t.Errorf("copying 32 MiB under a limit of 8: %+v", r)
	}
	b.gone()
}
