package runtime

import (
	"strconv"
	"strings"

	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// maxPasswd is how much of a container's passwd is looked at.
const maxPasswd = 1 << 20

// environment is the environment of the user's process: of repeated names the
// last wins, and HOME is filled in from the container's passwd.
func environment(env []string, home func() string) []string {
	out := make([]string, 0, len(env)+1)
	later := repeated
	if len(env) > manyVariables {
		later = repeatedOf(env)
	}
	hasHome := false
	for i, e := range env {
		name, value, _ := strings.Cut(e, "=")
		if later(env[i+1:], name) {
			continue
		}
		if name == "HOME" {
			if value == "" {
				continue
			}
			hasHome = true
		}
		out = append(out, e)
	}
	if !hasHome {
		out = append(out, "HOME="+home())
	}
	return out
}

// manyVariables is up to where comparing all names with each other is cheapest.
// An image can bring some 500,000, with which that would take minutes.
const manyVariables = 128

// repeatedOf is repeated for the rests of a long env.
func repeatedOf(env []string) func(rest []string, name string) bool {
	last := make(map[string]int, len(env))
	for i, e := range env {
		if name, _, ok := strings.Cut(e, "="); ok {
			last[name] = i
		}
	}
	return func(rest []string, name string) bool {
		i, ok := last[name]
		return ok && i >= len(env)-len(rest)
	}
}

func repeated(env []string, name string) bool {
	for _, e := range env {
		if len(e) > len(name) && e[len(name)] == '=' && e[:len(name)] == name {
			return true
		}
	}
	return false
}

// homeOf is the home directory of uid in the container whose root directory is
// open as root; "/" if its passwd does not tell.
func homeOf(root int, uid uint32) string {
	b, err := ReadInRoot(root, "etc/passwd", maxPasswd)
	if err != nil {
		return "/"
	}
	want := strconv.FormatUint(uint64(uid), 10)
	for line := range strings.SplitSeq(string(b), "\n") {
		f := strings.Split(line, ":")
		if len(f) >= 6 && f[2] == want && strings.HasPrefix(f[5], "/") && !strings.ContainsRune(f[5], 0) {
			return f[5]
		}
	}
	return "/"
}

// ReadInRoot reads a regular file below the directory root, at most limit
// bytes of it. The file is the container's: it may be a link, a device, a pipe
// that nobody writes to, or endless.
func ReadInRoot(root int, path string, limit int) ([]byte, error) {
	fd, err := linux.OpenInRoot(root, path, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	if fd, err = linux.ReopenRegular(fd); err != nil {
		return nil, err
	}
	defer linux.Close(fd)
	return linux.ReadAll(fd, limit)
}
