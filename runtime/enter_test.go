package runtime

import (
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/minirun/minirun/internal/initprog"
	"golang.org/x/sys/unix"
)

// The socket on which the first process tells the pid of the second is the
// second one's too, and a container with CAP_SYS_PTRACE may write to it. Whatever
// it names there must not become the process that exec signals.
func TestSecond_ForeignPid(t *testing.T) {
	child := exec.Command("sleep", "1000")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = child.Process.Kill(); _ = child.Wait() }()
	var image *initprog.Image
	{
		b := initprog.NewBuilder(3)
		b.ExitGroup(0)
		var err error
		if image, err = b.Link(); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		pid  func(first int) uint64
		want error
	}{
		"a child":        {func(int) uint64 { return uint64(child.Process.Pid) }, nil},
		"our parent":     {func(int) uint64 { return uint64(os.Getppid()) }, errForeignPid},
		"ourselves":      {func(int) uint64 { return uint64(os.Getpid()) }, errForeignPid},
		"process 1":      {func(int) uint64 { return 1 }, errForeignPid},
		"none":           {func(int) uint64 { return 0 }, errForeignPid},
		"our group":      {func(int) uint64 { return ^uint64(0) }, errForeignPid},
		"the first":      {func(first int) uint64 { return uint64(first) }, errForeignPid},
		"64 bits":        {func(int) uint64 { return 1<<32 | uint64(child.Process.Pid) }, errForeignPid},
		"a word instead": {func(int) uint64 { return 1 << 40 }, errForeignPid},
	} {
		t.Run(name, func(t *testing.T) {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			first := exec.Command("true")
			if err := first.Start(); err != nil {
				t.Fatal(err)
			}
			pidfd, err := unix.PidfdOpen(first.Process.Pid, 0)
			if err != nil {
				t.Fatal(err)
			}
			record := make([]byte, initprog.RecordSize)
			binary.LittleEndian.PutUint64(record[8:], c.pid(first.Process.Pid))
			if _, err := unix.Write(pair[1], record); err != nil {
				t.Fatal(err)
			}
			e := &execution{o: &ExecOptions{}, sync: pair}
			defer e.close()
			p := &Process{Pid: first.Process.Pid, PidFD: pidfd}
			if err := e.second(image, p); !errors.Is(err, c.want) || c.want == nil && err != nil {
				t.Fatalf("second: %v, want %v", err, c.want)
			}
			if c.want != nil && (p.PidFD >= 0 || p.Pid == int(c.pid(first.Process.Pid)) && p.Pid != first.Process.Pid) {
				t.Errorf("took over process %d, pidfd %d", p.Pid, p.PidFD)
			}
			if c.want == nil {
				_ = unix.Close(p.PidFD)
			}
		})
	}
}
