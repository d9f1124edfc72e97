package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/runtime"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestParseUser(t *testing.T) {
	for _, tt := range []struct {
		in       string
		uid, gid uint32
		ok       bool
	}{
		{"0", 0, 0, true},
		{"1000", 1000, 0, true},
		{"1000:29", 1000, 29, true},
		{"4294967294:4294967294", 4294967294, 4294967294, true},
		// Anything else must not become root.
		{"", 0, 0, false},
		{":", 0, 0, false},
		{"1:", 0, 0, false},
		{":1", 0, 0, false},
		{"root", 0, 0, false},
		{"-1", 0, 0, false},
		{"+1", 0, 0, false},
		{"4294967295", 0, 0, false},
		{"4294967296", 0, 0, false},
		{"1:4294967296", 0, 0, false},
		{"1:2:3", 0, 0, false},
		{" 1", 0, 0, false},
		{"0x1", 0, 0, false},
		{"1_0", 0, 0, false},
	} {
		uid, gid, err := parseUser(tt.in)
		if (err == nil) != tt.ok || tt.ok && (uid != tt.uid || gid != tt.gid) {
			t.Errorf("%q: %d:%d, %v", tt.in, uid, gid, err)
		}
	}
}

func TestAddCaps(t *testing.T) {
	p := &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}}}
	shared := p.Capabilities
	if err := addCaps(p, []string{"net_raw", "CAP_CHOWN"}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(p.Capabilities.Bounding, " "); got != "CAP_KILL CAP_NET_RAW CAP_CHOWN" {
		t.Errorf("bounding %q", got)
	}
	if len(p.Capabilities.Effective) != 2 || len(p.Capabilities.Permitted) != 2 || len(p.Capabilities.Inheritable) != 0 {
		t.Errorf("sets %+v", p.Capabilities)
	}
	if len(shared.Bounding) != 1 {
		t.Errorf("the container's own set has changed: %v", shared.Bounding)
	}
	if err := addCaps(p, []string{"CAP_NOPE"}); err == nil || !strings.Contains(err.Error(), "CAP_NOPE") {
		t.Errorf("unknown capability: %v", err)
	}
	if err := addCaps(&specs.Process{}, []string{"CAP_KILL"}); err != nil {
		t.Errorf("a process without any: %v", err)
	}
}

// Hints come from the type of an error, wherever it is in the chain.
func TestHints(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string // "": no hint
	}{
		{errors.New("plain"), ""},
		{fmt.Errorf("outer: %w", &runtime.ExistsError{ID: "web"}), "minirun delete web"},
		{&runtime.NotExistError{ID: "web"}, "minirun list"},
		{&runtime.ExistsError{ID: "web", Remains: true}, "minirun delete --force web"},
		{&runtime.NotExistError{ID: "web", Remains: true}, "minirun delete --force web"},
		{&runtime.StatusError{ID: "web", Op: "delete", Have: runtime.Running}, "delete --force web"},
		{&runtime.StatusError{ID: "web", Op: "start", Have: runtime.Running}, ""},
		{&runtime.StateError{Path: "/x", Err: fs.ErrInvalid}, "delete --force"},
		{&runtime.ProcessError{ID: "web", Err: &runtime.ExecError{Name: "sh", Err: syscall.ENOENT}}, "config.json"},
		{&execFailure{ofImage(true, &runtime.ExecError{Name: "sh", Err: syscall.ENOENT})}, "Env in the image, see minirun image inspect, or of --env PATH="},
		{&runtime.ExecError{Name: "/x", Err: syscall.ENOENT}, "interpreter"},
		{&runtime.ExecError{Name: "/x", Err: syscall.EACCES}, "x permission"},
		{&runtime.ExecError{Name: "/x", Err: syscall.ENOEXEC}, "#!"},
		{&initprog.StepError{Phase: "rlimits", Syscall: "prlimit64", Err: syscall.EPERM}, "CAP_SYS_RESOURCE"},
		{&initprog.StepError{Phase: "mounts", Syscall: "fsopen", Err: syscall.ENODEV}, "file system"},
		{&initprog.StepError{Phase: "mounts", Syscall: "fsconfig", Err: syscall.EINVAL}, "option"},
		{&initprog.StepError{Phase: "mounts", Syscall: "openat2", Err: syscall.ELOOP}, "symbolic link"},
		{&initprog.StepError{Phase: "root change", Syscall: "pivot_root", Err: syscall.EINVAL}, "--no-pivot"},
		{&initprog.StartError{Err: syscall.EAGAIN}, "pids.max"},
		{&initprog.StartError{Err: syscall.ENOSPC}, "max_*_namespaces"},
		{&runtime.OOMError{Limit: "1"}, "memory"},
		{&usageError{"create", "x"}, "minirun create --help"},
		{&usageError{"", "x"}, "see minirun --help"},
	} {
		got := strings.Join(hints(tt.err), "\n")
		if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
			t.Errorf("%v: hints %q, want %q", tt.err, got, tt.want)
		}
	}
}

func TestLogger(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l := &logger{file: path, json: true}
	msgs := []string{"plain", "quote \" backslash \\ newline \n tab \t nul \x00 c1 \u009b31m ü \xff"}
	for _, m := range msgs {
		l.entry("error", m)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.ContainsRune(string(raw), '\u009b') {
		t.Errorf("a terminal obeys what is in the file: %q", raw)
	}
	rows := strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n")
	if len(rows) != 2 {
		t.Fatalf("%d lines: %q", len(rows), raw)
	}
	for i, row := range rows {
		var e struct{ Level, Msg, Time string }
		if err := json.Unmarshal([]byte(row), &e); err != nil {
			t.Fatalf("%q: %v", row, err)
		}
		if want := visible(msgs[i]); e.Level != "error" || e.Msg != want {
			t.Errorf("%+v, want %q", e, want)
		}
		if _, err := time.Parse(time.RFC3339, e.Time); err != nil {
			t.Error(err)
		}
	}
	if got := oneLine(errors.Join(errors.New("a"), errors.New("b"))); got != "a; b" {
		t.Errorf("two errors in one line: %q", got)
	}
}

// Raw mode is cfmakeraw(3).
func TestMakeRaw(t *testing.T) {
	var before unix.Termios
	before.Iflag, before.Oflag, before.Lflag, before.Cflag = ^uint32(0), ^uint32(0), ^uint32(0), unix.CS7|unix.PARENB|unix.CREAD
	raw := before
	makeRaw(&raw)
	if raw.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG|unix.IEXTEN) != 0 || raw.Iflag&(unix.ICRNL|unix.IXON) != 0 || raw.Cflag&unix.CSIZE != unix.CS8 || raw.Cflag&unix.CREAD == 0 {
		t.Errorf("%+v", raw)
	}
	if raw.Cc[unix.VMIN] != 1 || raw.Cc[unix.VTIME] != 0 {
		t.Errorf("VMIN %d VTIME %d", raw.Cc[unix.VMIN], raw.Cc[unix.VTIME])
	}
}

func TestListenFDs(t *testing.T) {
	us := fmt.Sprint(os.Getpid())
	for _, tt := range []struct {
		pid, fds string
		want     int
	}{{us, "3", 3}, {us, "0", 0}, {us, "", 0}, {us, "x", 0}, {us, "-1", 0}, {us, "100000", 0}, {"1", "3", 0}, {"", "3", 0}} {
		t.Setenv("LISTEN_PID", tt.pid)
		t.Setenv("LISTEN_FDS", tt.fds)
		if got := listenFDs(); got != tt.want {
			t.Errorf("LISTEN_PID=%s LISTEN_FDS=%s: %d, want %d", tt.pid, tt.fds, got, tt.want)
		}
		env := strings.Join(listenEnv(), " ")
		if want := fmt.Sprintf("LISTEN_FDS=%d LISTEN_PID=1", tt.want); tt.want > 0 && env != want || tt.want == 0 && env != "" {
			t.Errorf("environment %q", env)
		}
	}
}

// What an image or a container has chosen reaches the terminal in error texts.
func TestVisible(t *testing.T) {
	for in, want := range map[string]string{
		"plain, with ümlaut and 漢字\n\tnext": "plain, with ümlaut and 漢字\n\tnext",
		"\x1b]0;title\a\x1b[2J":             `\x1b]0;title\x07\x1b[2J`,
		"over\rwritten\b\x7f":               `over\x0dwritten\x08\x7f`,
		"c1 \u009b31m":                      `c1 \u009b31m`,
		"bytes \x9b \xff\xfe":               `bytes \x9b \xff\xfe`,
		"\u202egpj.exe\u2066 \u200b\ufeff.": `\u202egpj.exe\u2066 \u200b\ufeff.`,
		"a nul \x00, a line \u2028.":        `a nul \x00, a line \u2028.`,
	} {
		if got := visible(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
