package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
)

// begin runs a daemon in a directory of its own until the test, or end, ends it.
func begin(t *testing.T, o Options) (get func(path string) (int, string), end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready := make(chan struct{})
	o.Ready = func() error { close(ready); return nil }
	done := make(chan error, 1)
	go func() { done <- Run(ctx, o) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatalf("Run: %v", err)
	case <-time.After(testenv.Timeout(time.Minute)):
		t.Fatal("it does not become ready")
	}
	ended := false
	end = func() error {
		if ended {
			return nil
		}
		ended = true
		cancel()
		return <-done
	}
	t.Cleanup(func() {
		if err := end(); err != nil {
			t.Errorf("end: %v", err)
		}
	})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", o.Socket)
	}}}
	get = func(path string) (int, string) {
		t.Helper()
		resp, err := client.Get("http://x" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var b strings.Builder
		if err := resp.Write(&b); err != nil {
			t.Fatal(err)
		}
		_, body, _ := strings.Cut(b.String(), "\r\n\r\n")
		return resp.StatusCode, body
	}
	return get, end
}

func options(t *testing.T) Options {
	dir := t.TempDir()
	return Options{Data: filepath.Join(dir, "data"), Socket: filepath.Join(dir, "run", "s"), Version: "v", Log: slog.New(slog.DiscardHandler), Bare: true}
}

func TestRun(t *testing.T) {
	o := options(t)
	get, end := begin(t, o)
	if code, body := get("/api/v1/namespaces/default"); code != 200 || !strings.Contains(body, `"Active"`) {
		t.Errorf("namespace default: %d %s", code, body)
	}
	if code, body := get("/healthz"); code != 200 || body != "ok" {
		t.Errorf("healthz: %d %q", code, body)
	}
	_, body := get(StatusPath)
	var s Status
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatal(err)
	}
	if s.Pid != os.Getpid() || s.Version != "v" || s.Objects["namespaces"] < 2 || s.Memory < 1<<20 || len(s.Parts) == 0 {
		t.Errorf("status %+v", s)
	}
	for path, want := range map[string]os.FileMode{o.Socket: 0o600 | os.ModeSocket, o.Data: 0o700 | os.ModeDir, filepath.Dir(o.Socket): 0o700 | os.ModeDir} {
		if st, err := os.Stat(path); err != nil || st.Mode() != want {
			t.Errorf("%s: mode %v, %v, want %v", path, st.Mode(), err, want)
		}
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(o.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket stays: %v", err)
	}
	if all, _ := filepath.Glob(filepath.Join(o.Data, "objects.db.backup-*")); len(all) == 0 {
		t.Error("there is no backup")
	}
}

func TestRun_OnlyOne(t *testing.T) {
	o := options(t)
	get, _ := begin(t, o)
	var running *RunningError
	if err := Run(t.Context(), o); !errors.As(err, &running) || running.Pid != os.Getpid() {
		t.Fatalf("a second one: %v", err)
	}
	if code, _ := get("/healthz"); code != 200 {
		t.Errorf("the first one answers %d after that", code)
	}
}

// Neither is a child that a killed one was just starting, and that has its lock a
// little longer.
func TestLock_Inherited(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	for _, said := range []string{"", "4194304 17\n", "1 1\n", "nonsense"} { // nobody, one that has ended, a number that somebody else has
		if err := os.WriteFile(socket+".lock", []byte(said), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(socket + ".lock")
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(20 * time.Millisecond)
			f.Close()
		}()
		unlock, err := lock(socket)
		if err != nil {
			t.Fatalf("%q: %v", said, err)
		}
		unlock()
	}
}

// What a killed one left is in nobody's way.
func TestRun_Leftovers(t *testing.T) {
	o := options(t)
	if err := os.MkdirAll(filepath.Dir(o.Socket), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{o.Socket, o.Socket + ".new"} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
	}
	get, _ := begin(t, o)
	if code, _ := get("/healthz"); code != 200 {
		t.Errorf("healthz: %d", code)
	}
}

func TestRun_NotASocket(t *testing.T) {
	o := options(t)
	if err := errors.Join(os.MkdirAll(filepath.Dir(o.Socket), 0o700), os.WriteFile(o.Socket, []byte("mine"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "something else") {
		t.Errorf("Run: %v", err)
	}
	if b, _ := os.ReadFile(o.Socket); string(b) != "mine" {
		t.Errorf("the file is %q now", b)
	}
}

func TestRun_Damaged(t *testing.T) {
	o := options(t)
	_, end := begin(t, o)
	if err := end(); err != nil {
		t.Fatal(err)
	}
	db := filepath.Join(o.Data, "objects.db")
	if err := os.WriteFile(db, []byte("this was a store"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := Run(t.Context(), o)
	var hint interface{ Hint() string }
	if err == nil || !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "--restore") {
		t.Fatalf("damaged store: %v", err)
	}
	o.Restore = true
	get, _ := begin(t, o)
	if code, _ := get("/api/v1/namespaces/default"); code != 200 {
		t.Errorf("after the restore: %d", code)
	}
	if b, _ := os.ReadFile(db + ".damaged"); string(b) != "this was a store" {
		t.Errorf("the damaged file is %q", b)
	}
}

func TestRun_SharedDirectory(t *testing.T) {
	o := options(t)
	if err := errors.Join(os.MkdirAll(o.Data, 0o700), os.Chmod(o.Data, 0o777)); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "others may write") {
		t.Errorf("Run: %v", err)
	}
}

// A part that panics is started again, and takes nothing with it.
func TestParts(t *testing.T) {
	d := &Daemon{o: Options{Log: slog.New(slog.DiscardHandler)}}
	n := 0
	again := make(chan struct{})
	d.add("shaky", func(ctx context.Context) error {
		if n++; n < 3 {
			panic("no")
		}
		close(again)
		<-ctx.Done()
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := d.startParts(ctx)
	<-again
	s := d.parts[0].status()
	if !s.Running || s.Restarts != 2 || !strings.Contains(s.LastError, "panic: no") {
		t.Errorf("status %+v", s)
	}
	cancel()
	done()
	if d.parts[0].status().Running {
		t.Error("it runs on")
	}
}
