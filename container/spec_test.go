package container

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/minirun/minirun/imagestore/unpacked"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/runtime"
	"github.com/minirun/minirun/runtime/bundle"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// rootWith makes a root directory with the files, name and content in turn, and
// opens it.
func rootWith(t testing.TB, files ...string) int {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		path := filepath.Join(dir, files[i])
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(files[i+1]), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return openDir(t, dir)
}

func openDir(t testing.TB, dir string) int {
	t.Helper()
	fd, err := linux.OpenAt(unix.AT_FDCWD, dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { linux.Close(fd) })
	return fd
}

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1001::/home/user:/bin/sh\n# a comment\n\nbad\n" +
		"1234:x:77:77::/:/bin/sh\nhuge:x:4294967296:1::/:\nnegative:x:-1:1::/:\n"
	group = "root:x:0:\naudio:x:29:other,user\nvideo:x:44:user\nvideo2:x:44:user\nstaff:x:50:use,user2\nprimary:x:1001:user\n99:x:98:\nbroken:x:x:user\n"
)

func image(cfg unpacked.ImageConfig) *unpacked.Image {
	return &unpacked.Image{Name: "docker.io/library/test:1", Config: unpacked.Config{OS: "linux", Architecture: "amd64", Config: cfg}}
}

// mustSpec is the specification for an image, which must be one that the
// runtime accepts.
func mustSpec(t *testing.T, cfg unpacked.ImageConfig, o Options) *specs.Spec {
	t.Helper()
	if len(cfg.Cmd)+len(cfg.Entrypoint)+len(o.Command) == 0 {
		o.Command = []string{"true"}
	}
	s, err := Spec("some-id", image(cfg), rootWith(t, "etc/passwd", passwd, "etc/group", group), &o)
	if err != nil {
		t.Fatal(err)
	}
	s.Root.Path = t.TempDir()
	b, err := inMemory(t.TempDir(), s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := runtime.NewPlan("some-id", b, runtime.PlanOptions{}); err != nil {
		t.Fatalf("the runtime does not take it: %v", err)
	}
	raw, err := bundle.AppendJSON(nil, s)
	if err != nil || string(raw) != string(b.Raw) {
		t.Errorf("the raw configuration is another one: %v", err)
	}
	return s
}

func specError(t *testing.T, cfg unpacked.ImageConfig, o Options, want string) error {
	t.Helper()
	if len(o.Command) == 0 {
		o.Command = []string{"true"}
	}
	s, err := Spec("some-id", image(cfg), rootWith(t, "etc/passwd", passwd, "etc/group", group), &o)
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("image %+v, options %+v: error %v, want %q (%+v)", cfg, o, err, want, s)
	}
	return err
}

func TestCommand(t *testing.T) {
	str := func(s string) *string { return &s }
	list := func(s ...string) []string { return s }
	for _, tt := range []struct {
		entrypoint, cmd []string
		option          *string
		command, want   []string
	}{
		{nil, list("a", "b"), nil, nil, list("a", "b")},
		{list("e"), nil, nil, nil, list("e")},
		{list("e", "f"), list("a"), nil, nil, list("e", "f", "a")},
		{list("e"), list("a"), nil, list("u", "v"), list("e", "u", "v")},
		{nil, list("a"), nil, list("u"), list("u")},
		{list("e"), list("a"), str("o"), nil, list("o")}, // and the image's Cmd is gone
		{list("e"), list("a"), str("o"), list("u"), list("o", "u")},
		{list("e"), list("a"), str(""), list("u"), list("u")},
		{list("e"), list("a"), str(""), nil, nil},
		{nil, nil, nil, nil, nil},
		{list("e"), nil, nil, list(""), list("e", "")},
	} {
		img := image(unpacked.ImageConfig{Entrypoint: tt.entrypoint, Cmd: tt.cmd})
		got, err := command(img, &Options{Entrypoint: tt.option, Command: tt.command})
		var none *NoCommandError
		if (err != nil) != (tt.want == nil) || err != nil && !errors.As(err, &none) || !slices.Equal(got, tt.want) {
			t.Errorf("%+v: got %q, %v", tt, got, err)
		}
		if err != nil && (!strings.Contains(err.Error(), img.Name) || !strings.Contains(none.Hint(), "minirun run --image "+img.Name)) {
			t.Errorf("%v (%s) does not help", err, none.Hint())
		}
	}
	// The image's list is not written to.
	entry := append(make([]string, 0, 8), "e")
	img := image(unpacked.ImageConfig{Entrypoint: entry, Cmd: list("x")})
	if _, err := command(img, &Options{}); err != nil || entry[:2][1] != "" {
		t.Errorf("the image has changed: %q, %v", entry[:2], err)
	}
}

func TestEnv(t *testing.T) {
	for _, tt := range []struct {
		image, user []string
		terminal    bool
		want        []string
	}{
		{nil, nil, false, []string{defaultPath, "HOSTNAME=some-id"}},
		{nil, nil, true, []string{defaultPath, "HOSTNAME=some-id", "TERM=xterm"}},
		{[]string{"PATH=/x", "A=1", "A=2"}, []string{"A=3"}, false, []string{"HOSTNAME=some-id", "PATH=/x", "A=1", "A=2", "A=3"}},
		{nil, []string{"PATH=/y", "HOSTNAME=h", "TERM=vt"}, true, []string{"PATH=/y", "HOSTNAME=h", "TERM=vt"}},
		{[]string{"HOSTNAME=", "TERM=dumb", "PATHX=1", "E="}, nil, true, []string{defaultPath, "HOSTNAME=", "TERM=dumb", "PATHX=1", "E="}},
		{[]string{"A=b=c", "B=x y\nz", "C=$HOME ${PATH} %n"}, nil, false, []string{defaultPath, "HOSTNAME=some-id", "A=b=c", "B=x y\nz", "C=$HOME ${PATH} %n"}},
	} {
		s := mustSpec(t, unpacked.ImageConfig{Env: tt.image}, Options{Env: tt.user, Terminal: tt.terminal})
		if !slices.Equal(s.Process.Env, tt.want) {
			t.Errorf("image %q, user %q: %q, want %q", tt.image, tt.user, s.Process.Env, tt.want)
		}
	}
	// Never a look-up in our own environment.
	t.Setenv("SECRET", "of the host")
	for _, bad := range []string{"SECRET", "", "=x", "SECRET\n"} {
		specError(t, unpacked.ImageConfig{Env: []string{"A=b", bad}}, Options{}, "is not NAME=VALUE")
	}
}

func TestWorkDir(t *testing.T) {
	for _, tt := range []struct{ image, user, want string }{
		{"", "", "/"},
		{"/", "", "/"},
		{"/srv", "", "/srv"},
		{"srv/x", "", "/srv/x"},
		{"/srv", "/tmp", "/tmp"},
		{"/srv", "tmp", "/tmp"}, // from the root, as in the image
		{"../../etc", "", "/etc"},
		{"/a/../../../b/./c//d", "", "/b/c/d"},
		{"..", "", "/"},
		{"/proc/self/fd/7", "", "/proc/self/fd/7"}, // the runtime follows no magic link
	} {
		if s := mustSpec(t, unpacked.ImageConfig{WorkingDir: tt.image}, Options{WorkDir: tt.user}); s.Process.Cwd != tt.want {
			t.Errorf("%+v: cwd %q", tt, s.Process.Cwd)
		}
	}
}

func TestAnnotations(t *testing.T) {
	img := image(unpacked.ImageConfig{
		StopSignal: "SIGQUIT", ExposedPorts: map[string]string{"80/tcp": "", "53/udp": "", "443/tcp": ""},
		Labels: map[string]string{
			"maintainer": "somebody", "org.opencontainers.image.created": "from the label", "": "nothing",
			StopSignal: "SIGKILL", "io.minirun.log": "x", "run.oci.handler": "x", "run.oci.hooks.stderr": "/etc/passwd",
			"org.systemd.property.ExecStart": "x", ImageName: "x", ImageManifest: "x", "org.opencontainers.image.title": "t",
		},
	})
	img.Config.Created, img.Config.Author, img.Config.Variant, img.Config.OSVersion = "2020", "an author", "v3", "5"
	img.Config.OSFeatures = []string{"f", "g"}
	img.Manifest = "sha256:0123"
	got := annotations(img)
	const p = "org.opencontainers.image."
	want := map[string]string{
		"maintainer": "somebody", p + "title": "t",
		p + "os": "linux", p + "architecture": "amd64", p + "variant": "v3", p + "os.version": "5", p + "os.features": "f,g",
		p + "author": "an author", p + "created": "from the label", p + "exposedPorts": "443/tcp,53/udp,80/tcp", p + "stopSignal": "SIGQUIT",
		ImageName: img.Name, ImageManifest: string(img.Manifest),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	for _, tt := range []struct{ config, want string }{
		{"", ""},
		{"SIGTERM", "SIGTERM"},
		{"3", "3"},
		{"int", "int"},
		{"RTMIN+3", "RTMIN+3"},
		{"SIGNOSUCH", ""},
		{"-1", ""},
		{"999", ""},
		{"$(reboot)", ""},
		{"0", ""},
	} {
		img := image(unpacked.ImageConfig{StopSignal: tt.config, Labels: map[string]string{StopSignal: "SIGKILL"}})
		if got, ok := annotations(img)[StopSignal]; got != tt.want || ok != (tt.want != "") {
			t.Errorf("StopSignal %q: annotation %q, %v", tt.config, got, ok)
		}
	}
}

func TestHostname(t *testing.T) {
	long := strings.Repeat("x", 255)
	root := rootWith(t)
	img := image(unpacked.ImageConfig{Cmd: []string{"true"}})
	own, _ := os.Hostname()
	for _, tt := range []struct {
		id   string
		o    Options
		want string
	}{
		{"id", Options{}, "id"},
		{long, Options{}, long[:63]},
		{"id", Options{Hostname: "given"}, "given"},
		{"id", Options{Hostname: long[:64]}, long[:64]},
		{"id", Options{HostNetwork: true}, own},
		{"id", Options{HostNetwork: true, Hostname: "given"}, "given"},
	} {
		s, err := Spec(tt.id, img, root, &tt.o)
		if err != nil || s.Hostname != tt.want {
			t.Errorf("ID of %d bytes, %+v: %v, %v", len(tt.id), tt.o, s, err)
			continue
		}
		if !slices.Contains(s.Process.Env, "HOSTNAME="+tt.want) {
			t.Errorf("HOSTNAME is not %q: %q", tt.want, s.Process.Env)
		}
	}
	for _, bad := range []string{long[:65], "a\x00b"} {
		specError(t, img.Config.Config, Options{Hostname: bad}, "at most 64 bytes")
	}
}

func TestNamespacesAndNetwork(t *testing.T) {
	types := func(s *specs.Spec) (list []string) {
		for _, n := range s.Linux.Namespaces {
			if n.Path != "" {
				t.Errorf("namespace %s has the path %q", n.Type, n.Path)
			}
			list = append(list, string(n.Type))
		}
		slices.Sort(list)
		return list
	}
	binds := func(s *specs.Spec) (list []string) {
		for _, m := range s.Mounts {
			if m.Type == "bind" {
				list = append(list, m.Destination)
				if !slices.Contains(m.Options, "ro") || !filepath.IsAbs(m.Source) {
					t.Errorf("%+v is not a read-only bind mount", m)
				}
			}
		}
		return list
	}
	s := mustSpec(t, unpacked.ImageConfig{}, Options{})
	if got := types(s); !slices.Equal(got, []string{"cgroup", "ipc", "mount", "network", "pid", "uts"}) || binds(s) != nil {
		t.Errorf("namespaces %v, bind mounts %v", got, binds(s))
	}
	s = mustSpec(t, unpacked.ImageConfig{}, Options{HostNetwork: true})
	var files []string
	for _, f := range []string{"/etc/resolv.conf", "/etc/hosts"} {
		if _, err := os.Stat(f); err == nil {
			files = append(files, f)
		}
	}
	if got := types(s); slices.Contains(got, "network") || !slices.Equal(binds(s), files) {
		t.Errorf("host network: namespaces %v, bind mounts %v, want %v", got, binds(s), files)
	}
}

func TestResources(t *testing.T) {
	r := mustSpec(t, unpacked.ImageConfig{}, Options{}).Linux.Resources
	if r.Memory != nil || r.CPU != nil || r.Pids != nil || len(r.Devices) != 1 || r.Devices[0].Allow {
		t.Errorf("without limits: %+v", r)
	}
	r = mustSpec(t, unpacked.ImageConfig{}, Options{Memory: 64 << 20, CPUs: 1.5, Pids: 20}).Linux.Resources
	if *r.Memory.Limit != 64<<20 || *r.CPU.Quota != 150000 || *r.CPU.Period != 100000 || *r.Pids.Limit != 20 {
		t.Errorf("with limits: %+v", r)
	}
	for cpus, want := range map[float64]int64{0.01: 1000, 0.5: 50000, 0.333: 33300, 2: 200000} {
		if r := resources(&Options{CPUs: cpus}); *r.CPU.Quota != want {
			t.Errorf("%v CPUs: quota %d, want %d", cpus, *r.CPU.Quota, want)
		}
	}
	if r := resources(&Options{Pids: -1}); r.Pids != nil {
		t.Errorf("-1 is no limit: %+v", r)
	}
}

func TestPrivileged(t *testing.T) {
	s := mustSpec(t, unpacked.ImageConfig{}, Options{Privileged: true})
	if s.Linux.Seccomp != nil || s.Linux.MaskedPaths != nil || s.Linux.ReadonlyPaths != nil {
		t.Errorf("confined: %+v", s.Linux)
	}
	if got := s.Process.Capabilities.Bounding; len(got) != len(runtime.AllCapabilities()) {
		t.Errorf("capabilities %v", got)
	}
	if d := s.Linux.Resources.Devices; len(d) != 1 || !d[0].Allow {
		t.Errorf("device rules %+v", d)
	}
	null := false
	for _, d := range s.Linux.Devices {
		null = null || d.Path == "/dev/null" && d.Type == "c" && d.Major == 1 && d.Minor == 3
		if d.Path == "/dev/ptmx" || d.Path == "/dev/console" || strings.HasPrefix(d.Path, "/dev/pts/") {
			t.Errorf("%s is the container's own business", d.Path)
		}
	}
	if !null {
		t.Error("no /dev/null among the host's devices")
	}
	for _, m := range s.Mounts {
		if (m.Type == "sysfs" || m.Type == "cgroup") && slices.Contains(m.Options, "ro") {
			t.Errorf("%+v is read-only", m)
		}
	}
	s = mustSpec(t, unpacked.ImageConfig{}, Options{})
	if s.Linux.Seccomp == nil || len(s.Linux.MaskedPaths) < 10 || len(s.Linux.ReadonlyPaths) < 5 || s.Linux.Devices != nil {
		t.Errorf("not confined: %+v", s.Linux)
	}
}

func TestCapabilities(t *testing.T) {
	all := runtime.AllCapabilities()
	base := strings.Fields(defaultCaps)
	without := func(list []string, names ...string) []string {
		return slices.DeleteFunc(slices.Clone(list), func(c string) bool { return slices.Contains(names, c) })
	}
	if len(base) != 14 {
		t.Errorf("%d default capabilities, docker has 14", len(base))
	}
	for _, tt := range []struct {
		add, drop []string
		priv      bool
		want      []string
	}{
		{nil, nil, false, base},
		{[]string{"SYS_ADMIN"}, nil, false, append(slices.Clone(base), "CAP_SYS_ADMIN")},
		{[]string{"cap_sys_admin", "CAP_CHOWN"}, nil, false, append(slices.Clone(base), "CAP_SYS_ADMIN")},
		{nil, []string{"chown", "CAP_KILL"}, false, without(base, "CAP_CHOWN", "CAP_KILL")},
		{nil, []string{"ALL"}, false, []string{}},
		{[]string{"NET_RAW"}, []string{"all"}, false, []string{"CAP_NET_RAW"}},
		{[]string{"All"}, nil, false, all},
		{[]string{"ALL"}, []string{"SYS_ADMIN"}, false, without(all, "CAP_SYS_ADMIN")},
		{[]string{"SYS_TIME"}, []string{"SYS_TIME"}, false, base}, // dropped wins
		{nil, nil, true, all},
		{nil, []string{"SYS_MODULE"}, true, without(all, "CAP_SYS_MODULE")},
	} {
		got, err := capabilities(&Options{CapAdd: tt.add, CapDrop: tt.drop, Privileged: tt.priv})
		want := slices.Clone(tt.want)
		slices.Sort(want)
		sorted := slices.Clone(got)
		slices.Sort(sorted)
		if err != nil || !slices.Equal(sorted, want) {
			t.Errorf("add %v, drop %v, privileged %v: %v, %v; want %v", tt.add, tt.drop, tt.priv, got, err, want)
		}
	}
	for _, o := range []Options{{CapAdd: []string{"NOSUCH"}}, {CapDrop: []string{"CAP_CAP_KILL"}}, {CapAdd: []string{""}}, {CapAdd: []string{"CAP_ALL"}}, {CapAdd: []string{"KILL CHOWN"}}} {
		specError(t, unpacked.ImageConfig{}, o, "unknown capability")
	}
	// Another user than root has them in the bounding set alone, and root no
	// inheritable or ambient ones (CVE-2022-24769).
	c := mustSpec(t, unpacked.ImageConfig{User: "user"}, Options{}).Process.Capabilities
	if len(c.Bounding) != 14 || c.Effective != nil || c.Permitted != nil || c.Inheritable != nil || c.Ambient != nil {
		t.Errorf("user: %+v", c)
	}
	c = mustSpec(t, unpacked.ImageConfig{}, Options{}).Process.Capabilities
	if len(c.Bounding) != 14 || len(c.Effective) != 14 || len(c.Permitted) != 14 || c.Inheritable != nil || c.Ambient != nil {
		t.Errorf("root: %+v", c)
	}
}

func TestSnapshotKey(t *testing.T) {
	for _, id := range []string{"a", strings.Repeat("y", 255)} {
		a, b := snapshotKey(id), snapshotKey(id)
		if a == b || len(a) > 255 || !strings.HasPrefix(a, id[:min(len(id), maxKeyID)]+".") {
			t.Errorf("keys of %d bytes: %q, %q", len(id), a, b)
		}
	}
}
