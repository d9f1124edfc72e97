package doctor

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/kfeature"
)

// host is where facts come from, and collects the checks.
type host struct {
	root    string // prefix of every path: "" for the host
	release string // uname -r
	arch    string // GOARCH
	uid     int
	env     map[string]string // in place of the environment, if root is not ""
	probe   func(*kfeature.Feature) error

	checks []Check
	config map[string]string // the kernel's build configuration; empty if it is not to be had
}

// Checks examines this host.
func Checks() []Check {
	var u unix.Utsname
	_ = unix.Uname(&u) // fails for a bad address only
	h := &host{
		release: unix.ByteSliceToString(u.Release[:]), arch: goruntime.GOARCH, uid: os.Getuid(),
		probe: (*kfeature.Feature).Supported,
	}
	return h.all()
}

func (h *host) all() []Check {
	h.config = h.kernelConfig()
	h.system()
	h.cgroups()
	h.modules()
	h.users()
	h.commands()
	h.features()
	return h.checks
}

// read returns a file's content; errors name the path as the host has it.
func (h *host) read(path string) (string, error) {
	b, err := os.ReadFile(h.root + path)
	var pe *os.PathError
	if errors.As(err, &pe) {
		err = &os.PathError{Op: pe.Op, Path: path, Err: pe.Err}
	}
	return string(b), err
}

func (h *host) exists(path string) bool {
	_, err := os.Stat(h.root + path)
	return err == nil
}

// kernelConfig reads CONFIG_ lines from where kernels and distributions put them.
func (h *host) kernelConfig() map[string]string {
	text, err := h.read("/boot/config-" + h.release)
	if err != nil {
		packed, err := h.read("/proc/config.gz")
		if err != nil {
			return nil
		}
		r, err := gzip.NewReader(strings.NewReader(packed))
		if err != nil {
			return nil
		}
		var b bytes.Buffer
		if _, err := io.Copy(&b, io.LimitReader(r, 16<<20)); err != nil {
			return nil
		}
		text = b.String()
	}
	config := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && strings.HasPrefix(name, "CONFIG_") {
			config[name] = value
		}
	}
	return config
}

// atLeast compares "6.1.0-37-amd64" with major.minor.
func atLeast(release string, major, minor int) bool {
	first, rest, _ := strings.Cut(release, ".")
	second := rest
	if i := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		second = rest[:i]
	}
	a, err1 := strconv.Atoi(first)
	b, err2 := strconv.Atoi(second)
	return err1 == nil && err2 == nil && (a > major || a == major && b >= minor)
}

// lookPath finds a program of the host in the usual directories.
func (h *host) lookPath(name string) string {
	for _, dir := range []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		path := filepath.Join(dir, name)
		if st, err := os.Stat(h.root + path); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}
