package monitor

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
)

// The record fits on a disk that is full, if the monitor has taken the room for it.
func TestRootWriteExitFullDisk(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(dir, exitTemp), make([]byte, exitSize), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "all"), make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("1 MiB into 64 KiB: %v", err)
	}
	// Whoever frees room loses it to this one.
	greedy, err := os.OpenFile(filepath.Join(dir, "all"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer greedy.Close()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_, _ = greedy.Write(make([]byte, 4096))
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	want := Exit{Status: 7 << 8, Time: time.Unix(1700000000, 0)}
	for range 1000 {
		if err := WriteExit(dir, &want); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, ExitFile), filepath.Join(dir, exitTemp)); err != nil {
			t.Fatal(err)
		}
	}
	if err := WriteExit(dir, &want); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadExit(dir); err != nil || got.Status != want.Status || !got.Time.Equal(want.Time) {
		t.Errorf("%+v, %v", got, err)
	}
}
