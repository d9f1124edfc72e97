package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

// A container in the background: its log, its end by the image's signal, and
// what is left of it.
func TestRootImageDetached(t *testing.T) {
	h := imageSetup(t)
	rootfs := testenv.Rootfs(t)
	h.must("image", "import", "--quiet", "--change", "STOPSIGNAL SIGUSR1", rootfs, "base")
	h.must("image", "import", "--quiet", rootfs, "plain")
	const loop = "exec 2>&1; echo out; echo err >&2; while :; do sleep 1000 & wait $!; done"
	id := h.id()
	if got := h.must("run", "--detach", "--image", "base", id, "sh", "-c", `trap "echo stopped; exit 3" USR1; trap "" TERM; `+loop); got != "" {
		t.Errorf("run --detach says %q", got)
	}
	if s := h.status(id); s != "running" {
		t.Errorf("status %q", s)
	}
	eventually(t, "the log has both lines", func() bool { return h.must("logs", id) == "out\nerr\n" })

	// One that follows ends with the container, and has all of it.
	follower := testenv.Command(t, h.command("logs", "-f", id)...)
	r, w := pipe(t)
	follower.Stdout = w
	if err := follower.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	next := func(want string) {
		t.Helper()
		buf := make([]byte, len(want))
		if n, err := io.ReadFull(r, buf); err != nil || string(buf) != want {
			t.Errorf("logs -f: %q, %v, want %q", buf[:n], err, want)
		}
	}
	next("out\nerr\n")
	h.must("kill", id) // SIGUSR1
	h.waitStatus(id, "stopped")
	next("stopped\n")
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("logs -f after the end: %d, %v", n, err)
	}
	if err := follower.Wait(); err != nil {
		t.Errorf("logs -f: %v", err)
	}
	if got := h.must("logs", id); got != "out\nerr\nstopped\n" {
		t.Errorf("the log of a stopped container: %q", got)
	}
	if got := h.must("logs", "--follow", id); got != "out\nerr\nstopped\n" {
		t.Errorf("logs --follow of a stopped container: %q", got)
	}
	h.must("delete", id)
	h.clean("deleted")
	if r := h.do("logs", id); r.Code == 0 || !strings.Contains(r.Stderr, "does not exist") {
		t.Errorf("logs of no container: %+v", r)
	}

	// Without a signal of the image's it is TERM; and a signal that is given is
	// sent as given.
	id = h.id()
	h.must("run", "-d", "--image", "plain", id, "sh", "-c", `trap "echo term; exit" TERM; `+loop)
	eventually(t, "it runs", func() bool { return h.must("logs", id) == "out\nerr\n" })
	h.must("kill", id)
	eventually(t, "TERM arrives", func() bool { return h.must("logs", id) == "out\nerr\nterm\n" })
	id = h.id()
	h.must("run", "-d", "--image", "base", id, "sh", "-c", `trap "echo usr1" USR1; trap "echo hup; exit" HUP; `+loop)
	eventually(t, "it runs", func() bool { return h.must("logs", id) == "out\nerr\n" })
	h.must("kill", id, "HUP")
	eventually(t, "HUP arrives", func() bool { return h.must("logs", id) == "out\nerr\nhup\n" })
	h.waitStatus(id, "stopped")

	// Only a detached container of an image has a log.
	id = h.id()
	h.must("create", "--image", "base", id, "true")
	if r := h.do("logs", id); r.Code == 0 || !strings.Contains(r.Stderr, "keeps no log") {
		t.Errorf("logs without a log: %+v", r)
	}
	// Its input is empty, unless asked for.
	id = h.id()
	h.must("run", "-d", "--image", "base", id, "sh", "-c", "readlink /proc/self/fd/0; cat; echo end")
	eventually(t, "cat ends", func() bool { return h.must("logs", id) == "/dev/null\nend\n" })
}

// Create, start, exec and delete, with an image in place of a bundle.
func TestRootImageCreateStart(t *testing.T) {
	h := imageSetup(t).base()
	dir := t.TempDir()
	id := h.id()
	h.must("create", "--image", "base", "-v", dir+":/out", "-e", "A=b", "-w", "/tmp", id, "sh", "-c", "echo ran > /out/ran; echo mine > /mine; while :; do sleep 1000; done")
	if s := h.status(id); s != "created" {
		t.Errorf("status %q", s)
	}
	if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil {
		t.Error("it ran before start")
	}
	h.must("start", id)
	eventually(t, "it runs", func() bool { _, err := os.Stat(filepath.Join(dir, "ran")); return err == nil })
	eventually(t, "the file is there", func() bool { return h.do("exec", id, "cat", "/mine").Stdout == "mine\n" })
	if got := h.must("exec", id, "sh", "-c", "pwd; echo $A; cat /proc/1/comm; echo more >> /mine"); got != "/tmp\nb\nsh\n" {
		t.Errorf("exec: %q", got)
	}
	if got := h.must("exec", id, "grep", "Seccomp:", "/proc/self/status"); !strings.HasSuffix(got, "2\n") {
		t.Errorf("exec without the filter: %q", got)
	}
	if got := h.must("exec", "--user", "1000", id, "id", "-u"); got != "1000\n" {
		t.Errorf("exec as a user: %q", got)
	}
	// Another one from the same image stands on the same layers and sees
	// nothing of the first one's.
	other := h.id()
	if got := h.do("run", "--image", "base", other, "cat", "/mine"); got.Code != 1 {
		t.Errorf("the second container sees the first one's file: %+v", got)
	}
	if layers, snaps := h.entries("overlay/layers"), h.entries("overlay/snapshots"); len(layers) != 1 || len(snaps) != 2 {
		t.Errorf("layers %v, snapshots %v", layers, snaps)
	}
	// What is written is small: the files of the image are not copied.
	var written int64
	for _, s := range h.entries("overlay/snapshots") {
		_ = filepath.Walk(filepath.Join(h.store, "overlay/snapshots", s), func(_ string, info os.FileInfo, err error) error {
			if err == nil && info.Mode().IsRegular() {
				written += info.Size()
			}
			return nil
		})
	}
	if written > 64<<10 {
		t.Errorf("the snapshots hold %d bytes", written)
	}
	if r := h.do("delete", id); r.Code == 0 {
		t.Errorf("delete of a running container: %+v", r)
	}
	h.clean("refused to delete")
	func() {
		defer reapContainers(t)()
		h.must("delete", "--force", id)
	}()
	h.must("delete", other)
	h.clean("deleted")
	h.must("create", "--image", "base", id, "true") // the ID is free again
}

// explain tells everything and changes nothing.
func TestRootImageExplain(t *testing.T) {
	h := imageSetup(t).base()
	before := imageTree(t, h.store)
	for _, args := range [][]string{{"explain", "--image", "base"}, {"explain", "--image", "base", "--program", "ID", "sh"}, {"explain", "--image", "base", "-u", "user", "-v", "/etc:/x:ro", "--", "ls"}} {
		got := h.must(args...)
		if !strings.Contains(got, "attach the prepared root file system") || !strings.Contains(got, "Nothing was touched") || !strings.Contains(got, "load a system call filter") {
			t.Errorf("%q: %q", args, got)
		}
	}
	if got := h.must("explain", "--image", "base", "-u", "user", "--", "ls"); !strings.Contains(got, "become uid 1000 gid 1000 groups [1000 29]") || !strings.Contains(got, "find ls in PATH") {
		t.Errorf("explain: %q", got)
	}
	if after := imageTree(t, h.store); after != before {
		t.Errorf("the store has changed:\n%s\nbefore:\n%s", after, before)
	}
	if left, _ := os.ReadDir(h.root); len(left) > 0 {
		t.Errorf("the state directory has %v", left)
	}
}

// imageTree lists a directory tree with sizes and times of change.
func imageTree(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil {
			fmt.Fprintln(&b, path, info.Size(), info.ModTime().UnixNano(), info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// The image goes while a container uses it: the container's layers stay until it
// is gone, too.
func TestRootImageRemoveInUse(t *testing.T) {
	h := imageSetup(t).base()
	id := h.id()
	h.must("run", "--detach", "--image", "base", id, "sh", "-c", "while ! [ -e /go ]; do sleep 0.01; done; cat /etc/passwd | head -1; exec sleep 1000")
	r := h.do("image", "rm", "base")
	if r.Code == 0 || !strings.Contains(r.Stderr, `image "base" is in use by `+id+"\n") || !strings.Contains(r.Stderr, "--force") {
		t.Errorf("rm of an image in use: %+v", r)
	}
	h.must("image", "tag", "base", "second") // with another name, nothing is lost
	h.must("image", "rm", "second")
	h.must("image", "rm", "--force", "base")
	if r := h.do("run", "--pull", "never", "--image", "base", h.id(), "true"); r.Code == 0 || !strings.Contains(r.Stderr, "hint: ") {
		t.Errorf("run of a removed image: %+v", r)
	}
	h.must("exec", id, "touch", "/go")
	eventually(t, "it can read its files", func() bool { return strings.HasPrefix(h.must("logs", id), "root:x:0:0") })
	if l := h.entries("overlay/layers"); len(l) != 1 {
		t.Errorf("layers %v", l)
	}
	h.must("image", "gc")
	if got := h.must("exec", id, "ls", "/bin/busybox"); got != "/bin/busybox\n" {
		t.Errorf("after gc: %q", got)
	}
	func() {
		defer reapContainers(t)()
		h.must("delete", "--force", id)
	}()
	h.must("image", "gc")
	if l, b := h.entries("overlay/layers"), h.entries("blobs/sha256"); len(l)+len(b) > 0 {
		t.Errorf("left: layers %v, blobs %v", l, b)
	}
	h.clean("gc")
}

// Of two images with the same layers a container keeps the one that it was made from,
// and that alone.
func TestRootImageRemoveInUse_SameLayers(t *testing.T) {
	h := imageSetup(t).base()
	box := h.id()
	h.must("run", "--image", "base", box, "true")
	h.must("commit", "--pause=false", "--change", "ENV A=b", box, "other")
	h.must("delete", box)
	// A layer without a file is none, so both have the same.
	first, second := h.id(), h.id()
	h.must("create", "--image", "base", first)
	h.must("create", "--image", "other", second)
	users := func(image string) string {
		var all []struct{ Containers []string }
		if err := json.Unmarshal([]byte(h.must("image", "inspect", image)), &all); err != nil || len(all) != 1 {
			t.Fatalf("inspect %s: %d images, %v", image, len(all), err)
		}
		return strings.Join(all[0].Containers, " ")
	}
	if got := users("base") + "," + users("other"); got != first+","+second {
		t.Errorf("containers %q, want %q", got, first+","+second)
	}
	for image, id := range map[string]string{"base": first, "other": second} {
		if r := h.do("image", "rm", image); r.Code == 0 || !strings.Contains(r.Stderr, "in use by "+id+"\n") {
			t.Errorf("rm of %s: %+v", image, r)
		}
	}
	h.must("delete", first)
	h.must("image", "rm", "base")
	h.must("commit", second, "third")
	h.must("delete", second)
	h.must("image", "rm", "other", "third")
	h.must("image", "gc")
	h.clean("all removed")
}

// The store is lost, or moved: what it held of a container is gone with it, and
// the container can still be deleted.
func TestRootImageStoreGone(t *testing.T) {
	h := imageSetup(t).base()
	running, stopped := h.id(), h.id()
	h.must("run", "--detach", "--image", "base", running, "sleep", "1000")
	h.must("run", "--image", "base", stopped, "true")
	if err := os.RemoveAll(h.store); err != nil {
		t.Fatal(err)
	}
	if got := h.status(running) + h.status(stopped); got != "runningstopped" {
		t.Errorf("status %q", got)
	}
	h.must("delete", stopped)
	func() {
		defer reapContainers(t)()
		h.must("delete", "--force", running)
	}()
	if _, err := os.Lstat(h.store); err == nil {
		t.Error("delete has made the store anew")
	}
	h.clean("deleted")
}

// Two state directories and one store: the same ID in both is two containers,
// with a snapshot each.
func TestRootImageTwoRoots(t *testing.T) {
	h := imageSetup(t).base()
	id := h.id()
	second := t.TempDir()
	run := func(root string, args ...string) testenv.Result {
		return testenv.Run(t, append([]string{"--root", root, "--store", h.store}, args...)...)
	}
	// Stopped containers have no cgroup's processes in the other one's way.
	if r := run(h.root, "run", "--image", "base", id, "sh", "-c", "echo first > /who"); r.Code != 0 {
		t.Fatalf("first: %+v", r)
	}
	if r := run(second, "run", "--image", "base", id, "sh", "-c", "cat /who; echo second"); r.Code != 0 || r.Stdout != "second\n" {
		t.Errorf("second: %+v", r)
	}
	if s := h.entries("overlay/snapshots"); len(s) != 2 || s[0] == s[1] {
		t.Fatalf("snapshots %v", s)
	}
	if r := run(second, "run", "--image", "base", id); r.Code == 0 || len(h.entries("overlay/snapshots")) != 2 {
		t.Errorf("the second one again: %+v, snapshots %v", r, h.entries("overlay/snapshots"))
	}
	if r := run(second, "delete", id); r.Code != 0 {
		t.Errorf("delete the second: %+v", r)
	}
	h.clean("the second deleted")
	upper := filepath.Join(h.store, "overlay/snapshots", h.entries("overlay/snapshots")[0], "upper/who")
	if got := readFile(t, upper); got != "first\n" {
		t.Errorf("the first one's file: %q", got)
	}
}

// Many at once from one image, which has to be unpacked first: all of them run.
func TestRootImageTogether(t *testing.T) {
	h := imageSetup(t)
	h.must("image", "import", "--quiet", "--no-unpack", testenv.Rootfs(t), "base")
	const n = 6
	results := make(chan testenv.Result, n)
	for i := range n {
		id := h.id()
		go func() {
			results <- h.do("run", "--rm", "--image", "base", id, "sh", "-c", fmt.Sprintf("echo %d > /me; sleep 0.1; cat /me", i))
		}()
	}
	seen := map[string]bool{}
	for range n {
		r := <-results
		if r.Code != 0 {
			t.Errorf("%+v", r)
		}
		seen[r.Stdout] = true
	}
	if len(seen) != n {
		t.Errorf("%d different answers of %d: %v", len(seen), n, seen)
	}
	if l := h.entries("overlay/layers"); len(l) != 1 {
		t.Errorf("layers %v", l)
	}
}

// A signal to run --rm reaches the container; killed itself, it leaves one that
// can be deleted.
func TestRootImageRunSignals(t *testing.T) {
	h := imageSetup(t).base()
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGKILL} {
		id := h.id()
		cmd := testenv.Command(t, h.command("run", "--rm", "--image", "base", id, "sh", "-c", `trap "exit 42" TERM INT; echo ready; while :; do sleep 1000 & wait $!; done`)...)
		r, w := pipe(t)
		cmd.Stdout = w
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		w.Close()
		if _, err := r.Read(make([]byte, 16)); err != nil {
			t.Fatal(err)
		}
		signalPid(t, cmd.Process.Pid, sig)
		_ = cmd.Wait()
		if sig != unix.SIGKILL {
			if code := cmd.ProcessState.ExitCode(); code != 42 {
				t.Errorf("%v: exit status %d", sig, code)
			}
			h.clean(sig.String())
			continue
		}
		if s := h.status(id); s != "running" {
			t.Errorf("its minirun killed, the container is %q", s)
		}
		stop := reapContainers(t)
		h.must("delete", "--force", id)
		stop()
		h.clean(sig.String())
	}
}
