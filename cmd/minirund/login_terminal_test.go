package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/minirun/minirun/imagestore/registrytest"
	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

// terminal opens a pair of terminal ends.
func terminal(t *testing.T) (keyboard, tty *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keyboard.Close() })
	fd := int(keyboard.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	return keyboard, tty
}

// echoes tells whether a terminal shows what is typed.
func echoes(t *testing.T, f *os.File) bool {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}

// silent waits until the terminal does not show what is typed.
func silent(t *testing.T, f *os.File) {
	t.Helper()
	for deadline := time.Now().Add(testenv.Timeout(time.Minute)); echoes(t, f); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the terminal shows what is typed all the time")
		}
	}
}

// On a terminal login asks for what it was not told, and what is typed as the
// password is not shown.
func TestLogin_Terminal(t *testing.T) {
	config := lonely(t)
	b, _ := image(t, "x", "one")
	srv := serve(t, registrytest.Options{User: "alice", Password: "s3cret"}, "test/one", b, "v1")
	keyboard, tty := terminal(t)
	var out, errOut bytes.Buffer
	code := make(chan int, 1)
	go func() { code <- run(t.Context(), []string{"minirund", "login", srv.Host()}, tty, &out, &errOut) }()
	// The name is typed ahead; the terminal keeps it.
	if _, err := keyboard.WriteString("alice\n"); err != nil {
		t.Fatal(err)
	}
	silent(t, tty)
	if _, err := keyboard.WriteString("s3cret\n"); err != nil {
		t.Fatal(err)
	}
	if got := <-code; got != 0 || out.String() != "logged in to "+srv.Host()+" as alice\n" ||
		!strings.HasPrefix(errOut.String(), "username for "+srv.Host()+": password of alice: \n") {
		t.Errorf("%d, %q, %q", got, out.String(), errOut.String())
	}
	if !echoes(t, tty) {
		t.Error("the terminal stays silent")
	}
	if err := unix.SetNonblock(int(keyboard.Fd()), true); err != nil {
		t.Fatal(err)
	}
	shown := make([]byte, 1000)
	n, err := unix.Read(int(keyboard.Fd()), shown)
	if err != nil || string(shown[:n]) != "alice\r\n" {
		t.Errorf("the terminal shows %q, %v", shown[:max(n, 0)], err)
	}
	if _, err := os.Stat(config); err != nil {
		t.Error(err)
	}
}

// Whoever interrupts the question gets the terminal back as it was.
func TestLogin_TerminalInterrupted(t *testing.T) {
	config := lonely(t)
	_, tty := terminal(t)
	var out, errOut bytes.Buffer
	ctx, interrupt := context.WithCancelCause(t.Context())
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"minirund", "login", "-u", "alice", "127.0.0.1:1"}, tty, &out, &errOut)
	}()
	silent(t, tty)
	interrupt(errors.New("interrupted by the test"))
	if got := <-code; got == 0 || !strings.Contains(errOut.String(), "interrupted by the test") {
		t.Errorf("%d, %q", got, errOut.String())
	}
	if !echoes(t, tty) {
		t.Error("the terminal stays silent")
	}
	if _, err := os.Stat(config); err == nil {
		t.Error("a login was kept")
	}
}
