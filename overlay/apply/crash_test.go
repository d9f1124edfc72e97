package apply

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minirun/minirun/overlay"
)

// TestMain lets the test binary be an unpacker that can be killed:
// <binary> in the environment APPLY_TEST=store,parent,diff ID,kind; archive on stdin.
func TestMain(m *testing.M) {
	if task := os.Getenv(boundsEnv); task != "" {
		boundsChild(task)
	}
	if args := strings.Split(os.Getenv("APPLY_TEST"), ","); len(args) == 4 {
		s, err := overlay.OpenStore(args[0])
		if err == nil {
			for _, kind := range allKinds {
				if args[3] == kind.String() {
					kindUnderTest = kind
				}
			}
			var res Result
			_, res, err = Layer(context.Background(), s, overlay.ChainID(args[1]), args[2], os.Stdin, testOptions())
			fmt.Printf("existed=%v\n", res.Existed)
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(t *testing.T, s *overlay.Store, parent overlay.ChainID, diffID string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "APPLY_TEST="+strings.Join([]string{s.Root(), string(parent), diffID, kindUnderTest.String()}, ","))
	return cmd
}

// bigArchive has n files, directory by directory.
func bigArchive(t *testing.T, n int) []byte {
	var ents []ent
	for i := range n {
		ents = append(ents, file(fmt.Sprintf("d%d/f%d", i/50, i), strings.Repeat("x", 2000)))
	}
	return archive(t, ents...)
}

// waitFor waits until the staged layer has at least one file.
func waitFor(t *testing.T, s *overlay.Store) {
	t.Helper()
	for range 1000 {
		if halfMade(s) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the unpacker does not start")
}

// halfMade: there is a staged layer with something in it.
func halfMade(s *overlay.Store) bool {
	if kindUnderTest != Extract {
		m, _ := filepath.Glob(s.Root() + "/staging/layer-*/tar")
		if len(m) == 0 {
			return false
		}
		st, err := os.Stat(m[0])
		return err == nil && st.Size() > 0
	}
	m, _ := filepath.Glob(s.Root() + "/staging/layer-*/fs/d0/f0")
	return len(m) > 0
}

func TestLayer_Killed(t *testing.T) { eachKind(t, testKilled) }

func testKilled(t *testing.T) {
	for _, how := range []string{"cleanup", "again"} {
		t.Run(how, func(t *testing.T) {
			s := openStore(t)
			b := bigArchive(t, 500)
			cmd := child(t, s, "", digest(b))
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := in.Write(b[:len(b)/2]); err != nil {
				t.Fatal(err)
			}
			waitFor(t, s)
			if err := s.Cleanup(); err != nil { // the process lives: not ours to delete
				t.Error(err)
			}
			if !halfMade(s) {
				t.Error("Cleanup deleted what a living process makes")
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			in.Close()
			if names, _ := os.ReadDir(s.Root() + "/staging"); len(names) != 1 {
				t.Errorf("staging after SIGKILL: %v, want the half layer", names)
			}
			if how == "cleanup" {
				if err := s.Cleanup(); err != nil {
					t.Error(err)
				}
				wantEmpty(t, s, 0)
			}
			c, res, err := apply(s, "", b)
			if err != nil || res.Existed || res.Entries != 500 {
				t.Fatalf("next time: %+v, %v", res, err)
			}
			wantEmpty(t, s, 1)
			dir := layerDir(s, c)
			if kindUnderTest != Extract {
				dir = indexView(t, s, c)
			}
			if names, err := os.ReadDir(dir); err != nil || len(names) != 10 {
				t.Errorf("layer has %d directories, %v, want 10", len(names), err)
			}
		})
	}
}

// Two processes and two goroutines want the same layer: one makes it.
func TestLayer_Concurrent(t *testing.T) { eachKind(t, testConcurrent) }

func testConcurrent(t *testing.T) {
	s := openStore(t)
	b := bigArchive(t, 1000)
	var mu sync.Mutex
	made, existed := 0, 0
	count := func(e bool) {
		mu.Lock()
		defer mu.Unlock()
		if e {
			existed++
		} else {
			made++
		}
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			cmd := child(t, s, "", digest(b))
			cmd.Stdin = bytes.NewReader(b)
			out, err := cmd.Output()
			// The one that finds the layer does not read its stdin.
			if err != nil && !strings.Contains(err.Error(), "broken pipe") {
				t.Errorf("child: %v: %s", err, out)
			}
			count(strings.Contains(string(out), "existed=true"))
		})
		wg.Go(func() {
			_, res, err := apply(s, "", b)
			if err != nil {
				t.Error(err)
			}
			count(res.Existed)
		})
	}
	wg.Wait()
	if made != 1 || existed != 3 {
		t.Errorf("made %d times, found %d times, want 1 and 3", made, existed)
	}
	wantEmpty(t, s, 1)
}

// The first one fails: the one that waits takes over and is not misled.
func TestLayer_WaiterTakesOver(t *testing.T) { eachKind(t, testWaiterTakesOver) }

func testWaiterTakesOver(t *testing.T) {
	s := openStore(t)
	b := bigArchive(t, 1000) // half of it is more than a chunk
	r, w := io.Pipe()
	first := make(chan error, 1)
	go func() {
		_, _, err := Layer(context.Background(), s, "", digest(b), r, testOptions())
		first <- err
	}()
	if _, err := w.Write(b[:len(b)/2]); err != nil {
		t.Fatal(err)
	}
	waitFor(t, s)
	second := make(chan error, 1)
	go func() {
		_, res, err := apply(s, "", b)
		if err == nil && res.Existed {
			err = errors.New("found a layer that nobody made")
		}
		second <- err
	}()
	// A third one gives up waiting.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := Layer(ctx, s, "", digest(b), bytes.NewReader(b), testOptions()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait with a deadline: %v", err)
	}
	boom := errors.New("boom")
	w.CloseWithError(boom)
	if err := <-first; !errors.Is(err, boom) || errors.Is(err, ErrInvalid) {
		t.Errorf("first: got %v, want the reader's error", err)
	}
	if err := <-second; err != nil {
		t.Errorf("second: %v", err)
	}
	wantEmpty(t, s, 1)
}

func TestLayer_DigestMismatch(t *testing.T) { eachKind(t, testDigestMismatch) }

func testDigestMismatch(t *testing.T) {
	s := openStore(t)
	b := bigArchive(t, 10)
	want := digest(append([]byte("x"), b...))
	_, _, err := Layer(t.Context(), s, "", want, bytes.NewReader(b), testOptions())
	var de *DigestError
	if !errors.As(err, &de) || de.Want != want || de.Got != digest(b) || !errors.Is(err, ErrInvalid) {
		t.Errorf("got %v, want *DigestError", err)
	}
	wantEmpty(t, s, 0)
	// One byte of the padding after the end counts too.
	b = append(b, make([]byte, 512)...)
	c := bytes.Clone(b)
	c[len(c)-1] = 1
	if _, _, err := Layer(t.Context(), s, "", digest(b), bytes.NewReader(c), testOptions()); !errors.As(err, &de) {
		t.Errorf("changed padding: got %v, want *DigestError", err)
	}
	for _, bad := range []string{"", "sha256:", "sha256:../../x", "sha512:" + strings.Repeat("a", 128), strings.ToUpper(want), want + "0"} {
		if _, _, err := Layer(t.Context(), s, "", bad, bytes.NewReader(b), testOptions()); !errors.Is(err, os.ErrInvalid) {
			t.Errorf("diff ID %q: %v", bad, err)
		}
	}
	if _, _, err := Layer(t.Context(), s, overlay.ChainID(want), digest(b), bytes.NewReader(b), testOptions()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing parent: %v", err)
	}
	wantEmpty(t, s, 0)
}

func TestLayer_Truncated(t *testing.T) { eachKind(t, testTruncated) }

func testTruncated(t *testing.T) {
	s := openStore(t)
	b := archive(t, dir("a"), file("a/f", strings.Repeat("x", 3000)), symlink("a/l", "f"), file("a/g", "").pax("SCHILY.xattr.user.x", "1"))
	for n := 0; n < len(b); n += 100 {
		_, _, err := Layer(t.Context(), s, "", digest(b), bytes.NewReader(b[:n]), testOptions())
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%d of %d bytes: got %v, want ErrInvalid", n, len(b), err)
		}
	}
	wantEmpty(t, s, 0)
}

func TestLayer_Cancelled(t *testing.T) { eachKind(t, testCancelled) }

func testCancelled(t *testing.T) {
	s := openStore(t)
	b := bigArchive(t, 200)
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	r := readerFunc(func(p []byte) (int, error) {
		if n += 1; n == 100 {
			cancel()
		}
		k := copy(p[:min(len(p), 512)], b)
		b = b[k:]
		return k, nil
	})
	if _, _, err := Layer(ctx, s, "", digest(b), r, testOptions()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	wantEmpty(t, s, 0)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
