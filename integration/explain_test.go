package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// tree lists all that is below a directory, with types, modes and sizes.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			b.WriteString(path + " " + info.Mode().String() + " " + strconv.FormatInt(info.Size(), 10) + " " + info.ModTime().String() + "\n")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func cgroupDirs() string {
	var b strings.Builder
	for _, root := range cgroupMounts() {
		_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() && strings.Contains(path, "minirun-test-"+strconv.Itoa(os.Getpid())) {
				b.WriteString(path + "\n")
			}
			return nil
		})
	}
	return b.String()
}

// explain says all that run would do, and does nothing of it.
func TestRootExplain(t *testing.T) {
	setup(t)
	b := newBox(t, func(s *specs.Spec) {
		s.Mounts = append(s.Mounts,
			specs.Mount{Destination: "/made/by/run", Source: "/etc/passwd", Options: []string{"bind", "ro"}},
			specs.Mount{Destination: "/data", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m", "noexec"}})
		s.Process.Cwd = "/new/cwd"
		s.Process.User.UID, s.Process.User.GID = 1000, 1000
		s.Process.Args = []string{"sh", "-c", "exit 3"}
		s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/proc/interrupts")
	}, writable)
	root := filepath.Join(testenv.StateRoot(t), "not-made")
	before := tree(t, filepath.Dir(b.bundle)) + cgroupDirs() + readFile(t, "/proc/self/mountinfo")
	plain := testenv.Run(t, "--root", root, "explain", "--bundle", b.bundle)
	program := testenv.Run(t, "--root", root, "explain", "--program", "--bundle="+b.bundle, b.id)
	if after := tree(t, filepath.Dir(b.bundle)) + cgroupDirs() + readFile(t, "/proc/self/mountinfo"); after != before {
		t.Error("explain has changed something")
	}
	if _, err := os.Stat(root); err == nil {
		t.Error("explain has made the state root")
	}
	if plain.Code != 0 || plain.Stderr != "" {
		t.Fatalf("explain: %+v", plain)
	}
	for _, want := range []string{
		b.bundle, b.cgroup, "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup",
		"bind /etc/passwd on /made/by/run ro", "mount tmpfs on /data noexec", "size=1m", "/proc/interrupts", "/proc/sysrq-trigger",
		"enter /new/cwd", "uid 1000 gid 1000", "hostname minirun", "RLIMIT_NOFILE=1024:1024", "execute sh -c exit 3",
		"pivot_root", "read-only", "pid network mount ipc uts cgroup", "Nothing was touched",
	} {
		if !strings.Contains(plain.Stdout, want) {
			t.Errorf("explain does not say %q:\n%s", want, plain.Stdout)
		}
	}
	// The number of system calls is the number of lines of the program.
	m := regexp.MustCompile(`a program of (\d+) system calls`).FindStringSubmatch(program.Stdout)
	_, listing, _ := strings.Cut(program.Stdout, "Nothing was touched.\n")
	if m == nil || program.Code != 0 {
		t.Fatalf("explain --program: %+v", program)
	}
	for _, call := range []string{"openat2", "move_mount", "mount_setattr", "fsopen", "fsconfig", "fsmount", "pivot_root", "setresuid", "setresgid", "setgroups", "capset", "prctl", "sethostname", "mknodat", "execve", "fchdir", "close_range"} {
		if !strings.Contains(listing, call) {
			t.Errorf("the listing has no %s", call)
		}
	}
	ops, _ := strconv.Atoi(m[1])
	if got := len(lines(listing)); got < ops {
		t.Errorf("the listing has %d lines for %d system calls", got, ops)
	}
	// What run would refuse, explain refuses.
	change(t, b.bundle, func(c map[string]any) { c["process"].(map[string]any)["cwd"] = "relative" })
	if r := testenv.Run(t, "explain", "--bundle", b.bundle); r.Code != 1 || !strings.Contains(r.Stderr, "process.cwd") {
		t.Errorf("explain of a bad bundle: %+v", r)
	}
}
