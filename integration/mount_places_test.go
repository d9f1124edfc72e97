package integration

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Where mounts go and what they come from: each container prints one line.
func TestRootMountPlaces(t *testing.T) {
	setup(t)
	src := t.TempDir()
	writeFile(t, filepath.Join(src, "file"), "content\n")
	for _, d := range []string{"dir", "sp ace\\new\nline"} {
		if err := os.Mkdir(filepath.Join(src, d), 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(src, d, "in"), "inside\n")
	}
	socket, err := net.Listen("unix", filepath.Join(src, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	for _, err := range []error{
		unix.Mkfifo(filepath.Join(src, "pipe"), 0o600), os.Symlink("file", filepath.Join(src, "link")),
		os.Symlink("dir", filepath.Join(src, "dirlink")), os.Symlink("nowhere", filepath.Join(src, "dangling")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	from := func(name, dest string, options ...string) specs.Mount {
		return bindMount(filepath.Join(src, name), dest, options...)
	}
	tmpfs := func(dest string, options ...string) specs.Mount {
		return specs.Mount{Destination: dest, Type: "tmpfs", Source: "tmpfs", Options: options}
	}
	long := strings.Repeat("x", 255)
	for _, tt := range []struct {
		name   string
		mounts []specs.Mount
		script string
		want   string // output; with an error, a part of its text
		fails  bool
	}{
		{"file", []specs.Mount{from("file", "/a/b/c")}, "cat /a/b/c", "content\n", false},
		{"socket", []specs.Mount{from("socket", "/run/sock")}, "stat -c %F /run/sock", "socket\n", false},
		{"pipe", []specs.Mount{from("pipe", "/p")}, "stat -c %F /p", "fifo\n", false},
		{"device", []specs.Mount{bindMount("/dev/full", "/f")}, "stat -c %t:%T /f; echo x >/f", "1:7\n", false},
		{"source is a link to a file", []specs.Mount{from("link", "/f")}, "stat -c %F /f", "regular file\n", false},
		{"source is a link to a directory", []specs.Mount{from("dirlink", "/d")}, "cat /d/in", "inside\n", false},
		{"source is a link to nothing", []specs.Mount{from("dangling", "/d")}, "", "mounts[7].source", true},
		{"name of a source", []specs.Mount{from("sp ace\\new\nline", "/sp ace\\new\nline")}, "cat /sp*/in", "inside\n", false},
		{"copy-symlink", []specs.Mount{from("dangling", "/etc/l", "copy-symlink"), from("link", "/etc/passwd", "copy-symlink")}, "readlink /etc/l; readlink /etc/passwd", "nowhere\nfile\n", false},
		{"copy-symlink of a directory", []specs.Mount{from("dir", "/d", "copy-symlink")}, "cat /d/in", "inside\n", false},
		{"src-nofollow", []specs.Mount{from("dangling", "/etc/l", "src-nofollow")}, "readlink /etc/l", "nowhere\n", false},
		{"dest-nofollow", []specs.Mount{from("file", "/toetc", "dest-nofollow")}, "cat /toetc; ls -d /etc", "content\n/etc\n", false},
		{"dest-nofollow makes what is missing", []specs.Mount{from("dir", "/a/b", "dest-nofollow")}, "cat /a/b/in", "inside\n", false},
		{"through links", []specs.Mount{from("dir", "/toetc/x"), from("file", "/up/y"), tmpfs("/chain/z")}, "cat /etc/x/in /var/y; grep -c ' /var/z ' /proc/self/mountinfo", "inside\ncontent\n1\n", false},
		{"link that leads out", []specs.Mount{from("dir", "/out/d")}, "cat " + src + "/d/in", "inside\n", false},
		{"links that lead nowhere yet", []specs.Mount{from("file", "/etc/resolv"), from("dir", "/nowhere/a"), tmpfs("/nowhere/a/../b", "mode=711")}, "cat /run/resolve/stub /no/where/a/in; stat -c %a /nowhere/b; readlink /etc/resolv", "content\ninside\n711\n../run/resolve/stub\n", false},
		{"a link into /proc", []specs.Mount{from("file", "/toproc/new")}, "", "mounts[7].destination", true},
		{"a link into /proc, to what is there", []specs.Mount{from("dir", "/toproc/there")}, "", "mounts[7].destination", true},
		{"a link to /proc", []specs.Mount{tmpfs("/proclink")}, "", "mounts[7].destination", true},
		{"a bind on a link to /proc", []specs.Mount{bindMount("/proc", "/proclink")}, "", "mounts[7].destination", true},
		{"link that is a loop", []specs.Mount{from("dir", "/loop/x")}, "", "too many levels of symbolic links", true},
		{"dots", []specs.Mount{from("dir", "/a/../../../b/./c/"), from("file", "./../f")}, "cat /b/c/in /f", "inside\ncontent\n", false},
		{"relative", []specs.Mount{from("dir", "rel/d")}, "cat /rel/d/in", "inside\n", false},
		{"not empty", []specs.Mount{from("dir", "/etc")}, "ls /etc", "in\n", false},
		{"twice", []specs.Mount{from("dir", "/d"), tmpfs("/d"), from("file", "/d/f")}, "ls /d; umount /d/f /d 2>/dev/null; grep -c ' /d ' /proc/self/mountinfo", "f\n2\n", false},
		{"longest name", []specs.Mount{from("dir", "/"+long)}, "cat /xxx*/in", "inside\n", false},
		{"name too long", []specs.Mount{from("dir", "/"+long+"x")}, "", "file name too long", true},
		{"over the root", []specs.Mount{tmpfs("/", "size=8m"), from("dir", "/in/it")}, "", "executable file not found", true},
		{"unknown option", []specs.Mount{tmpfs("/x", "nosuch=5")}, "", "nosuch=5", true},
		{"unknown flag", []specs.Mount{tmpfs("/x", "nosuch")}, "", "nosuch", true},
		{"flags of a file system", []specs.Mount{tmpfs("/x", "sync", "dirsync", "lazytime")}, "grep ' /x ' /proc/self/mountinfo | sed 's/.*tmpfs tmpfs //' | cut -d, -f1-3", "rw,sync,dirsync\n", false},
		{"flags that a bind cannot have", []specs.Mount{from("dir", "/x", "sync", "silent", "iversion", "async")}, "cat /x/in", "inside\n", false},
		{"remount", []specs.Mount{from("dir", "/x"), {Destination: "/x", Source: "none", Options: []string{"remount", "ro", "bind"}}}, "touch /x/new 2>&1 | grep -c Read-only", "1\n", false},
		{"remount of no mount", []specs.Mount{{Destination: "/etc", Options: []string{"remount", "ro"}}}, "", "/etc", true},
		{"cgroup", []specs.Mount{{Destination: "/cg", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "rprivate"}}}, "stat -f -c %t /cg; cat /cg/cgroup.controllers >/dev/null && echo two", "63677270\ntwo\n", false},
		{"symlinks in sysfs's place", []specs.Mount{{Destination: "/toetc", Type: "sysfs", Source: "sysfs"}}, "", "/toetc", true},
	} {
		b := newBox(t, writable, func(s *specs.Spec) { s.Mounts = append(s.Mounts, tt.mounts...) }, script(tt.script))
		for link, target := range map[string]string{"toetc": "/etc", "up": "../../../../var", "chain": "chain2", "chain2": "/chain3", "chain3": "./var", "out": src, "loop": "loop", "etc/resolv": "../run/resolve/stub", "nowhere": "nowhere2", "nowhere2": "/no/where", "toproc": "proc/1", "proclink": "/proc"} {
			if err := os.Symlink(target, b.rootfs(link)); err != nil {
				t.Fatal(err)
			}
		}
		b.places("proc/1", "proc/1/there")
		r := b.run()
		switch {
		case tt.fails && (r.Code == 0 || !strings.Contains(r.Stderr, tt.want)):
			t.Errorf("%s: %+v, want an error with %q", tt.name, r, tt.want)
		case !tt.fails && r.Stdout != tt.want:
			t.Errorf("%s: %+v, want %q", tt.name, r, tt.want)
		}
		b.gone()
	}
	if entries, err := os.ReadDir(src); err != nil || len(entries) != 8 {
		t.Errorf("the source has changed: %v %v", entries, err)
	}
	// Over the root: what follows goes into the new one.
	other := testenv.Rootfs(t)
	writeFile(t, filepath.Join(other, "mark"), "other root\n")
	b := newBox(t, func(s *specs.Spec) {
		s.Mounts = append([]specs.Mount{bindMount(other, "/")}, append(s.Mounts, from("dir", "/tmp"))...)
	}, script("cat /mark /tmp/in; ls /proc/self/fd >/dev/null && touch /x 2>&1 | grep -c Read-only"))
	if r := b.run(); r.Stdout != "other root\ninside\n1\n" {
		t.Errorf("over the root: %+v", r)
	}
	b.gone()
}

// A root file system of every kind, with pivot_root(2) and without. The host's
// mounts stay the same.
func TestRootRootfsKinds(t *testing.T) {
	setup(t)
	const look = "ls -d /bin /mark /below/in 2>&1; touch /new 2>/dev/null && echo writable; grep -c ' / / \\|/rootfs' /proc/self/mountinfo >/dev/null; pwd"
	for _, tt := range []struct {
		name  string
		setup string // with $1 the rootfs, $2 a scratch directory
		want  string
	}{
		{"directory", ":", "/bin /mark writable / "},
		{"mount point", `mount --bind "$1" "$1"`, "/bin /mark writable / "},
		{"shared mount point", `mount --bind "$1" "$1"; mount --make-shared "$1"`, "/bin /mark writable / "},
		{"slave", `mount --bind "$1" "$1"; mount --make-shared "$1"; mount --make-slave "$1"`, "/bin /mark writable / "},
		{"in a shared mount", `mount --bind "$1/.." "$1/.."; mount --make-shared "$1/.."`, "/bin /mark writable / "},
		{"read-only", `mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"`, "/bin /mark / "},
		{"tmpfs", `mkdir "$2/t"; mount -t tmpfs none "$2/t"; cp -a "$1/." "$2/t/"; mount --move "$2/t" "$1"`, "/bin /mark writable / "},
		{"overlay", `mount -t tmpfs none "$2"; mkdir "$2/u" "$2/w"; mount -t overlay -o lowerdir="$1",upperdir="$2/u",workdir="$2/w" none "$1"`, "/bin /mark writable / "},
		{"with a mount in it", `mount -t tmpfs none "$1/below"; touch "$1/below/in"`, "/below/in /bin /mark writable / "},
	} {
		for _, flags := range [][]string{nil, {"--no-pivot"}} {
			b := newBox(t, writable, script(look))
			b.places("below", "new.d")
			writeFile(t, b.rootfs("mark"), "")
			scratch := t.TempDir()
			text := `set -e; mount --make-rprivate /; ` + tt.setup + `
				before=$(sort /proc/self/mountinfo); shift 2; "$@" || echo "status $?"
				[ "$before" = "$(sort /proc/self/mountinfo)" ] || echo mounts have changed`
			args := append([]string{"run"}, append(flags, "--bundle", b.bundle, b.id)...)
			cmd := exec.Command("unshare", append([]string{"--mount", "sh", "-c", text, "sh", b.rootfs(), scratch, testenv.Binary(t), "--root", testenv.StateRoot(t)}, args...)...)
			var stderr strings.Builder
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			got := strings.Join(slices.DeleteFunc(lines(string(out)), func(l string) bool { return strings.HasPrefix(l, "ls: ") }), " ") + " "
			if err != nil || got != tt.want {
				t.Errorf("%s %v: %q, %v %s; want %q", tt.name, flags, got, err, stderr.String(), tt.want)
			}
			b.gone()
		}
	}
}

// A destination that is missing can only be made where the root file system may
// be written to.
func TestRootMountMissingOnReadonly(t *testing.T) {
	setup(t)
	for _, there := range []bool{true, false} {
		b := newBox(t, func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/data", Type: "tmpfs", Source: "tmpfs"})
		})
		if there {
			b.places("data")
		}
		// A read-only root alone does not matter: that comes later.
		if r := b.run(); r.Code != 0 {
			t.Errorf("root.readonly: %+v", r)
		}
		if !there {
			if err := os.Remove(b.rootfs("data")); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command("unshare", "--mount", "sh", "-c", `mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"`, "sh",
			b.rootfs(), testenv.Binary(t), "--root", testenv.StateRoot(t), "run", "--bundle", b.bundle, b.id)
		r := testenv.RunCmd(t, cmd)
		if there && r.Code != 0 || !there && (r.Code != 1 || !strings.Contains(r.Stderr, "/data") || !strings.Contains(r.Stderr, "read-only file system")) {
			t.Errorf("there: %v: %+v", there, r)
		}
		b.gone()
	}
}

// All values of linux.rootfsPropagation, on a host with shared mounts: what the
// root becomes, whether a mount of the host arrives in a bind, and whether one
// of the container gets out.
func TestRootPropagation_Values(t *testing.T) {
	setup(t)
	for _, tt := range []struct{ value, root, arrives, leaves string }{
		{"", "master", "1", "0"},
		{"private", "", "0", "0"},
		{"rprivate", "", "0", "0"},
		{"slave", "master", "1", "0"},
		{"rslave", "master", "1", "0"},
		{"shared", "shared", "0", "0"},
		{"rshared", "shared", "0", "0"},
		{"unbindable", "unbindable", "1", "0"},
		{"runbindable", "unbindable", "1", "0"},
	} {
		volume := t.TempDir()
		b := newBox(t, writable, func(s *specs.Spec) {
			s.Linux.RootfsPropagation = tt.value
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/v", Source: volume, Options: []string{"rbind"}})
			s.Process.Capabilities.Bounding = append(s.Process.Capabilities.Bounding, "CAP_SYS_ADMIN")
			s.Process.Capabilities.Effective, s.Process.Capabilities.Permitted = s.Process.Capabilities.Bounding, s.Process.Capabilities.Bounding
		}, forever)
		text := `set -e
			mount --make-rshared /
			mkdir "$1/in" "$1/out"
			"$2" --root "$3" create --bundle "$4" "$5" </dev/null
			"$2" --root "$3" start "$5"
			mount -t tmpfs none "$1/in"
			"$2" --root "$3" exec "$5" mount -t tmpfs none /v/out
			"$2" --root "$3" exec "$5" sed -n 's/^[0-9]* [0-9]* [0-9:]* [^ ]* \/ [^ ]* \(.*\)- .*/root=\1/p; s/.* \/v\/in .*/arrives/p' /proc/self/mountinfo
			grep -c " $1/out " /proc/self/mountinfo || true
			"$2" --root "$3" delete --force "$5"`
		cmd := exec.Command("unshare", "--mount", "sh", "-c", text, "sh", volume, testenv.Binary(t), testenv.StateRoot(t), b.bundle, b.id)
		r := testenv.RunCmd(t, cmd)
		l := lines(r.Stdout)
		root := ""
		if f := strings.Fields(strings.TrimPrefix(l[0], "root=")); len(f) > 0 {
			root, _, _ = strings.Cut(f[0], ":")
		}
		arrives := "0"
		if slices.Contains(l, "arrives") {
			arrives = "1"
		}
		if r.Code != 0 || root != tt.root || arrives != tt.arrives || l[len(l)-1] != tt.leaves {
			t.Errorf("%q: root %q, arrives %s, leaves %s (%+v); want %+v", tt.value, root, arrives, l[len(l)-1], r, tt)
		}
		b.gone()
	}
}

// On the ramfs that a kernel starts with, nothing can pivot: the error says what
// to do, and with --no-pivot the container runs.
func TestVMNoPivotRamfs(t *testing.T) {
	setup(t)
	b := newBox(t, script("ls -d /bin /tree 2>&1; echo 1 > /dev/null && cat /proc/self/mountinfo"))
	type result struct {
		r   testenv.Result
		err error
	}
	program, state := "/tree"+testenv.Binary(t), "/tree"+testenv.StateRoot(t)
	run := func(flags ...string) result {
		done := make(chan result)
		go onOtherThread(func() {
			if err := onRamfs(); err != nil {
				done <- result{err: err}
				return
			}
			args := append([]string{"--root", state, "run"}, flags...)
			cmd := exec.Command(program, append(args, "--bundle", "/tree"+b.bundle, b.id)...)
			var stdout, stderr strings.Builder
			cmd.Dir, cmd.Stdout, cmd.Stderr = "/", &stdout, &stderr
			err := cmd.Run()
			if cmd.ProcessState != nil {
				err = nil
			}
			done <- result{testenv.Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}, err}
		})
		return <-done
	}
	if x := run(); x.err != nil || x.r.Code != 1 || !strings.Contains(x.r.Stderr, "pivot_root") || !strings.Contains(x.r.Stderr, "--no-pivot") {
		t.Errorf("pivot_root: %+v", x)
	}
	x := run("--no-pivot")
	if x.err != nil || x.r.Code != 0 || !strings.HasPrefix(x.r.Stdout, "/bin\n") && !strings.Contains(x.r.Stdout, "\n/bin\n") || !strings.Contains(x.r.Stdout, "/tree: No such file") {
		t.Errorf("--no-pivot: %+v", x)
	}
	if m := mountsIn(x.r.Stdout); m["/proc"].fstype != "proc" || m["/dev"].fstype != "tmpfs" {
		t.Errorf("mounts %v", m)
	}
}

// onOtherThread runs f on a thread that ends with it, whatever f has done to it.
// The first thread of a process would not end, and be what /proc/self shows.
func onOtherThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		f() // the caller's goroutine ends without unlocking
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // another one: ours is taken
		f()
	}()
	<-done
	runtime.UnlockOSThread()
}

// onRamfs moves this thread into a mount namespace whose root is the kernel's
// first ramfs, with all that was mounted before at /tree.
func onRamfs() error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return os.NewSyscallError("open_tree", err)
	}
	defer unix.Close(tree)
	ns, err := unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	defer unix.Close(ns)
	if err := unix.Unmount("/", unix.MNT_DETACH); err != nil {
		return os.NewSyscallError("umount2", err)
	}
	if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("setns", err)
	}
	for _, d := range []string{"/tree", "/proc", "/dev"} {
		if err := unix.Mkdir(d, 0o755); err != nil && err != unix.EEXIST {
			return &os.PathError{Op: "mkdir", Path: d, Err: err}
		}
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, "/tree", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return os.NewSyscallError("move_mount", err)
	}
	for _, d := range []string{"/proc", "/dev"} {
		if err := unix.Mount("/tree"+d, d, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return &os.PathError{Op: "mount", Path: d, Err: err}
		}
	}
	return nil
}
