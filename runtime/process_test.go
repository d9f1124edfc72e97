package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/testenv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestParseSignal(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want syscall.Signal
		ok   bool
	}{
		{"9", 9, true},
		{"15", 15, true},
		{"64", 64, true},
		{"0", 0, true},
		{"KILL", 9, true},
		{"SIGKILL", 9, true},
		{"sigterm", 15, true},
		{"Hup", 1, true},
		{"RTMIN", 34, true},
		{"SIGRTMIN+3", 37, true},
		{"RTMIN+30", 64, true},
		{"", 0, false},
		{"65", 0, false},
		{"-1", 0, false},
		{"NOPE", 0, false},
		{"SIG", 0, false},
		{"SIGSIGKILL", 0, false},
		{"RTMIN+31", 0, false},
		{"RTMIN+-1", 0, false},
		{"9 ", 0, false},
	} {
		got, err := ParseSignal(tt.in)
		if (err == nil) != tt.ok || tt.ok && got != tt.want {
			t.Errorf("%q: %v, %v, want %v, %v", tt.in, got, err, tt.want, tt.ok)
		}
		if err != nil && !strings.Contains(err.Error(), "unknown signal") {
			t.Errorf("%q: %v, want unknown signal in it", tt.in, err)
		}
	}
}

func TestCapabilityNames(t *testing.T) {
	for name, bit := range map[string]int{
		"CAP_CHOWN": unix.CAP_CHOWN, "CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN, "CAP_MKNOD": unix.CAP_MKNOD, "CAP_SETFCAP": unix.CAP_SETFCAP,
		"CAP_CHECKPOINT_RESTORE": unix.CAP_CHECKPOINT_RESTORE, "CAP_AUDIT_READ": unix.CAP_AUDIT_READ, "CAP_BPF": unix.CAP_BPF, "NET_RAW": unix.CAP_NET_RAW,
	} {
		if got := capBit(name); got != bit {
			t.Errorf("%s is %d, want %d", name, got, bit)
		}
	}
	all := AllCapabilities()
	if len(all) != unix.CAP_LAST_CAP+1 {
		t.Errorf("%d names, want %d", len(all), unix.CAP_LAST_CAP+1)
	}
	for i, name := range all {
		if capBit(name) != i {
			t.Errorf("%s: %d, want %d", name, capBit(name), i)
		}
	}
	for _, bad := range []string{"", "CAP_", "CHOWN KILL", "cap_chown", "CAP_NOPE", " "} {
		if KnownCapability(bad) {
			t.Errorf("%q is known", bad)
		}
	}
}

func TestPlanCaps(t *testing.T) {
	s, warn := planCaps(&specs.LinuxCapabilities{
		Bounding: []string{"CAP_KILL", "CAP_CHOWN", "CAP_NOPE"}, Effective: []string{"CAP_KILL", "CAP_SETUID"}, Permitted: []string{"CAP_KILL"},
		Inheritable: []string{"CAP_KILL"}, Ambient: []string{"CAP_KILL", "CAP_CHOWN"},
	}, true)
	if s.bounding != 0x21 || s.effective != 0x20 || s.permitted != 0x20 || s.inheritable != 0x20 || s.ambient != 0x20 {
		t.Errorf("sets %+v", s)
	}
	if s.drop&0x21 != 0 || s.drop&(1<<unix.CAP_SYS_ADMIN) == 0 {
		t.Errorf("dropped from the bounding set: %#x", s.drop)
	}
	if len(warn) != 1 || !strings.Contains(warn[0], "CAP_NOPE") {
		t.Errorf("warnings %q", warn)
	}
	if s, warn := planCaps(nil, true); s.bounding|s.permitted|s.effective|s.inheritable|s.ambient != 0 || s.drop == 0 || len(warn) != 0 {
		t.Errorf("nothing asked for: %+v %q", s, warn)
	}
}

func TestEnvironment(t *testing.T) {
	home := func() string { return "/h" }
	for _, tt := range []struct{ in, want []string }{
		{nil, []string{"HOME=/h"}},
		{[]string{"A=1", "B=2", "A=3"}, []string{"B=2", "A=3", "HOME=/h"}},
		{[]string{"HOME=/x"}, []string{"HOME=/x"}},
		{[]string{"HOME=", "A="}, []string{"A=", "HOME=/h"}},
		{[]string{"HOME=/x", "HOME="}, []string{"HOME=/h"}},
		{[]string{"A=1", "AB=2"}, []string{"A=1", "AB=2", "HOME=/h"}},
		{[]string{"A=x=y"}, []string{"A=x=y", "HOME=/h"}},
	} {
		if got := environment(tt.in, home); !slices.Equal(got, tt.want) {
			t.Errorf("%q: %q, want %q", tt.in, got, tt.want)
		}
	}
}

// Long lists take another way to the same result.
func TestRepeatedOf(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	env := make([]string, 200)
	for i := range env {
		env[i] = []string{"HOME=", "HOME", "A=x=y", "A", "", "=", fmt.Sprintf("V%d=%d", random.IntN(60), i)}[random.IntN(7)]
	}
	long := repeatedOf(env)
	for i, e := range env {
		name, _, _ := strings.Cut(e, "=")
		if got, want := long(env[i+1:], name), repeated(env[i+1:], name); got != want {
			t.Errorf("%d: %q: %v, want %v", i, e, got, want)
		}
	}
}

// An image may bring as many variables as fit into its configuration. Comparing
// them with each other took five minutes of a processor.
func TestEnvironment_Hostile(t *testing.T) {
	env := make([]string, 400_000)
	for i := range env {
		env[i] = strconv.FormatInt(int64(i), 36) + "="
	}
	done := make(chan int, 1)
	go func() { done <- len(environment(env, func() string { return "/" })) }()
	select {
	case n := <-done:
		if n != len(env)+1 {
			t.Errorf("%d of %d variables", n, len(env)+1)
		}
	case <-time.After(testenv.Timeout(30 * time.Second)):
		t.Fatal("it takes more than half a minute")
	}
}

func TestHomeOf(t *testing.T) {
	dir := t.TempDir()
	root, err := linux.OpenAt(unix.AT_FDCWD, dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer linux.Close(root)
	if got := homeOf(root, 0); got != "/" {
		t.Errorf("no passwd: %q", got)
	}
	if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	passwd := filepath.Join(dir, "etc/passwd")
	write := func(s string) {
		t.Helper()
		os.Remove(passwd)
		if err := os.WriteFile(passwd, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("# comment\nroot:x:0:0:root:/root:/bin/sh\nshort:x:5\nrel:x:6:6::home:/bin/sh\nuser:x:1000:1000::/home/user\n:\nten:x:10:1::/ten:")
	for uid, want := range map[uint32]string{0: "/root", 5: "/", 6: "/", 7: "/", 1000: "/home/user", 10: "/ten"} {
		if got := homeOf(root, uid); got != want {
			t.Errorf("uid %d: %q, want %q", uid, got, want)
		}
	}
	// The file belongs to the container: it may be a pipe, or lead elsewhere.
	os.Remove(passwd)
	if err := unix.Mkfifo(passwd, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := homeOf(root, 0); got != "/" {
		t.Errorf("a pipe: %q", got)
	}
	os.Remove(passwd)
	if err := os.Symlink("/etc/passwd", passwd); err != nil { // itself, inside of the root
		t.Fatal(err)
	}
	if got := homeOf(root, 0); got != "/" {
		t.Errorf("a link to the host's: %q", got)
	}
}

func TestGroups(t *testing.T) {
	for _, tt := range []struct {
		gid  uint32
		more []uint32
		want []uint32
	}{
		{5, nil, nil}, {5, []uint32{1, 2}, []uint32{1, 2, 5}}, {5, []uint32{1, 5}, []uint32{1, 5}}, {0, []uint32{1}, []uint32{1, 0}},
	} {
		if got := groups(&specs.User{GID: tt.gid, AdditionalGids: tt.more}); !slices.Equal(got, tt.want) {
			t.Errorf("gid %d groups %v: %v, want %v", tt.gid, tt.more, got, tt.want)
		}
	}
}

func TestSearchPath(t *testing.T) {
	for _, tt := range []struct {
		env  []string
		want string
	}{
		{nil, "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, {[]string{"PATH=/a"}, "/a"}, {[]string{"PATH=/a", "PATH=/b"}, "/b"}, {[]string{"PATH="}, ""},
	} {
		if got := searchPath(tt.env); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.env, got, tt.want)
		}
	}
}

func TestRlimitNumber(t *testing.T) {
	for name, want := range map[string]int{
		"RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE,
		"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK, "RLIMIT_RTTIME": unix.RLIMIT_RTTIME, "RLIMIT_STACK": unix.RLIMIT_STACK,
		"RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_NOPE": -1, "NOFILE": -1, "RLIMIT_": -1, "": -1,
	} {
		if got := rlimitNumber(name); got != want {
			t.Errorf("%s: %d, want %d", name, got, want)
		}
	}
}

// Engines look for these texts, see docs/cli.md.
func TestErrorTexts(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
		is   error
	}{
		{&NotExistError{ID: "web"}, `container "web": container does not exist`, fs.ErrNotExist},
		{&ExistsError{ID: "web"}, `container "web": container with given ID already exists`, fs.ErrExist},
		{&StatusError{"web", "start", Stopped}, `container "web": cannot start a container that has stopped`, nil},
		{&StatusError{"web", "start", Running}, `container "web": cannot start an already running container`, nil},
		{&StatusError{"web", "start", Paused}, `container "web": cannot start a container in the paused state`, nil},
		{&StatusError{"web", "kill", Stopped}, `container "web": container not running`, nil},
		{&StatusError{"web", "exec", Stopped}, `container "web": cannot exec in a stopped container`, nil},
		{&StatusError{"web", "exec", Paused}, `container "web": cannot exec in a paused container (use --ignore-paused to override)`, nil},
		{&StatusError{"web", "delete", Running}, `cannot delete container web that is not stopped: running`, nil},
		{&ExecError{"sh", syscall.ENOENT}, `exec: "sh": executable file not found in $PATH`, syscall.ENOENT},
		{&ExecError{"/x", syscall.ENOENT}, `exec: "/x": stat /x: no such file or directory`, syscall.ENOENT},
		{&ExecError{"/x", syscall.EACCES}, `exec: "/x": permission denied`, syscall.EACCES},
		{&ExecError{"/x", syscall.EISDIR}, `exec: "/x": is a directory`, syscall.EISDIR},
		{&ExecError{"/x", syscall.ENOEXEC}, `exec /x: exec format error`, syscall.ENOEXEC},
		{&ProcessError{ID: "web", Err: &ExecError{"sh", syscall.ENOENT}}, `container "web": unable to start container process: exec: "sh": executable file not found in $PATH`, syscall.ENOENT},
		{&UnsupportedError{Field: "linux.personality"}, "linux.personality: not supported", errors.ErrUnsupported},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("%T: %s, want %s", tt.err, got, tt.want)
		}
		if tt.is != nil && !errors.Is(tt.err, tt.is) {
			t.Errorf("%T is no %v", tt.err, tt.is)
		}
	}
	for errno, code := range map[syscall.Errno]int{syscall.ENOENT: 127, syscall.ENOTDIR: 127, syscall.EACCES: 126, syscall.EISDIR: 126, syscall.ENOEXEC: 126} {
		if got := (&ExecError{"x", errno}).ExitCode(); got != code {
			t.Errorf("%v: exit status %d, want %d", errno, got, code)
		}
	}
}

func TestStepFailure(t *testing.T) {
	other := errors.New("other")
	if got := stepFailure(other); got != other {
		t.Errorf("%v", got)
	}
	var e *ExecError
	if got := stepFailure(&initprog.StepError{Phase: phaseExec, Object: "sh", Err: syscall.ENOENT}); !errors.As(got, &e) || e.Name != "sh" {
		t.Errorf("%v", got)
	}
	got := stepFailure(&initprog.StepError{Phase: phaseCwd, Object: "/x", Err: syscall.ENOTDIR})
	if fmt.Sprint(got) != `chdir to cwd ("/x") set in config.json failed: not a directory` {
		t.Errorf("%v", got)
	}
}

func TestExitCode(t *testing.T) {
	for ws, want := range map[syscall.WaitStatus]int{0: 0, 7 << 8: 7, 255 << 8: 255, 9: 137, 15: 143, 11 | 0x80: 139} {
		if got := ExitCode(ws); got != want {
			t.Errorf("%#x: %d, want %d", int(ws), got, want)
		}
	}
}
