package cgroups

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

const (
	unifiedMount = "/sys/fs/cgroup"
	hybridMount  = "/sys/fs/cgroup/unified"
)

// NoMountError says that no cgroup v2 hierarchy is mounted.
type NoMountError struct{}

func (*NoMountError) Error() string { return "no cgroup v2 hierarchy is mounted" }

// Hint says what to do about it.
func (*NoMountError) Hint() string {
	return "mount it with: mount -t cgroup2 none /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1"
}

// Is makes the error match errors.ErrUnsupported.
func (*NoMountError) Is(target error) bool { return target == errors.ErrUnsupported }

// Mount returns where the cgroup v2 hierarchy is mounted: /sys/fs/cgroup, where
// hybrid systems put it (/sys/fs/cgroup/unified), or else the first cgroup2
// mount in /proc/self/mountinfo. The error is a *NoMountError if there is none.
func Mount() (string, error) {
	for _, dir := range [...]string{unifiedMount, hybridMount} {
		if isCgroup2(dir) {
			return dir, nil
		}
	}
	info, err := linux.ReadFile("/proc/self/mountinfo", 0)
	if err != nil {
		return "", err
	}
	if dir := findMount(string(info), "cgroup2", ""); dir != "" {
		return dir, nil
	}
	return "", &NoMountError{}
}

func isCgroup2(dir string) bool {
	var st unix.Statfs_t
	for {
		err := unix.Statfs(dir, &st)
		if err != unix.EINTR {
			return err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
		}
	}
}

// findMount returns the mount point of the first file system of type fstype in
// mountinfo (proc_pid_mountinfo(5)) that has option among its super options,
// "" if there is none. An empty option matches always.
func findMount(mountinfo, fstype, option string) string {
	for line := range strings.Lines(mountinfo) {
		// 36 35 98:0 /root /mount/point rw,noatime shared:1 - cgroup cgroup rw,memory
		left, right, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		if !ok {
			continue
		}
		f, g := strings.Fields(left), strings.Fields(right)
		if len(f) < 5 || len(g) < 3 || g[0] != fstype {
			continue
		}
		if option == "" || hasOption(g[2], option) {
			return unescape(f[4])
		}
	}
	return ""
}

func hasOption(options, want string) bool {
	for o := range strings.SplitSeq(options, ",") {
		if o == want {
			return true
		}
	}
	return false
}

// unescape undoes the \ooo escapes of space, tab, newline and backslash.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
