package runtime

import (
	"bytes"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/initprog"
)

var update = flag.Bool("update", false, "write the record of testdata/state that is new; old ones never change")

// fullState has a value in every field.
func fullState() *State {
	return &State{
		ID: "web", OCIVersion: "1.2.0", Bundle: "/srv/web", Rootfs: "/srv/web/rootfs",
		Created:  time.Date(2026, 3, 4, 5, 6, 7, 123456789, time.UTC),
		Complete: true, Pid: 4321, StartTime: 987654321, BootID: "0f5a3b1c-1111-2222-3333-444455556666",
		CgroupMount: "/sys/fs/cgroup", Cgroup: "/web", Namespaces: 0x6e020000, Own: 0x6e000000, Owner: 1000, Snapshot: "sha256:abc",
		Annotations: map[string]string{"org.example.a": "1 \"quoted\" ü", "b": ""},
		Pending: []initprog.PendingOp{
			{Address: 0x401234, Phase: "seccomp", Object: "system call filter", Syscall: "seccomp", Detail: ""},
			{Address: 1<<64 - 1, Phase: "exec", Object: "sh", Syscall: "execve", Detail: "x"},
		},
	}
}

// The records of released versions can be read forever: a file in
// testdata/state is never changed, a new version adds one.
func TestStateV1(t *testing.T) {
	path := filepath.Join("testdata", "state", "v1.json")
	if _, err := os.Stat(path); *update && errors.Is(err, fs.ErrNotExist) {
		if err := os.WriteFile(path, fullState().appendJSON(nil), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseState(raw)
	if err != nil {
		t.Fatal(err)
	}
	if want := fullState(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if stateVersion == 1 {
		if b := fullState().appendJSON(nil); !bytes.Equal(b, raw) {
			t.Errorf("this version writes\n%s\nand not\n%s", b, raw)
		}
	}
}

func TestStateRoundTrip(t *testing.T) {
	for _, s := range []*State{{}, {ID: "x", Created: time.Unix(1, 0).UTC()}, fullState()} {
		got, err := parseState(s.appendJSON(nil))
		if err != nil || !reflect.DeepEqual(got, s) {
			t.Errorf("got %+v, %v, want %+v", got, err, s)
		}
	}
}

func TestParseStateErrors(t *testing.T) {
	for _, tt := range []struct{ name, raw, want string }{
		{"empty", "", ""},
		{"half", string(fullState().appendJSON(nil)[:100]), ""},
		{"no version", `{"id":"x"}`, "has no version"},
		{"newer", `{"version":3,"id":"x"}`, "has version 3, this minirun reads up to 1"},
		{"wrong type", `{"version":1,"pid":"x"}`, "pid"},
		{"negative start time", `{"version":1,"startTime":-1}`, "startTime"},
		{"bad time", `{"version":1,"created":"yesterday"}`, "created"},
		{"more behind it", `{"version":1}x`, ""},
		{"an array", `[]`, ""},
	} {
		if s, err := parseState([]byte(tt.raw)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %+v, %v, want an error with %q", tt.name, s, err, tt.want)
		}
	}
	if _, err := parseState([]byte(`{"version":1,"later":{"a":[1]},"id":"x"}`)); err != nil {
		t.Errorf("an unknown field: %v", err)
	}
}

func FuzzState(f *testing.F) {
	f.Add(fullState().appendJSON(nil))
	f.Add([]byte(`{"version":1,"pending":[{}],"annotations":{"a":"b"}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := parseState(raw)
		if err != nil {
			return
		}
		once := s.appendJSON(nil)
		again, err := parseState(once)
		if err != nil {
			t.Fatalf("cannot read what was written: %v\n%s", err, once)
		}
		if twice := again.appendJSON(nil); !bytes.Equal(once, twice) {
			t.Errorf("not stable:\n%s%s", once, twice)
		}
	})
}

func TestParseStat(t *testing.T) {
	const rest = " 1 2 3 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 100 200\n"
	for _, tt := range []struct {
		raw    string
		start  uint64
		zombie bool
		ok     bool
	}{
		{"42 (sh) S" + rest, 12345, false, true},
		{"42 (a) b) (c) Z" + rest, 12345, true, true},
		{"42 (sh) X" + rest, 12345, true, true},
		{"42 (sh\n) R 7) S" + rest, 12345, false, true},
		{"42 (sh) S 1 2", 0, false, false},
		{"", 0, false, false},
		{"no parenthesis", 0, false, false},
	} {
		p, err := parseStat([]byte(tt.raw))
		if (err == nil) != tt.ok || tt.ok && (p.startTime != tt.start || p.zombie != tt.zombie) {
			t.Errorf("%q: %+v, %v", tt.raw, p, err)
		}
	}
	if p, err := statProcess(os.Getpid()); err != nil || p.startTime == 0 || p.zombie {
		t.Errorf("our own: %+v, %v", p, err)
	}
}
