package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
)

// hammerRounds is how many lives TestRootHammerLives lives: few by default, as
// many as make hammer asks for.
func hammerRounds(t *testing.T) int {
	t.Helper()
	text := os.Getenv("MINIRUN_TEST_HAMMER")
	if text == "" {
		return 100
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("MINIRUN_TEST_HAMMER=%q: want a number of rounds", text)
	}
	return n
}

// Containers are created, paused, updated, resumed, started, entered, killed and
// deleted in random order, several at a time, and killed in every state. Each
// command must do what it says, and nothing may be left.
func TestRootHammerLives(t *testing.T) {
	setup(t)
	testenv.Binary(t) // building it has children that must not be reaped below
	rounds := hammerRounds(t)
	seed := rand.Uint64()
	t.Logf("%d rounds, seed %d", rounds, seed)
	stop := reapContainers(t)
	defer stop()
	next := make(chan int)
	var wg sync.WaitGroup
	for w := range 4 {
		b := newBox(t, forever)
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(w)))
			for n := range next {
				if err := b.live(r); err != nil {
					t.Errorf("round %d: %v", n, err)
					testenv.Run(t, "delete", "--force", b.id)
				}
			}
		})
	}
	for n := range rounds {
		if t.Failed() {
			break
		}
		next <- n
	}
	close(next)
	wg.Wait()
}

// live is one life of a container. The error has all that was done.
func (b *ociBox) live(r *rand.Rand) error {
	var done []string
	status := ""
	do := func(code int, args ...string) error {
		res := testenv.Run(b.t, args...)
		if done = append(done, args[0]); res.Code != code || code == 0 && res.Stderr != "" {
			return fmt.Errorf("%s: %+v, want status %d", strings.Join(done, ", "), res, code)
		}
		return nil
	}
	if err := do(0, "create", "--bundle", b.bundle, b.id); err != nil {
		return err
	}
	status = "created"
	paused := false
	for range r.IntN(8) {
		var err error
		switch r.IntN(6) {
		case 0:
			if status == "created" && !paused {
				err, status = do(0, "start", b.id), "running"
			}
		case 1:
			if paused {
				err = do(0, "resume", b.id)
			} else {
				err = do(0, "pause", b.id)
			}
			paused = !paused
		case 2:
			err = do(0, "update", "--cpu-share", "1024", b.id)
		case 3:
			code := 0
			if paused {
				code = 255
			}
			err = do(code, "exec", b.id, "true")
		case 4:
			err = do(0, "state", b.id)
		case 5:
			err = do(0, "ps", "--format", "json", b.id)
		}
		if err != nil {
			return err
		}
	}
	kill := r.IntN(3)
	if kill > 0 {
		args := []string{"kill", b.id, "KILL"}
		if kill == 2 {
			args = []string{"kill", "--all", b.id, "9"}
		}
		if err := do(0, args...); err != nil {
			return err
		}
	}
	if err := do(0, "delete", "--force", b.id); err != nil {
		return err
	}
	paths := []string{filepath.Join(testenv.StateRoot(b.t), b.id)}
	for _, root := range cgroupMounts() {
		paths = append(paths, filepath.Join(root, b.cgroup))
	}
	for _, p := range paths {
		if _, err := os.Lstat(p); err == nil {
			return fmt.Errorf("%s: %s is left", strings.Join(done, ", "), p)
		}
	}
	return nil
}
