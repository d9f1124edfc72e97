package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/minirun/minirun"

// repo is the root directory of the checkout.
func repo(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// output runs a program in the checkout.
func output(t testing.TB, env []string, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = repo(t)
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, &stderr)
	}
	return out
}

// goPackage is what `go list -json` says of a package.
type goPackage struct {
	ImportPath, Dir                    string
	Standard                           bool
	Imports, TestImports, XTestImports []string
	CgoFiles, SFiles                   []string
}

var (
	listOnce sync.Once
	listed   []goPackage
)

// packages are those of the module.
func packages(t testing.TB) []goPackage {
	t.Helper()
	listOnce.Do(func() { listed = list(t, nil, "./...") })
	if len(listed) == 0 {
		t.Fatal("go list gave no packages")
	}
	return listed
}

func list(t testing.TB, env []string, args ...string) []goPackage {
	t.Helper()
	out := output(t, env, "go", append([]string{"list", "-json=ImportPath,Dir,Standard,Imports,TestImports,XTestImports,CgoFiles,SFiles"}, args...)...)
	var all []goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// files are the paths that git knows, relative to the checkout.
func files(t testing.TB) []string {
	t.Helper()
	// The checkout may belong to another user than the tests run as.
	out := output(t, nil, "git", "-c", "safe.directory=*", "ls-files", "-z")
	var names []string
	for _, name := range strings.Split(strings.TrimRight(string(out), "\x00"), "\x00") {
		// One that is deleted and not yet committed is no file of the project.
		if st, err := os.Lstat(filepath.Join(repo(t), name)); err == nil && st.Mode().IsRegular() {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		t.Fatal("git lists no files")
	}
	return names
}

func read(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(repo(t), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
