package testenv

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// Flags of `go build` for the product's binaries: the Makefile's build target
// uses the same (a test compares them).
const (
	BuildTags    = "urfave_cli_no_docs"
	BuildLDFlags = "-s -w"
)

var binaries struct {
	minirun, minirund sync.Once
	path              [2]string
	err               [2]error
}

// Binary returns the path of the built minirun. It comes from MINIRUN_BIN_DIR
// when that is set; otherwise it is built once per test process into the user's
// cache directory, with the flags of `make build`.
func Binary(t testing.TB) string {
	t.Helper()
	binaries.minirun.Do(func() { binaries.path[0], binaries.err[0] = binary("minirun") })
	if binaries.err[0] != nil {
		t.Fatal(binaries.err[0])
	}
	return binaries.path[0]
}

// Supervisor returns the path of the built minirund, as [Binary] does for
// minirun. Built binaries are siblings: after Supervisor, minirun finds minirund
// beside itself.
func Supervisor(t testing.TB) string {
	t.Helper()
	Binary(t)
	binaries.minirund.Do(func() { binaries.path[1], binaries.err[1] = binary("minirund") })
	if binaries.err[1] != nil {
		t.Fatal(binaries.err[1])
	}
	return binaries.path[1]
}

func binary(name string) (string, error) {
	if dir := os.Getenv("MINIRUN_BIN_DIR"); dir != "" {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("MINIRUN_BIN_DIR has no %s (run `make build`): %w", name, err)
		}
		return path, nil
	}
	module, err := moduleRoot()
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cache directory for built binaries: %w", err)
	}
	// One directory per checkout: two working trees must not test each other's binaries.
	dir := filepath.Join(cache, "minirun", "testbin", fmt.Sprintf("%x", sha256.Sum256([]byte(module)))[:16])
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// The lock spans the build: test processes of several packages start at the same time.
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %q: %w", lock.Name(), err)
	}
	path := filepath.Join(dir, name)
	// Built beside and renamed, since another process may be executing the old file (ETXTBSY).
	tmp := path + ".new"
	defer os.Remove(tmp)
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", BuildLDFlags, "-tags", BuildTags, "-o", tmp, "./cmd/"+name)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
	}
	if err := os.Rename(tmp, path); err != nil {
		return "", err
	}
	return path, nil
}
