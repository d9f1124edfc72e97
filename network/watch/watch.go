// Package watch has tables of nftables put right when another program changes them.
//
// One socket hears of every change of rules in a network namespace. Changes of
// the owners themselves are told from others by the socket that they come from, or
// by the name of the program, which the kernel reports at the end of a transaction.
// If changes come faster than they can be read, every table is looked at.
//
// As long as a [Watcher] runs, translated connections survive even `nft flush
// ruleset`: see [Watcher.Run].
package watch

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/rtnetlink"
	"golang.org/x/sys/unix"
)

// A Table is one to look after, of family inet.
type Table struct {
	Name string
	// Ours reports whether a change by a socket, of a program with this name, is
	// the owner's.
	Ours func(port uint32, program string) bool
	// Repair compares the table with what it has to be and puts it right. It says
	// whether there was anything to do. An error has it tried again later. The first
	// time, when nothing is known, reason is empty.
	Repair func(reason string) (changed bool, err error)
}

// Options of a Watcher.
type Options struct {
	// NetNS is a descriptor of the network namespace; 0 is that of the caller of New.
	NetNS  int
	Tables []Table
	// Log gets what happens without being asked for. Nil: nothing is logged.
	Log *slog.Logger
	// Buffer is how many bytes of messages may wait; 0: 16 MiB.
	Buffer int
	// Restored is called after each repair that had something to do.
	Restored func(table, reason string)
}

// quiet is the least time between two repairs of a table, so that a program that
// fights with us does not get all of a processor. The first repair never waits.
const quiet = 100 * time.Millisecond

// A repair that fails is tried again after this time, and later each time.
const (
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// A Watcher hears of changes from New on.
type Watcher struct {
	opts   Options
	fd     int // the socket
	wake   int // an eventfd: Run is to end
	tables []*table
	batch  map[*table]bool // tables that the transaction that is being heard of has changed
	once   sync.Once
}

type table struct {
	Table
	due    bool      // it has to be looked at
	reason string    // why
	after  time.Time // not before
	retry  time.Duration
}

// Of linux/netfilter/nfnetlink.h and nf_tables.h.
const (
	groupNFTables   = 7 // NFNLGRP_NFTABLES
	attrTableName   = 1 // of each message about something in a table
	attrGenProcName = 3 // NFTA_GEN_PROC_NAME
)

// New begins to listen.
func New(opts Options) (*Watcher, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	w := &Watcher{opts: opts, fd: -1, wake: -1, batch: map[*table]bool{}}
	for _, t := range opts.Tables {
		w.tables = append(w.tables, &table{Table: t, due: true})
	}
	if err := w.open(); err != nil {
		w.Close()
		return nil, fmt.Errorf("watch nftables: %w", err)
	}
	return w, nil
}

func (w *Watcher) open() error {
	if err := inNamespace(w.opts.NetNS, func() (err error) {
		w.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
		return os.NewSyscallError("socket", err)
	}); err != nil {
		return err
	}
	size := cmp.Or(w.opts.Buffer, 16<<20) // a limit, not an allocation
	if unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size) != nil {
		_ = unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, size)
	}
	if err := unix.Bind(w.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	if err := unix.SetsockoptInt(w.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, groupNFTables); err != nil {
		return os.NewSyscallError("join the group of nftables", err)
	}
	var err error
	w.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	return os.NewSyscallError("eventfd", err)
}

// inNamespace calls f in a network namespace.
func inNamespace(fd int, f func() error) error {
	if fd == 0 {
		return f()
	}
	return rtnetlink.In(fd, f)
}

// Close lets go of the sockets. It must not be called while Run runs.
func (w *Watcher) Close() error {
	w.once.Do(func() {
		for _, fd := range []int{w.fd, w.wake} {
			if fd >= 0 {
				unix.Close(fd)
			}
		}
	})
	return nil
}

// Run repairs until ctx ends, and closes the Watcher. First it looks at every table.
//
// It keeps a table of its own, [GuardTable], which nobody but its socket can
// remove: with it the kernel goes on translating connections that are there while
// the rules are not. Without, packets of published ports would for a moment be for
// the host itself, which would reset their connections. Linux has it since 5.12.
func (w *Watcher) Run(ctx context.Context) error {
	defer w.Close()
	stop := context.AfterFunc(ctx, func() { _, _ = unix.Write(w.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) })
	defer stop()
	guard, err := w.guard()
	if err != nil {
		w.opts.Log.Warn("connections will not survive a flush of all rules", "error", err)
	}
	defer guard.Close()
	for ctx.Err() == nil {
		wait := w.repair()
		if err := w.wait(wait); err != nil {
			return fmt.Errorf("watch nftables: %w", err)
		}
		if err := w.read(); err != nil {
			return fmt.Errorf("watch nftables: %w", err)
		}
	}
	return nil
}

// wait returns when there is something to read or to repair, or Run is to end.
func (w *Watcher) wait(d time.Duration) error {
	ms := -1
	if d >= 0 {
		ms = int((d + time.Millisecond - 1) / time.Millisecond)
	}
	fds := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}, {Fd: int32(w.wake), Events: unix.POLLIN}}
	_, err := unix.Poll(fds, ms)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return os.NewSyscallError("poll", err)
	}
	return nil
}

// repair looks at the tables whose time it is, and returns how long to wait for
// the next one; negative for none.
func (w *Watcher) repair() time.Duration {
	wait := time.Duration(-1)
	for _, t := range w.tables {
		if !t.due {
			continue
		}
		if d := time.Until(t.after); d > 0 {
			if wait < 0 || d < wait {
				wait = d
			}
			continue
		}
		reason := t.reason
		t.due = false
		changed, err := t.Repair(reason)
		now := time.Now()
		switch {
		case err != nil:
			t.retry = min(max(2*t.retry, firstRetry), lastRetry)
			t.due, t.after = true, now.Add(t.retry)
			w.opts.Log.Error("rules were changed by another program and cannot be restored", "table", t.Name, "reason", reason, "error", err)
			if wait < 0 || t.retry < wait {
				wait = t.retry
			}
		case changed:
			t.retry, t.after = 0, now.Add(quiet)
			if reason != "" { // else they are there for the first time
				w.opts.Log.Warn("rules were changed by another program and have been restored", "table", t.Name, "reason", reason)
			}
			if w.opts.Restored != nil {
				w.opts.Restored(t.Name, reason)
			}
		default:
			t.retry = 0
		}
	}
	return wait
}

// suspect has a table looked at. What a program goes on doing does not make the
// next try come earlier; something new does.
func (t *table) suspect(reason string) {
	if t.retry > 0 {
		t.retry, t.after = 0, time.Now().Add(quiet)
	}
	t.due, t.reason = true, reason
}

// read takes everything that can be read now.
func (w *Watcher) read() error {
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(w.fd, buf, unix.MSG_DONTWAIT)
		switch err {
		case nil:
			w.hear(buf[:n])
		case unix.EINTR:
		case unix.EAGAIN:
			return nil
		case unix.ENOBUFS:
			clear(w.batch)
			for _, t := range w.tables {
				t.suspect("more rules changed than could be followed")
			}
		default:
			return os.NewSyscallError("recvfrom", err)
		}
	}
}

// hear goes through the messages in b.
func (w *Watcher) hear(b []byte) {
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr+4 || size > len(b) {
			return
		}
		typ, port := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint32(b[12:])
		body := b[unix.SizeofNlMsghdr+4 : size]
		b = b[min((size+3)&^3, len(b)):]
		if typ>>8 != unix.NFNL_SUBSYS_NFTABLES {
			continue
		}
		if typ&0xff != unix.NFT_MSG_NEWGEN {
			w.changed(attribute(body, attrTableName))
			continue
		}
		// The end of the transaction.
		program := attribute(body, attrGenProcName)
		for t := range w.batch {
			if t.Ours == nil || !t.Ours(port, program) {
				t.suspect("it was changed by " + program)
			}
		}
		clear(w.batch)
	}
}

func (w *Watcher) changed(name string) {
	for _, t := range w.tables {
		if t.Name == name {
			w.batch[t] = true
		}
	}
}

// attribute finds a string among attributes.
func attribute(b []byte, want uint16) (text string) {
	linux.NetlinkAttributes(b, func(typ uint16, value, _ []byte) {
		if typ == want {
			text = strings.TrimRight(string(value), "\x00")
		}
	})
	return text
}
