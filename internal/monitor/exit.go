package monitor

import (
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// The record of the end: magic, wait status, seconds, nanoseconds, struct rusage,
// memory.events.
const (
	rusageSize = 144
	exitEvents = 32 + rusageSize
	exitSize   = exitEvents + eventsSize
)

// Exit is how a container's init has ended.
type Exit struct {
	Status       syscall.WaitStatus
	Time         time.Time
	User, System time.Duration // CPU time of the init and of children it has waited for
	MaxRSS       int64         // its peak resident set, in bytes
	MemoryEvents string        // memory.events of its cgroup at the end; "" without a memory controller
}

// ReadExit reads the record in the directory; fs.ErrNotExist if there is none yet.
func ReadExit(dir string) (*Exit, error) {
	raw, err := linux.ReadFile(dir+"/"+ExitFile, 64<<10)
	if err != nil {
		return nil, err
	}
	return parseExit(raw)
}

// WriteExit makes the record in the directory, for a monitor that has ended without.
func WriteExit(dir string, e *Exit) error {
	at, err := linux.OpenAt(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer linux.Close(at)
	// Into what the monitor has taken for it, since the disk may be full by now.
	fd, err := linux.OpenAt(at, exitTemp, unix.O_WRONLY|unix.O_CREAT|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	err = linux.WriteAll(fd, e.append(make([]byte, 0, exitSize)))
	if err == nil {
		err = os.NewSyscallError("fsync", unix.Fsync(fd))
	}
	linux.Close(fd)
	if err == nil {
		err = os.NewSyscallError("rename", unix.Renameat(at, exitTemp, at, ExitFile))
	}
	if err != nil {
		return err
	}
	return os.NewSyscallError("fsync", unix.Fsync(at))
}

// append is the reverse of parseExit.
func (e *Exit) append(raw []byte) []byte {
	word := func(n int64) { raw = binary.LittleEndian.AppendUint64(raw, uint64(n)) }
	word(int64(magic))
	word(int64(e.Status))
	word(e.Time.Unix())
	word(int64(e.Time.Nanosecond()))
	for _, d := range []time.Duration{e.User, e.System} {
		word(int64(d / time.Second))
		word(int64(d % time.Second / time.Microsecond))
	}
	word(e.MaxRSS >> 10)
	raw = raw[:exitEvents:exitSize]
	raw = append(raw, e.MemoryEvents[:min(len(e.MemoryEvents), eventsSize)]...)
	return raw[:exitSize]
}

func parseExit(raw []byte) (*Exit, error) {
	le := binary.LittleEndian
	if len(raw) != exitSize || le.Uint64(raw) != magic {
		return nil, errors.New("the record of the container's end is damaged")
	}
	word := func(n int) int64 { return int64(le.Uint64(raw[8*n:])) }
	since := func(n int) time.Duration {
		return time.Duration(word(n))*time.Second + time.Duration(word(n+1))*time.Microsecond
	}
	return &Exit{
		Status: syscall.WaitStatus(word(1)), Time: time.Unix(word(2), word(3)),
		User: since(4), System: since(6), MaxRSS: word(8) << 10,
		MemoryEvents: strings.TrimRight(string(raw[exitEvents:]), "\x00"),
	}, nil
}
