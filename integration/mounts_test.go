package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mountLine is what proc_pid_mountinfo(5) says of one mount.
type mountLine struct {
	options     []string // of the mount
	propagation string
	fstype      string
	super       []string
}

// mountsIn parses mountinfo; of several mounts at one place the last counts.
func mountsIn(text string) map[string]mountLine {
	m := map[string]mountLine{}
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 6 || len(g) < 3 {
			continue
		}
		l := mountLine{options: strings.Split(f[5], ","), fstype: g[0], super: strings.Split(g[2], ",")}
		for _, tag := range f[6:] {
			name, _, _ := strings.Cut(tag, ":")
			l.propagation += name + " "
		}
		l.propagation = strings.TrimSpace(l.propagation)
		m[f[4]] = l
	}
	return m
}

func TestRootMountOptions(t *testing.T) {
	setup(t)
	src := t.TempDir()
	writeFile(t, filepath.Join(src, "file"), "content\n")
	if err := os.Mkdir(filepath.Join(src, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", filepath.Join(src, "sub"), "tmpfs", unix.MS_NOEXEC, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(src, "sub"), unix.MNT_DETACH) })
	writeFile(t, filepath.Join(src, "sub", "below"), "below\n")

	tests := []struct {
		fstype  string
		options string
		want    string // options of the mount that must be there
		not     string // and that must not
	}{
		{"tmpfs", "ro", "ro", "rw"},
		{"tmpfs", "rw", "rw", "ro"},
		{"tmpfs", "nosuid,nodev,noexec", "nosuid nodev noexec rw relatime", ""},
		{"tmpfs", "nosuid,suid,nodev,dev,noexec,exec,ro,rw", "rw", "nosuid nodev noexec ro"},
		{"tmpfs", "noatime", "noatime", "relatime"},
		{"tmpfs", "relatime", "relatime", "noatime"},
		{"tmpfs", "strictatime", "rw", "relatime noatime"},
		{"tmpfs", "strictatime,noatime", "noatime", "relatime"},
		{"tmpfs", "nodiratime", "nodiratime", ""},
		{"tmpfs", "nodiratime,diratime", "rw", "nodiratime"},
		{"tmpfs", "nosymfollow", "nosymfollow", ""},
		{"tmpfs", "nosymfollow,symfollow", "rw", "nosymfollow"},
		{"tmpfs", "defaults,async,loud,nomand,nolazytime,norelatime", "rw", "relatime"},
		{"bind", "bind", "rw relatime", "ro nosuid"},
		{"bind", "bind,ro", "ro", "rw"},
		{"bind", "bind,ro,nosuid,nodev,noexec,noatime", "ro nosuid nodev noexec noatime", ""},
		{"", "rbind,ro", "ro", "rw"},
		{"none", "rbind,nosuid", "nosuid rw", ""},
	}
	b := newBox(t, writable, func(s *specs.Spec) {
		s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "mqueue" })
		for i, tt := range tests {
			m := specs.Mount{Destination: "/m" + string(rune('a'+i)), Type: tt.fstype, Source: "tmpfs", Options: strings.Split(tt.options, ",")}
			if tt.fstype != "tmpfs" {
				m.Source = src
			}
			s.Mounts = append(s.Mounts, m)
		}
		s.Mounts = append(s.Mounts,
			specs.Mount{Destination: "/new/dir/file", Source: filepath.Join(src, "file"), Options: []string{"bind", "ro"}},
			specs.Mount{Destination: "relative", Source: src, Options: []string{"rbind", "rro"}},
			specs.Mount{Destination: "/recursive", Source: src, Options: []string{"rbind", "rnosuid", "rnoatime"}},
			specs.Mount{Destination: "/slave", Source: src, Options: []string{"rbind", "rslave"}},
			specs.Mount{Destination: "/shared", Source: src, Options: []string{"bind", "shared"}},
			specs.Mount{Destination: "/private", Source: src, Options: []string{"bind", "private"}},
			specs.Mount{Destination: "/unbindable", Source: src, Options: []string{"bind", "unbindable"}},
			specs.Mount{Destination: "/queue", Type: "mqueue", Source: "mqueue"},
			specs.Mount{Destination: "/small", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=64k", "nr_inodes=77", "mode=1711", "uid=5", "gid=6"}},
			specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"},
		)
	}, script("cat /proc/self/mountinfo; echo ===; cat /new/dir/file /relative/sub/below; ls -ld /tmp /small | cut -c1-10; stat -c %u:%g /small; ls /mn/sub; echo ===; touch /relative/sub/x /recursive/sub/y 2>&1; echo z > /new/dir/file"))
	r := b.run()
	parts := strings.Split(r.Stdout, "===\n")
	if len(parts) != 3 {
		t.Fatalf("%+v", r)
	}
	m := mountsIn(parts[0])
	for i, tt := range tests {
		place := "/m" + string(rune('a'+i))
		l, ok := m[place]
		for _, want := range strings.Fields(tt.want) {
			if !slices.Contains(l.options, want) {
				t.Errorf("%s %s: options %v, want %s (mounted: %v)", tt.fstype, tt.options, l.options, want, ok)
			}
		}
		for _, not := range strings.Fields(tt.not) {
			if slices.Contains(l.options, not) {
				t.Errorf("%s %s: options %v, want no %s", tt.fstype, tt.options, l.options, not)
			}
		}
		// bind takes one mount, rbind all below.
		if _, sub := m[place+"/sub"]; sub != strings.Contains(tt.options, "rbind") {
			t.Errorf("%s %s: mount below: %v", tt.fstype, tt.options, sub)
		}
	}
	if o := m["/relative/sub"].options; !slices.Contains(o, "ro") || !slices.Contains(o, "noexec") {
		t.Errorf("rro: options below %v, want ro and the noexec it had", o)
	}
	if o := m["/recursive/sub"].options; !slices.Contains(o, "nosuid") || !slices.Contains(o, "noatime") || slices.Contains(o, "ro") {
		t.Errorf("rnosuid,rnoatime: options below %v", o)
	}
	for place, want := range map[string]string{"/shared": "shared", "/private": "", "/unbindable": "unbindable", "/": "", "/proc": ""} {
		if got := m[place].propagation; got != want {
			t.Errorf("propagation of %s: %q, want %q", place, got, want)
		}
	}
	if m["/queue"].fstype != "mqueue" || m["/dev/pts"].fstype != "devpts" || m["/sys"].fstype != "sysfs" || m["/sys/fs/cgroup"].fstype != "cgroup2" {
		t.Errorf("file systems %q %q %q %q", m["/queue"].fstype, m["/dev/pts"].fstype, m["/sys"].fstype, m["/sys/fs/cgroup"].fstype)
	}
	if s := m["/small"].super; !slices.Contains(s, "size=64k") || !slices.Contains(s, "nr_inodes=77") {
		t.Errorf("tmpfs parameters %v", s)
	}
	if want := "content\nbelow\ndrwx--x--t\ndrwxrwxrwt\n5:6\n"; parts[1] != want {
		t.Errorf("contents and modes:\n%swant\n%s", parts[1], want)
	}
	if strings.Count(parts[2], "Read-only file system") != 1 || !strings.Contains(r.Stderr, "Read-only file system") {
		t.Errorf("writing to read-only mounts: %q, %q", parts[2], r.Stderr)
	}
	if !slices.Contains(mountsIn(readFile(t, "/proc/self/mountinfo"))[filepath.Join(src, "sub")].options, "rw") {
		t.Error("the host's mount has become read-only")
	}
}

// A mount made on the host later reaches a slave, and none of the container's
// reaches the host.
func TestRootMountPropagation(t *testing.T) {
	setup(t)
	src := t.TempDir()
	if err := unix.Mount("tmpfs", src, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(src, unix.MNT_DETACH) })
	if err := unix.Mount("", src, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"later", "inner"} {
		if err := os.Mkdir(filepath.Join(src, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b := newBox(t, forever, func(s *specs.Spec) {
		s.Mounts = append(s.Mounts,
			specs.Mount{Destination: "/slave", Source: src, Options: []string{"rbind", "rslave"}},
			specs.Mount{Destination: "/private", Source: src, Options: []string{"rbind", "rprivate"}})
		s.Process.Capabilities.Bounding = append(s.Process.Capabilities.Bounding, "CAP_SYS_ADMIN")
		s.Process.Capabilities.Effective, s.Process.Capabilities.Permitted = s.Process.Capabilities.Bounding, s.Process.Capabilities.Bounding
	}, writable).up()
	if err := unix.Mount("tmpfs", filepath.Join(src, "later"), "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(src, "later"), unix.MNT_DETACH) })
	b.execOut("mount", "-t", "tmpfs", "none", "/slave/inner")
	m := mountsIn(b.execOut("cat", "/proc/self/mountinfo"))
	if _, ok := m["/slave/later"]; !ok {
		t.Error("a mount of the host does not reach the slave")
	}
	if _, ok := m["/private/later"]; ok {
		t.Error("a mount of the host reaches the private mount")
	}
	if _, ok := mountsIn(readFile(t, "/proc/self/mountinfo"))[filepath.Join(src, "inner")]; ok {
		t.Error("a mount of the container has reached the host")
	}
}

func TestRootDevices(t *testing.T) {
	setup(t)
	mode, uid, gid := os.FileMode(0o640), uint32(5), uint32(6)
	b := newBox(t, func(s *specs.Spec) {
		s.Linux.Devices = []specs.LinuxDevice{
			{Path: "/dev/mynull", Type: "c", Major: 1, Minor: 3, FileMode: &mode, UID: &uid, GID: &gid},
			{Path: "/dev/deep/down/block", Type: "b", Major: 7, Minor: 200},
			{Path: "/dev/pipe", Type: "p", FileMode: &mode},
			{Path: "/dev/zero", Type: "u", Major: 1, Minor: 5, FileMode: &mode},
			{Path: "/var/outside", Type: "c", Major: 1, Minor: 3},
		}
		umask := uint32(0o077)
		s.Process.User.Umask = &umask
	}, writable, script(`for f in null zero full random urandom tty mynull deep/down/block pipe; do stat -c '%n %F %t:%T %a %u:%g' /dev/$f; done
		stat -c '%n %t:%T %a' /var/outside
		for l in fd stdin stdout stderr ptmx; do echo $l $(readlink /dev/$l); done
		echo x > /dev/null; head -c 2 /dev/zero | od -An -tx1; cat /dev/mynull; ls /dev/pts /dev/shm /dev/mqueue; test -c /dev/ptmx && echo ptmx`))
	want := `/dev/null character special file 1:3 666 0:0
/dev/zero character special file 1:5 640 0:0
/dev/full character special file 1:7 666 0:0
/dev/random character special file 1:8 666 0:0
/dev/urandom character special file 1:9 666 0:0
/dev/tty character special file 5:0 666 0:0
/dev/mynull character special file 1:3 640 5:6
/dev/deep/down/block block special file 7:c8 666 0:0
/dev/pipe fifo 0:0 640 0:0
/var/outside 1:3 666
fd /proc/self/fd
stdin /proc/self/fd/0
stdout /proc/self/fd/1
stderr /proc/self/fd/2
ptmx pts/ptmx
 00 00
/dev/mqueue:

/dev/pts:
ptmx

/dev/shm:
ptmx
`
	r := b.run()
	if r.Code != 0 || r.Stdout != want {
		t.Errorf("got %s%s\nwant %s", r.Stdout, r.Stderr, want)
	}
}

func TestRootMaskedAndReadonly(t *testing.T) {
	setup(t)
	b := newBox(t, func(s *specs.Spec) {
		s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/etc/passwd", "/home", "/not/there", "/etc/passwd/below")
		s.Linux.ReadonlyPaths = append(s.Linux.ReadonlyPaths, "/tmp", "/etc/group", "/not/there")
	}, writable, script(`cat /etc/passwd; echo "size $(wc -c < /etc/passwd)"; ls /home; touch /home/x; touch /tmp/x; echo x >> /etc/group; echo 1 > /proc/sys/kernel/panic; echo b > /proc/sysrq-trigger; touch /var/ok; ls /sys/firmware; ls -d /not 2>&1`))
	r := b.run()
	if !strings.HasPrefix(r.Stdout, "size 0\n") || !strings.Contains(r.Stdout, "ls: /not: No such file") {
		t.Errorf("masked: %+v", r)
	}
	for _, path := range []string{"/home/x", "/tmp/x", "/etc/group", "/proc/sys/kernel/panic", "/proc/sysrq-trigger"} {
		if _, err := os.Stat(path); strings.HasPrefix(path, "/proc/") && err != nil {
			continue // this kernel does not have it
		}
		if !strings.Contains(r.Stderr, path+": Read-only file system") {
			t.Errorf("%s is not read-only: %s", path, r.Stderr)
		}
	}
	if _, err := os.Stat(b.rootfs("var/ok")); err != nil {
		t.Error(err)
	}
	ro := newBox(t, script("touch /x; touch /dev/y && touch /dev/shm/z && echo ok; mkdir /var/d"))
	r = ro.run()
	if r.Stdout != "ok\n" || !strings.Contains(r.Stderr, "touch: /x: Read-only file system") || !strings.Contains(r.Stderr, "Read-only file system") {
		t.Errorf("read-only root: %+v", r)
	}
}

// --no-pivot is for a root on a ramfs; it works on others, too.
func TestRootNoPivot(t *testing.T) {
	setup(t)
	b := newBox(t, script("ls / | tr '\\n' ' '; ls /proc/1/root/ | wc -l; test -e "+testenv.StateRoot(t)+" || echo away; pwd"))
	if r := b.run("--no-pivot"); r.Code != 0 || !strings.Contains(r.Stdout, "away\n/\n") || !strings.HasPrefix(r.Stdout, "bin dev etc") {
		t.Errorf("--no-pivot: %+v", r)
	}
	b.gone()
}

// A symbolic link in the image does not lead a mount out of it.
func TestRootMountThroughLinks(t *testing.T) {
	setup(t)
	outside := t.TempDir()
	b := newBox(t, writable, func(s *specs.Spec) {
		s.Mounts = append(s.Mounts,
			specs.Mount{Destination: "/link/made", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m"}},
			specs.Mount{Destination: "/up/made2", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m"}})
	}, script("cat /proc/self/mountinfo"))
	for name, target := range map[string]string{"link": outside, "up": "../../../../../../var"} {
		if err := os.Symlink(target, b.rootfs(name)); err != nil {
			t.Fatal(err)
		}
	}
	r := b.run()
	if entries, _ := os.ReadDir(outside); len(entries) != 0 {
		t.Errorf("made outside of the root: %v", entries)
	}
	if r.Code == 0 {
		m := mountsIn(r.Stdout)
		if _, ok := m["/var/made2"]; !ok {
			t.Errorf("no mount at /var/made2: %v", m)
		}
	} else if !strings.Contains(r.Stderr, "/link/made") {
		t.Errorf("%+v", r)
	}
	// /proc must not be reached by a link at all (CVE-2023-27561).
	evil := newBox(t, writable)
	if err := os.Remove(evil.rootfs("proc")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("tmp", evil.rootfs("proc")); err != nil {
		t.Fatal(err)
	}
	if r := evil.run(); r.Code != 1 || !strings.Contains(r.Stderr, "/proc") {
		t.Errorf("/proc is a link: %+v", r)
	}
	evil.gone()
}
