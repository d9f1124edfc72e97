package criu

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestReadMounts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mountinfo")
	text := `58 40 254:0 /a\040b / ro,noatime - ext4 /dev/vda rw
59 58 0:33 / /proc rw,nosuid,nodev,noexec shared:7 master:1 - proc proc rw
60 58 254:0 /vol /x\134y ro,nosymfollow - ext4 /dev/vda rw
61 58 0:32 / /dev/mqueue rw - mqueue mqueue rw
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := readMounts(path)
	if err != nil {
		t.Fatal(err)
	}
	want := []mount{
		{"58", "254:0", "/a b", "/", []string{"ro"}, "ext4"},
		{"59", "0:33", "/", "/proc", []string{"nosuid", "nodev", "noexec"}, "proc"},
		{"60", "254:0", "/vol", `/x\y`, []string{"ro", "nosymfollow"}, "ext4"},
		{"61", "0:32", "/", "/dev/mqueue", []string{}, "mqueue"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	// Of the host's file systems, the root and message queues are criu's own affair.
	host := []mount{{dev: "254:0"}, {dev: "0:32"}}
	if out := outside(got, host); len(out) != 1 || out[0].point != `/x\y` {
		t.Errorf("outside %+v", out)
	}
	if err := os.WriteFile(path, []byte("58 40\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readMounts(path); err == nil {
		t.Error("half a line is read")
	}
}

// Sources come from the configuration, whatever the images say, and have at
// least the attributes of both.
func TestSources(t *testing.T) {
	o := &RestoreOptions{
		CgroupDir: "/sys/fs/cgroup/box",
		Spec: &specs.Spec{
			Mounts: []specs.Mount{
				{Destination: "/vol", Type: "bind", Source: "/old", Options: []string{"bind"}},
				{Destination: "/vol/", Source: "/srv", Options: []string{"rbind", "ro"}},
				{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"},
				{Destination: "/rel", Type: "bind", Source: "rel"},
				{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro"}},
			},
			Linux: &specs.Linux{MaskedPaths: []string{"/proc/keys"}, Devices: []specs.LinuxDevice{{Path: "/dev/fuse"}}},
		},
	}
	m := &image{
		Outside: []string{"/vol", "/sys/fs/cgroup", "/proc/keys", "/dev/null", "/dev/fuse"},
		Mounts:  map[string][]string{"/vol": {"nosuid"}, "/proc/keys": {"ro"}},
	}
	got, err := o.sources(m)
	want := []source{
		{"/vol", "/srv", true, []string{"nosuid", "ro"}},
		{"/sys/fs/cgroup", "/sys/fs/cgroup/box", false, []string{"ro"}},
		{"/proc/keys", "/dev/null", false, []string{"ro"}},
		{"/dev/null", "/dev/null", false, nil},
		{"/dev/fuse", "/dev/fuse", false, nil},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v\nwant %+v", got, err, want)
	}
	for _, point := range []string{"/etc", "/tmp", "/dev/sda", "/rel", "/proc/kcore", "/dev/../etc"} {
		if got, err := o.sources(&image{Outside: []string{point}}); err == nil {
			t.Errorf("%s: %+v, want an error", point, got)
		}
	}
}

// A failure tells what criu's log says, without what could do harm on a terminal.
func TestFailure(t *testing.T) {
	log := filepath.Join(t.TempDir(), "dump.log")
	cause := errors.New("exit status 1")
	for _, tt := range []struct {
		log   string
		lines []string
		hint  string
	}{
		{"", nil, "whole log"},
		{"(1.0) Error (criu/a.c:1): one\n(1.0) Warn (criu/a.c:1): two\n(1.1)    12: Error (criu/b.c:2): vdso: three\n", []string{`"one"`, `"vdso: three"`}, "does not know this kernel"},
		{"Error (a): 1\nError (a): 2\nError (a): 3\nError (a): 4 \x1b[2J\n", []string{`"2"`, `"3"`, `"4 \x1b[2J"`}, "whole log"},
		{"Error (a): Can't dump without --shell-job\n", []string{`"Can't dump without --shell-job"`}, "use --shell-job"},
	} {
		if err := os.WriteFile(log, []byte(tt.log), 0o600); err != nil {
			t.Fatal(err)
		}
		var e *Error
		if err := failure("dump", log, nil, cause); !errors.As(err, &e) || !errors.Is(err, cause) {
			t.Fatalf("%v", err)
		}
		if !reflect.DeepEqual(e.Lines, tt.lines) || !strings.Contains(e.Hint(), tt.hint) || !strings.Contains(e.Hint(), log) {
			t.Errorf("%q: %q, hint %q", tt.log, e.Lines, e.Hint())
		}
	}
	// Without a log what was printed has to do.
	var e *Error
	if err := failure("dump", log+".none", []byte("Error (a): printed\n"), cause); !errors.As(err, &e) || len(e.Lines) != 1 {
		t.Errorf("%v", err)
	}
}
