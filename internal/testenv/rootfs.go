package testenv

import (
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// applets are the commands of a test root filesystem, all of them in Debian's static busybox.
const applets = "[ ash awk base64 basename cat chgrp chmod chown chroot cmp cp cut date dd df dirname du echo env " +
	"expr false find fold free getopt grep gzip head hostname id ifconfig ip kill ln ls md5sum mkdir mkfifo mknod " +
	"mktemp mount mv nc nproc nslookup od ping printf ps pwd readlink realpath renice rm rmdir sed seq setsid sh " +
	"sha256sum sleep sort stat stty sync tail tar tee test timeout touch tr true truncate tty umount uname uniq " +
	"unshare vi wc wget whoami xargs xxd yes"

// Busybox returns the path of Debian's static busybox on this machine and fails
// the test when it is not there or not static.
func Busybox(t testing.TB) string {
	t.Helper()
	path, err := findBusybox("/bin/busybox", "/usr/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func findBusybox(candidates ...string) (string, error) {
	for _, path := range candidates {
		f, err := elf.Open(path)
		if err != nil {
			continue
		}
		dynamic := false
		for _, p := range f.Progs {
			dynamic = dynamic || p.Type == elf.PT_INTERP
		}
		f.Close()
		if !dynamic {
			return path, nil
		}
	}
	return "", fmt.Errorf("no static busybox at %s: apt-get install busybox-static", strings.Join(candidates, " or "))
}

// Rootfs returns a fresh directory with a small root filesystem: /bin with static
// busybox and links for the common commands, /etc/passwd and /etc/group (root,
// daemon, nobody, user 1000), and the empty directories dev, proc, sys, run, tmp
// (mode 1777), root, home/user and var. It is removed at the end of the test.
func Rootfs(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "rootfs")
	if err := writeRootfs(dir, Busybox(t)); err != nil {
		t.Fatalf("make a root filesystem: %v", err)
	}
	Own(t, dir)
	return dir
}

func writeRootfs(dir, busybox string) error {
	for _, d := range []struct {
		name string
		mode os.FileMode
	}{
		{"", 0o755},
		{"bin", 0o755},
		{"dev", 0o755},
		{"etc", 0o755},
		{"home", 0o755},
		{"home/user", 0o755},
		{"proc", 0o755},
		{"root", 0o700},
		{"run", 0o755},
		{"sys", 0o755},
		{"tmp", 0o777 | os.ModeSticky},
		{"var", 0o755},
	} {
		path := filepath.Join(dir, d.name)
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
		// Mkdir is subject to the umask, and other users must be able to enter.
		if err := os.Chmod(path, d.mode); err != nil {
			return err
		}
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(filepath.Join(dir, "home/user"), 1000, 1000); err != nil {
			return err
		}
	}
	b, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name, data string
		mode       os.FileMode
	}{
		{"bin/busybox", string(b), 0o755},
		{"etc/passwd", "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\n" +
			"user:x:1000:1000::/home/user:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n", 0o644},
		{"etc/group", "root:x:0:\ndaemon:x:1:\naudio:x:29:user\nuser:x:1000:\nnogroup:x:65534:\n", 0o644},
	} {
		path := filepath.Join(dir, f.name)
		if err := os.WriteFile(path, []byte(f.data), f.mode); err != nil {
			return err
		}
		if err := os.Chmod(path, f.mode); err != nil {
			return err
		}
	}
	for name := range strings.FieldsSeq(applets) {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
			return err
		}
	}
	return nil
}
