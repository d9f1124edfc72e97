package initprog

import (
	"errors"
	"syscall"
	"testing"

	"github.com/minirun/minirun/internal/linux"
)

// run starts the program that build makes with a pipe as sync descriptor 3 and
// returns everything it wrote there and its exit status.
func run(t *testing.T, build func(b *Builder)) (*Image, []byte, syscall.WaitStatus) {
	t.Helper()
	b := NewBuilder(3)
	build(b)
	img, err := b.Link()
	if err != nil {
		t.Fatal(err)
	}
	var pipe [2]int
	if err := syscall.Pipe2(pipe[:], syscall.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	pid, pidfd, err := img.Start(Options{Files: []int{0, 1, 2, pipe[1]}, CgroupFD: -1})
	linux.Close(pipe[1])
	if err != nil {
		t.Fatal(err)
	}
	linux.Close(pidfd)
	out, err := linux.ReadAll(pipe[0], 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	linux.Close(pipe[0])
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &ws, 0, nil); err != nil {
		t.Fatal(err)
	}
	return img, out, ws
}

func TestStart_Writes(t *testing.T) {
	_, out, ws := run(t, func(b *Builder) {
		b.Write(Sync(), "hello")
		b.ExitGroup(7)
	})
	if string(out) != "hello" || ws.ExitStatus() != 7 {
		t.Errorf("got %q, status %d; want hello, 7", out, ws.ExitStatus())
	}
}

func TestStart_FailureHasWords(t *testing.T) {
	img, out, ws := run(t, func(b *Builder) {
		b.Phase("mounts")
		b.Object("/proc")
		b.Chdir("/")
		b.Chdir("/nonexistent")
		b.ExitGroup(0)
	})
	if len(out) != RecordSize || ws.ExitStatus() != 1 {
		t.Fatalf("got %d bytes, status %d; want one record, 1", len(out), ws.ExitStatus())
	}
	err := img.Failure(ParseRecord(out))
	if got, want := err.Error(), "mounts: /proc: chdir /nonexistent: no such file or directory"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !errors.Is(err, syscall.ENOENT) {
		t.Errorf("%v is not ENOENT", err)
	}
}

func TestStart_RetrySomeEnds(t *testing.T) {
	img, out, _ := run(t, func(b *Builder) {
		b.Object("loop")
		b.Fail(syscall.EAGAIN, "never succeeds").RetrySome(syscall.EAGAIN)
		b.ExitGroup(0)
	})
	err := img.Failure(ParseRecord(out))
	if !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("got %v, want EAGAIN", err)
	}
}
