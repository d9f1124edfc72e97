package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mapped are mappings as config.json has them: containerID, hostID, size, ...
func mapped(n ...uint32) (m []specs.LinuxIDMapping) {
	for i := 0; i+2 < len(n); i += 3 {
		m = append(m, specs.LinuxIDMapping{ContainerID: n[i], HostID: n[i+1], Size: n[i+2]})
	}
	return m
}

// idmapSource is a tmpfs, and another one below it, with files of user 5 and
// group 6. Their ids can be mapped since Linux 6.3.
func idmapSource(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	tmpfsOn(t, dir)
	for _, d := range []string{dir, filepath.Join(dir, "below")} {
		if d != dir {
			if err := os.Mkdir(d, 0o777); err != nil {
				t.Fatal(err)
			}
			tmpfsOn(t, d)
		}
		f := filepath.Join(d, "f")
		writeFile(t, f, "content\n")
		if err := os.Chown(f, 5, 6); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func tmpfsOn(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,mode=777"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// places makes directories in the rootfs, which root of a user namespace may not.
func (b *ociBox) places(names ...string) {
	b.t.Helper()
	for _, n := range names {
		if err := os.Mkdir(b.rootfs(n), 0o755); err != nil {
			b.t.Fatal(err)
		}
	}
}

func ownerOf(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err.Error()
	}
	return strconv.Itoa(int(st.Uid)) + ":" + strconv.Itoa(int(st.Gid))
}

// What files of user 5 and group 6 look like in the container, and what files
// that it makes look like on the host.
func TestRootIDMap(t *testing.T) {
	setup(t)
	other := newBox(t, forever, withUser).up()
	joinUser := func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: "/proc/" + strconv.Itoa(other.pid()) + "/ns/user"})
	}
	none := func(*specs.Spec) {}
	for _, tt := range []struct {
		name       string
		box        func(*specs.Spec)
		mount      specs.Mount
		file, deep string // owners that the container sees
		made       string // owner that the host sees of what the container makes
	}{
		{
			"own mappings", none,
			specs.Mount{Options: []string{"bind"}, UIDMappings: mapped(0, 20, 1, 5, 1000, 1, 70, 0, 1), GIDMappings: mapped(0, 20, 1, 6, 1001, 1, 80, 0, 1)},
			"1000:1001", "", "70:80",
		},
		{
			"idmap of an rbind", none,
			specs.Mount{Options: []string{"rbind", "idmap"}, UIDMappings: mapped(0, 0, 1, 5, 1000, 1), GIDMappings: mapped(0, 0, 1, 6, 1001, 1)},
			"1000:1001", "5:6", "0:0",
		},
		{
			"ridmap", none,
			specs.Mount{Options: []string{"rbind", "ridmap"}, UIDMappings: mapped(0, 0, 1, 5, 1000, 1), GIDMappings: mapped(0, 0, 1, 6, 1001, 1)},
			"1000:1001", "1000:1001", "0:0",
		},
		{
			"options of crun", none,
			specs.Mount{Options: []string{"rbind", "idmap=uids=5-1000-1#0-0-1;gids=6-1001-1#0-0-1"}},
			"1000:1001", "5:6", "0:0",
		},
		{"no mapping", withUser, specs.Mount{Options: []string{"rbind"}}, "65534:65534", "65534:65534", "100000:100000"},
		{"the container's", withUser, specs.Mount{Options: []string{"rbind", "ridmap"}}, "5:6", "5:6", "0:0"},
		{"of a joined namespace", joinUser, specs.Mount{Options: []string{"rbind", "ridmap"}}, "5:6", "5:6", "0:0"},
		{
			"own mappings in a user namespace", withUser,
			specs.Mount{Options: []string{"bind", "idmap"}, UIDMappings: mapped(5, 100007, 1, 0, 100000, 1), GIDMappings: mapped(6, 100008, 1, 0, 100000, 1)},
			"7:8", "", "0:0",
		},
		{
			"relative options of crun", withUser,
			specs.Mount{Options: []string{"rbind", "ridmap=uids=@5-7-1#@0-0-1;gids=@6-8-1#@0-0-1"}},
			"7:8", "7:8", "0:0",
		},
	} {
		source := idmapSource(t)
		tt.mount.Source, tt.mount.Destination = source, "/m"
		b := newBox(t, tt.box, writable, func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, tt.mount)
		}, script("stat -c %u:%g /m/f; stat -c %u:%g /m/below/f; touch /m/made; cat /proc/self/mountinfo"))
		b.places("m")
		r := b.run()
		seen := lines(r.Stdout)
		want := []string{tt.file}
		if tt.deep != "" {
			want = append(want, tt.deep)
		}
		if r.Code != 0 || strings.Join(seen[:min(len(seen), len(want))], " ") != strings.Join(want, " ") {
			t.Errorf("%s: %v, %s; want %v", tt.name, seen[0], r.Stderr, want)
		}
		if got := ownerOf(t, filepath.Join(source, "made")); got != tt.made {
			t.Errorf("%s: the owner of what the container made is %s, want %s", tt.name, got, tt.made)
		}
		if got := ownerOf(t, filepath.Join(source, "f")); got != "5:6" {
			t.Errorf("%s: on the host the file belongs to %s", tt.name, got)
		}
		b.gone()
	}
}

// Attributes and propagation of a mount whose ids are mapped, and such mounts of
// files and of new file systems.
func TestRootIDMapKinds(t *testing.T) {
	setup(t)
	source := idmapSource(t)
	if err := unix.Mount("", source, "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	b := newBox(t, withUser, writable, func(s *specs.Spec) {
		s.Mounts = append(s.Mounts,
			specs.Mount{Destination: "/ro", Source: source, Options: []string{"rbind", "ridmap", "ro", "nosuid", "rnoexec"}},
			specs.Mount{Destination: "/private", Source: source, Options: []string{"bind", "idmap", "private"}},
			specs.Mount{Destination: "/file", Source: filepath.Join(source, "f"), Options: []string{"bind", "idmap", "ro"}},
			specs.Mount{Destination: "/new", Type: "tmpfs", Source: "tmpfs", Options: []string{"idmap", "uid=7", "mode=777", "size=64k", "nodev"}})
	}, script(`cat /proc/self/mountinfo; echo ===; stat -c %u:%g /ro/f /file /new; touch /new/x; stat -c %u:%g /new/x; echo x >/file; touch /ro/x`))
	b.places("ro", "private", "new")
	writeFile(t, b.rootfs("file"), "")
	r := b.run()
	parts := strings.Split(r.Stdout, "===\n")
	if len(parts) != 2 || parts[1] != "5:6\n5:6\n7:0\n0:0\n" || strings.Count(r.Stderr, "Read-only file system") != 2 {
		t.Fatalf("%+v", r)
	}
	m := mountsIn(parts[0])
	for place, want := range map[string]string{
		"/ro": "ro nosuid noexec idmapped", "/ro/below": "rw noexec idmapped", "/file": "ro idmapped", "/new": "rw nodev idmapped", "/private": "rw idmapped",
	} {
		for _, o := range strings.Fields(want) {
			if !strings.Contains(","+strings.Join(m[place].options, ",")+",", ","+o+",") {
				t.Errorf("%s: options %v, want %s", place, m[place].options, want)
			}
		}
	}
	// What the host mounts later arrives, what the container mounts stays there.
	if m["/ro"].propagation != "master" || m["/ro/below"].propagation != "master" || m["/private"].propagation != "" {
		t.Errorf("propagation %q, %q, %q", m["/ro"].propagation, m["/ro/below"].propagation, m["/private"].propagation)
	}
	b.gone()
}

// A file system that cannot do it is named, with nothing left behind.
func TestRootIDMapRefused(t *testing.T) {
	setup(t)
	for _, tt := range []struct {
		mount specs.Mount
		texts []string
	}{
		{specs.Mount{Source: "/sys/kernel", Options: []string{"bind"}}, []string{`"/m"`, "/sys/kernel", "(sysfs)", "invalid argument", "hint:", "ext4"}},
		{specs.Mount{Type: "ramfs", Source: "ramfs"}, []string{`"/m"`, "(ramfs)", "invalid argument"}},
		{specs.Mount{Type: "sysfs", Source: "sysfs"}, []string{"mounts[7].uidMappings", "sysfs cannot be mapped"}},
	} {
		tt.mount.Destination, tt.mount.UIDMappings, tt.mount.GIDMappings = "/m", mapped(0, 1000, 10), mapped(0, 1000, 10)
		b := newBox(t, writable, func(s *specs.Spec) { s.Mounts = append(s.Mounts, tt.mount) })
		r := b.run()
		if r.Code != 1 {
			t.Errorf("%+v: %+v", tt.mount, r)
		}
		for _, text := range tt.texts {
			if !strings.Contains(r.Stderr, text) {
				t.Errorf("%+v: %q does not say %s", tt.mount, r.Stderr, text)
			}
		}
		b.gone()
	}
}

// minirun is killed at its system calls while it makes the user namespace for a
// mapping: nothing is left, also not the process that was in it.
func TestRootIDMapCrash(t *testing.T) {
	setup(t)
	source := idmapSource(t)
	b := newBox(t, forever, writable, func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/m", Source: source, Options: []string{"bind"}, UIDMappings: mapped(0, 1000, 10), GIDMappings: mapped(0, 1000, 10)})
	})
	points := 0
	for n := 1; ; n += 3 {
		code, reached := tracedRun(t, minirunItself, n, []uint64{unix.SYS_MKDIRAT, sysMkdir}, "create", "--bundle", b.bundle, b.id)
		what := "killed at call " + strconv.Itoa(n)
		b.converge(what)
		if !reached {
			if code != 0 {
				t.Errorf("%s: exit status %d", what, code)
			}
			break
		}
		points++
	}
	b.usedAgain("at the end")
	if points < 10 {
		t.Errorf("only %d crash points", points)
	}
}

// A source below a directory that is the host's root's alone, as an engine's
// directories are: the container's root could not find it.
func TestRootUserNamespaceSources(t *testing.T) {
	setup(t)
	source := idmapSource(t)
	private := filepath.Join(t.TempDir(), "private")
	if err := os.MkdirAll(filepath.Join(private, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(source, filepath.Join(private, "dir"), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(private, "dir"), unix.MNT_DETACH) })
	if err := os.Chmod(private, 0o700); err != nil {
		t.Fatal(err)
	}
	first := newBox(t, forever, withUser).up()
	joinUser := func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: "/proc/" + strconv.Itoa(first.pid()) + "/ns/user"})
	}
	for name, user := range map[string]func(*specs.Spec){"new": withUser, "joined": joinUser} {
		b := newBox(t, user, writable, func(s *specs.Spec) {
			s.Mounts = append(s.Mounts,
				specs.Mount{Destination: "/all", Source: private + "/dir", Options: []string{"rbind", "ro"}},
				specs.Mount{Destination: "/one", Source: private + "/dir", Options: []string{"bind", "nosuid"}},
				specs.Mount{Destination: "/f", Source: private + "/dir/f", Options: []string{"bind", "ro"}})
		}, script("cat /all/f /all/below/f /one/f /f; ls /one/below; cat /proc/self/mountinfo"))
		b.places("all", "one")
		writeFile(t, b.rootfs("f"), "")
		r := b.run()
		m := mountsIn(r.Stdout)
		if r.Code != 0 || !strings.HasPrefix(r.Stdout, strings.Repeat("content\n", 4)) {
			t.Errorf("%s: %+v", name, r)
		}
		for place, want := range map[string]string{"/all": "ro", "/all/below": "rw", "/one": "nosuid", "/f": "ro"} {
			if !strings.Contains(","+strings.Join(m[place].options, ",")+",", ","+want+",") {
				t.Errorf("%s: %s: options %v, want %s", name, place, m[place].options, want)
			}
		}
		if _, ok := m["/one/below"]; ok {
			t.Errorf("%s: bind has taken what is below", name)
		}
		b.gone()
	}
}

// The ids of ext4, which every kernel since 5.12 can map, and of tmpfs, which
// the guest's kernel is too old for or not.
func TestVMIDMap(t *testing.T) {
	setup(t)
	dir := t.TempDir() // on /scratch
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f := filepath.Join(dir, "f")
	writeFile(t, f, "content\n")
	if err := os.Chown(f, 5, 6); err != nil {
		t.Fatal(err)
	}
	b := newBox(t, withUser, writable, func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/m", Source: dir, Options: []string{"rbind", "idmap"}})
	}, script("stat -c %u:%g /m/f; touch /m/made"))
	b.places("m")
	if r := b.run(); r.Code != 0 || r.Stdout != "5:6\n" || ownerOf(t, filepath.Join(dir, "made")) != "0:0" {
		t.Errorf("ext4: %+v, owner %s", r, ownerOf(t, filepath.Join(dir, "made")))
	}
	source := idmapSource(t)
	b = newBox(t, withUser, writable, func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/m", Source: source, Options: []string{"bind", "idmap"}})
	}, script("stat -c %u:%g /m/f"))
	b.places("m")
	r := b.run()
	if can := r.Code == 0 && r.Stdout == "5:6\n"; !can && !(r.Code == 1 && strings.Contains(r.Stderr, "(tmpfs)") && strings.Contains(r.Stderr, "hint:")) {
		t.Errorf("tmpfs: %+v", r)
	}
}
