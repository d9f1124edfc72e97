package runtime

import (
	"encoding/json"
	"errors"
	"math"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The state means the same as that of package encoding/json.
func TestAppendState(t *testing.T) {
	for _, pid := range []int{0, 1, 4194304} {
		c := &Container{State: State{
			ID: "web", OCIVersion: "1.3.0", Bundle: "/a b/\"\\\x01é",
			Annotations: map[string]string{"": "empty key", "k": "a\nb\u2028\x7f", "<>&": "</script>"},
		}}
		for _, annotations := range []map[string]string{nil, {}, c.Annotations} {
			c.Annotations = annotations
			want := specs.State{Version: c.OCIVersion, ID: c.ID, Status: "created", Pid: pid, Bundle: c.Bundle, Annotations: annotations}
			if len(annotations) == 0 {
				want.Annotations = nil
			}
			var got specs.State
			raw := c.appendState(nil, Created, pid)
			if err := json.Unmarshal(raw, &got); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %v: %+v, want %+v", raw, err, got, want)
			}
			if pid == 0 && strings.Contains(string(raw), "pid") {
				t.Errorf("a pid of 0 is told: %s", raw)
			}
		}
	}
}

func TestLaterHooks(t *testing.T) {
	h := []specs.Hook{{Path: "/x"}}
	for want, hooks := range map[uint64]*specs.Hooks{
		hooksStartContainer: {StartContainer: h},
		hooksPoststart:      {Poststart: h},
		hooksPoststop:       {Poststop: h},
		hooksStartContainer | hooksPoststart | hooksPoststop: {Prestart: h, StartContainer: h, Poststart: h, Poststop: h}, //nolint:staticcheck // deprecated and still used
	} {
		if got := laterHooks(hooks); got != want {
			t.Errorf("%+v: %b, want %b", hooks, got, want)
		}
	}
	for _, hooks := range []*specs.Hooks{nil, {}, {Prestart: h, CreateRuntime: h, CreateContainer: h}} { //nolint:staticcheck // deprecated and still used
		if got := laterHooks(hooks); got != 0 || atCreate(hooks) != (hooks != nil && hooks.Prestart != nil) { //nolint:staticcheck // deprecated and still used
			t.Errorf("%+v: %b, at create %v", hooks, got, atCreate(hooks))
		}
	}
}

func shellHook(script string) *specs.Hook {
	return &specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"}}
}

// Only the end of the output is kept, on one line.
func TestHookOutput(t *testing.T) {
	h := hookRun{kind: "poststart", index: 3, hook: shellHook(`i=0; while [ $i -lt 3000 ]; do echo "line $i"; i=$((i+1)); done; exit 2`), state: []byte("{}"), dir: t.TempDir()}
	err := h.run()
	var e *HookError
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	if len(e.Output) != hookOutput || !strings.HasSuffix(e.Output, "line 2998\nline 2999\n") {
		t.Errorf("%d bytes of output, the end is %q", len(e.Output), e.Output[max(0, len(e.Output)-20):])
	}
	text := err.Error()
	if want := `error running poststart hook #3 "/bin/sh": exit status 2, output: "`; !strings.HasPrefix(text, want) || strings.Contains(text, "\n") {
		t.Errorf("error %.100q, want %q", text, want)
	}
}

// What is left of a hook that takes too long is killed, and the limit that it
// had is in the error.
func TestHookTimeout(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := unix.Open(fifo, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0) // before: then opening it for writing does not block
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(r)
	h := hookRun{kind: "prestart", hook: shellHook(`sleep 1000 > fifo & sleep 1000 > fifo`), state: []byte("{}"), limit: time.Second, dir: dir}
	err = h.run()
	var late *hookTimeout
	if !errors.As(err, &late) || late.own || !strings.Contains(err.Error(), "within 1s") {
		t.Errorf("error %v", err)
	}
	// The leader is gone when run returns, the others at some time after.
	var buf [1]byte
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		n, err := unix.Read(r, buf[:])
		if n == 0 && err == nil { // end of file: nobody has it open for writing
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("somebody of the hook's group is left: read %d, %v", n, err)
		}
	}
}

// A state that no pipe would hold, and a hook that does not care.
// 18446744074 seconds are 0.29 when nanoseconds overflow.
func TestHookLimit(t *testing.T) {
	for _, seconds := range []int{1, 60, 86400, math.MaxInt32, 9223372037, 18446744074, math.MaxInt} {
		if got, want := hookLimit(seconds), time.Duration(min(seconds, math.MaxInt32))*time.Second; got != want {
			t.Errorf("%d seconds: %v, want %v", seconds, got, want)
		}
	}
}

func TestHookInput(t *testing.T) {
	state := []byte(strings.Repeat("x", 1<<20))
	for script, fails := range map[string]bool{
		`exit 0`: false, `exec <&-`: false, `[ "$(wc -c)" -eq 1048576 ]`: false, `echo y >&0`: true,
		`echo y > /proc/self/fd/0`: true, `[ -z "$HOME" ] && [ $# -eq 0 ]`: false,
	} {
		h := hookRun{kind: "prestart", hook: shellHook(script), state: state, dir: t.TempDir()}
		if err := h.run(); (err != nil) != fails {
			t.Errorf("%s: %v", script, err)
		}
	}
}

// Of the signals that come while hooks run one that is to end us is taken out,
// the others stay for the container's process.
func TestSignals(t *testing.T) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	s := &Signals{FD: pipe[0]}
	if sig := s.ending(); sig != 0 || s.Kept() || len(s.Read()) != 0 {
		t.Errorf("nothing has come, and there is %d", sig)
	}
	if _, err := unix.Write(pipe[1], []byte{byte(unix.SIGUSR1), byte(unix.SIGINT), byte(unix.SIGWINCH), byte(unix.SIGTERM)}); err != nil {
		t.Fatal(err)
	}
	if a, b, c := s.ending(), s.ending(), s.ending(); a != unix.SIGINT || b != unix.SIGTERM || c != 0 {
		t.Errorf("those that end us are %d, %d, %d", a, b, c)
	}
	if rest := s.Read(); !s.Kept() && string(rest) != string([]byte{byte(unix.SIGUSR1), byte(unix.SIGWINCH)}) {
		t.Errorf("left are %v", rest)
	}
}
