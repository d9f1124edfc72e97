package testenv

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The first thread of a test process is its main function's alone: it never ends, and is
// what /proc/self is, so no test may change its namespaces, or be its tracer.
func init() { runtime.LockOSThread() }

// RequireRoot fails the test unless it runs as root. It never skips: a test that
// needs root is named TestRoot... or TestVM... and is only selected where root is
// at hand, so its absence is a mistake of the caller and must not look like a pass.
func RequireRoot(t testing.TB) {
	t.Helper()
	if uid := os.Geteuid(); uid != 0 {
		t.Fatalf("%s needs root and runs as uid %d: use `make test-root` as root, or `make test-unit`", t.Name(), uid)
	}
}

// Timeout returns d, stretched by MINIRUN_TEST_SLOW: emulated guests are 10 to 20
// times slower than the host. Time limits in tests go through it; expected
// durations do not belong into tests at all.
func Timeout(d time.Duration) time.Duration {
	if f, err := strconv.ParseFloat(os.Getenv("MINIRUN_TEST_SLOW"), 64); err == nil && f > 1 {
		return time.Duration(float64(d) * f)
	}
	return d
}

// exclusive reports whether this test has the kernel for itself.
func exclusive() bool { return os.Getenv("MINIRUN_TEST_EXCLUSIVE") == "1" }

// processName is part of every name that this test process gives to objects of
// the kernel, and of the parent of its cgroups.
func processName() string { return "minirun-test-" + strconv.Itoa(os.Getpid()) }

var idCounter atomic.Int64

// UniqueID returns a container ID no other test uses, on this machine and at
// this time: a valid OCI ID of at most 48 characters that ends in a part of the
// test's name. [CheckLeaks] counts objects named after it as the test's own.
func UniqueID(t testing.TB) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return -1
	}, filepath.Base(t.Name()))
	name = strings.TrimPrefix(name, "Test")
	if len(name) > 20 {
		name = name[:20]
	}
	id := fmt.Sprintf("mrt%d-%d-%s", os.Getpid(), idCounter.Add(1), name)
	id = strings.TrimSuffix(id, "-")
	Own(t, id)
	return id
}

var owned struct {
	sync.Mutex
	names map[string][]string // test name -> names
}

// Own declares that objects of the kernel whose name or path contains name belong
// to the test t, so that [CheckLeaks] looks for them. Names from [UniqueID],
// [StateRoot], [Rootfs] and [Bundle] and the test's temporary directories are
// declared already.
func Own(t testing.TB, name string) {
	if name == "" {
		t.Fatalf("testenv.Own: empty name")
	}
	owned.Lock()
	defer owned.Unlock()
	if owned.names == nil {
		owned.names = make(map[string][]string)
	}
	owned.names[t.Name()] = append(owned.names[t.Name()], name)
}

// ownedBy returns the names of the test and of its subtests.
func ownedBy(test string) []string {
	owned.Lock()
	defer owned.Unlock()
	var names []string
	for n, list := range owned.names {
		if n == test || strings.HasPrefix(n, test+"/") {
			names = append(names, list...)
		}
	}
	return names
}

var stateRoots sync.Map // testing.TB -> string

// StateRoot returns the state directory of the test for `minirun --root`: the
// same one at every call with the same t, empty at first, removed at the end. Its
// path is short, for sockets below it (sun_path has 108 bytes).
func StateRoot(t testing.TB) string {
	t.Helper()
	if dir, ok := stateRoots.Load(t); ok {
		return dir.(string)
	}
	dir, err := os.MkdirTemp("", "mrt"+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	Own(t, dir)
	stateRoots.Store(t, dir)
	t.Cleanup(func() {
		stateRoots.Delete(t)
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the state root: %v (did the test delete its containers?)", err)
		}
	})
	return dir
}

// moduleRoot returns the directory of this module's go.mod, from the test's
// working directory, which `go test` sets to the package's.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("no go.mod above %q", dir)
		}
	}
}
