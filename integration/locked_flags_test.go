package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// What the host has set of a mount stays in a user namespace, whether or not the
// configuration wants it cleared, and however the source is opened: inside, where
// the kernel sees to it, or on the host because its ids are mapped, because it is
// out of reach, or because the container runs already.
func TestRootLockedFlags(t *testing.T) {
	setup(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // the container's root finds it
		t.Fatal(err)
	}
	private := filepath.Join(t.TempDir(), "private")
	if err := os.MkdirAll(private+"/dir", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(dir, private+"/dir", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(private+"/dir", unix.MNT_DETACH) })
	if err := os.Chmod(private, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, private + "/dir"} { // of the mounts, not of the file system
		if err := unix.Mount("", d, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			t.Fatal(err)
		}
	}
	clearing := []string{"rw", "suid", "dev", "exec"}
	var list, live []specs.Mount
	for name, m := range map[string]specs.Mount{
		"plain":   {Source: dir, Options: []string{"bind"}},
		"mapped":  {Source: dir, Options: []string{"bind", "idmap"}},
		"private": {Source: private + "/dir", Options: []string{"bind"}},
	} {
		for suffix, options := range map[string][]string{"-keep": {"nosuid"}, "-clear": clearing} {
			m := m
			m.Destination, m.Options = "/m/"+name+suffix, append(slices.Clone(m.Options), options...)
			list = append(list, m)
			m.Destination += "-live"
			live = append(live, m)
		}
	}
	b := newBox(t, forever, writable, withUser, func(s *specs.Spec) { s.Mounts = append(s.Mounts, list...) })
	b.places("m")
	for _, m := range append(slices.Clone(list), live...) {
		b.places(strings.TrimPrefix(m.Destination, "/"))
	}
	b.up()
	if r := b.mounts("add", live...); r.Code != 0 {
		t.Fatalf("%+v", r)
	}
	got := mountsIn(b.execOut("cat", "/proc/self/mountinfo"))
	for _, m := range append(list, live...) {
		for _, flag := range []string{"ro", "nosuid", "nodev", "noexec"} {
			if !slices.Contains(got[m.Destination].options, flag) {
				t.Errorf("%s with %v has %v, want %s", m.Destination, m.Options, got[m.Destination].options, flag)
			}
		}
	}
	b.kill("KILL")
	b.stopped()
	b.must("delete")

	// Without a user namespace the configuration decides.
	b = newBox(t, writable, script("cat /proc/self/mountinfo"), func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/m", Source: dir, Options: append([]string{"bind"}, clearing...)})
	})
	r := b.run()
	if o := mountsIn(r.Stdout)["/m"].options; r.Code != 0 || !slices.Contains(o, "rw") || slices.Contains(o, "nosuid") || slices.Contains(o, "noexec") || slices.Contains(o, "nodev") {
		t.Errorf("without a user namespace: %v of %+v", o, r)
	}
}
