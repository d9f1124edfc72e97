package integration

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// atKeys prints the session keyring and tells which of the keys named by the
// arguments can be found in it; "+name" adds one.
func atKeys(args []string) int {
	desc, err := unix.KeyctlString(unix.KEYCTL_DESCRIBE, unix.KEY_SPEC_SESSION_KEYRING)
	fmt.Print(desc, " ", err)
	for _, name := range args {
		if add, ok := strings.CutPrefix(name, "+"); ok {
			_, err := unix.AddKey("user", add, []byte("secret"), unix.KEY_SPEC_SESSION_KEYRING)
			fmt.Print(" ", name, ":", err)
			continue
		}
		_, err := unix.KeyctlSearch(unix.KEY_SPEC_SESSION_KEYRING, "user", name, 0)
		fmt.Print(" ", name, ":", err == nil)
	}
	fmt.Println()
	return 0
}

// newSession gives this thread, and what it starts, a session keyring of its own
// with a key in it. The thread must be locked, and is not used for anything else.
func newSession(t *testing.T, name string) {
	t.Helper()
	n, err := unix.BytePtrFromString(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, uintptr(unsafe.Pointer(n)), 0); errno != 0 {
		t.Fatal(errno)
	}
	if _, err := unix.AddKey("user", "of-host", []byte("secret"), unix.KEY_SPEC_SESSION_KEYRING); err != nil {
		t.Fatal(err)
	}
}

// The processes of a container have one session keyring together, and nothing of
// their callers': neither that of create nor that of exec.
func TestRootAttackKeyring(t *testing.T) {
	setup(t)
	done := make(chan bool)
	go func() { // a goroutine that ends on a locked thread takes the thread with it
		defer close(done)
		runtime.LockOSThread()
		newSession(t, "minirun-test")
		for _, tt := range []struct {
			name   string
			mutate func(*specs.Spec)
		}{{"host's user namespace", func(*specs.Spec) {}}, {"user namespace", withUser}} {
			b := newBox(t, tt.mutate, func(s *specs.Spec) {
				s.Process.Args = []string{"sh", "-c", `/bin/attack-keys +of-container of-host > /out; trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done`}
				s.Root.Readonly = false
			})
			atInstall(t, b.rootfs(), "keys")
			if err := os.Chmod(b.rootfs(), 0o777); err != nil {
				t.Error(err)
			}
			b.up()
			eventually(t, "the process tells its keyring", func() bool { return fileHas(b.rootfs("out"), "\n") })
			created := readFile(t, b.rootfs("out"))
			added := b.execOut("/bin/attack-keys", "of-container", "of-host")
			for what, got := range map[string]string{
				"process": strings.Replace(created, "+of-container:<nil>", "of-container:true", 1), "exec": added,
			} {
				if want := ";3f1b0000;_ses." + b.id + " <nil> of-container:true of-host:false\n"; !strings.HasPrefix(got, "keyring;") || !strings.HasSuffix(got, want) {
					t.Errorf("%s: %s: %q, want keyring;…%q", tt.name, what, got, want)
				}
			}
			// Another container has another.
			other := newBox(t, tt.mutate, func(s *specs.Spec) { s.Process.Args = []string{"/bin/attack-keys", "of-container", "of-host"} })
			atInstall(t, other.rootfs(), "keys")
			if out := other.output(); !strings.HasSuffix(out, "of-container:false of-host:false\n") {
				t.Errorf("%s: another container: %q", tt.name, out)
			}
		}
		// And with --no-new-keyring the callers' is what was asked for.
		b := newBox(t, forever)
		atInstall(t, b.rootfs(), "keys")
		b.create("--no-new-keyring")
		b.must("start")
		if out := b.execOut("/bin/attack-keys", "of-host"); !strings.Contains(out, ";minirun-test ") || !strings.HasSuffix(out, "of-host:true\n") {
			t.Errorf("--no-new-keyring: exec: %q", out)
		}
		run := newBox(t, func(s *specs.Spec) { s.Process.Args = []string{"/bin/attack-keys", "of-host"} })
		atInstall(t, run.rootfs(), "keys")
		if out := run.output("--no-new-keyring"); !strings.Contains(out, ";minirun-test ") || !strings.HasSuffix(out, "of-host:true\n") {
			t.Errorf("--no-new-keyring: run: %q", out)
		}
		// Hooks of the container have its keyring too.
		h := newBox(t, script("exit 0"), func(s *specs.Spec) {
			for _, kind := range []string{"createContainer", "startContainer"} {
				addHook(s, kind, specs.Hook{Path: "/bin/attack-keys", Args: []string{"keys", "of-host"}})
			}
			s.Hooks.CreateContainer[0] = hostHook("bin/attack-keys of-host > ../log")
			s.Hooks.StartContainer[0] = specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", "/bin/attack-keys of-host > /log"}}
			s.Root.Readonly = false
		})
		atInstall(t, h.rootfs(), "keys")
		h.output()
		for _, l := range lines(h.hookLog()) {
			if !strings.HasSuffix(l, "_ses."+h.id+" <nil> of-host:false") {
				t.Errorf("hook: %q", l)
			}
		}
	}()
	<-done
}

// fileHas reports whether a file is there and holds text.
func fileHas(path, text string) bool {
	b, err := os.ReadFile(path)
	return err == nil && strings.Contains(string(b), text)
}

// A user who has as many keys as it may gets an error, not the caller's keys.
func TestRootKeyringQuota(t *testing.T) {
	setup(t)
	const uid = 300000 // of nobody else's test: the kernel gives quota back in its own time
	done := make(chan bool)
	full, release := make(chan error), make(chan bool)
	go func() {
		defer close(done)
		runtime.LockOSThread()
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid) // of this thread
		if errno != 0 {
			full <- errno
			return
		}
		newSession(t, "minirun-test")
		var err error
		for i := 0; err == nil; i++ {
			_, err = unix.AddKey("user", fmt.Sprint("key", i), []byte("x"), unix.KEY_SPEC_SESSION_KEYRING)
		}
		full <- err
		<-release
	}()
	if err := <-full; err != unix.EDQUOT {
		t.Fatal(err)
	}
	b := newBox(t, script("exit 0"), withUser, func(s *specs.Spec) {
		s.Linux.UIDMappings[0].HostID, s.Linux.GIDMappings[0].HostID = uid, uid
	})
	if r := b.do("create", "--bundle", b.bundle); r.Code != 1 || !strings.Contains(r.Stderr, "session keyring") || !strings.Contains(r.Stderr, "--no-new-keyring") {
		t.Errorf("create: %+v", r)
	}
	if !b.gone() {
		t.Error("not clean")
	}
	b.must("run", "--bundle", b.bundle, "--no-new-keyring")
	close(release)
	<-done
}
