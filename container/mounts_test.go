package container

import (
	"slices"
	"strings"
	"testing"

	"github.com/minirun/minirun/imagestore/unpacked"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestVolume(t *testing.T) {
	for _, tt := range []struct {
		in, src, dst string
		options      []string
	}{
		{"/a:/b", "/a", "/b", nil},
		{"/a:/b:ro", "/a", "/b", []string{"ro"}},
		{"/a b/:/c d:rw,noexec,rslave", "/a b/", "/c d", []string{"rw", "noexec", "rslave"}},
		{"/a:/x/../y:ro", "/a", "/x/../y", []string{"ro"}},
	} {
		m, err := volume(tt.in)
		want := append([]string{"rbind", "rprivate"}, tt.options...)
		if err != nil || m.Type != "bind" || m.Source != tt.src || m.Destination != tt.dst || !slices.Equal(m.Options, want) {
			t.Errorf("%q: %+v, %v", tt.in, m, err)
		}
	}
	for _, tt := range []struct{ in, want string }{
		{"", "want SOURCE:DESTINATION"},
		{"/a", "want SOURCE:DESTINATION"},
		{":/b", "want SOURCE:DESTINATION"},
		{"/a:", "want SOURCE:DESTINATION"},
		{"name:/b", "named volumes are not supported"},
		{"./a:/b", "absolute path of the host"},
		{"/a:b", "must be absolute"},
		{"/a:/", "cannot be /"},
		{"/a://..", "cannot be /"},
		{"/a:/x/..", "cannot be /"},
		{"/a:/b:", "unknown option"},
		{"/a:/b:ro,", "unknown option"},
		{"/a:/b:z", "unknown option"},
		{"/a:/b:ro:rw", "unknown option"},
		{"/a:/b:bind,remount", "unknown option"},
	} {
		specError(t, unpacked.ImageConfig{}, Options{Volumes: []string{tt.in}}, tt.want)
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

// What the image says is never a mount, and what the user says comes last.
func TestMountOrder(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	base := len(mustSpec(t, unpacked.ImageConfig{}, Options{}).Mounts)
	s := mustSpec(t, unpacked.ImageConfig{Volumes: map[string]string{"/../../etc": "", "/data": ""}},
		Options{Volumes: []string{a + ":/dev/shm", b + ":/sys/x"}, Tmpfs: []string{"/t"}})
	var got []string
	for _, m := range s.Mounts[base:] {
		got = append(got, m.Destination)
	}
	if !slices.Equal(got, []string{"/dev/shm", "/sys/x", "/t"}) {
		t.Errorf("mounts of the user: %v", got)
	}
	if i := slices.IndexFunc(s.Mounts, func(m specs.Mount) bool {
		return strings.Contains(m.Destination, "data") || strings.Contains(m.Source, "..")
	}); i >= 0 {
		t.Errorf("a mount from the image: %+v", s.Mounts[i])
	}
}
