package vm

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/testenv"
)

// The test binary is the guest's init and helper, as vmrun is.
func TestMain(m *testing.M) {
	Reexec()
	os.Exit(m.Run())
}

func TestModuleOrder(t *testing.T) {
	const dep = `kernel/net/bridge/bridge.ko: kernel/net/802/stp.ko kernel/net/llc/llc.ko
kernel/net/802/stp.ko: kernel/net/llc/llc.ko
kernel/net/llc/llc.ko:
kernel/fs/overlayfs/overlay.ko.xz:
kernel/drivers/net/nf-tables.ko: kernel/lib/crc32c.ko.xz
kernel/lib/crc32c.ko.xz:
`
	const builtin = "kernel/fs/ext4/ext4.ko\nkernel/drivers/virtio/virtio-pci.ko\n"
	files, missing := moduleOrder(dep, builtin, strings.Fields("bridge overlay llc ext4 virtio_pci nf_tables nonesuch bridge"))
	want := "kernel/net/llc/llc.ko kernel/net/802/stp.ko kernel/net/bridge/bridge.ko kernel/fs/overlayfs/overlay.ko.xz " +
		"kernel/lib/crc32c.ko.xz kernel/drivers/net/nf-tables.ko"
	if got := strings.Join(files, " "); got != want {
		t.Errorf("order\n%s, want\n%s", got, want)
	}
	if got := strings.Join(missing, " "); got != "nonesuch" {
		t.Errorf("missing %q, want nonesuch", got)
	}
}

func TestReadModuleUnknownCompression(t *testing.T) {
	if _, err := readModule("/nonexistent/overlay.ko.zst"); err == nil || !strings.Contains(err.Error(), "unknown") {
		t.Errorf("got %v, want an error about the compression", err)
	}
}

// cpio(1) would be one more package; what the kernel expects is simple enough to
// be parsed here.
func TestCpioWriter(t *testing.T) {
	var b bytes.Buffer
	c := &cpioWriter{w: &b}
	c.dir("dev")
	c.charDevice("dev/console", 0o600, 5, 1)
	c.file("init", 0o755, []byte("12345"))
	c.file("empty", 0o644, nil)
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	type entry struct {
		name, data   string
		mode         uint64
		major, minor uint64
	}
	var got []entry
	for rest := b.Bytes(); len(rest) > 0; {
		if len(rest) < 110 || string(rest[:6]) != "070701" {
			t.Fatalf("entry %d has no header", len(got))
		}
		field := func(n int) uint64 {
			v, err := strconv.ParseUint(string(rest[6+8*n:14+8*n]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		size, nameSize := int(field(6)), int(field(11))
		dataAt := (110 + nameSize + 3) &^ 3
		got = append(got, entry{
			string(rest[110 : 110+nameSize-1]), string(rest[dataAt : dataAt+size]),
			field(1), field(9), field(10),
		})
		rest = rest[(dataAt+size+3)&^3:]
	}
	want := []entry{
		{"dev", "", 0o40755, 0, 0},
		{"dev/console", "", 0o20600, 5, 1},
		{"init", "12345", 0o100755, 0, 0},
		{"empty", "", 0o100644, 0, 0},
		{"TRAILER!!!", "", 0, 0, 0},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got\n%v, want\n%v", got, want)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestCpioWriterKeepsTheError(t *testing.T) {
	c := &cpioWriter{w: failingWriter{}}
	c.dir("x")
	if err := c.close(); err == nil || err.Error() != "disk full" {
		t.Errorf("got %v, want disk full", err)
	}
}

func TestMountPoint(t *testing.T) {
	const info = `22 1 8:1 / / rw - ext4 /dev/vda rw
23 22 0:5 / /home rw - ext4 /dev/vdb rw
24 23 0:6 / /home/a\040b rw - tmpfs tmpfs rw
`
	tests := []struct{ path, want string }{
		{"/", "/"}, {"/homer/x", "/"}, {"/home", "/home"}, {"/home/x", "/home"}, {"/home/a b/c", "/home/a b"},
	}
	for _, tt := range tests {
		if got := mountPoint(info, tt.path); got != tt.want {
			t.Errorf("mountPoint(%q) = %q, want %q", tt.path, got, tt.want)
		}
	}
}

func TestStaticProgram(t *testing.T) {
	env, err := exec.LookPath("env")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := staticProgram(env); err == nil || !strings.Contains(err.Error(), "CGO_ENABLED=0") {
		t.Errorf("a dynamic program: %v, want an error that names CGO_ENABLED=0", err)
	}
	var format *elf.FormatError
	if _, err := staticProgram("/etc/passwd"); !errors.As(err, &format) {
		t.Errorf("a text file: %v, want an ELF format error", err)
	}
}

func TestRunRefuses(t *testing.T) {
	if runtime.GOARCH == "amd64" && os.Geteuid() == 0 {
		if _, err := Run(context.Background(), Options{}); err == nil || !strings.Contains(err.Error(), "no command") {
			t.Errorf("without a command: %v", err)
		}
		return
	}
	if _, err := Run(context.Background(), Options{Command: []string{"true"}}); err == nil {
		t.Error("Run works without root, or on a foreign architecture")
	}
}

func requireGuests(t *testing.T) {
	t.Helper()
	testenv.RequireRoot(t)
	if runtime.GOARCH != "amd64" {
		t.Skipf("the virtual machine exists for amd64 only, this is %s", runtime.GOARCH)
	}
	testenv.CheckLeaks(t)
}

func TestRootRun(t *testing.T) {
	requireGuests(t)
	dir := t.TempDir()
	inGuest := filepath.Join(dir, "from-guest")
	shared := filepath.Join(dir, "shared")
	if err := os.Mkdir(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	// Another file system than the root: virtiofs does not show it by itself.
	other, err := os.MkdirTemp("/dev/shm", "mrt-vm-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(other) })
	if err := os.WriteFile(filepath.Join(other, "file"), []byte("visible\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var out, errs, log bytes.Buffer
	status, err := Run(context.Background(), Options{
		Command: []string{"sh", "-c", `
			echo "$GREETING"; pwd; echo oops >/dev/stderr
			touch "$1" && test -e "$1" && echo written
			echo kept >"$2/file"
			cat "$3/file"; echo changed >"$3/file"; cat "$3/file"
			echo; seq 1 100000
			exit 7`, "sh", inGuest, shared, other},
		Dir: dir, Env: []string{"GREETING=hello"}, ReadWrite: []string{shared}, ReadOnly: []string{other},
		Timeout: testenv.Timeout(5 * time.Minute), Stdout: &out, Stderr: &errs, Log: &log,
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, &log)
	}
	if status != 7 {
		t.Errorf("status %d, want 7", status)
	}
	// A stream of some size arrives whole and in order.
	var seq strings.Builder
	for i := 1; i <= 100000; i++ {
		fmt.Fprintln(&seq, i)
	}
	head, rest, _ := strings.Cut(out.String(), "\n\n")
	if want := "hello\n" + dir + "\nwritten\nvisible\nchanged"; head != want {
		t.Errorf("output begins with %q, want %q", head, want)
	}
	if rest != seq.String() {
		t.Errorf("%d bytes of seq's output, want %d", len(rest), seq.Len())
	}
	if errs.String() != "oops\n" {
		t.Errorf("stderr %q, want oops", errs.String())
	}
	if _, err := os.Stat(inGuest); !os.IsNotExist(err) {
		t.Errorf("a file written in the guest is on the host: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(other, "file")); err != nil || string(b) != "visible\n" {
		t.Errorf("a file in a read-only share after the guest wrote it: %q, %v", b, err)
	}
	if b, err := os.ReadFile(filepath.Join(shared, "file")); err != nil || string(b) != "kept\n" {
		t.Errorf("a file in a read-write share: %q, %v, want kept", b, err)
	}
}

func TestRootRunTimeout(t *testing.T) {
	requireGuests(t)
	_, err := Run(context.Background(), Options{Command: []string{"sleep", "1000"}, Timeout: 3 * time.Second})
	if !errors.Is(err, ErrTimeout) {
		t.Errorf("got %v, want %v", err, ErrTimeout)
	}
}

func TestRootRunGuestFails(t *testing.T) {
	requireGuests(t)
	_, err := Run(context.Background(), Options{
		Command: []string{"no-such-program"}, Timeout: testenv.Timeout(5 * time.Minute),
	})
	if err == nil || !strings.Contains(err.Error(), `no program "no-such-program"`) {
		t.Errorf("got %v, want the guest's reason", err)
	}
}

func shell(script string) *exec.Cmd { return exec.Command("sh", "-c", script) }

// A kernel that panics is tried twice, then reported with its console.
func TestRootRunNoBoot(t *testing.T) {
	requireGuests(t)
	var log bytes.Buffer
	_, err := Run(context.Background(), Options{
		Command: []string{"true"}, Append: "rdinit=/nonexistent root=/dev/none", Timeout: testenv.Timeout(5 * time.Minute), Log: &log,
	})
	if !errors.Is(err, errNoBoot) {
		t.Errorf("got %v, want %v", err, errNoBoot)
	}
	if !strings.Contains(log.String(), "Kernel panic") || !strings.Contains(log.String(), "booting once more") {
		t.Errorf("log %q, want a panic and a second boot", &log)
	}
}
