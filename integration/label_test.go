package integration

import (
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
)

// Labels where the kernel has nobody who knows them, or does not know them: an
// error by the field's name before anything is made, of exec too.
func TestRootLabelsRefused(t *testing.T) {
	setup(t)
	enabled, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	apparmor := "apparmor is not enabled"
	if strings.HasPrefix(string(enabled), "Y") {
		apparmor = "apparmor failed to apply profile: write `/proc/self/attr/apparmor/exec`"
	}
	var fs unix.Statfs_t
	if unix.Statfs("/sys/fs/selinux", &fs) == nil && uint32(fs.Type) == unix.SELINUX_MAGIC {
		t.Skip("this machine has SELinux")
	}
	const selinux = "selinux is disabled or not supported"
	running := newBox(t, forever).up()
	for _, tt := range []struct {
		field  string
		mutate func(*specs.Spec)
		flags  []string
		want   string
	}{
		{"process.apparmorProfile", func(s *specs.Spec) { s.Process.ApparmorProfile = "no-such-profile" }, []string{"--apparmor", "no-such-profile"}, apparmor},
		{"process.selinuxLabel", func(s *specs.Spec) { s.Process.SelinuxLabel = "a:b:c:s0" }, []string{"--process-label", "a:b:c:s0"}, selinux},
		{"linux.mountLabel", func(s *specs.Spec) { s.Linux.MountLabel = "a:b:c:s0" }, nil, selinux},
	} {
		b := newBox(t, tt.mutate)
		if r := b.run(); r.Code != 1 || !strings.Contains(r.Stderr, tt.field) || !strings.Contains(r.Stderr, tt.want) || !strings.Contains(r.Stderr, "hint:") {
			t.Errorf("%s: %+v, want %q", tt.field, r, tt.want)
		}
		if !b.gone() {
			t.Errorf("%s: something is left", tt.field)
		}
		if tt.flags == nil {
			continue
		}
		if r := running.exec(append(tt.flags, "--", "true")...); r.Code != 255 || !strings.Contains(r.Stderr, tt.field) || !strings.Contains(r.Stderr, tt.want) {
			t.Errorf("exec %q: %+v, want %q", tt.flags, r, tt.want)
		}
	}
	// No profile is one that every kernel has.
	if r := newBox(t, func(s *specs.Spec) { s.Process.ApparmorProfile = "unconfined" }).run(); r.Code != 0 {
		t.Errorf("unconfined: %+v", r)
	}
	if r := running.exec("--apparmor", "unconfined", "--", "true"); r.Code != 0 {
		t.Errorf("exec --apparmor unconfined: %+v", r)
	}
}

// Modes of a profile, as they are packed.
const (
	apparmorEnforce  = 0
	apparmorComplain = 1
)

// apparmorProfile is a profile without any rules as the kernel reads it: what
// apparmor_parser would make of `profile NAME flags=(complain) {}`.
func apparmorProfile(name string, mode uint32) []byte {
	const (
		u32, named, text    = 2, 4, 5
		structure, endOfOne = 7, 8
	)
	var b []byte
	str := func(code byte, s string) {
		b = append(append(binary.LittleEndian.AppendUint16(append(b, code), uint16(len(s)+1)), s...), 0)
	}
	num := func(v uint32) { b = binary.LittleEndian.AppendUint32(append(b, u32), v) }
	str(named, "version")
	num(5)
	str(named, "profile")
	b = append(b, structure)
	str(text, name)
	str(named, "flags")
	b = append(b, structure)
	for _, v := range []uint32{0, mode, 0} {
		num(v)
	}
	b = append(b, endOfOne)
	for range 4 { // capabilities
		num(0)
	}
	return append(b, endOfOne)
}

// loadApparmor loads a profile for the time of the test.
func loadApparmor(t *testing.T, name string, mode uint32) {
	t.Helper()
	const dir = "/sys/kernel/security/apparmor"
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		if err := unix.Mount("securityfs", "/sys/kernel/security", "securityfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount("/sys/kernel/security", 0); err != nil {
				t.Error(err)
			}
		})
	}
	if err := os.WriteFile(dir+"/.load", apparmorProfile(name, mode), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(dir+"/.remove", []byte(name), 0); err != nil {
			t.Error(err)
		}
	})
}

// A real profile, on a kernel that has AppArmor.
func TestVMApparmor(t *testing.T) {
	setup(t)
	const complain, enforce = "minirun-test-complain", "minirun-test-enforce"
	loadApparmor(t, complain, apparmorComplain)
	loadApparmor(t, enforce, apparmorEnforce)
	profile := func(name string) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Process.ApparmorProfile = name }
	}
	const show = "cat /proc/self/attr/apparmor/current"
	for _, mutate := range [][]func(*specs.Spec){
		nil,
		{func(s *specs.Spec) {
			s.Process.NoNewPrivileges = true
			s.Process.User = specs.User{UID: 1000, GID: 1000}
		}},
		{func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
			ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
			s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
		}},
	} {
		b := newBox(t, append(mutate, script(show), profile(complain))...)
		if got := b.output(); got != complain+" (complain)\n" {
			t.Errorf("%q", got)
		}
	}
	// exec: the container's own, another one, none.
	b := newBox(t, forever, profile(complain)).up()
	for _, tt := range []struct {
		flags []string
		want  string
	}{
		{nil, complain + " (complain)\n"},
		{[]string{"--apparmor", "unconfined"}, "unconfined\n"},
	} {
		if got := b.execOut(append(tt.flags, "--", "sh", "-c", show)...); got != tt.want {
			t.Errorf("exec %q: %q, want %q", tt.flags, got, tt.want)
		}
	}
	if r := b.exec("--apparmor", "no-such-profile", "--", "true"); r.Code != 255 ||
		!strings.Contains(r.Stderr, "process.apparmorProfile: \"no-such-profile\": apparmor failed to apply profile: write `/proc/self/attr/apparmor/exec`: no such file or directory") {
		t.Errorf("%+v", r)
	}
	// One without rules allows nothing, and everybody is under it but the runtime.
	if r := newBox(t, profile(enforce), func(s *specs.Spec) { s.Process.Args = []string{"cat", "/etc/passwd"} }).run(); r.Code == 0 || r.Stdout != "" {
		t.Errorf("under a profile that allows nothing: %+v", r)
	}
	if r := b.exec("--apparmor", enforce, "--", "cat", "/etc/passwd"); r.Code == 0 || r.Stdout != "" {
		t.Errorf("exec under a profile that allows nothing: %+v", r)
	}
	if r := testenv.Run(t, "state", b.id); r.Code != 0 {
		t.Errorf("%+v", r)
	}
}
