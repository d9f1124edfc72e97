package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/testenv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mounts runs minirun mounts with the list on standard input.
func (b *ociBox) mounts(verb string, list ...specs.Mount) testenv.Result {
	b.t.Helper()
	raw, err := json.Marshal(list)
	if err != nil {
		b.t.Fatal(err)
	}
	cmd := testenv.Command(b.t, "mounts", verb, b.id, "-")
	cmd.Stdin = strings.NewReader(string(raw))
	return testenv.RunCmd(b.t, cmd)
}

func (b *ociBox) info() map[string]mountLine {
	b.t.Helper()
	return mountsIn(b.execOut("cat", "/proc/self/mountinfo"))
}

// Mounts of all kinds come and go in a container that runs, with and without a
// user namespace, waits for start, or is paused.
func TestRootMountsLive(t *testing.T) {
	setup(t)
	source := idmapSource(t)
	for _, tt := range []struct {
		name string
		box  func(*specs.Spec)
		file string // owner of a file of user 5 and group 6
		deep string // and with mapped ids
	}{{"plain", func(*specs.Spec) {}, "5:6", "7:8"}, {"user namespace", withUser, "65534:65534", "5:6"}} {
		b := newBox(t, forever, writable, tt.box)
		b.places("new", "m", "m/ro", "m/id", "m/all", "m/tmp", "m/cu", "m/sys")
		writeFile(t, b.rootfs("m/file"), "covered\n")
		writeFile(t, b.rootfs("m/cu/copied"), "copied\n")
		if err := os.Chmod(b.rootfs("new"), 0o777); err != nil {
			t.Fatal(err)
		}
		b.create()
		mapping := specs.Mount{Destination: "/m/id", Source: source, Options: []string{"bind", "idmap"}}
		if tt.name == "plain" {
			mapping.UIDMappings, mapping.GIDMappings = mapped(5, 7, 1), mapped(6, 8, 1)
		}
		list := []specs.Mount{
			{Destination: "/m/ro", Source: source, Options: []string{"bind", "ro", "nosuid"}},
			{Destination: "/m/all", Source: source, Options: []string{"rbind", "rro"}},
			mapping,
			{Destination: "/m/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=64k", "mode=1777"}},
			{Destination: "/m/cu", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}},
			{Destination: "/m/file", Source: filepath.Join(source, "f"), Options: []string{"bind"}},
			{Destination: "new/deep/dir", Source: source, Options: []string{"bind"}},
			{Destination: "/new/deep/dir/below", Type: "tmpfs", Source: "over", Options: []string{"size=4k"}},
		}
		if r := b.mounts("add", list...); r.Code != 0 || r.Stdout+r.Stderr != "" {
			t.Fatalf("%s: add to a created container: %+v", tt.name, r)
		}
		b.must("start")
		m := b.info()
		for place, want := range map[string]string{
			"/m/ro": "ro nosuid", "/m/all": "ro", "/m/all/below": "ro", "/m/id": "rw idmapped", "/m/tmp": "rw", "/m/cu": "rw", "/m/file": "rw",
			"/new/deep/dir": "rw", "/new/deep/dir/below": "rw",
		} {
			for _, o := range strings.Fields(want) {
				if !strings.Contains(","+strings.Join(m[place].options, ",")+",", ","+o+",") {
					t.Errorf("%s: %s: options %v, want %s", tt.name, place, m[place].options, want)
				}
			}
		}
		want := tt.file + "\n" + tt.deep + "\n" + tt.file + "\n" + tt.file + "\n0:0\ncopied\ncontent\n"
		if got := b.execOut("sh", "-c", "stat -c %u:%g /m/ro/f /m/id/f /m/all/below/f /m/file /m/tmp; cat /m/cu/copied /m/file"); got != want {
			t.Errorf("%s: the container sees\n%swant\n%s", tt.name, got, want)
		}
		// What the host mounts below later arrives; what the container does not have
		// privileges for it has not gained.
		if m["/m/ro"].propagation != "" && m["/m/ro"].propagation != "master" {
			t.Errorf("%s: propagation %q", tt.name, m["/m/ro"].propagation)
		}
		for i := len(list) - 1; i >= 0; i-- {
			if r := b.mounts("remove", list[i]); r.Code != 0 {
				t.Errorf("%s: remove %s: %+v", tt.name, list[i].Destination, r)
			}
		}
		for place := range b.info() {
			if strings.HasPrefix(place, "/m/") || strings.HasPrefix(place, "/new") {
				t.Errorf("%s: %s is still there", tt.name, place)
			}
		}
		if got := b.execOut("cat", "/m/file"); got != "covered\n" {
			t.Errorf("%s: below the removed mount: %q", tt.name, got)
		}
		// Whole configurations are taken, too, and a mount in use is detached.
		file := filepath.Join(t.TempDir(), "config.json")
		raw, _ := json.Marshal(map[string]any{"mounts": []specs.Mount{list[3]}})
		writeFile(t, file, string(raw))
		for _, verb := range []string{"add", "remove"} {
			if r := testenv.Run(t, "mounts", verb, b.id, file); r.Code != 0 {
				t.Errorf("%s: %s from a file: %+v", tt.name, verb, r)
			}
		}
		if r := b.mounts("add", list[0], list[3]); r.Code != 0 {
			t.Errorf("%s: add again: %+v", tt.name, r)
		}
		stop := reapContainers(t)
		b.must("delete", "--force") // with mounts that nobody has removed
		stop()
		b.gone()
	}
}

// A frozen container gets its mounts, and finds them when it goes on.
func TestRootMountsLivePaused(t *testing.T) {
	setup(t)
	b := newBox(t, forever, writable).up()
	freeze := func(to string) {
		for _, root := range cgroupMounts() {
			dir := filepath.Join(root, b.cgroup)
			if _, err := os.Stat(filepath.Join(dir, "cgroup.freeze")); err == nil {
				writeFile(t, filepath.Join(dir, "cgroup.freeze"), to)
				eventually(t, "frozen "+to, func() bool {
					return strings.Contains(readFile(t, filepath.Join(dir, "cgroup.events")), "frozen "+to)
				})
			}
		}
	}
	freeze("1")
	b.wantStatus("paused")
	r := b.mounts("add", copyUpMount("/home"), specs.Mount{Destination: "/etc/x", Source: t.TempDir(), Options: []string{"bind"}})
	freeze("0")
	if r.Code != 0 {
		t.Errorf("%+v", r)
	}
	if m := b.info(); m["/home"].fstype != "tmpfs" || m["/etc/x"].fstype == "" {
		t.Errorf("%v", m)
	}
}

// What is refused, with the place in the list, before anything is mounted.
func TestRootMountsLiveRefused(t *testing.T) {
	setup(t)
	dir := t.TempDir()
	b := newBox(t, forever, writable, func(s *specs.Spec) { s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/home") }).up()
	if err := os.Symlink("tmp", b.rootfs("link")); err != nil {
		t.Fatal(err)
	}
	stopped := newBox(t).up().stopped()
	before := b.execOut("cat", "/proc/self/mountinfo")
	good := bindMount(dir, "/good")
	type row struct {
		verb  string
		list  []specs.Mount
		texts []string
	}
	for _, tt := range []row{
		{"add", []specs.Mount{good, {Type: "tmpfs"}}, []string{"mounts[1].destination"}},
		{"add", []specs.Mount{good, {Destination: "/x"}}, []string{"mounts[1].type", "/x"}},
		{"add", []specs.Mount{good, bindMount("/no/such", "/x")}, []string{"mounts[1].source", "/no/such", "no such file"}},
		{"add", []specs.Mount{good, bindMount(dir, "/x", "size=1")}, []string{"mounts[1].options", "size=1"}},
		{"add", []specs.Mount{good, bindMount(dir, "/x", "idmap")}, []string{"mounts[1].options", "idmap"}},
		{"add", []specs.Mount{good, bindMount(dir, "/proc/self")}, []string{"mounts[1].destination", "inside /proc"}},
		{"add", []specs.Mount{good, bindMount(dir, "/")}, []string{"mounts[1].destination", "root"}},
		{"add", []specs.Mount{good, bindMount("/proc", "/proc")}, []string{"mounts[1].destination", "masked"}},
		{"add", []specs.Mount{good, {Destination: "/x", Type: "proc"}}, []string{"mounts[1].type", "procfs"}},
		{"add", []specs.Mount{good, {Destination: "/x", Options: []string{"remount", "ro"}}}, []string{"mounts[1].options", "remount"}},
		{"remove", []specs.Mount{{Destination: "/"}}, []string{"mounts[0].destination"}},
		{"remove", []specs.Mount{{Destination: "/proc"}}, []string{"mounts[0].destination"}},
		{"remove", []specs.Mount{{Destination: "/proc/kcore"}}, []string{"mounts[0].destination"}},
		{"remove", []specs.Mount{{Destination: "/tmp/../proc/sys"}}, []string{"mounts[0].destination"}},
		{"remove", []specs.Mount{{Destination: "/sys/firmware"}}, []string{"mounts[0].destination", "maskedPaths"}},
		{"remove", []specs.Mount{{Destination: "/home"}}, []string{"mounts[0].destination", "maskedPaths[10]"}},
		{"remove", []specs.Mount{{Destination: "/dev/mqueue"}, {Destination: "/etc"}}, []string{"mounts[1].destination", "nothing is mounted there"}},
		{"remove", []specs.Mount{{Destination: "/link"}}, []string{"mounts[0].destination", "nothing is mounted there"}},
		{"remove", []specs.Mount{{Destination: "/link/x"}}, []string{"mounts[0].destination", "symbolic link"}},
		{"remove", []specs.Mount{{Destination: "/nothing"}}, []string{"mounts[0].destination", "no such file"}},
		{"remove", []specs.Mount{{}}, []string{"mounts[0].destination"}},
	} {
		r := b.mounts(tt.verb, tt.list...)
		if r.Code != 1 {
			t.Errorf("%s %v: %+v", tt.verb, tt.list, r)
		}
		for _, text := range tt.texts {
			if !strings.Contains(r.Stderr, text) {
				t.Errorf("%s %v: %q does not say %s", tt.verb, tt.list, r.Stderr, text)
			}
		}
	}
	if after := b.execOut("cat", "/proc/self/mountinfo"); after != before {
		t.Errorf("mounts have changed:\n%swere\n%s", after, before)
	}
	readonly := newBox(t, forever).up()
	if r := readonly.mounts("add", good); r.Code != 1 || !strings.Contains(r.Stderr, "/good") || !strings.Contains(r.Stderr, "read-only file system") {
		t.Errorf("read-only root: %+v", r)
	}
	if r := readonly.mounts("add", bindMount(dir, "/home/..//etc")); r.Code != 0 {
		t.Errorf("read-only root, a place that is there: %+v", r)
	}
	if r := stopped.mounts("add", good); r.Code != 1 || !strings.Contains(r.Stderr, "stopped") {
		t.Errorf("stopped: %+v", r)
	}
	if r := (&ociBox{t: t, id: testenv.UniqueID(t)}).mounts("remove", good); r.Code != 1 || !strings.Contains(r.Stderr, "does not exist") {
		t.Errorf("unknown: %+v", r)
	}
	for _, args := range [][]string{{}, {"add"}, {"add", b.id}, {"list", b.id, "-"}, {"add", b.id, "/no/such"}, {"add", b.id, "/dev/null"}} {
		if r := testenv.Run(t, append([]string{"mounts"}, args...)...); r.Code != 1 || r.Stderr == "" {
			t.Errorf("mounts %v: %+v", args, r)
		}
	}
}

// The container swaps the destination for links meanwhile. Nothing is mounted on
// the host, whatever becomes of the mount.
func TestRootAttackMountsLive(t *testing.T) {
	setup(t)
	for name, link := range map[string]func(canary string) string{
		"absolute": func(c string) string { return c },
		"relative": atRelative,
		"root":     func(string) string { return "/" },
		"magic":    func(c string) string { return "/proc/self/root" + c },
		"of init":  func(c string) string { return "/proc/1/root" + c },
	} {
		canary, volume, source := atNewCanary(t), t.TempDir(), t.TempDir()
		if err := os.MkdirAll(filepath.Join(volume, "x/sub"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(link(canary.dir), filepath.Join(volume, "y")); err != nil {
			t.Fatal(err)
		}
		b := newBox(t, forever, writable, func(s *specs.Spec) { s.Mounts = append(s.Mounts, bindMount(volume, "/v")) }).up()
		host := len(lines(readFile(t, "/proc/self/mountinfo")))
		stop := atRacer(t, volume, "x", "y")
		deadline := time.Now().Add(testenv.Timeout(300 * time.Millisecond))
		rounds := 0
		for ; rounds < 3 || time.Now().Before(deadline); rounds++ {
			b.mounts("add", bindMount(source, "/v/x"))
			b.mounts("add", bindMount(source, "/v/x/sub"))
			b.mounts("remove", specs.Mount{Destination: "/v/x/sub"})
			b.mounts("remove", specs.Mount{Destination: "/v/x"})
		}
		swaps := stop()
		canary.check()
		if now := len(lines(readFile(t, "/proc/self/mountinfo"))); now != host {
			t.Errorf("%s: %d mounts on the host, %d before", name, now, host)
		}
		b.wantStatus("running")
		if swaps < 100 {
			t.Errorf("%s: %d swaps in %d rounds: that is no race", name, swaps, rounds)
		}
		stopReap := reapContainers(t)
		b.must("delete", "--force")
		stopReap()
		b.gone()
	}
}

// The container makes the place that is to be unmounted another one: what hides
// and protects files of the host stays.
func TestRootAttackMountsRemove(t *testing.T) {
	setup(t)
	source := t.TempDir()
	b := newBox(t, forever, writable, func(s *specs.Spec) { s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/etc/passwd") }).up()
	if r := b.mounts("add", bindMount(source, "/a/firmware"), bindMount(filepath.Join(b.bundle, "config.json"), "/b/passwd")); r.Code != 0 {
		t.Fatal(r)
	}
	b.execOut("sh", "-c", "mv /a /c && ln -s /sys /a; mv /b /d && mv /etc /b")
	for place, source := range map[string]string{"/a/firmware": "", "/b/passwd": filepath.Join(b.bundle, "config.json")} {
		r := b.mounts("remove", specs.Mount{Destination: place, Source: source, Options: []string{"bind"}})
		if r.Code != 1 || !strings.Contains(r.Stderr, "symbolic link") && !strings.Contains(r.Stderr, "something else") {
			t.Errorf("remove %s: %+v", place, r)
		}
	}
	if m := b.info(); m["/sys/firmware"].fstype != "tmpfs" || m["/b/passwd"].fstype == "" {
		t.Errorf("a mask is gone: %v", m)
	}
	if r := b.mounts("remove", specs.Mount{Destination: "/c/firmware"}, specs.Mount{Destination: "/d/passwd"}); r.Code != 0 {
		t.Errorf("where they are now: %+v", r)
	}
}

// When one of several mounts fails those before it are taken back, also where the
// container has moved them, and in one that is paused.
func TestRootMountsLiveRollback(t *testing.T) {
	setup(t)
	source := idmapSource(t)
	for _, tt := range []struct {
		name string
		box  func(*specs.Spec)
	}{{"plain", func(*specs.Spec) {}}, {"user namespace", withUser}} {
		b := newBox(t, forever, writable, tt.box)
		b.places("m", "m/a", "m/a/sub", "m/all", "m/id", "m/cu")
		writeFile(t, b.rootfs("m/file"), "file\n")
		b.up()
		before := b.execOut("cat", "/proc/self/mountinfo")
		list := []specs.Mount{
			{Destination: "/m/a", Type: "tmpfs", Source: "tmpfs"},
			{Destination: "/m/a/sub", Source: source, Options: []string{"bind"}},
			{Destination: "/m/a/sub", Source: source, Options: []string{"bind", "ro"}}, // a second one at the same place
			{Destination: "/m/all", Source: source, Options: []string{"rbind"}},
			{Destination: "/m/id", Source: source, Options: []string{"bind"}, UIDMappings: mapped(5, 7, 1), GIDMappings: mapped(6, 8, 1)},
			{Destination: "/m/cu", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}},
			{Destination: "/m/file", Source: filepath.Join(source, "f"), Options: []string{"bind"}},
			{Destination: "/m/all", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=nonsense"}},
		}
		for _, paused := range []bool{false, true} {
			if paused {
				b.must("pause")
			}
			if r := b.mounts("add", list...); r.Code != 1 || !strings.Contains(r.Stderr, "size") || strings.Contains(r.Stderr, "taken back") {
				t.Errorf("%s: %+v", tt.name, r)
			}
			if paused {
				b.must("resume")
			}
			if after := b.execOut("cat", "/proc/self/mountinfo"); after != before {
				t.Errorf("%s: mounts have changed:\n%swere\n%s", tt.name, after, before)
			}
		}
		// Without the one that fails they are all added.
		if r := b.mounts("add", list[:len(list)-1]...); r.Code != 0 {
			t.Errorf("%s: %+v", tt.name, r)
		}
		if m := b.info(); m["/m/a/sub"].fstype == "" || m["/m/file"].fstype == "" || m["/m/cu"].fstype != "tmpfs" {
			t.Errorf("%s: %v", tt.name, m)
		}
	}
}

// minirun is killed at its system calls while it adds mounts. The container does
// not notice, and can be deleted.
func TestRootMountsLiveCrash(t *testing.T) {
	setup(t)
	source := t.TempDir()
	file := filepath.Join(t.TempDir(), "mounts")
	raw, _ := json.Marshal([]specs.Mount{{Destination: "/m", Source: source, Options: []string{"bind"}, UIDMappings: mapped(0, 1000, 9), GIDMappings: mapped(0, 1000, 9)}})
	writeFile(t, file, string(raw))
	b := newBox(t, forever, writable).up()
	points := 0
	for n := 1; ; n += 2 {
		_, reached := tracedRun(t, minirunItself, n, []uint64{unix.SYS_SOCKETPAIR}, "mounts", "add", b.id, file)
		b.wantStatus("running")
		if !reached {
			break
		}
		points++
	}
	if points < 5 {
		t.Errorf("only %d crash points", points)
	}
	// The same for the program that does it.
	for b.info()["/m"].fstype != "" { // one for each that was added before minirun was killed
		if r := b.mounts("remove", specs.Mount{Destination: "/m"}); r.Code != 0 {
			t.Fatalf("%+v", r)
		}
	}
	writeFile(t, file, `[{"destination":"/m","type":"tmpfs","source":"tmpfs"}]`)
	points = 0
	for n := 1; ; n++ {
		code, reached := tracedRun(t, containerInit, n, nil, "mounts", "add", b.id, file)
		b.wantStatus("running")
		if !reached {
			if code != 0 {
				t.Errorf("exit status %d", code)
			}
			break
		}
		if points++; code != 1 {
			t.Errorf("the program was killed at operation %d: exit status %d, want 1", n, code)
		}
		if m := b.info(); m["/m"].fstype != "" {
			t.Errorf("the program was killed at operation %d, and /m is mounted", n)
		}
	}
	if points < 10 {
		t.Errorf("only %d operations", points)
	}
	pid := b.pid()
	stop := reapContainers(t)
	b.must("delete", "--force")
	stop()
	b.gone()
	if alive(pid) {
		t.Error("process " + strconv.Itoa(pid) + " is still there")
	}
}
