package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

// imageHammer is a store that commands are interrupted on, and what they work with.
// At rest it has the images of keep and nothing else.
type imageHammer struct {
	*imageHost
	r        *rand.Rand
	src      *pullSource
	one, two string // archives
	dir      string
	id       string           // of a container that runs
	disk     map[string]int64 // files of the store at rest
	calls    int              // system calls of the last traced command
	round    int
}

// hammerOp is a command that changes the store, or reads all of it.
type hammerOp struct {
	name   string
	before func()
	args   []string
	makes  string // the image that is there when it is through
	takes  string // the one that is not
	check  func(what string)
}

// newImageHammer fills a store.
func newImageHammer(t *testing.T, h *imageHost, seed uint64) *imageHammer {
	x := &imageHammer{imageHost: h, r: rand.New(rand.NewPCG(seed, 5)), src: newPullSource(t, 300<<10), dir: t.TempDir()}
	x.one, x.two = faultImages(t)
	return x
}

// rest makes what the store has at rest, and a container that has changed something.
func (x *imageHammer) rest() {
	x.t.Helper()
	x.base().must("image", "load", "--quiet", x.one)
	x.id = x.background("mkdir /made; echo x > /made/f; rm /bin/cat")
}

var hammerRest = []string{"base", "one"}

func (x *imageHammer) ops() []hammerOp {
	two := func() { x.must("image", "load", "--quiet", x.two) }
	pushed := fmt.Sprintf("test/pushed%d", x.round) // where nothing is
	out := filepath.Join(x.dir, "saved.tar")
	nothing := func() {}
	return []hammerOp{
		{name: "pull", before: nothing, args: []string{"pull", "--progress", "none", x.src.name}, makes: x.src.name},
		{name: "load", before: nothing, args: []string{"image", "load", "--quiet", x.two}, makes: "two"},
		{name: "commit", before: nothing, args: []string{"commit", "--quiet", x.id, "committed"}, makes: "committed", check: func(what string) {
			eventually(x.t, what+": the container runs again", func() bool { return x.status(x.id) == "running" })
		}},
		{name: "gc", before: func() { two(); x.forget("two") }, args: []string{"image", "gc", "--quiet"}, takes: "two"},
		{name: "import", before: nothing, args: []string{"image", "import", "--quiet", x.dir + "/files", "imported"}, makes: "imported"},
		{name: "unpack", before: func() { x.must("image", "load", "--quiet", "--no-unpack", x.two) }, args: []string{"image", "unpack", "--quiet", "two"}, makes: "two"},
		{name: "save", before: func() { _ = os.Remove(out) }, args: []string{"image", "save", "--quiet", "--output", out, "one"}, check: func(what string) {
			if _, err := os.Lstat(out); err == nil { // so it is whole
				x.must("image", "load", "--quiet", "--no-unpack", out)
			}
			left, err := filepath.Glob(filepath.Join(x.dir, ".*"))
			if err != nil || len(left) > 1 { // between linkat(2) and rename(2)
				x.t.Errorf("%s: beside the archive: %q, %v", what, left, err)
			}
			for _, name := range left {
				_ = os.Remove(name)
			}
		}},
		{name: "push", before: nothing, args: []string{"push", "--progress", "none", "one", x.src.Host() + "/" + pushed + ":v1"}, check: func(what string) {
			if _, _, ok := x.src.Manifest(pushed, "v1"); ok {
				x.complete(what, pushed)
			}
		}},
		{name: "tag", before: nothing, args: []string{"image", "tag", "one", "new"}, makes: "new"},
		{name: "rm", before: two, args: []string{"image", "rm", "two"}, takes: "two"},
	}
}

// complete wants an image in a repository of the registry to have all its blobs.
func (x *imageHammer) complete(what, repo string) {
	x.t.Helper()
	_, b, ok := x.src.Manifest(repo, "v1")
	var m struct{ Layers []struct{ Digest string } }
	if err := json.Unmarshal(b, &m); !ok || err != nil || len(m.Layers) == 0 {
		x.t.Errorf("%s: the registry has the manifest %q, %v", what, b, err)
	}
	for _, l := range m.Layers {
		if _, ok := x.src.Blob(repo, l.Digest); !ok {
			x.t.Errorf("%s: the registry has the manifest without the layer %s", what, l.Digest)
		}
	}
}

// noProcess fails the test unless every process that works on the store is gone.
func (x *imageHammer) noProcess(what string) {
	x.t.Helper()
	var left string
	gone := func() bool {
		lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, path := range lines {
			raw, _ := os.ReadFile(path)
			if strings.Contains(string(raw), x.store+"\x00") || strings.Contains(string(raw), x.root+"\x00") {
				left = path + " " + strings.ReplaceAll(string(raw), "\x00", " ")
				return false
			}
		}
		return true
	}
	deadline := time.Now().Add(testenv.Timeout(20 * time.Second))
	for !gone() {
		if time.Now().After(deadline) {
			x.t.Fatalf("%s: a process is left: %s", what, left)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// fetched is how much of the registry's image is in the store: whole blobs, and what
// an interrupted transfer has of others.
func (x *imageHammer) fetched() (n int64) {
	var st unix.Stat_t
	for digest, size := range x.src.sizes {
		hex := strings.TrimPrefix(digest, "sha256:")
		if unix.Lstat(filepath.Join(x.store, "blobs/sha256", hex), &st) == nil {
			n += size
		} else if unix.Lstat(filepath.Join(x.store, "partial/sha256-"+hex), &st) == nil {
			n += st.Size
		}
	}
	return n
}

// asked is how much of the image's blobs was asked for.
func (x *imageHammer) asked() (n int64) {
	x.t.Helper()
	for _, r := range x.src.Requests() {
		_, digest, blob := strings.Cut(r.Path, "/blobs/")
		if !blob || r.Method != "GET" {
			continue
		}
		from := int64(0)
		if r.Range != "" {
			if _, err := fmt.Sscanf(r.Range, "bytes=%d-", &from); err != nil {
				x.t.Errorf("range %q: %v", r.Range, err)
			}
		}
		n += x.src.sizes[digest] - from
	}
	return n
}

// sum checks the store after a command was interrupted: no image is damaged, what is
// used is what du says, and the next command works.
func (x *imageHammer) sum(what string, op hammerOp) {
	x.t.Helper()
	x.noProcess(what)
	if r := x.do("image", "fsck", "--quiet"); r.Code != 0 || r.Stdout != "" || r.Stderr != "" {
		x.t.Errorf("%s: fsck: %+v", what, r)
	}
	if got, want := strings.TrimSpace(x.must("image", "du", "--quiet")), strconv.FormatInt(x.diskUse(), 10); got != want {
		x.t.Errorf("%s: image du says %s, du %s", what, got, want)
	}
	if r := x.do(append([]string{"image", "verify"}, hammerRest...)...); r.Code != 0 {
		x.t.Errorf("%s: verify: %+v", what, r)
	}
	if op.check != nil {
		op.check(what)
	}
	have := x.fetched()
	x.src.Reset()
	if r := x.do(op.args...); r.Code != 0 && (op.takes == "" || !strings.Contains(r.Stderr, "does not exist")) {
		x.t.Errorf("%s: the same again: %+v", what, r)
	}
	switch {
	case op.name == "pull":
		if again := have + x.asked() - x.src.blobs; again > x.src.size {
			x.t.Errorf("%s: %d bytes were fetched twice, want at most %d, one blob", what, again, x.src.size)
		}
	case op.name == "push":
		x.complete(what, fmt.Sprintf("test/pushed%d", x.round))
	}
	if op.makes != "" {
		if r := x.do("image", "verify", op.makes); r.Code != 0 {
			x.t.Errorf("%s: %s: %+v", what, op.makes, r)
		}
		if op.name == "commit" {
			if r := x.do("run", "--rm", "--image", op.makes, x.imageHost.id(), "sh", "-c", "read x </made/f; echo $x; test -e /bin/cat || echo gone"); r.Stdout != "x\ngone\n" {
				x.t.Errorf("%s: run: %+v", what, r)
			}
		}
		x.must("image", "rm", op.makes)
	}
	x.atRest(what)
}

// atRest collects what was interrupted. Then nothing is left of it.
func (x *imageHammer) atRest(what string) {
	x.t.Helper()
	x.must("image", "gc", "--quiet")
	if r := x.do("image", "fsck"); r.Code != 0 || r.Stdout != "the store is in order\n" {
		x.t.Errorf("%s: fsck after gc: %+v", what, r)
	}
	x.clean(what)
	if files := x.files(); x.disk != nil && !maps.Equal(files, x.disk) {
		for path, n := range files {
			if x.disk[path] != n {
				x.t.Errorf("%s: %s has %d bytes, at rest it has %d", what, path, n, x.disk[path])
			}
			delete(x.disk, path)
		}
		x.t.Errorf("%s: the store is not as it is at rest; gone is %v", what, x.disk)
	}
	if left := x.entries("partial"); len(left) > 0 {
		x.t.Errorf("%s: partial has %q", what, left)
	}
}

// files are the sizes of all files of the store, -1 for what is none.
func (x *imageHammer) files() map[string]int64 {
	x.t.Helper()
	files := map[string]int64{}
	err := filepath.Walk(x.store, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		files[path] = -1
		if info.Mode().IsRegular() {
			files[path] = info.Size()
		}
		return nil
	})
	if err != nil {
		x.t.Fatal(err)
	}
	return files
}

// traced runs a command and kills it at the nth system call.
func (x *imageHammer) traced(n int, args []string) (reached bool) {
	x.t.Helper()
	done := make(chan error)
	argv := testenv.Command(x.t, x.command(args...)...).Args
	var text string
	code := 0
	go func() {
		runtime.LockOSThread()
		var err error
		code, reached, err = tracer{target: minirunItself, n: n, from: []uint64{unix.SYS_FLOCK, unix.SYS_MKDIRAT, sysMkdir}, stderr: &text, seen: &x.calls}.run(argv)
		done <- err
	}()
	if err := <-done; err != nil || code != 0 && !reached {
		x.t.Fatalf("trace %q: %v, exit status %d, %s", argv, err, code, text)
	}
	return reached
}

// hit runs the command and kills it at a random point: at a system call, or after
// some time.
func (x *imageHammer) hit(op hammerOp, calls int, took time.Duration) (what string, killed bool) {
	x.t.Helper()
	if x.round/len(x.ops())%2 == 0 {
		n := 1 + x.r.IntN(calls+calls/20)
		return fmt.Sprintf("%s killed at call %d of %d", op.name, n, calls), x.traced(n, op.args)
	}
	after := time.Duration(x.r.Int64N(int64(took + took/20)))
	cmd := testenv.Command(x.t, x.command(op.args...)...)
	if err := cmd.Start(); err != nil {
		x.t.Fatal(err)
	}
	time.Sleep(after)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	return fmt.Sprintf("%s killed after %v of %v", op.name, after, took), cmd.ProcessState.ExitCode() == -1
}

// hammerCount is a number from the environment.
func hammerCount(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: want a number", name, text)
	}
	return n
}

// Pull, load, commit, gc and the other commands of images are killed at random
// points. After each no image is damaged, the next command works, at most one blob is
// fetched again, and what is left goes with gc to the last byte. make hammer-images
// does it 1,000 times.
func TestRootImageHammer(t *testing.T) {
	h := imageSetup(t)
	rounds := hammerCount(t, "MINIRUN_TEST_HAMMER_IMAGES", 30)
	seed := rand.Uint64()
	t.Logf("%d rounds, seed %d", rounds, seed)
	x := newImageHammer(t, h, seed)
	if err := os.CopyFS(x.dir+"/files", os.DirFS(testenv.Rootfs(t))); err != nil {
		t.Fatal(err)
	}
	x.rest()
	ops := x.ops()
	calls, took := make([]int, len(ops)), make([]time.Duration, len(ops))
	for i, op := range ops { // each to its end: how long is it?
		x.round = 0
		op.before()
		start := time.Now()
		x.must(op.args...)
		took[i] = time.Since(start)
		undo := func() {
			if op.makes != "" {
				x.must("image", "rm", op.makes)
			}
		}
		undo()
		x.round = 1
		op = x.ops()[i]
		op.before()
		if x.traced(1<<30, op.args) {
			t.Fatal("killed")
		}
		calls[i] = x.calls
		undo()
	}
	x.src.Reset()
	x.atRest("at the beginning")
	x.disk = x.files()
	killed := map[string]int{}
	for n := range rounds {
		x.round = 20 + n
		i := n % len(ops)
		op := x.ops()[i]
		op.before()
		what, hit := x.hit(op, calls[i], took[i])
		if hit {
			killed[op.name]++
		}
		x.sum(fmt.Sprintf("round %d, %s", n, what), op)
		if t.Failed() {
			t.FailNow()
		}
	}
	sum := 0
	for _, n := range killed {
		sum += n
	}
	t.Logf("%d of %d commands were killed before their end: %v", sum, rounds, killed)
	if sum < rounds/3 {
		t.Errorf("only %d of %d commands were killed before their end", sum, rounds)
	}
}
