package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/minirun/minirun/internal/testenv"
)

// The ordinary user of the tests. The machine does not know it: its lines in
// /etc/passwd and /etc/subuid are bound over the machine's, in a mount namespace
// of each command.
const (
	userID    = 54321
	userFirst = 600000 // first of its subordinate ids
)

// userBox is a container of an ordinary user.
type userBox struct {
	t           testing.TB
	id, bundle  string
	dir         string // the user's own
	root        string // state root
	cgroup      string // directory of the group to start minirun in, or none
	env         []string
	subordinate string // /etc/subuid and /etc/subgid

	via func(args []string) *exec.Cmd // becomes the user in another way
}

// newUserBox makes a bundle of the user: what minirun spec --rootless has, with
// the id maps given, or with the user's own id alone.
func newUserBox(t testing.TB, maps []specs.LinuxIDMapping, mutate ...func(*specs.Spec)) *userBox {
	t.Helper()
	u := &userBox{t: t, id: testenv.UniqueID(t), subordinate: "tester:600000:65536\n"}
	if maps == nil {
		maps = []specs.LinuxIDMapping{{ContainerID: 0, HostID: userID, Size: 1}}
	}
	u.bundle = testenv.Bundle(t, func(s *specs.Spec) {
		s.Linux.CgroupsPath, s.Linux.Resources = "", &specs.LinuxResources{}
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		s.Linux.UIDMappings, s.Linux.GIDMappings = maps, maps
		forever(s)
		for _, m := range mutate {
			m(s)
		}
	})
	u.dir = u.bundle + "/user"
	u.root = u.dir + "/state"
	for _, d := range []string{u.dir, u.root} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(d, userID, userID); err != nil {
			t.Fatal(err)
		}
	}
	// Every directory on the way, and the program, are for everybody.
	for d := u.bundle; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(u.bin(), []byte(readFile(t, testenv.Binary(t))), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer reapContainers(t)()
		if r := u.do("delete", "--force", u.id); r.Code != 0 {
			t.Errorf("delete --force at the end of the test: %+v", r)
		}
	})
	return u
}

func (u *userBox) bin() string { return u.bundle + "/minirun" }

// command runs a program as the user.
func (u *userBox) command(args ...string) testenv.Result {
	u.t.Helper()
	var cmd *exec.Cmd
	if u.via != nil {
		cmd = u.via(args)
	} else {
		argv := u.argv(args...)
		cmd = exec.Command(argv[0], argv[1:]...)
	}
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), u.env...)
	return testenv.RunCmd(u.t, cmd)
}

// argv is a command that becomes the program, as the user.
func (u *userBox) argv(args ...string) []string {
	u.t.Helper()
	etc := u.bundle
	writeFile(u.t, etc+"/passwd", "root:x:0:0::/:/bin/sh\ntester:x:"+strconv.Itoa(userID)+":"+strconv.Itoa(userID)+"::/:/bin/sh\n")
	writeFile(u.t, etc+"/subid", u.subordinate)
	script := `set -e
[ -z "$2" ] || echo $$ > "$2"/cgroup.procs
[ -e /etc/subuid ] || : > /etc/subuid
[ -e /etc/subgid ] || : > /etc/subgid
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/subid" /etc/subuid
mount --bind "$1/subid" /etc/subgid
uid=$3
shift 3
exec setpriv --reuid "$uid" --regid "$uid" --clear-groups "$@"`
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		u.t.Fatal(err)
	}
	return append([]string{unshare, "-m", "--propagation", "private", "sh", "-c", script, "sh", etc, u.cgroup, strconv.Itoa(userID)}, args...)
}

// do runs minirun as the user.
func (u *userBox) do(args ...string) testenv.Result {
	u.t.Helper()
	return u.command(append([]string{u.bin(), "--root", u.root}, args...)...)
}

func (u *userBox) must(args ...string) string {
	u.t.Helper()
	r := u.do(args...)
	if r.Code != 0 || r.Stderr != "" {
		u.t.Fatalf("minirun %q as a user: %+v", args, r)
	}
	return r.Stdout
}

func (u *userBox) up(flags ...string) *userBox {
	u.t.Helper()
	u.must(append(append([]string{"create"}, flags...), "--bundle", u.bundle, u.id)...)
	u.wantStatus("created")
	u.must("start", u.id)
	u.wantStatus("running")
	return u
}

func (u *userBox) wantStatus(want string) {
	u.t.Helper()
	if s := u.must("state", u.id); !strings.Contains(s, `"status": "`+want+`"`) && !strings.Contains(s, `"status":"`+want+`"`) {
		u.t.Fatalf("want status %s, got %s", want, s)
	}
}

func (u *userBox) refused(texts ...string) {
	u.t.Helper()
	r := u.do("run", "--bundle", u.bundle, u.id)
	for _, want := range texts {
		if r.Code != 1 || !strings.Contains(r.Stderr, want) {
			u.t.Errorf("got %+v, want an error with %q", r, want)
		}
	}
	if left, _ := os.ReadDir(u.root); len(left) > 0 {
		u.t.Errorf("a refused container has left %v", left)
	}
}

// share removes namespaces: the container has those of the host.
func share(kinds ...specs.LinuxNamespaceType) func(*specs.Spec) {
	return func(s *specs.Spec) {
		kept := s.Linux.Namespaces[:0]
		for _, n := range s.Linux.Namespaces {
			keep := true
			for _, k := range kinds {
				keep = keep && n.Type != k
			}
			if keep {
				kept = append(kept, n)
			}
		}
		s.Linux.Namespaces = kept
	}
}
