package rootfs

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/initprog"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write golden files")

// testOptions describe a host on which sources ending in "/" are directories,
// "gone" is missing and everything else is a file.
func testOptions() Options {
	return Options{
		Root: "/bundle/rootfs", Bundle: "/bundle",
		Stat: func(p string) (bool, error) {
			if strings.Contains(p, "gone") {
				return false, os.ErrNotExist
			}
			return strings.HasSuffix(p, "dir"), nil
		},
		CopyUp: func(dir string, _ int) ([]Entry, error) {
			return []Entry{
				{Mode: unix.S_IFDIR | 0o755, UID: 5, GID: 5},
				{Path: "d", Mode: unix.S_IFDIR | 0o2755, UID: 5, GID: 6},
				{Path: "d/f", Mode: unix.S_IFREG | 0o4755, UID: 100005, GID: 5},
				{Path: "d/l", Mode: unix.S_IFLNK | 0o777, Target: dir},
				{Path: "p", Mode: unix.S_IFIFO | 0o600},
				{Path: "null", Mode: unix.S_IFCHR | 0o666, Dev: 1<<8 | 3},
			}, nil
		},
		Readlink:   func(p string) (string, bool) { return "target", strings.Contains(p, "link") },
		DirMode:    func(p string) (uint32, bool) { return 0o1777, p == "tmp" },
		MountPoint: func(string) (string, error) { return "/bundle", nil },
		IDMap:      func(uids, _ []specs.LinuxIDMapping) initprog.Value { return initprog.FD(20 + len(uids)) },
		Before:     func(initprog.Step) {},
	}
}

// listing is the plan and its program as text.
func listing(t *testing.T, spec *specs.Spec, o Options) string {
	t.Helper()
	var before []initprog.Step
	o.Before = func(s initprog.Step) { before = append(before, s) }
	steps, err := Plan(spec, o)
	if err != nil {
		t.Fatal(err)
	}
	steps = append(before, steps...)
	var s strings.Builder
	b := initprog.NewBuilder(3)
	for _, st := range steps {
		s.WriteString(st.Phase() + ": " + st.String() + "\n")
		b.Phase(st.Phase())
		st.Emit(b)
	}
	b.ExitGroup(0)
	image, err := b.Link()
	if err != nil {
		t.Fatal(err)
	}
	return s.String() + "\n" + image.Listing()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; -update writes it anew. got:\n%s", file, got)
	}
}

func TestPlan_Golden(t *testing.T) {
	tests := map[string]func(*specs.Spec, *Options){
		"mounts": func(s *specs.Spec, _ *Options) {
			s.Mounts = []specs.Mount{
				{Destination: "/proc", Type: "proc", Source: "proc"},
				{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
				{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "rprivate"}},
				{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"ro"}},
				{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid"}},
				{Destination: "data/../etc/file", Type: "none", Source: "file", Options: []string{"bind", "ro"}},
				{Destination: "/mnt", Source: "/host/dir", Options: []string{"rbind", "rro", "rslave", "noexec"}},
			}
		},
		"restrict": func(s *specs.Spec, _ *Options) {
			s.Root.Readonly = true
			s.Linux.MaskedPaths = []string{"/proc/kcore", "/sys/firmware"}
			s.Linux.ReadonlyPaths = []string{"/proc/sys"}
			s.Mounts = []specs.Mount{{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"ro", "mode=755"}}}
			uid := uint32(7)
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/null", Type: "c", Major: 1, Minor: 3, UID: &uid}, {Path: "/dev/x/pipe", Type: "p"}}
		},
		"userns_console": func(_ *specs.Spec, o *Options) {
			o.UserNS, o.Console, o.ConsoleUID, o.Height, o.Width = true, initprog.FD(5), 1000, 24, 80
		},
		"no_pivot_detached": func(s *specs.Spec, o *Options) {
			o.NoPivot, o.Mount = true, initprog.FD(6)
			s.Linux.RootfsPropagation = "unbindable"
		},
		"idmap": func(s *specs.Spec, o *Options) {
			o.UserNS = true
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.UserNamespace}}
			s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
			s.Linux.GIDMappings = s.Linux.UIDMappings
			s.Mounts = []specs.Mount{
				{Destination: "/data", Source: "/host/dir", Options: []string{"rbind", "ridmap", "ro", "rnoexec", "private"}},
				{Destination: "/tmp", Type: "tmpfs", Options: []string{"idmap=uids=0-5-1#@7-8-2;gids=0-0-1", "size=1m"}},
			}
		},
		"userns_binds": func(s *specs.Spec, o *Options) {
			o.UserNS, o.Host = true, true
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.UserNamespace}}
			s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
			s.Linux.GIDMappings = s.Linux.UIDMappings
			s.Mounts = []specs.Mount{
				{Destination: "/data", Source: "/host/dir", Options: []string{"rbind", "rw", "suid", "ro"}},
				{Destination: "/link", Source: "/host/link", Options: []string{"bind", "copy-symlink"}},
				{Destination: "/mapped", Source: "/host/dir", Options: []string{"bind", "idmap"}},
			}
		},
		"links": func(s *specs.Spec, _ *Options) {
			s.Mounts = []specs.Mount{
				{Destination: "/etc/copy", Source: "/host/link", Options: []string{"bind", "copy-symlink"}},
				{Destination: "/copy2", Source: "/host/dir", Options: []string{"rbind", "copy-symlink"}},
				{Destination: "/bound", Source: "/host/link", Options: []string{"bind", "src-nofollow", "dest-nofollow"}},
				{Destination: "/dir", Source: "/host/dir", Options: []string{"bind", "src-nofollow", "dest-nofollow"}},
			}
		},
		"copyup": func(s *specs.Spec, _ *Options) {
			s.Mounts = []specs.Mount{
				{Destination: "/data", Type: "tmpfs", Options: []string{"tmpcopyup", "ro", "size=1m"}},
				{Destination: "/v", Source: "/host/dir", Options: []string{"bind"}},
				{Destination: "/v/sub", Type: "tmpfs", Options: []string{"tmpcopyup", "uid=5"}},
				{Destination: "/v/sub/x", Type: "tmpfs", Options: []string{"tmpcopyup"}},
			}
		},
		"copyup_userns": func(s *specs.Spec, o *Options) {
			o.UserNS = true
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.UserNamespace}}
			s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
			s.Linux.GIDMappings = s.Linux.UIDMappings
			s.Mounts = []specs.Mount{{Destination: "/data", Type: "tmpfs", Options: []string{"tmpcopyup"}}}
		},
		"remount": func(s *specs.Spec, _ *Options) {
			s.Mounts = []specs.Mount{{Destination: "/etc", Options: []string{"bind", "remount", "ro", "rnoexec", "rshared"}}}
		},
		"shared": func(s *specs.Spec, _ *Options) { s.Linux.RootfsPropagation = "rshared" },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			spec := &specs.Spec{Root: &specs.Root{Path: "rootfs"}, Linux: &specs.Linux{}}
			o := testOptions()
			change(spec, &o)
			golden(t, name, listing(t, spec, o))
		})
	}
}

func TestPlan_Refuses(t *testing.T) {
	mounts := func(m ...specs.Mount) *specs.Spec {
		return &specs.Spec{Root: &specs.Root{Path: "rootfs"}, Mounts: m, Linux: &specs.Linux{}}
	}
	device := func(typ string) *specs.Spec {
		s := mounts()
		s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: typ}}
		return s
	}
	propagation := func(p string) *specs.Spec {
		s := mounts()
		s.Linux.RootfsPropagation = p
		return s
	}
	one := []specs.LinuxIDMapping{{Size: 1}}
	tests := []struct {
		name string
		spec *specs.Spec
		want string
	}{
		{"data on a bind", mounts(specs.Mount{Destination: "/a", Source: "/dir", Options: []string{"bind", "size=1"}}), "filesystem-specific options"},
		{"no source", mounts(specs.Mount{Destination: "/a", Options: []string{"bind"}}), "needs a source"},
		{"missing source", mounts(specs.Mount{Destination: "/a", Source: "/gone", Options: []string{"bind"}}), `mount "/a": source`},
		{"no type", mounts(specs.Mount{Destination: "/a", Source: "x"}), "neither a type"},
		{"tmpfs on /proc", mounts(specs.Mount{Destination: "/proc", Type: "tmpfs"}), "only procfs"},
		{"tmpfs on //proc/", mounts(specs.Mount{Destination: "//proc/.", Type: "tmpfs"}), "only procfs"},
		{"below /proc", mounts(specs.Mount{Destination: "/proc/self/attr", Type: "tmpfs"}), "inside /proc"},
		{"below /proc by ..", mounts(specs.Mount{Destination: "/sys/../proc/sys", Type: "tmpfs"}), "inside /proc"},
		{"copy-up of a bind", mounts(specs.Mount{Destination: "/a", Source: "/dir", Options: []string{"bind", "tmpcopyup"}}), "tmpcopyup is for a tmpfs"},
		{"copy-up of sysfs", mounts(specs.Mount{Destination: "/a", Type: "sysfs", Options: []string{"tmpcopyup"}}), "tmpcopyup is for a tmpfs"},
		{"copy-up and rro", mounts(specs.Mount{Destination: "/a", Type: "tmpfs", Options: []string{"tmpcopyup", "rro"}}), "not with rro"},
		{"copy-up and idmap", mounts(specs.Mount{Destination: "/a", Type: "tmpfs", Options: []string{"tmpcopyup"}, UIDMappings: one, GIDMappings: one}), "does not go with mapped ids"},
		{"copy-up over a mount", mounts(specs.Mount{Destination: "/a/b", Type: "tmpfs"}, specs.Mount{Destination: "/a", Type: "tmpfs", Options: []string{"tmpcopyup"}}), "mounts[1].options: "},
		{"idmap of nothing", mounts(specs.Mount{Destination: "/a", Source: "/dir", Options: []string{"bind", "idmap"}}), `mounts[0].options: mount "/a": idmap without mappings`},
		{"idmap twice", mounts(specs.Mount{Destination: "/a", Source: "/dir", Options: []string{"bind", "idmap=uids=0-0-1;gids=0-0-1"}, UIDMappings: one, GIDMappings: one}), "mounts[0].uidMappings: "},
		{"idmap of proc", mounts(specs.Mount{}, specs.Mount{Destination: "/a", Type: "proc", UIDMappings: one, GIDMappings: one}), "mounts[1].uidMappings: "},
		{"idmap of a cgroup", mounts(specs.Mount{Destination: "/a", Type: "cgroup", Options: []string{"idmap"}}), "cgroup2 cannot be mapped"},
		{"idmap word", mounts(specs.Mount{Destination: "/a", Source: "/dir", Options: []string{"bind", "idmap=users=0-0-1"}}), `unknown part "users=0-0-1"`},
		{"idmap without gids", mounts(specs.Mount{Destination: "/a", Source: "/dir", Options: []string{"bind", "idmap=uids=0-0-1"}}), "needs both"},
		{"idmap uids twice", mounts(specs.Mount{Destination: "/a", Source: "/dir", Options: []string{"bind", "idmap=uids=0-0-1;uids=5-5-1;gids=0-0-1"}}), "uids is there twice"},
		{"idmap of two numbers", mounts(specs.Mount{Destination: "/a", Source: "/dir", Options: []string{"bind", "idmap=uids=0-0;gids=0-0-1"}}), "want three numbers"},
		{"idmap no number", mounts(specs.Mount{Destination: "/a", Source: "/dir", Options: []string{"bind", "idmap=uids=0-x-1;gids=0-0-1"}}), `"x" is no id`},
		{"idmap too far", mounts(specs.Mount{Destination: "/a", Source: "/dir", Options: []string{"bind", "idmap=uids=0-4294967295-1;gids=0-0-1"}}), "more than there are"},
		{"idmap size 0", mounts(specs.Mount{Destination: "/a", Source: "/dir", Options: []string{"bind", "idmap=uids=0-0-0;gids=0-0-1"}}), "no ids"},
		{"idmap relative to nothing", mounts(specs.Mount{Destination: "/a", Source: "/dir", Options: []string{"bind", "idmap=uids=@0-0-1;gids=0-0-1"}}), "not in one range"},
		{"remount and idmap", mounts(specs.Mount{Destination: "/a", Source: "/dir", Options: []string{"remount", "idmap"}}), "mounts[0].options: "},
		{"remount and data", mounts(specs.Mount{Destination: "/a", Options: []string{"remount", "size=1"}}), "mounts[0].options: "},
		{"remount and mappings", mounts(specs.Mount{Destination: "/a", Options: []string{"remount"}, UIDMappings: one, GIDMappings: one}), "mounts[0].uidMappings: "},
		{"link and no link", mounts(specs.Mount{Destination: "/a", Source: "/dir", Options: []string{"bind", "copy-symlink", "src-nofollow"}}), "exclude each other"},
		{"link of a tmpfs", mounts(specs.Mount{Destination: "/a", Type: "tmpfs", Options: []string{"copy-symlink"}}), "are for bind mounts"},
		{"device type", device("x"), "unknown type"},
		{"propagation", propagation("sideways"), "rootfsPropagation"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Plan(tt.spec, testOptions())
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
	t.Run("shared without pivot", func(t *testing.T) {
		o := testOptions()
		o.NoPivot = true
		if _, err := Plan(propagation("shared"), o); err == nil {
			t.Error("accepted")
		}
	})
	t.Run("all errors are told", func(t *testing.T) {
		_, err := Plan(mounts(specs.Mount{Destination: "/a", Source: "x"}, specs.Mount{Destination: "/b", Source: "y"}), testOptions())
		if err == nil || !strings.Contains(err.Error(), `"/a"`) || !strings.Contains(err.Error(), `"/b"`) {
			t.Errorf("got %v", err)
		}
	})
}

func TestPlan_AllowsOnProc(t *testing.T) {
	for _, dest := range []string{"/proc/cpuinfo", "/proc/uptime", "/processes", "/proc2/x"} {
		spec := &specs.Spec{Root: &specs.Root{}, Mounts: []specs.Mount{{Destination: dest, Source: "/file", Options: []string{"bind"}}}}
		if _, err := Plan(spec, testOptions()); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", dest, err)
		}
	}
}

// CVE-2023-25809: a cgroup of the host that is delegated to the user lies below
// /sys, and a bind of that which is read-only is so with all below.
func TestPlanMount_BoundSys(t *testing.T) {
	for _, tt := range []struct {
		source, option string
		userns, want   bool
	}{
		{"/sys", "ro", true, true},
		{"/sys/.", "ro", true, true},
		{"/sys", "rw", true, false},
		{"/sys/kernel", "ro", true, false},
		{"/sys", "ro", false, false},
	} {
		o := testOptions()
		o.UserNS, o.Stat = tt.userns, func(string) (bool, error) { return true, nil }
		m, err := planMount(&tree{}, 0, &specs.Mount{Destination: "/sys", Source: tt.source, Options: []string{"rbind", tt.option}}, &o)
		if err != nil {
			t.Fatal(err)
		}
		if got := m.options.setAll&unix.MOUNT_ATTR_RDONLY != 0; got != tt.want {
			t.Errorf("%+v: read-only with all below: %v", tt, got)
		}
	}
}

// Links of the image lead a mount where its destination could not be.
func TestPlan_RefusesThroughLinks(t *testing.T) {
	for to, refused := range map[string]bool{"/proc": true, "/proc/.": true, "/proc/self/attr": true, "proc/sys/kernel": true, "/proc2": false, "/data": false, "/proc/uptime": false} {
		for _, m := range []specs.Mount{
			{Destination: "/link", Type: "tmpfs"},
			{Destination: "/link", Source: "/host/dir", Options: []string{"rbind"}},
		} {
			o := testOptions()
			o.Destination = func(string) string { return to }
			_, err := Plan(&specs.Spec{Root: &specs.Root{Path: "rootfs"}, Mounts: []specs.Mount{m}, Linux: &specs.Linux{}}, o)
			if got := err != nil && strings.Contains(err.Error(), "links lead it to /proc"); got != refused || err != nil && !got {
				t.Errorf("to %s: %v", to, err)
			}
		}
	}
}

// Whatever is accepted behind idmap= could be written to a uid_map.
func FuzzIDMap(f *testing.F) {
	for _, s := range []string{"uids=0-1000-1;gids=0-1000-1", "uids=@0-0-65536#65536-5-1;gids=@1-2-3", "gids=1-2-4294967292;uids=0-0-1", "uids=;gids=", "uids=@4294967295-1-1"} {
		f.Add(s)
	}
	c := &idMaps{uids: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 4294900000, Size: 65536}}, gids: []specs.LinuxIDMapping{{ContainerID: 5, HostID: 7, Size: 9}}}
	f.Fuzz(func(t *testing.T, s string) {
		uids, gids, err := parseIDMap(s, c)
		if err != nil {
			return
		}
		if len(uids) == 0 || len(gids) == 0 {
			t.Errorf("%q: %v %v", s, uids, gids)
		}
		for _, m := range append(uids, gids...) {
			const ids = 1<<32 - 1
			if m.Size == 0 || uint64(m.ContainerID)+uint64(m.Size) > ids || uint64(m.HostID)+uint64(m.Size) > ids {
				t.Errorf("%q: %v", s, m)
			}
		}
	})
}

// The label is one of each new file system, but those that label their files
// themselves and those with one of their own; binds keep theirs.
func TestPlan_MountLabel(t *testing.T) {
	o := testOptions()
	o.MountLabel = "system_u:object_r:container_file_t:s0:c1,c2"
	golden(t, "label", listing(t, &specs.Spec{
		Root: &specs.Root{Path: "rootfs"},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=64k"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue"},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"context=own:label"}},
			{Destination: "/data", Source: "/host/dir", Options: []string{"bind"}},
		},
		Linux: &specs.Linux{MaskedPaths: []string{"/proc/kcore"}},
	}, o))
}
