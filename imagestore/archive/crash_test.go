package archive_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/archive"
	"github.com/minirun/minirun/imagestore/decompress"
	"github.com/minirun/minirun/imagestore/imagetest"
)

func mkfifo(path string) error { return unix.Mkfifo(path, 0o600) }

const crashEnv = "MINIRUN_TEST_LOAD"

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	if root := os.Getenv(crashEnv); root != "" {
		s, err := imagestore.Open(root)
		if err == nil {
			_, err = archive.Load(context.Background(), s, "-", archive.LoadOptions{Stdin: os.Stdin})
		}
		if err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A load is killed at random times. What is in the store afterwards is whole,
// and after the next load nothing is left that nobody needs.
func TestLoad_Killed(t *testing.T) {
	s := newStore(t)
	before := build(t, "before", decompress.Gzip)
	if _, err := loadBytes(s, imagetest.Archive(t, imagetest.Layout(t, before))); err != nil {
		t.Fatal(err)
	}
	one := build(t, "one", decompress.Gzip)
	whole := imagetest.Archive(t, imagetest.DockerArchive(t, one))
	start := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashEnv+"="+s.Root())
		cmd.Stdin = bytes.NewReader(whole)
		return cmd
	}
	// How long does it take undisturbed?
	began := time.Now()
	if out, err := start().CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	took := time.Since(began)
	if _, err := s.Remove(t.Context(), "test/one:1"); err != nil {
		t.Fatal(err)
	}
	killed, left := 0, 0
	for range 40 {
		cmd := start()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rand.Int64N(int64(took))))
		_ = cmd.Process.Kill()
		var exit *exec.ExitError
		if err := cmd.Wait(); errors.As(err, &exit) && !exit.Exited() {
			killed++
		}
		if names, _ := filepath.Glob(filepath.Join(s.Root(), "ingest", "*")); len(names) > 0 {
			left++
		}
		list, err := s.List() // parses index.json
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			if e.Err != nil {
				t.Fatalf("%s: %v", e.Name, e.Err)
			}
			if err := s.Verify(context.Background(), e.Name); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Remove(t.Context(), "test/one:1"); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	t.Logf("%d of 40 were killed, %d left something behind; a whole load takes %v", killed, left, took)
	if killed == 0 || left == 0 {
		t.Errorf("no kill hit a load at work (killed %d, left %d)", killed, left)
	}
	if out, err := start().CombinedOutput(); err != nil {
		t.Fatalf("load after the kills: %v: %s", err, out)
	}
	check(t, s, "test/one:1", one)
	check(t, s, "test/before:1", before)
	if n := countBlobs(t, s); n != 8 {
		t.Errorf("%d blobs, want 8", n)
	}
	if names, _ := filepath.Glob(filepath.Join(s.Root(), "ingest", "*")); len(names) != 0 {
		t.Errorf("left in staging: %v", names)
	}
	if names, _ := filepath.Glob(filepath.Join(s.Root(), ".*")); len(names) != 0 {
		t.Errorf("left: %v", names)
	}
}

// The kill at the worst place: blobs are moved, index.json is not replaced.
func TestLoad_KilledWhilePublishing(t *testing.T) {
	s := newStore(t)
	one := build(t, "one", decompress.Gzip)
	whole := imagetest.Archive(t, imagetest.DockerArchive(t, one))
	if _, err := loadBytes(s, whole); err != nil {
		t.Fatal(err)
	}
	// Take the name away behind the store's back and leave a dead process's directory.
	empty := []byte(`{"schemaVersion":2,"manifests":[]}`)
	if err := os.WriteFile(filepath.Join(s.Root(), "index.json"), empty, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(s.Root(), "ingest", "dead"), 0o700); err != nil {
		t.Fatal(err)
	}
	two := build(t, "two", 0)
	if _, err := loadBytes(s, imagetest.Archive(t, imagetest.Layout(t, two))); err != nil {
		t.Fatal(err)
	}
	if n := countBlobs(t, s); n != 4 {
		t.Errorf("%d blobs, want the 4 of the second image", n)
	}
	check(t, s, "test/two:1", two)
}
