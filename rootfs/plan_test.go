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
		DirMode:    func(p string) (uint32, bool) { return 0o1777, p == "tmp" },
		MountPoint: func(string) (string, error) { return "/bundle", nil },
	}
}

// listing is the plan and its program as text.
func listing(t *testing.T, spec *specs.Spec, o Options) string {
	t.Helper()
	steps, err := Plan(spec, o)
	if err != nil {
		t.Fatal(err)
	}
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
		{"copy-up", mounts(specs.Mount{Destination: "/a", Type: "tmpfs", Options: []string{"tmpcopyup"}}), "tmpcopyup"},
		{"idmap", mounts(specs.Mount{Destination: "/a", Source: "/dir", Options: []string{"bind", "idmap"}}), "idmap"},
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
