package container

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/minirun/minirun/imagestore/unpacked"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestVolume(t *testing.T) {
	for _, tt := range []struct {
		in, kind, src, dst string
		options            []string
		noCopy             bool
	}{
		{"/a:/b", "bind", "/a", "/b", nil, false},
		{"/a:/b:ro", "bind", "/a", "/b", []string{"ro"}, false},
		{"/a b/:/c d:rw,noexec,rslave", "bind", "/a b/", "/c d", []string{"rw", "noexec", "rslave"}, false},
		{"/a:/x/../y:ro", "bind", "/a", "/y", []string{"ro"}, false},
		{"name:/b", "volume", "name", "/b", nil, false},
		{"n.a-m_e1:/b:ro,nocopy,z,cached", "volume", "n.a-m_e1", "/b", []string{"ro"}, true},
		{"/data/", "volume", "", "/data", nil, false},
	} {
		m, err := parseVolume(tt.in)
		want := append([]string{"rbind", "rprivate"}, tt.options...)
		if err != nil || m.kind != tt.kind || m.source != tt.src || m.dest != tt.dst || !slices.Equal(m.options, want) || m.noCopy != tt.noCopy {
			t.Errorf("%q: %+v, %v", tt.in, m, err)
		}
	}
	for _, tt := range []struct{ in, want string }{
		{"", "must be absolute"},
		{"a", "must be absolute"},
		{"/", "cannot be /"},
		{":/b", "want [SOURCE:]DESTINATION"},
		{"/a:", "want [SOURCE:]DESTINATION"},
		{"./a:/b", "absolute path of the host"},
		{"a/b:/b", "absolute path of the host"},
		{".a:/b", "absolute path of the host"},
		{strings.Repeat("n", 201) + ":/b", "absolute path of the host"},
		{"/a:b", "must be absolute"},
		{"/a:/", "cannot be /"},
		{"/a://..", "cannot be /"},
		{"/a:/x/..", "cannot be /"},
		{"/a:/b\nc", "newline"},
		{"/a:/b:", "unknown option"},
		{"/a:/b:ro,", "unknown option"},
		{"/a:/b:U", "unknown option"},
		{"/a:/b:nocopy", "is for a volume"},
		{"n:/b:rslave", "is for a directory"},
		{"/a:/b:ro:rw", "unknown option"},
		{"/a:/b:bind,remount", "unknown option"},
	} {
		specError(t, unpacked.ImageConfig{}, Options{Volumes: []string{tt.in}}, tt.want)
	}
	specError(t, unpacked.ImageConfig{}, Options{Volumes: []string{"/a:/b", "v:/b/"}}, "mounted at \"/b\" already")
	specError(t, unpacked.ImageConfig{}, Options{Volumes: []string{"/a:/b"}, Tmpfs: []string{"/x/../b"}}, "mounted at \"/b\" already")
	specError(t, unpacked.ImageConfig{Volumes: map[string]string{"data": ""}}, Options{}, "of the image")
	specError(t, unpacked.ImageConfig{Volumes: map[string]string{"/x/..": ""}}, Options{}, "of the image")
}

func TestMountFlag(t *testing.T) {
	for _, tt := range []struct {
		in     string
		want   specs.Mount
		noCopy bool
	}{
		{"type=bind,src=/a,dst=/b", specs.Mount{Type: "bind", Source: "/a", Destination: "/b", Options: []string{"rbind", "rprivate"}}, false},
		{"type=bind,source=/a,target=/b/,readonly,bind-propagation=rslave", specs.Mount{Type: "bind", Source: "/a", Destination: "/b", Options: []string{"rbind", "rprivate", "ro", "rslave"}}, false},
		{"type=bind,bind-nonrecursive=true,src=/a,dst=/b,ro=true,consistency=cached", specs.Mount{Type: "bind", Source: "/a", Destination: "/b", Options: []string{"bind", "rprivate", "ro"}}, false},
		{"source=v,destination=/b,volume-nocopy", specs.Mount{Type: "volume", Source: "v", Destination: "/b", Options: []string{"rbind", "rprivate"}}, true},
		{"type=volume,dst=/b,readonly=false", specs.Mount{Type: "volume", Destination: "/b", Options: []string{"rbind", "rprivate"}}, false},
		{"type=tmpfs,dst=/b,tmpfs-size=64m,tmpfs-mode=1770,ro", specs.Mount{Type: "tmpfs", Destination: "/b", Options: []string{"nosuid", "nodev", "noexec", "ro", "size=64m", "mode=1770"}}, false},
		// A colon is one of the path: docker has no options behind it here.
		{"type=tmpfs,dst=/b:exec", specs.Mount{Type: "tmpfs", Destination: "/b:exec", Options: []string{"nosuid", "nodev", "noexec"}}, false},
		{"type=tmpfs,dst=/b", specs.Mount{Type: "tmpfs", Destination: "/b", Options: []string{"nosuid", "nodev", "noexec"}}, false},
	} {
		m, err := parseMount(tt.in)
		if err != nil || m.kind != tt.want.Type || m.source != tt.want.Source || m.dest != tt.want.Destination || !slices.Equal(m.options, tt.want.Options) || m.noCopy != tt.noCopy {
			t.Errorf("%q: %+v, %v", tt.in, m, err)
		}
	}
	for _, tt := range []struct{ in, want string }{
		{"", "want KEY=VALUE"},
		{"type=bind,src=/a", "must be absolute"},
		{"type=bind,dst=/b", "absolute path of the host"},
		{"type=bind,src=v,dst=/b", "absolute path of the host"},
		{"type=volume,src=/a,dst=/b", "volume name"},
		{"type=npipe,src=/a,dst=/b", "want bind, volume or tmpfs"},
		{"type=tmpfs,src=/a,dst=/b", "has no source"},
		{"type=tmpfs,dst=/", "cannot be /"},
		{"dst=/b,tmpfs-size=1", "for type=tmpfs"},
		{"dst=/b,bind-propagation=shared", "for type=bind"},
		{"type=bind,src=/a,dst=/b,volume-nocopy", "for type=volume"},
		{"type=bind,src=/a,dst=/b,bind-propagation=all", "unknown propagation"},
		{"type=bind,src=/a,dst=/b,colour=red", "unknown key"},
		{"type=bind,src=/a,dst=/b,readonly=perhaps", "true or false"},
		{"type=bind,src=/a,dst=/b,src", "want KEY=VALUE"},
	} {
		specError(t, unpacked.ImageConfig{}, Options{Mounts: []string{tt.in}}, tt.want)
	}
}

func TestTmpfs(t *testing.T) {
	for _, tt := range []struct {
		in, dst string
		options []string
	}{
		{"/run", "/run", nil},
		{"/run:", "/run", nil},
		{"/run:size=64m,mode=1777,exec", "/run", []string{"size=64m", "mode=1777", "exec"}},
		{"/run:ro,uid=5,gid=6,nr_inodes=10", "/run", []string{"ro", "uid=5", "gid=6", "nr_inodes=10"}},
	} {
		s := mustSpec(t, unpacked.ImageConfig{}, Options{Tmpfs: []string{tt.in}})
		m := s.Mounts[len(s.Mounts)-1]
		want := append([]string{"nosuid", "nodev", "noexec"}, tt.options...)
		if m.Type != "tmpfs" || m.Destination != tt.dst || !slices.Equal(m.Options, want) {
			t.Errorf("%q: %+v", tt.in, m)
		}
	}
	for _, tt := range []struct{ in, want string }{
		{"", "must be absolute"},
		{"run", "must be absolute"},
		{"/", "cannot be /"},
		{"/..:ro", "cannot be /"},
		{"/run:bind", "unknown option"},
		{"/run:rbind,ro", "unknown option"},
		{"/run:ro=1", "unknown option"},
		{"/run:size", "unknown option"},
		{"/run:size=1m,,ro", "unknown option"},
		{"/run:nosuch", "unknown option"},
		{"/run:remount", "unknown option"},
	} {
		specError(t, unpacked.ImageConfig{}, Options{Tmpfs: []string{tt.in}}, tt.want)
	}
}

// What the image asks for is a volume below the container's root; what the user
// says about the same place wins; and a place comes after those above it.
func TestMountOrder(t *testing.T) {
	a, b, store := t.TempDir(), t.TempDir(), t.TempDir()
	base := len(mustSpec(t, unpacked.ImageConfig{}, Options{}).Mounts)
	s := mustSpec(t, unpacked.ImageConfig{Volumes: map[string]string{"/../../etc": "", "/data/": "", "/t": "", "/data/in/it": ""}},
		Options{Volumes: []string{a + ":/dev/shm", b + ":/sys/x/y", "named:/data/in"}, Tmpfs: []string{"/t"}, place: func(m *userMount) (string, error) {
			dir := filepath.Join(store, m.source, "_data")
			return dir, os.MkdirAll(dir, 0o755)
		}})
	var got []string
	for _, m := range s.Mounts[base:] {
		got = append(got, m.Type+" "+m.Source+" "+m.Destination)
	}
	anonymous := "bind " + store + "/_data "
	if want := []string{
		anonymous + "/data", anonymous + "/etc", "tmpfs tmpfs /t", "bind " + store + "/named/_data /data/in", "bind " + a + " /dev/shm",
		anonymous + "/data/in/it", "bind " + b + " /sys/x/y",
	}; !slices.Equal(got, want) {
		t.Errorf("mounts\n got %q\nwant %q", got, want)
	}
	if got, want := s.Annotations[Volumes], "/data\n/etc\n/data/in\n/dev/shm\n/data/in/it\n/sys/x/y"; got != want {
		t.Errorf("annotation %q, want %q", got, want)
	}
}
