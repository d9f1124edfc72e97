package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// fakeCriu makes a program called criu that writes down its arguments, one a
// line, and then runs a script. What the real one does is TestVMCheckpoint's.
func fakeCriu(t *testing.T, script string) (path, args string) {
	t.Helper()
	dir := t.TempDir()
	args = filepath.Join(dir, "args")
	text := "#!/bin/sh\nfor a in \"$@\"; do echo \"$a\"; done >" + args + "\n" + script + "\n"
	if err := os.WriteFile(filepath.Join(dir, "criu"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir, args
}

// withPath runs a command with another PATH in front.
func (b *ociBox) withPath(dir, verb string, flags ...string) testenv.Result {
	b.t.Helper()
	cmd := testenv.Command(b.t, append(append([]string{verb}, flags...), b.id)...)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "PATH=") }), "PATH="+dir)
	return testenv.RunCmd(b.t, cmd)
}

// argument reports whether words follow one another in the fake's arguments.
func argument(list []string, words ...string) bool {
	for i := range list {
		if i+len(words) <= len(list) && slices.Equal(list[i:i+len(words)], words) {
			return true
		}
	}
	return false
}

func TestRootCheckpointArguments(t *testing.T) {
	setup(t)
	testenv.Supervisor(t)
	ns := "/proc/" + strconv.Itoa(newBox(t, forever).up().pid()) + "/ns/net"
	host := t.TempDir()
	b := newBox(t, forever, func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/tmp", Type: "bind", Source: host, Options: []string{"bind", "ro"}})
		for i, n := range s.Linux.Namespaces {
			if n.Type == specs.NetworkNamespace {
				s.Linux.Namespaces[i].Path = ns
			}
		}
	}).up()
	var st unix.Stat_t
	if err := unix.Stat(ns, &st); err != nil {
		t.Fatal(err)
	}
	images := filepath.Join(t.TempDir(), "images")
	if err := os.MkdirAll(filepath.Join(images, "..", "older"), 0o755); err != nil {
		t.Fatal(err)
	}
	path, file := fakeCriu(t, "exit 0")
	pid := strconv.Itoa(b.pid())
	for _, tt := range []struct {
		flags []string
		want  [][]string
	}{
		{nil, [][]string{
			{"dump", "-t", pid},
			{"-D", images},
			{"--manage-cgroups=ignore"},
			{"--external", "mnt[/tmp]:/tmp"},
			{"--external", "mnt[/proc/keys]:/proc/keys"},
			{"--external", "net[" + strconv.FormatUint(st.Ino, 10) + "]:extRootNetNS"},
		}},
		{[]string{"--pre-dump"}, [][]string{{"pre-dump", "-t", pid}, {"--track-mem"}}},
		{[]string{"--parent-path", "../older"}, [][]string{{"--prev-images-dir", "../older"}}},
		{[]string{"--tcp-established"}, [][]string{{"--tcp-established"}}},
		{[]string{"--tcp-skip-in-flight"}, [][]string{{"--skip-in-flight"}}},
		{[]string{"--link-remap"}, [][]string{{"--link-remap"}}},
		{[]string{"--ext-unix-sk"}, [][]string{{"--ext-unix-sk"}}},
		{[]string{"--shell-job"}, [][]string{{"--shell-job"}}},
		{[]string{"--lazy-pages", "--page-server", "127.0.0.1:1234"}, [][]string{{"--lazy-pages"}, {"--page-server", "--address", "127.0.0.1", "--port", "1234"}}},
		{[]string{"--status-fd", "2"}, [][]string{{"--status-fd", "3"}}},
		{[]string{"--file-locks"}, [][]string{{"--file-locks"}}},
		{[]string{"--manage-cgroups-mode", "full"}, [][]string{{"--manage-cgroups=full"}}},
		{[]string{"--empty-ns", "network"}, [][]string{{"--empty-ns", "net"}}},
		{[]string{"--auto-dedup"}, [][]string{{"--auto-dedup"}}},
	} {
		flags := append([]string{"--image-path", images, "--leave-running"}, tt.flags...)
		if r := b.withPath(path, "checkpoint", flags...); r.Code != 0 || r.Stderr != "" {
			t.Errorf("checkpoint %q: %+v", tt.flags, r)
			continue
		}
		list := lines(readFile(t, file))
		for _, want := range append(tt.want, []string{"--leave-running"}) {
			if !argument(list, want...) {
				t.Errorf("checkpoint %q: criu got %q, want %q", tt.flags, list, want)
			}
		}
	}
	b.wantStatus("running")
	for _, tt := range []struct{ flag, value, text string }{
		{"--manage-cgroups-mode", "some", "invalid cgroups mode"},
		{"--empty-ns", "pid", "want network"},
		{"--page-server", "1234", "want ADDRESS:PORT"},
		{"--parent-path", "/abs", "relative to --image-path"},
		{"--parent-path", "../missing", "no such file"},
	} {
		if r := b.withPath(path, "checkpoint", "--image-path", images, tt.flag, tt.value); r.Code != 1 || !strings.Contains(r.Stderr, tt.text) {
			t.Errorf("checkpoint %s %s: %+v, want %q", tt.flag, tt.value, r, tt.text)
		}
	}
	b.wantStatus("running")

	// After a dump that does not leave it running the container is gone.
	if r := b.withPath(path, "checkpoint", "--image-path", images); r.Code != 0 {
		t.Errorf("%+v", r)
	}
	b.gone()

	// Restore: the fake fails, so nothing must be left.
	path, file = fakeCriu(t, "exit 3")
	work := filepath.Join(t.TempDir(), "work")
	r := b.withPath(path, "restore", b.at([]string{
		"--image-path", images, "--work-path", work, "--tcp-established", "--tcp-close", "--ext-unix-sk", "--shell-job", "--file-locks",
		"--manage-cgroups-mode", "soft", "--empty-ns", "network", "--auto-dedup", "--lazy-pages", "--lsm-profile", "selinux:x", "--lsm-mount-context", "y", "--no-pivot", "--no-subreaper", "--detach",
	})...)
	if r.Code != 1 || !strings.Contains(r.Stderr, "criu restore: exit status 3") || !strings.Contains(r.Stderr, "hint: the whole log of criu is "+work+"/restore.log") {
		t.Errorf("restore: %+v", r)
	}
	b.gone()
	list := lines(readFile(t, file))
	state := filepath.Join(testenv.StateRoot(t), b.id)
	for _, want := range [][]string{
		{"restore", "-o", "restore.log"},
		{"-D", images},
		{"-W", work},
		{"--manage-cgroups=soft"},
		{"--root", state + "/root"},
		{"--restore-detached"},
		{"--restore-sibling"},
		{"--mntns-compat-mode"},
		{"--tcp-established"},
		{"--tcp-close"},
		{"--ext-unix-sk"},
		{"--shell-job"},
		{"--file-locks"},
		{"--lazy-pages"},
		{"--auto-dedup"},
		{"--empty-ns", "net"},
		{"--lsm-profile", "selinux:x"},
		{"--lsm-mount-context", "y"},
		{"--cgroup-root", b.cgroup},
		{"--inherit-fd", "fd[3]:extRootNetNS"},
	} {
		if !argument(list, want...) {
			t.Errorf("restore: criu got %q, want %q", list, want)
		}
	}
	if !slices.ContainsFunc(list, func(s string) bool { return strings.HasPrefix(s, "mnt[/tmp]:"+state+"/") }) {
		t.Errorf("restore: criu got %q, want the bind mount", list)
	}
}

// What goes wrong leaves the container as it was, and nothing of a new one.
func TestRootCheckpointFails(t *testing.T) {
	setup(t)
	testenv.Supervisor(t)
	b := newBox(t, forever).up()
	images := filepath.Join(t.TempDir(), "images")
	empty := t.TempDir()
	for _, verb := range []string{"checkpoint", "restore"} {
		box := b
		if verb == "restore" {
			box = newBox(t, forever)
		}
		flags := []string{"--image-path", images}
		if verb == "restore" {
			flags = box.at(flags)
		}
		if r := box.withPath(empty, verb, flags...); r.Code != 1 || !strings.Contains(r.Stderr, "executable file not found") || !strings.Contains(r.Stderr, "hint: install criu") {
			t.Errorf("%s without criu: %+v", verb, r)
		}
	}
	if _, err := os.Stat(images); err == nil {
		t.Error("a directory for images was made without criu")
	}
	path, _ := fakeCriu(t, `while [ "$1" != -D ]; do shift; done
printf '(00.1) Warn  (x.c:1): no matter\n(00.2) Error (criu/tcp.c:3): tcp: Connected TCP socket, consider using --tcp-established option.\n(00.3) Error (criu/cr-dump.c:9): Dumping FAILED.\n' >"$2/dump.log"
exit 1`)
	r := b.withPath(path, "checkpoint", "--image-path", images)
	if r.Code != 1 || !strings.Contains(r.Stderr, "Connected TCP socket") || !strings.Contains(r.Stderr, "Dumping FAILED.") || strings.Contains(r.Stderr, "no matter") || !strings.Contains(r.Stderr, "hint: the container has connections: use --tcp-established") {
		t.Errorf("checkpoint: %+v", r)
	}
	b.wantStatus("running")
	if out := b.execOut("echo", "lives"); out != "lives\n" {
		t.Errorf("%q", out)
	}

	// Not running, and what cannot be restored.
	path, _ = fakeCriu(t, "exit 0")
	created := newBox(t, forever)
	created.create()
	if r := created.withPath(path, "checkpoint", "--image-path", images); r.Code != 1 || !strings.Contains(r.Stderr, "cannot checkpoint: it is created") {
		t.Errorf("created: %+v", r)
	}
	if r := created.withPath(path, "checkpoint", "--image-path", images, "--", "nosuchbox"); r.Code != 1 {
		t.Errorf("%+v", r)
	}
	fresh := newBox(t, forever)
	if r := fresh.withPath(path, "restore", fresh.at([]string{"--image-path", empty})...); r.Code != 1 || !strings.Contains(r.Stderr, "it is no checkpoint of minirun") {
		t.Errorf("no images: %+v", r)
	}
	fresh.gone()
	if r := fresh.withPath(path, "restore", fresh.at([]string{"--image-path", filepath.Join(empty, "none")})...); r.Code != 1 || !strings.Contains(r.Stderr, "no such file or directory") {
		t.Errorf("no directory: %+v", r)
	}
	if r := b.withPath(path, "restore", b.at([]string{"--image-path", images})...); r.Code != 1 || !strings.Contains(r.Stderr, "container with given ID already exists") {
		t.Errorf("taken: %+v", r)
	}
	// Terminals would need somebody to hand them to.
	if r := fresh.withPath(path, "restore", fresh.at([]string{"--image-path", images, "--console-socket", "/x"})...); r.Code != 1 || !strings.Contains(r.Stderr, "restore --console-socket: not supported") {
		t.Errorf("console socket: %+v", r)
	}
	terminal := newBox(t, forever, func(s *specs.Spec) { s.Process.Terminal = true })
	if r := terminal.withPath(path, "restore", terminal.at([]string{"--image-path", images})...); r.Code != 1 || !strings.Contains(r.Stderr, "restore of a container with a terminal: not supported") {
		t.Errorf("terminal: %+v", r)
	}
	terminal.gone()

	// A checkpoint cannot ask for files of the host that config.json does not name.
	writeFile(t, filepath.Join(images, "minirun.json"), `{"version":1,"outside":["/etc"],"mounts":{"/etc":[]},"streams":["","",""],"status":{}}`)
	if r := fresh.withPath(path, "restore", fresh.at([]string{"--image-path", images})...); r.Code != 1 || !strings.Contains(r.Stderr, `the host's files at "/etc", and config.json has none there`) {
		t.Errorf("hostile images: %+v", r)
	}
	fresh.gone()
}

// A criu that brings the process back with less around it than it had: the
// process is killed, and nothing is left.
func TestRootRestoreWeaker(t *testing.T) {
	setup(t)
	testenv.Supervisor(t)
	b := newBox(t, forever)
	images := t.TempDir()
	// The fake restores a process of the host, in no namespace.
	path, _ := fakeCriu(t, `PATH=/usr/bin:/bin
while [ "$1" != --pidfile ]; do shift; done
setsid sleep 1000 >/dev/null 2>&1 </dev/null &
echo $! >"$2"`)
	for _, tt := range []struct{ image, text string }{
		{`{"version":1,"mounts":{},"streams":["","",""],"status":{"Seccomp":"2"}}`, `with Seccomp "0", it had "2"; it was killed`},
		{`{"version":1,"mounts":{},"streams":["","",""],"status":{}}`, "namespace; it was killed"},
	} {
		writeFile(t, filepath.Join(images, "minirun.json"), tt.image)
		if r := b.withPath(path, "restore", b.at([]string{"--image-path", images, "--detach"})...); r.Code != 1 || !strings.Contains(r.Stderr, tt.text) {
			t.Errorf("%+v, want %q", r, tt.text)
		}
		b.gone()
	}
}

// minirun is killed while criu works: delete finds what is left, criu included.
func TestRootRestoreKilled(t *testing.T) {
	setup(t)
	testenv.Supervisor(t)
	b := newBox(t, forever)
	images := t.TempDir()
	writeFile(t, filepath.Join(images, "minirun.json"), `{"version":1,"mounts":{},"streams":["","",""],"status":{}}`)
	path, file := fakeCriu(t, "exec /bin/sleep 1000")
	cmd := testenv.Command(t, append(append([]string{"restore"}, b.at([]string{"--image-path", images, "--detach"})...), b.id)...)
	cmd.Env = append(os.Environ(), "PATH="+path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "criu is started", func() bool { _, err := os.Stat(file); return err == nil })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	b.must("delete", "--force")
	b.gone()
}
