package initprog

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestMain makes this binary play other parts too: it is what tests execute.
func TestMain(m *testing.M) {
	switch os.Args[0] {
	case "print-arguments":
		f := os.NewFile(3, "sync")
		fmt.Fprintf(f, "%q %q", os.Args[1:], os.Environ())
		os.Exit(5)
	case "memfd-forbidden":
		os.Exit(memfdForbidden(os.Args[1]))
	}
	// What this process inherited is not passed on; what tests count is their own.
	if err := unix.CloseRange(3, ^uint(0)>>32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// link links the program that build makes, with 3 as sync descriptor.
func link(t testing.TB, build func(b *Builder)) *Image {
	t.Helper()
	b := NewBuilder(3)
	build(b)
	img, err := b.Link()
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// run starts the program that build makes with a pipe as sync descriptor 3 and
// returns everything it wrote there and its exit status.
func run(t testing.TB, build func(b *Builder)) (*Image, []byte, syscall.WaitStatus) {
	t.Helper()
	img := link(t, build)
	out, ws := runImage(t, img)
	return img, out, ws
}

func runImage(t testing.TB, img *Image) ([]byte, syscall.WaitStatus) {
	t.Helper()
	r, w := pipe(t)
	pid, pidfd, err := img.Start(Options{Files: []int{0, 1, 2, w}, CgroupFD: -1})
	linux.Close(w)
	if err != nil {
		t.Fatal(err)
	}
	linux.Close(pidfd)
	out, err := linux.ReadAll(r, 1<<22)
	if err != nil {
		t.Fatal(err)
	}
	linux.Close(r)
	return out, wait(t, pid)
}

func wait(t testing.TB, pid int) syscall.WaitStatus {
	t.Helper()
	var ws syscall.WaitStatus
	for {
		_, err := syscall.Wait4(pid, &ws, 0, nil)
		if err == nil {
			return ws
		}
		if err != syscall.EINTR {
			t.Fatal(err)
		}
	}
}

func pipe(t testing.TB) (r, w int) {
	t.Helper()
	var p [2]int
	if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	return p[0], p[1]
}

// words encodes 64-bit words as programs write them.
func words(w ...uint64) string {
	var b bytes.Buffer
	_ = binary.Write(&b, binary.LittleEndian, w)
	return b.String()
}

// failure runs a program that must fail and returns the failure.
func failure(t *testing.T, build func(b *Builder)) error {
	t.Helper()
	img, out, ws := run(t, build)
	if len(out) != RecordSize || !ws.Exited() || ws.ExitStatus() != 1 {
		t.Fatalf("the program wrote %q and ended with %#x; want one record and status 1", out, ws)
	}
	r := ParseRecord(out)
	if r.Progress() {
		t.Fatalf("the record %v is one of progress", r)
	}
	return img.Failure(r)
}

func panics(t *testing.T, want string, f func()) {
	t.Helper()
	defer func() {
		if got := recover(); got != "initprog: "+want {
			t.Errorf("got panic %v, want %q", got, "initprog: "+want)
		}
	}()
	f()
}
