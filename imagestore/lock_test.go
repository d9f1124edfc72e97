package imagestore_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minirun/minirun/imagestore"
	"golang.org/x/sys/unix"
)

// Who waits for the store's lock stops when he is told to, and goes on when he gets it.
func TestLock_WaitEnds(t *testing.T) {
	s := newStore(t)
	publish(t, s, "one", image(t, "one", "shared"))
	lock, err := os.OpenFile(filepath.Join(s.Root(), "lock"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	free := time.AfterFunc(20*time.Second, func() { lock.Close() }) // so that a wait that does not end fails here
	for name, f := range map[string]func(context.Context) error{
		"tag":    func(ctx context.Context) error { _, err := s.Tag(ctx, "one", "two"); return err },
		"remove": func(ctx context.Context) error { _, err := s.Remove(ctx, "one"); return err },
		"gc":     func(ctx context.Context) error { _, err := s.GC(ctx); return err },
		"survey": func(ctx context.Context) error { _, err := s.Survey(ctx); return err },
		"begin":  func(ctx context.Context) error { _, err := s.Begin(ctx); return err },
		"fsck":   func(ctx context.Context) error { _, err := s.Fsck(ctx, imagestore.FsckOptions{}); return err },
		"images": func(ctx context.Context) error {
			return s.WithImages(ctx, func([]*imagestore.Image) error { return nil })
		},
	} {
		told := errors.New("told to end")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(50*time.Millisecond, func() { cancel(told) })
		began := time.Now()
		err := f(ctx)
		if !errors.Is(err, told) || !strings.Contains(err.Error(), "which others hold") {
			t.Errorf("%s: %v, want the reason to end", name, err)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s ended after %v", name, took)
		}
	}
	if list, err := s.List(); err != nil || len(list) != 1 {
		t.Errorf("%d images, %v, want the one", len(list), err)
	}
	free.Reset(100 * time.Millisecond)
	if _, err := s.Tag(t.Context(), "one", "two"); err != nil {
		t.Errorf("when the lock is free: %v", err)
	}
}
