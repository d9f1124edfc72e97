package container

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/minirun/minirun/imagestore/unpacked"
	"golang.org/x/sys/unix"
)

func TestUser(t *testing.T) {
	root := rootWith(t, "etc/passwd", passwd, "etc/group", group)
	for _, tt := range []struct {
		user     string
		uid, gid uint32
		groups   []uint32
	}{
		{"", 0, 0, []uint32{0}},
		{"root", 0, 0, []uint32{0}},
		{"0", 0, 0, []uint32{0}},
		{"user", 1000, 1001, []uint32{1001, 29, 44}},
		{"1000", 1000, 1001, []uint32{1001}}, // a number has no supplementary groups
		{"2000", 2000, 0, []uint32{0}},
		{"1000:5", 1000, 5, []uint32{5}},
		{"user:audio", 1000, 29, []uint32{29}},
		{"user:0", 1000, 0, []uint32{0}},
		{"2147483647:2147483647", 1<<31 - 1, 1<<31 - 1, []uint32{1<<31 - 1}},
		{"007", 7, 0, []uint32{0}},
		// Names that look like numbers are numbers (CVE-2016-3697).
		{"1234", 1234, 0, []uint32{0}},
		{"0:99", 0, 99, []uint32{99}},
	} {
		u, err := lookupUser(root, tt.user)
		if err != nil || u.UID != tt.uid || u.GID != tt.gid || !slices.Equal(u.AdditionalGids, tt.groups) {
			t.Errorf("%q: %+v, %v; want %+v", tt.user, u, err, tt)
		}
	}
	for _, tt := range []struct{ user, want string }{
		{"-1", "invalid id"},
		{"+1", "invalid id"},
		{"0x10", "invalid id"},
		{"4294967296", "invalid id"},
		{"2147483648", "invalid id"},
		{"18446744073709551616", "invalid id"},
		{"1000x", "invalid id"},
		{"1e3", "invalid id"},
		{"1 ", "invalid id"},
		{"0:-1", "invalid id"},
		{"0:4294967296", "invalid id"},
		{"0:0x0", "invalid id"},
		{"1000:2147483648", "invalid id"},
		{"1000:", "want USER or USER:GROUP"},
		{":", "want USER or USER:GROUP"},
		{":0", "want USER or USER:GROUP"},
		{"user:", "want USER or USER:GROUP"},
		{"nobody-here", "unable to find user nobody-here"},
		{"user:nogroup", "unable to find group nogroup"},
		{"a:b:c", "unable to find user a"},
		{"user:audio:x", "unable to find group audio:x"},
		{" user", "unable to find user"},
		{"user\n", "unable to find user"},
		{"bad", "unable to find user"},
		{"huge", "/etc/passwd: invalid id"},
		{"negative", "/etc/passwd: invalid id"},
		{"user:broken", "/etc/group: invalid id"},
		{"USER", "unable to find user"},
	} {
		u, err := lookupUser(root, tt.user)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), strconv.Quote(tt.user)) {
			t.Errorf("%q: %+v, %v; want %q", tt.user, u, err, tt.want)
		}
	}
	// The user's wish comes before the image's.
	if s := mustSpec(t, unpacked.ImageConfig{User: "user"}, Options{User: "7"}); s.Process.User.UID != 7 {
		t.Errorf("user %+v, want 7", s.Process.User)
	}
	specError(t, unpacked.ImageConfig{User: "4294967296"}, Options{}, "invalid id")
}

// The databases are the image's: whatever they are, they cost no time, no memory
// and no look at the host's.
func TestUserDatabases(t *testing.T) {
	type setup func(t *testing.T, etc string)
	link := func(target string) setup {
		return func(t *testing.T, etc string) {
			if err := os.Symlink(target, filepath.Join(etc, "passwd")); err != nil {
				t.Fatal(err)
			}
		}
	}
	secret := filepath.Join(t.TempDir(), "host-passwd")
	if err := os.WriteFile(secret, []byte("hostuser:x:4242:4242::/:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		setup setup
		user  string
		want  string // of the error; "" for none
	}{
		{"none, name", func(*testing.T, string) {}, "user", "unable to find user"},
		{"none, number", func(*testing.T, string) {}, "5", ""},
		{"none, default", func(*testing.T, string) {}, "", ""},
		{"fifo", func(t *testing.T, etc string) {
			if err := unix.Mkfifo(filepath.Join(etc, "passwd"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "user", "no regular file"},
		{"directory", func(t *testing.T, etc string) {
			if err := os.Mkdir(filepath.Join(etc, "passwd"), 0o755); err != nil {
				t.Fatal(err)
			}
		}, "5", "no regular file"},
		{"endless", func(t *testing.T, etc string) {
			f, err := os.Create(filepath.Join(etc, "passwd"))
			if err == nil {
				err = f.Truncate(10 << 30)
				f.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
		}, "user", "more than 1048576 bytes"},
		{"link to itself", link("passwd"), "user", "/etc/passwd"},
		{"link to the host, absolute", link(secret), "hostuser", "unable to find user"},
		{"link to the host, relative", link(strings.Repeat("../", 40) + strings.TrimPrefix(secret, "/")), "hostuser", "unable to find user"},
		{"link within", func(t *testing.T, etc string) {
			link("/other")(t, etc)
			if err := os.WriteFile(filepath.Join(etc, "..", "other"), []byte(passwd), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "user", ""},
		{"magic link", link("/proc/self/fd/0"), "user", "unable to find user"},
		{"huge group", func(t *testing.T, etc string) {
			if err := os.WriteFile(filepath.Join(etc, "passwd"), []byte(passwd), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(etc, "group"), make([]byte, 2<<20), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "user", "/etc/group has more than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			etc := filepath.Join(dir, "etc")
			if err := os.Mkdir(etc, 0o755); err != nil {
				t.Fatal(err)
			}
			tt.setup(t, etc)
			root := openDir(t, dir)
			begin := time.Now()
			u, err := lookupUser(root, tt.user)
			if (err != nil) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%+v, %v; want %q", u, err, tt.want)
			}
			if d := time.Since(begin); d > 5*time.Second {
				t.Errorf("it took %v", d)
			}
		})
	}
}

// As many groups as the file can name: in reasonable time, and no more than the
// kernel takes.
func TestUserManyGroups(t *testing.T) {
	var b strings.Builder
	for i := range 70000 {
		b.WriteString("g:x:" + strconv.Itoa(i) + ":u\n")
	}
	groups := [][]string{}
	for line := range strings.SplitSeq(b.String(), "\n") {
		groups = append(groups, strings.Split(line, ":"))
	}
	begin := time.Now()
	if got := memberOf(groups, "u", 5); len(got) != maxGroups || got[0] != 5 {
		t.Errorf("%d groups, the first is %d", len(got), got[0])
	}
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("it took %v", d)
	}
}
