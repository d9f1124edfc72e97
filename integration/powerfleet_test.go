package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minirun/minirun/integration/vm"
	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

// powerDevice is, in the guest, where one of the processes mounts its disk: the directory
// that the host mounts it at, since records have paths. Its last part names the disk.
const powerDevice = "MINIRUN_TEST_POWER_DEVICE"

// powerDisks is how many disks a guest has when the power is cut many times: an end of
// the guest is a power cut for each of their stores. Most of the time of one goes to
// booting by emulation.
const powerDisks = 8

// powerFleet cuts the power of many stores: a guest works on several disks at once,
// each with its own file system and store, until it is killed; the host mounts the disks
// and checks them, which takes it a tenth of the time that it takes a guest.
func powerFleet(t *testing.T, dir string, cuts int, r *rand.Rand) {
	f := &fleet{t: t, r: r, during: map[string]int{}}
	for n := range powerDisks {
		d := &fleetDisk{dev: "vd" + string(rune('b'+n)), state: powerState{}}
		d.at = filepath.Join(dir, "at", d.dev)
		err := os.MkdirAll(d.at, 0o700)
		if err != nil {
			t.Fatal(err)
		}
		if d.disk, err = vm.NewDisk(filepath.Join(dir, d.dev), 1<<30); err != nil {
			t.Fatal(err)
		}
		defer d.disk.Close()
		if out, err := exec.Command("/sbin/mkfs.ext4", "-q", "-F", d.disk.Path).CombinedOutput(); err != nil {
			t.Fatalf("mkfs.ext4: %v\n%s", err, out)
		}
		f.disks = append(f.disks, d)
	}
	f.each((*fleetDisk).setUp)
	var unflushed, lost int
	for f.cuts < cuts {
		if err := f.run(); !errors.Is(err, errPower) {
			t.Fatalf("after %d cuts: the guest ended: %v\n%s", f.cuts, err, &f.text)
		}
		for _, d := range f.disks {
			u, l, err := d.disk.Cut(r)
			if err != nil {
				t.Fatal(err)
			}
			unflushed, lost = unflushed+u, lost+l
			f.during[d.doing]++
			f.cuts++
		}
		f.each((*fleetDisk).check)
		t.Logf("%d cuts: %v; %d writes were not flushed, %d of them are lost", f.cuts, f.during, unflushed, lost)
		if t.Failed() {
			t.FailNow()
		}
	}
}

// fleet is the guests, one after the other, and their disks.
type fleet struct {
	t      *testing.T
	r      *rand.Rand
	disks  []*fleetDisk
	cuts   int
	during map[string]int

	mu     sync.Mutex
	cutAt  int // after so many operations have begun
	begun  int
	rest   []byte
	text   bytes.Buffer // of this guest
	cancel context.CancelCauseFunc
}

type fleetDisk struct {
	dev   string
	at    string // where it is mounted
	disk  *vm.Disk
	state powerState
	doing string
}

// each mounts one disk after the other on the host.
func (f *fleet) each(do func(*fleetDisk, *imageHammer)) {
	f.t.Helper()
	for _, d := range f.disks {
		if out, err := exec.Command("mount", "-o", "loop", d.disk.Path, d.at).CombinedOutput(); err != nil {
			f.t.Fatalf("mount %s: %v\n%s", d.dev, err, out)
		}
		do(d, newFleetHammer(f.t, d.at))
		if err := unix.Unmount(d.at, 0); err != nil {
			_ = unix.Unmount(d.at, unix.MNT_DETACH)
			f.t.Fatalf("unmount %s: %v", d.dev, err)
		}
		if f.t.Failed() {
			f.t.Fatalf("%s, when the power was cut during %s", d.dev, d.doing)
		}
	}
}

func newFleetHammer(t *testing.T, dir string) *imageHammer {
	t.Helper()
	h := &imageHost{t: t, root: dir + "/state", store: dir + "/store"}
	if err := os.MkdirAll(h.root, 0o700); err != nil {
		t.Fatal(err)
	}
	return &imageHammer{imageHost: h, dir: t.TempDir()}
}

func (d *fleetDisk) setUp(x *imageHammer) {
	x.one, _ = faultImages(x.t.(*testing.T))
	// As the guest's kernel needs it.
	x.must("image", "import", "--quiet", "--unpacker", "extract", "--change", `CMD ["sh"]`, testenv.Rootfs(x.t), "base")
	x.must("image", "load", "--quiet", "--unpacker", "extract", x.one)
	for _, name := range hammerRest {
		d.state[name] = "yes"
	}
}

func (d *fleetDisk) check(x *imageHammer) {
	x.checkPower(d.state, func(name string) { d.state[name] = "no" })
}

// run boots a guest, which works on the disks until it is killed.
func (f *fleet) run() error {
	f.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		f.t.Fatal(err)
	}
	bin := filepath.Dir(testenv.Binary(f.t))
	f.mu.Lock()
	f.begun, f.rest = 0, nil
	f.text.Reset()
	f.cutAt = len(f.disks)/2 + 1 + f.r.IntN(2*len(f.disks))
	script := ""
	var disks []*vm.Disk
	for _, d := range f.disks {
		d.doing = "the start"
		disks = append(disks, d.disk)
		script += fmt.Sprintf("%s=%s %s=%d '%s' -test.run '^TestRootPowerCut$' -test.timeout 30m & ", powerDevice, d.at, powerSeed, f.r.Uint64(), exe)
	}
	var ctx context.Context
	ctx, f.cancel = context.WithCancelCause(context.Background())
	defer f.cancel(nil)
	f.mu.Unlock()
	var log, errs bytes.Buffer
	status, err := vm.Run(ctx, vm.Options{
		Command: []string{"/bin/sh", "-c", script + "wait"}, Disks: disks, ReadOnly: []string{bin, filepath.Dir(exe)},
		Env:     []string{"MINIRUN_BIN_DIR=" + bin, "MINIRUN_TEST_SLOW=20", "PATH=" + os.Getenv("PATH")},
		Timeout: testenv.Timeout(30 * time.Minute), Stdout: f, Stderr: &errs, Log: &log,
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	fmt.Fprintf(&f.text, "%s%sstatus %d\n", &errs, &log, status)
	return err
}

// Write takes the guest's output, see [powerRun.Write].
func (f *fleet) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rest = append(f.rest, b...)
	for {
		line, rest, ok := bytes.Cut(f.rest, []byte{'\n'})
		if !ok {
			return len(b), nil
		}
		f.rest = rest
		f.text.Write(append(line, '\n'))
		w := strings.Fields(string(line)) // power: DEVICE OPERATION IMAGE=STATE
		if len(w) == 2 && w[0] == powerWord && w[1] == "failed" {
			time.AfterFunc(testenv.Timeout(5*time.Second), func() { f.cancel(errors.New("a process of the guest has failed")) }) // when it has said why
		}
		if len(w) != 4 || w[0] != powerWord {
			continue
		}
		for _, d := range f.disks {
			if d.dev == w[1] {
				d.doing = w[2]
				name, v, _ := strings.Cut(w[3], "=")
				d.state[name] = v
			}
		}
		if !strings.HasSuffix(w[3], "=perhaps") {
			continue
		}
		if f.begun++; f.begun == f.cutAt {
			after := time.Duration(f.r.Int64N(int64(testenv.Timeout(3 * time.Second))))
			time.AfterFunc(after, func() { f.cancel(errPower) })
		}
	}
}

// powerFleetGuest is the work on one disk in the guest.
func powerFleetGuest(t *testing.T, dir string) {
	defer func() {
		fmt.Println(powerWord, "failed") // it never comes to its end
	}()
	dev := filepath.Base(dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("/dev/"+dev, dir, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	seed, err := strconv.ParseUint(os.Getenv(powerSeed), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(seed, 8))
	if dev == "vdb" && r.IntN(2) == 0 {
		// Data gets to the disks early and in any order, not flushed.
		for _, name := range []string{"dirty_writeback_centisecs", "dirty_expire_centisecs"} {
			writeFile(t, "/proc/sys/vm/"+name, "5")
		}
	}
	x := newImageHammer(t, &imageHost{t: t, root: dir + "/state", store: dir + "/store"}, 1)
	if err := os.CopyFS(x.dir+"/files", os.DirFS(testenv.Rootfs(t))); err != nil {
		t.Fatal(err)
	}
	x.id = x.background("mkdir /made; echo x > /made/f; rm /bin/cat")
	x.powerWork(r, func(op, name, state string) { fmt.Println(powerWord, dev, op, name+"="+state) })
}
