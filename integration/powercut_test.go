package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minirun/minirun/integration/vm"
	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

// The test binary is the init of the guests that it boots.
func TestMain(m *testing.M) {
	launch()
	faultLaunch()
	vm.Reexec()
	os.Exit(m.Run())
}

const (
	powerDisk   = "/disk"
	powerExpect = "MINIRUN_TEST_POWER_EXPECT" // in the guest: what must be there
	powerSeed   = "MINIRUN_TEST_POWER_SEED"   // and for its choices; "" to check only
	powerFacts  = "MINIRUN_TEST_POWER_FACTS"  // what minirund ran, see rebootBefore
	powerWord   = "power:"                    // before a line for the host
	rebootWord  = "reboot:"                   // the same, of minirund
)

// errPower ends a guest.
var errPower = errors.New("the power is cut")

// A guest works with images on a disk of its own until its power is cut, which loses
// what its kernel and the disk had not written. The next one checks the store, and goes
// on: what a command had said to be done is there, nothing is damaged, every image
// works, and what was interrupted goes with gc. make hammer-images-vm cuts it 100 times.
// Beside that a minirund runs pods, and the next guest's has to make the best of it:
// what is wanted runs again, and what had ended is as it was; see rebootAfter.
func TestRootPowerCut(t *testing.T) {
	if dir, ok := os.LookupEnv(powerDevice); ok {
		powerFleetGuest(t, dir)
		return
	}
	if _, ok := os.LookupEnv(powerExpect); ok {
		powerGuest(t)
		return
	}
	testenv.RequireRoot(t)
	if runtime.GOARCH != "amd64" {
		t.Skipf("the virtual machine exists for amd64 only, this is %s", runtime.GOARCH)
	}
	testenv.CheckLeaks(t)
	testenv.Supervisor(t)
	cuts := hammerCount(t, "MINIRUN_TEST_POWER_CUTS", 1)
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 7))
	t.Logf("%d cuts, seed %d", cuts, seed)
	dir, err := os.MkdirTemp("", "minirun-test-power-") // short, for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	disk, err := vm.NewDisk(dir+"/disk", 2<<30)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	if cuts > 1 {
		disk.Close()
		powerFleet(t, dir, cuts, r)
		return
	}
	if out, err := exec.Command("/sbin/mkfs.ext4", "-q", "-F", disk.Path).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	state, facts := powerState{}, ""
	during := map[string]int{}
	for n := range cuts + 1 {
		g := &powerRun{t: t, state: state, facts: facts, r: r}
		if n < cuts {
			g.seed = strconv.FormatUint(r.Uint64(), 10)
			g.cutAt = 1 + r.IntN(5)
		}
		what := g.run(disk)
		if facts = g.facts; facts == "" && !t.Failed() {
			t.Error("the guest has said nothing of minirund")
		}
		if t.Failed() {
			t.Fatalf("guest %d, %s", n, what)
		}
		if n < cuts {
			during[what]++
			unflushed, lost, err := disk.Cut(r)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("cut %d during %s: %d writes were not flushed, %d of them are lost", n+1, what, unflushed, lost)
		}
	}
	t.Logf("%d cuts: %v", cuts, during)
}

// powerState says of each image whether it is in the store: yes, no, or nobody knows,
// because the power was cut meanwhile.
type powerState map[string]string

// powerRun is one life of the guest.
type powerRun struct {
	t     *testing.T
	state powerState
	facts string // of minirund
	r     *rand.Rand
	seed  string
	cutAt int // after so many operations have begun

	mu     sync.Mutex
	begun  int
	doing  string
	rest   []byte
	text   bytes.Buffer
	cancel context.CancelCauseFunc
}

// run boots the guest and returns what it did when its power was cut.
func (g *powerRun) run(disk *vm.Disk) string {
	g.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		g.t.Fatal(err)
	}
	bin := filepath.Dir(testenv.Binary(g.t))
	expect, err := json.Marshal(g.state)
	if err != nil {
		g.t.Fatal(err)
	}
	var ctx context.Context
	ctx, g.cancel = context.WithCancelCause(context.Background())
	defer g.cancel(nil)
	var log, errs bytes.Buffer
	status, err := vm.Run(ctx, vm.Options{
		Command: []string{exe, "-test.run", "^TestRootPowerCut$", "-test.timeout", "20m"}, Disks: []*vm.Disk{disk}, ReadOnly: []string{bin, filepath.Dir(exe)},
		Env:     []string{powerExpect + "=" + string(expect), powerSeed + "=" + g.seed, powerFacts + "=" + g.facts, "MINIRUN_BIN_DIR=" + bin, "MINIRUN_TEST_EXCLUSIVE=1", "MINIRUN_TEST_SLOW=20"},
		Timeout: testenv.Timeout(10 * time.Minute), Stdout: g, Stderr: &errs, Log: &log,
	})
	g.mu.Lock()
	defer g.mu.Unlock()
	cut := errors.Is(err, errPower)
	if g.cutAt > 0 && !cut || g.cutAt == 0 && (err != nil || status != 0) {
		g.t.Errorf("the guest ended with status %d, %v\n%s%s%s", status, err, &g.text, &errs, &log)
	}
	return g.doing
}

// Write takes the guest's output. A line for the host says what is about to be done
// and what was.
func (g *powerRun) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rest = append(g.rest, b...)
	for {
		line, rest, ok := bytes.Cut(g.rest, []byte{'\n'})
		if !ok {
			return len(b), nil
		}
		g.rest = rest
		g.text.Write(append(line, '\n'))
		if rest, ok := strings.CutPrefix(string(line), rebootWord); ok {
			g.facts = rest
		}
		f := strings.Fields(string(line))
		if len(f) < 3 || f[0] != powerWord {
			continue
		}
		g.doing = f[1]
		for _, x := range f[2:] { // IMAGE=yes, =no, =perhaps
			name, v, _ := strings.Cut(x, "=")
			g.state[name] = v
		}
		if !strings.Contains(string(line), "=perhaps") {
			continue
		}
		if g.begun++; g.begun == g.cutAt {
			// Somewhere in this operation, or behind it.
			after := time.Duration(g.r.Int64N(int64(testenv.Timeout(2 * time.Second))))
			time.AfterFunc(after, func() { g.cancel(errPower) })
		}
	}
}

// powerGuest is the work in the guest.
func powerGuest(t *testing.T) {
	want := powerState{}
	if err := json.Unmarshal([]byte(os.Getenv(powerExpect)), &want); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(powerDisk, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("/dev/vdb", powerDisk, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	h := &imageHost{t: t, root: powerDisk + "/state", store: powerDisk + "/store"}
	if err := os.MkdirAll(h.root, 0o700); err != nil {
		t.Fatal(err)
	}
	x := newImageHammer(t, h, 1)
	if err := os.CopyFS(x.dir+"/files", os.DirFS(testenv.Rootfs(t))); err != nil {
		t.Fatal(err)
	}
	have := x.checkPower(want, func(name string) { fmt.Println(powerWord, "check", name+"=no") })
	if facts := os.Getenv(powerFacts); facts != "" && !t.Failed() {
		rebootAfter(t, powerDisk, facts)
	}
	if t.Failed() || os.Getenv(powerSeed) == "" {
		return
	}
	fmt.Println(rebootWord + rebootBefore(t, powerDisk))
	seed, err := strconv.ParseUint(os.Getenv(powerSeed), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(seed, 8))
	if r.IntN(2) == 0 {
		// Data gets to the disk early and in any order, not flushed.
		for _, name := range []string{"dirty_writeback_centisecs", "dirty_expire_centisecs"} {
			writeFile(t, "/proc/sys/vm/"+name, "5")
		}
	}
	say := func(op, name, state string) { fmt.Println(powerWord, op, name+"="+state) }
	for name, make := range map[string]func(){"base": func() { h.base() }, "one": func() { h.must("image", "load", "--quiet", x.one) }} {
		if !have[name] {
			say("setup", name, "perhaps")
			make()
			say("setup", name, "yes")
		}
	}
	x.id = x.background("mkdir /made; echo x > /made/f; rm /bin/cat")
	x.powerWork(r, say)
}

// powerWork changes the store for ever. say is told what is about to be done and
// what was.
func (x *imageHammer) powerWork(r *rand.Rand, say func(op, name, state string)) {
	for {
		ops := slices.DeleteFunc(x.ops(), func(o hammerOp) bool { return o.name == "push" || o.name == "save" })
		op := ops[r.IntN(len(ops))]
		name, after := op.makes, "yes"
		if op.takes != "" {
			name, after = op.takes, "no"
		}
		if op.name == "pull" {
			name = "pulled" // the address of the registry is another one each time
		}
		say(op.name, name, "perhaps")
		op.before()
		again := op.makes + ":latest stood for another image before"
		if r := x.do(op.args...); r.Code != 0 || r.Stderr != "" && !strings.Contains(r.Stderr, again) {
			x.t.Fatalf("%q: %+v", op.args, r)
		}
		say(op.name, name, after)
		if op.makes != "" && r.IntN(2) == 0 {
			say("rm", name, "perhaps")
			x.must("image", "rm", op.makes)
			say("rm", name, "no")
		} else if op.name == "pull" {
			x.must("image", "tag", op.makes, "pulled")
		}
	}
}

// checkPower looks at what the last life has left, and returns which images those are.
// Those that are not there at rest are removed, which gone is told before.
func (x *imageHammer) checkPower(want powerState, gone func(name string)) (have map[string]bool) {
	t := x.t
	t.Helper()
	if _, err := os.Stat(x.store); err != nil {
		if slices.Contains(slices.Collect(maps.Values(want)), "yes") {
			t.Fatalf("the store is gone: %v", err)
		}
		return nil
	}
	if r := x.do("image", "fsck", "--quiet"); r.Code != 0 || r.Stdout != "" || r.Stderr != "" {
		t.Fatalf("fsck: %+v", r)
	}
	for _, id := range x.containers() { // new ones may have the same IDs
		x.must("delete", "--force", id)
	}
	if got, want := strings.TrimSpace(x.must("image", "du", "--quiet")), strconv.FormatInt(x.diskUse(), 10); got != want {
		t.Errorf("image du says %s, du %s", got, want)
	}
	var rows []struct{ Name string }
	if err := json.Unmarshal([]byte(x.must("image", "list", "--format", "json")), &rows); err != nil {
		t.Fatal(err)
	}
	have = map[string]bool{}
	for _, row := range rows {
		name, _ := strings.CutSuffix(strings.TrimPrefix(row.Name, "docker.io/library/"), ":latest")
		have[name] = true
		x.must("image", "verify", row.Name)
		args := []string{"run", "--rm", "--image", row.Name, x.imageHost.id(), "sh", "-c", "echo runs"}
		if name == "one" || name == "two" || name == "new" { // nothing in them runs
			at := t.TempDir()
			x.must("image", "mount", row.Name, at)
			if b := readFile(t, at+"/base"); b != strings.Repeat("base", 20000) {
				t.Errorf("image %s: the file has %d bytes", row.Name, len(b))
			}
			x.must("image", "unmount", at)
		} else if r := x.do(args...); r.Stdout != "runs\n" {
			t.Errorf("image %s: %+v", row.Name, r)
		}
	}
	for name, v := range want {
		if name == "pulled" { // under a name of that life; with it or without, it was verified
			continue
		}
		if v == "yes" && !have[name] || v == "no" && have[name] {
			t.Errorf("image %s: must be there: %s; have %v", name, v, have)
		}
	}
	// Records of containers are not synced: a snapshot may be there without one, which gc
	// sees, since the boot is another one.
	x.must("image", "gc", "--quiet", "--lost")
	if r := x.do("image", "fsck"); r.Code != 0 || r.Stdout != "the store is in order\n" {
		t.Errorf("fsck after gc: %+v", r)
	}
	for _, dir := range []string{"overlay/staging", "overlay/snapshots", "overlay/lost", "ingest"} {
		if left := x.entries(dir); len(left) > 0 {
			t.Errorf("%s has %q", dir, left)
		}
	}
	if got, want := strings.TrimSpace(x.must("image", "du", "--quiet")), strconv.FormatInt(x.diskUse(), 10); got != want {
		t.Errorf("image du after gc says %s, du %s", got, want)
	}
	for _, row := range rows {
		name, _ := strings.CutSuffix(strings.TrimPrefix(row.Name, "docker.io/library/"), ":latest")
		if !slices.Contains(hammerRest, name) {
			if _, known := want[name]; known {
				gone(name)
			}
			x.must("image", "rm", row.Name)
		}
	}
	return have
}

// containers are the IDs in the state directory, with a record or without.
func (x *imageHammer) containers() (ids []string) {
	list, _ := os.ReadDir(x.root)
	for _, e := range list {
		ids = append(ids, e.Name())
	}
	return ids
}
