package monitor

import (
	"encoding/binary"
	"errors"
	"strings"
	"syscall"
	"time"

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
