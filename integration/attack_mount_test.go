package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
)

// atCanary is a directory of the host that no container may change or see.
type atCanary struct {
	t      testing.TB
	dir    string
	before string
}

func atNewCanary(t testing.TB) *atCanary {
	t.Helper()
	c := &atCanary{t: t, dir: filepath.Join(t.TempDir(), "canary")}
	for _, d := range []string{"", "sub", "pts"} {
		if err := os.Mkdir(filepath.Join(c.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"secret", "null", "ptmx", "fd", "core", "self", "sub/file"} {
		writeFile(t, filepath.Join(c.dir, f), "canary")
	}
	c.before = c.list()
	return c
}

// list is everything below the directory: names, types, modes, owners, sizes, times.
func (c *atCanary) list() string {
	var b strings.Builder
	err := filepath.Walk(c.dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		fmt.Fprintln(&b, strings.TrimPrefix(path, c.dir), info.Mode(), st.Uid, st.Gid, st.Size, st.Ino, st.Mtim, st.Ctim)
		return nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return b.String()
}

// check fails the test if anything has changed, or is mounted there.
func (c *atCanary) check() {
	c.t.Helper()
	if after := c.list(); after != c.before {
		c.t.Errorf("the host's directory has changed:\n%swas\n%s", after, c.before)
	}
	if m := readFile(c.t, "/proc/self/mountinfo"); strings.Contains(m, c.dir) {
		c.t.Errorf("something is mounted below %s:\n%s", c.dir, m)
	}
}

// The control of all that follows: the canary notices what a process of the container
// could do if it got there.
func TestRootAttackCanaryNotices(t *testing.T) {
	setup(t)
	for name, change := range map[string]func(dir string) error{
		"new file": func(dir string) error { return os.WriteFile(filepath.Join(dir, "sub/new"), nil, 0o600) },
		"removed":  func(dir string) error { return os.Remove(filepath.Join(dir, "ptmx")) },
		"mode":     func(dir string) error { return os.Chmod(filepath.Join(dir, "null"), 0o666) },
		"owner":    func(dir string) error { return os.Chown(filepath.Join(dir, "secret"), 1, 1) },
		"written":  func(dir string) error { return os.WriteFile(filepath.Join(dir, "core"), []byte("CANARY"), 0) },
		"transient": func(dir string) error {
			f := filepath.Join(dir, "x")
			return errors.Join(os.Mkdir(f, 0o700), os.Remove(f))
		},
		"moved aside": func(dir string) error { return os.Rename(filepath.Join(dir, "fd"), filepath.Join(dir, "fd2")) },
	} {
		c := atNewCanary(t)
		if err := change(c.dir); err != nil {
			t.Fatal(err)
		}
		if c.list() == c.before {
			t.Errorf("%s: the canary does not notice", name)
		}
	}
}

// atRelative is the relative way from a directory to target that ends there
// from however deep it begins.
func atRelative(target string) string { return strings.Repeat("../", 40) + target[1:] }

// atReplace puts a symbolic link in place of whatever there is in the rootfs.
func atReplace(t testing.TB, b *ociBox, path, target string) {
	t.Helper()
	full := b.rootfs(path)
	if err := os.RemoveAll(full); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, full); err != nil {
		t.Fatal(err)
	}
}

func bindMount(source, destination string, options ...string) specs.Mount {
	return specs.Mount{Type: "bind", Source: source, Destination: destination, Options: append([]string{"bind"}, options...)}
}

// R5, R10, CVE-2019-16884, CVE-2023-27561: procfs and sysfs must be real, at
// their places, and whole.
func TestRootAttackProcReplaced(t *testing.T) {
	setup(t)
	for _, c := range []struct {
		name   string
		mutate func(b *ociBox, s *specs.Spec)
		want   string // part of the error; "": it may run, and then what it sees must be right
	}{
		{"tmpfs on /proc", func(_ *ociBox, s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: "/proc"})
		}, "/proc"},
		{"bind on /proc", func(b *ociBox, s *specs.Spec) { s.Mounts = append(s.Mounts, bindMount(b.bundle, "/proc")) }, "/proc"},
		{"bind on /proc in place of procfs", func(b *ociBox, s *specs.Spec) { s.Mounts[0] = bindMount(b.bundle, "/proc") }, "/proc"},
		{"tmpfs on /proc/self", func(_ *ociBox, s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: "/proc/self"})
		}, "/proc/self"},
		{"tmpfs on /proc/self/attr", func(_ *ociBox, s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: "/proc/self/attr"})
		}, "/proc/self/attr"},
		{"bind on /proc/1", func(b *ociBox, s *specs.Spec) { s.Mounts = append(s.Mounts, bindMount(b.bundle, "/proc/1")) }, "/proc/1"},
		{"bind on /proc/sys/kernel", func(b *ociBox, s *specs.Spec) {
			s.Mounts = append(s.Mounts, bindMount(b.bundle, "/proc/sys/kernel"))
		}, "/proc/sys/kernel"},
		{"the long way", func(b *ociBox, s *specs.Spec) {
			s.Mounts = append(s.Mounts, bindMount(b.bundle, "//proc/../proc/./self/"))
		}, "proc"},
		{"through a link of the rootfs", func(b *ociBox, s *specs.Spec) {
			atReplace(t, b, "harmless", "/proc/self")
			s.Mounts = append(s.Mounts, bindMount(b.bundle, "/harmless"))
		}, ""},
		{"the rootfs has /proc as a link", func(b *ociBox, _ *specs.Spec) { atReplace(t, b, "proc", "/tmp") }, "/proc"},
		{"the rootfs has /proc as a link to the host", func(b *ociBox, _ *specs.Spec) { atReplace(t, b, "proc", atRelative("/proc")) }, "/proc"},
		{"the rootfs has /sys as a link", func(b *ociBox, _ *specs.Spec) { atReplace(t, b, "sys", "../..") }, "/sys"},
		{"the rootfs has /proc as a file", func(b *ociBox, _ *specs.Spec) {
			os.RemoveAll(b.rootfs("proc"))
			writeFile(t, b.rootfs("proc"), "")
		}, "/proc"},
		{"allowed: /proc/cpuinfo", func(b *ociBox, s *specs.Spec) {
			writeFile(t, filepath.Join(b.bundle, "cpuinfo"), "mine\n")
			s.Mounts = append(s.Mounts, bindMount(filepath.Join(b.bundle, "cpuinfo"), "/proc/cpuinfo"))
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBox(t)
			spec := testenv.DefaultSpec()
			spec.Linux.CgroupsPath = b.cgroup
			spec.Process.Args = []string{"sh", "-c", "stat -f -c %t /proc; readlink /proc/self/exe; cat /proc/self/comm; cat /proc/cpuinfo | head -1"}
			c.mutate(b, spec)
			sbWriteConfig(t, b.bundle, spec)
			r := b.run()
			if c.want != "" {
				if r.Code == 0 || !strings.Contains(r.Stderr, c.want) {
					t.Errorf("status %d, want an error about %q\n%s%s", r.Code, c.want, r.Stdout, r.Stderr)
				}
			} else if r.Code == 0 {
				got := lines(r.Stdout)
				if len(got) != 4 || got[0] != "9fa0" || got[1] != "/bin/busybox" || got[2] != "cat" {
					t.Errorf("procfs in the container: %q", got)
				}
				if strings.HasPrefix(c.name, "allowed") && got[3] != "mine" {
					t.Errorf("the file over /proc/cpuinfo is not seen: %q", got)
				}
			} else if strings.HasPrefix(c.name, "allowed") {
				t.Errorf("refused: %s", r.Stderr)
			}
			b.gone()
		})
	}
}

// R16, R13, CVE-2026-41579, CVE-2025-31133: the image's /dev leads to the host,
// or holds links in place of devices.
func TestRootAttackDev(t *testing.T) {
	setup(t)
	c := atNewCanary(t)
	noDev := func(s *specs.Spec) { // nothing is mounted on /dev: the rootfs' own is used
		s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return strings.HasPrefix(m.Destination, "/dev") })
		s.Root.Readonly = false
	}
	for name, target := range map[string]string{"absolute": c.dir, "relative": atRelative(c.dir)} {
		for kind, mutate := range map[string]func(*specs.Spec){"tmpfs": func(*specs.Spec) {}, "rootfs": noDev} {
			t.Run("link "+name+" "+kind, func(t *testing.T) {
				b := newBox(t, mutate)
				atReplace(t, b, "dev", target)
				b.run()
				c.check()
				r := b.do("create", "--bundle", b.bundle)
				if r.Code == 0 {
					b.do("start")
				}
				c.check()
			})
			t.Run("chain "+name+" "+kind, func(t *testing.T) {
				b := newBox(t, mutate)
				atReplace(t, b, "dev", "/a/b")
				atReplace(t, b, "a/b", "../c")
				atReplace(t, b, "c", target)
				b.run()
				c.check()
			})
		}
		t.Run("entries "+name, func(t *testing.T) {
			b := newBox(t, noDev, func(s *specs.Spec) { s.Process.Args = []string{"sh", "-c", "echo x >/proc/keys; cat /proc/keys; true"} })
			for _, n := range []string{"null", "zero", "ptmx", "fd", "core", "console"} {
				atReplace(t, b, "dev/"+n, strings.TrimSuffix(target, "/")+"/"+n)
			}
			b.run()
			c.check()
		})
		t.Run("bind mounted /dev "+name, func(t *testing.T) {
			volume := t.TempDir()
			for _, n := range []string{"null", "zero", "ptmx", "pts"} {
				if err := os.Symlink(target+"/"+n, filepath.Join(volume, n)); err != nil {
					t.Fatal(err)
				}
			}
			b := newBox(t, noDev, func(s *specs.Spec) {
				s.Mounts = append(s.Mounts, specs.Mount{Type: "bind", Source: volume, Destination: "/dev", Options: []string{"rbind"}})
				s.Process.Args = []string{"sh", "-c", "cat /proc/keys; echo done"}
			})
			if r := b.run(); r.Code == 0 && r.Stdout != "done\n" {
				t.Errorf("a masked file is not empty: %q", r.Stdout)
			}
			c.check()
		})
	}
	t.Run("null leads to core_pattern", func(t *testing.T) {
		before := readFile(t, "/proc/sys/kernel/core_pattern")
		b := newBox(t, noDev, func(s *specs.Spec) {
			s.Process.Args = []string{"sh", "-c", "cat /proc/keys; echo '|/pwned' >/proc/keys; echo done"}
		})
		atReplace(t, b, "dev/null", "/proc/sys/kernel/core_pattern")
		if r := b.run(); r.Code == 0 && r.Stdout != "done\n" {
			t.Errorf("a masked file is not empty: %q", r.Stdout)
		}
		if after := readFile(t, "/proc/sys/kernel/core_pattern"); after != before {
			t.Errorf("core_pattern is %q, was %q", after, before)
		}
	})
}

// Masked files show the host's null device, whose inode belongs to the root of
// a container without a user namespace.
func TestRootAttackMaskInode(t *testing.T) {
	setup(t)
	var before, after unix.Stat_t
	if err := unix.Stat("/dev/null", &before); err != nil {
		t.Fatal(err)
	}
	caps := []string{"CAP_CHOWN", "CAP_FOWNER", "CAP_DAC_OVERRIDE", "CAP_FSETID"}
	b := newBox(t, func(s *specs.Spec) {
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
		s.Process.Args = []string{"sh", "-c", "chmod 600 /dev/null; stat -c %a /dev/null; chmod 640 /proc/keys; chown 7 /proc/keys; touch -t 200001010000 /proc/keys; echo x >/proc/keys; cat /proc/keys"}
	})
	r := b.run()
	if err := unix.Stat("/dev/null", &after); err != nil {
		t.Fatal(err)
	}
	if after.Mode != before.Mode || after.Uid != before.Uid {
		t.Errorf("the host's /dev/null has mode %o, owner %d; before %o, %d", after.Mode, after.Uid, before.Mode, before.Uid)
		_ = unix.Chmod("/dev/null", before.Mode&0o7777)
		_ = unix.Chown("/dev/null", int(before.Uid), int(before.Gid))
	}
	// The control: of its own /dev/null it may change the mode.
	if r.Stdout != "600\n" || !strings.Contains(r.Stderr, "/proc/keys: Read-only file system") {
		t.Errorf("%+v", r)
	}
}

// R17, CVE-2019-18837: mount destinations that lead out of the rootfs through links.
func TestRootAttackMountDestinations(t *testing.T) {
	setup(t)
	c := atNewCanary(t)
	source := t.TempDir()
	writeFile(t, filepath.Join(source, "mark"), "mark")
	for name, links := range map[string]map[string]string{
		"absolute":       {"a": c.dir},
		"relative":       {"a": atRelative(c.dir)},
		"dots":           {"a": "../../../../../../../../../../../../../.."},
		"chain":          {"a": "b", "b": "/d/e", "d/e": "../../../.." + c.dir},
		"magic":          {"a": "/proc/self/root" + c.dir},
		"magic cwd":      {"a": "/proc/self/cwd"},
		"magic 1":        {"a": "/proc/1/root"},
		"loop":           {"a": "b", "b": "a"},
		"long chain":     atLongChain(60, c.dir),
		"below the root": {"a": "/"},
	} {
		for _, destination := range []string{"/a", "/a/sub", "/a/new/dir", "/a/secret"} {
			t.Run(name+" "+destination, func(t *testing.T) {
				b := newBox(t, writable, func(s *specs.Spec) {
					s.Mounts = append(s.Mounts, bindMount(source, destination), specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: destination + "/t"})
					s.Process.Args = []string{"sh", "-c", "echo x >/a/written; true"}
				})
				for path, target := range links {
					atReplace(t, b, path, target)
				}
				b.run()
				c.check()
				if err := os.Remove(filepath.Join(source, "written")); err != nil && !os.IsNotExist(err) {
					t.Error(err)
				}
			})
		}
	}
}

// atLongChain is a chain of n links that ends at target.
func atLongChain(n int, target string) map[string]string {
	links := map[string]string{"a": "l0"}
	for i := range n {
		links[fmt.Sprintf("l%d", i)] = fmt.Sprintf("l%d", i+1)
	}
	links[fmt.Sprintf("l%d", n)] = target
	return links
}

// atRacer swaps two names of a directory until stop, as a container that shares
// the volume does.
func atRacer(t testing.TB, dir, a, b string) (stop func() int) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	done, ended := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-done:
				ended <- n
				return
			default:
			}
			if err := unix.Renameat2(fd, a, fd, b, unix.RENAME_EXCHANGE); err == nil {
				n++
			}
		}
	}()
	return func() int {
		close(done)
		n := <-ended
		unix.Close(fd)
		return n
	}
}

// R6, R7, R12, R14, CVE-2021-30465, CVE-2024-45310: another container swaps
// directories of a shared volume for links while this one is created.
func TestRootAttackRaces(t *testing.T) {
	setup(t)
	for _, c := range []struct {
		name   string
		paths  []string // directories of the volume that the mounts need
		link   func(canary string) string
		mounts []specs.Mount
	}{
		{"bind onto a swapped directory", []string{"x"}, func(c string) string { return c }, []specs.Mount{{Type: "tmpfs", Source: "tmpfs", Destination: "/v/x/sub"}}},
		{"destination itself", nil, func(c string) string { return c }, []specs.Mount{{Type: "tmpfs", Source: "tmpfs", Destination: "/v/x"}}},
		{"relative link", nil, atRelative, []specs.Mount{{Type: "tmpfs", Source: "tmpfs", Destination: "/v/x/new/dir"}}},
		{"link to the root", nil, func(string) string { return "/" }, []specs.Mount{{Type: "tmpfs", Source: "tmpfs", Destination: "/v/x/fresh"}}},
		{"a mount with mapped ids", nil, func(c string) string { return c }, []specs.Mount{
			{Type: "tmpfs", Source: "tmpfs", Destination: "/v/x/mapped", UIDMappings: mapped(0, 0, 9), GIDMappings: mapped(0, 0, 9)},
		}},
		{"magic link", nil, func(c string) string { return "/proc/self/root" + c }, []specs.Mount{{Type: "tmpfs", Source: "tmpfs", Destination: "/v/x/new"}}},
		{"dev in the volume", nil, func(c string) string { return c }, []specs.Mount{
			{Type: "devpts", Source: "devpts", Destination: "/v/x/pts"}, {Type: "mqueue", Source: "mqueue", Destination: "/v/x/fd"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			canary, volume := atNewCanary(t), t.TempDir()
			if err := os.MkdirAll(filepath.Join(volume, "x/sub"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(c.link(canary.dir), filepath.Join(volume, "y")); err != nil {
				t.Fatal(err)
			}
			rounds, ran, refused := 0, 0, 0
			stop := atRacer(t, volume, "x", "y")
			deadline := time.Now().Add(testenv.Timeout(1500 * time.Millisecond))
			b := newBox(t, writable, func(s *specs.Spec) {
				s.Mounts = append(s.Mounts, specs.Mount{Type: "bind", Source: volume, Destination: "/v", Options: []string{"rbind"}})
				s.Mounts = append(s.Mounts, c.mounts...)
				last := c.mounts[len(c.mounts)-1].Destination
				s.Process.Args = []string{"sh", "-c", "echo x >" + last + "/written; true"}
			})
			for time.Now().Before(deadline) {
				if b.run().Code == 0 {
					ran++
				} else {
					refused++
				}
				rounds++
			}
			swaps := stop()
			canary.check()
			b.gone()
			if swaps < 100 || rounds < 3 {
				t.Errorf("%d swaps during %d creations: that is no race", swaps, rounds)
			}
			t.Logf("%d swaps, %d containers ran, %d were refused", swaps, ran, refused)
		})
	}
}

// R14, CVE-2025-52565: /dev of a container with a terminal is a shared volume, in
// which /dev/pts and the console are swapped for links.
func TestRootAttackTerminalRace(t *testing.T) {
	setup(t)
	for _, names := range [][2]string{{"pts", "evil-pts"}, {"console", "evil-console"}} {
		canary, volume := atNewCanary(t), t.TempDir()
		if err := os.Mkdir(filepath.Join(volume, "pts"), 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(volume, "console"), "")
		for evil, target := range map[string]string{"evil-pts": canary.dir + "/pts", "evil-console": canary.dir + "/secret"} {
			if err := os.Symlink(target, filepath.Join(volume, evil)); err != nil {
				t.Fatal(err)
			}
		}
		b := newBox(t, writable, func(s *specs.Spec) {
			s.Process.Terminal = true
			s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool {
				return strings.HasPrefix(m.Destination, "/dev") && m.Destination != "/dev/pts"
			})
			s.Mounts = append(s.Mounts[:1:1], append([]specs.Mount{bindMount(volume, "/dev")}, s.Mounts[1:]...)...)
		}, script("echo written >/dev/console; stat -c 'console %t' /dev/console; echo end"))
		stop := atRacer(t, volume, names[0], names[1])
		deadline := time.Now().Add(testenv.Timeout(1200 * time.Millisecond))
		ran, refused := 0, 0
		// Swapping the mount point itself slows the mount down, at times for a second.
		for ran+refused < 3 || time.Now().Before(deadline) {
			cmd := testenv.Command(t, "run", "--bundle", b.bundle, b.id)
			out := sbTerminal(t, exec.Command("sh", append([]string{"-c", `"$@" || echo refused`, "sh"}, cmd.Args...)...))
			switch {
			case strings.Contains(out, "refused"):
				refused++
			case strings.Contains(out, "end"):
				ran++ // and if there is a console, it is a terminal: major number 0x88
				if strings.Contains(out, "console ") && !strings.Contains(out, "console 88") && !strings.Contains(out, "console 0") {
					t.Errorf("%v: %q", names, out)
				}
			}
		}
		swaps := stop()
		canary.check()
		b.gone()
		if swaps < 100 || ran+refused < 3 {
			t.Errorf("%v: %d swaps during %d creations: that is no race", names, swaps, ran+refused)
		}
		t.Logf("%v: %d swaps, %d containers ran, %d were refused", names, swaps, ran, refused)
	}
}
