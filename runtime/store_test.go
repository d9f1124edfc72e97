package runtime

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

func TestCheckID(t *testing.T) {
	for _, id := range []string{"a", "A1_+-.", "-x", "0", strings.Repeat("a", 255)} {
		if err := CheckID(id); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
	for _, id := range []string{"", ".", "..", ".a", "a/b", "/", "a b", "a\x00b", "ä", "a:b", strings.Repeat("a", 256)} {
		if err := CheckID(id); err == nil {
			t.Errorf("%q is accepted", id)
		}
	}
}

func testStore(t *testing.T) *Store {
	t.Helper()
	s, err := OpenStore(filepath.Join(t.TempDir(), "root"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStoreIDs(t *testing.T) {
	s := testStore(t)
	if ids, err := s.IDs(); err != nil || len(ids) != 0 {
		t.Errorf("a root that is not there: %v, %v", ids, err)
	}
	for _, id := range []string{"b", "a", "c"} {
		fd, err := s.makeDir(id)
		if err != nil {
			t.Fatal(err)
		}
		linux.Close(fd)
	}
	for _, name := range []string{".hidden", "with space"} {
		if err := os.Mkdir(filepath.Join(s.root, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(s.root, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if ids, err := s.IDs(); err != nil || !slices.Equal(ids, []string{"a", "b", "c"}) {
		t.Errorf("%v, %v", ids, err)
	}
	var exists *ExistsError
	if _, err := s.makeDir("a"); !errors.As(err, &exists) || !errors.Is(err, fs.ErrExist) {
		t.Errorf("making a twice: %v", err)
	}
}

func TestStoreLoad(t *testing.T) {
	s := testStore(t)
	var none *NotExistError
	if _, err := s.Load("x"); !errors.As(err, &none) || !errors.Is(err, fs.ErrNotExist) || none.Remains {
		t.Errorf("missing: %v", err)
	}
	if _, err := s.Load("../x"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a bad ID: %v", err)
	}
	dir, err := s.makeDir("x")
	if err != nil {
		t.Fatal(err)
	}
	defer linux.Close(dir)
	if _, err := s.Load("x"); !errors.As(err, &none) || !none.Remains {
		t.Errorf("a directory without a record: %v", err)
	}
	var exists *ExistsError
	if _, err := s.makeDir("x"); !errors.As(err, &exists) || !exists.Remains {
		t.Errorf("the same again without a record: %v", err)
	}
	c := &Container{store: s, State: State{ID: "x"}}
	if err := c.save(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := s.makeDir("x"); !errors.As(err, &exists) || exists.Remains {
		t.Errorf("the same again with a record: %v", err)
	}
	if got, err := s.Load("x"); err != nil || got.ID != "x" {
		t.Errorf("%+v, %v", got, err)
	}
	if status, err := c.Status(); err != nil || status != Creating {
		t.Errorf("while its creator holds the lock it is %s, %v", status, err)
	}
	c.ID = "y" // the record of another
	if err := replaceFile(dir, stateFile, c.appendJSON(nil)); err != nil {
		t.Fatal(err)
	}
	var bad *StateError
	if _, err := s.Load("x"); !errors.As(err, &bad) {
		t.Errorf("the record of another container: %v", err)
	}
	if info, err := os.Stat(filepath.Join(s.root, "x", stateFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// The pid of a record counts only with the start time and the boot that belong
// to it: numbers are used again.
func TestProcessIdentity(t *testing.T) {
	self, err := statProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	boot, err := bootID()
	if err != nil || len(boot) != 36 {
		t.Fatalf("boot ID %q, %v", boot, err)
	}
	for _, tt := range []struct {
		name  string
		s     State
		alive bool
	}{
		{"ours", State{Pid: os.Getpid(), StartTime: self.startTime, BootID: boot}, true},
		{"another start time", State{Pid: os.Getpid(), StartTime: self.startTime + 1, BootID: boot}, false},
		{"another boot", State{Pid: os.Getpid(), StartTime: self.startTime, BootID: "x"}, false},
		{"no process", State{Pid: 1 << 22, StartTime: 1, BootID: boot}, false},
		{"no pid", State{BootID: boot}, false},
		{"negative", State{Pid: -1, BootID: boot}, false},
	} {
		fd, err := (&Container{State: tt.s}).process()
		if err != nil || (fd >= 0) != tt.alive {
			t.Errorf("%s: descriptor %d, %v, want alive %v", tt.name, fd, err, tt.alive)
		}
		linux.Close(fd)
	}
}

// A writer that is killed leaves the old record or the new one.
func TestReplaceFile(t *testing.T) {
	dir := t.TempDir()
	fd, err := linux.OpenAt(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer linux.Close(fd)
	if err := replaceFile(fd, "f", []byte("old")); err != nil {
		t.Fatal(err)
	}
	if err := writeTemp(fd, "f", []byte("new")); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "f")); string(b) != "old" {
		t.Errorf("before the rename: %q", b)
	}
	if err := renameTemp(fd, "f"); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "f")); string(b) != "new" {
		t.Errorf("after it: %q", b)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left: %v", entries)
	}
	// A link put in the place of the temporary file is not followed.
	victim := filepath.Join(dir, "victim")
	if err := os.WriteFile(victim, []byte("safe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(dir, tempName("f"))); err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(fd, "f", []byte("evil")); err == nil {
		t.Error("writing through a link works")
	}
	if b, _ := os.ReadFile(victim); string(b) != "safe" {
		t.Errorf("victim has %q", b)
	}
}
