package nfnetlink

import (
	"testing"
	"time"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

// What is released goes without anybody doing anything more for it, however often,
// and we have no descriptor of it any more.
func TestRelease(t *testing.T) {
	testenv.CheckLeaks(t)
	for range 100 {
		var pipe [2]int
		if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		release(pipe[1])
		// The other end hears of it when the last reference is gone.
		p := []unix.PollFd{{Fd: int32(pipe[0])}}
		for deadline := time.Now().Add(testenv.Timeout(20 * time.Second)); p[0].Revents&unix.POLLHUP == 0; {
			left := time.Until(deadline)
			if left <= 0 {
				t.Fatal("it is still there")
			}
			if _, err := unix.Poll(p, int(left/time.Millisecond)+1); err != nil && err != unix.EINTR {
				t.Fatal(err)
			}
		}
		linux.Close(pipe[0])
	}
}

// Where the kernel does not take it, it is closed as ever.
func TestRelease_NoSockets(t *testing.T) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer linux.Close(pipe[0])
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	low := was
	low.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	release(pipe[1])
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	p := []unix.PollFd{{Fd: int32(pipe[0])}}
	if _, err := unix.Poll(p, 0); err != nil || p[0].Revents&unix.POLLHUP == 0 {
		t.Errorf("poll says %#x, %v: it is still there", p[0].Revents, err)
	}
}
