package runtime

import (
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// Whoever records the end of a container while its directory is removed does not
// keep it from being removed.
func TestRemoveDir_WhileEndIsRecorded(t *testing.T) {
	s := &Store{root: t.TempDir()}
	for range 3000 {
		c := &Container{store: s, State: State{ID: "c", Monitor: 1}}
		if err := os.Mkdir(c.Dir(), 0o700); err != nil {
			t.Fatal(err)
		}
		dir, err := linux.OpenAt(unix.AT_FDCWD, c.Dir(), unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		if err := os.WriteFile(c.Dir()+"/tmp", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		wait := rand.N(60 * time.Microsecond)
		wg.Go(func() {
			for began := time.Now(); time.Since(began) < wait; {
			}
			_ = unix.Renameat(dir, "tmp", dir, "a") // as the record gets its name
		})
		err = c.removeDir(dir)
		wg.Wait()
		linux.Close(dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(c.Dir()); !os.IsNotExist(err) {
			t.Fatalf("still there: %v", err)
		}
	}
}
