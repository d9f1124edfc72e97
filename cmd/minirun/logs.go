package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"time"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/monitor"
	"github.com/minirun/minirun/runtime"
	"golang.org/x/sys/unix"
)

// logsOptions are the flags of logs.
type logsOptions struct {
	follow, times bool
	tail          int // how many of the last lines; < 0: all
	since, until  time.Time
}

func logsFlags(*app) *flagSet { return new(logsOptions).flags() }

func (o *logsOptions) flags() *flagSet {
	f := newFlags("logs")
	o.tail = -1
	at := func(t *time.Time) func(string) error {
		return func(v string) (err error) { *t, err = parseTime(v, time.Now()); return err }
	}
	f.Bool(&o.follow, "follow", 'f', "go on until the container ends")
	f.Bool(&o.times, "timestamps", 't', "begin each line with the time it was written")
	f.add("tail", 'n', "N|all", "only the last N lines (default all)", func(v string) error {
		n, err := strconv.Atoi(v)
		if v == "all" {
			n, err = -1, nil
		} else if err != nil || n < 0 {
			return errors.New("want a number of lines, or all")
		}
		o.tail = n
		return nil
	})
	f.add("since", 0, "TIME", "only what was written at TIME or later: 10m ago, 2006-01-02T15:04:05Z or seconds of Unix time", at(&o.since))
	f.add("until", 0, "TIME", "only what was written before TIME", at(&o.until))
	return f
}

// parseTime reads a point in time as docker does: RFC 3339, without a zone that of
// the user, a duration before now, or seconds since 1970.
func parseTime(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range [...]string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil { //nolint:gosmopolitan // the user's own zone
			return t, nil
		}
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil && f >= 0 && f < 1<<40 {
		return time.Unix(0, int64(f*1e9)), nil
	}
	return time.Time{}, errors.New("want a time such as 2006-01-02T15:04:05Z, a duration before now such as 10m, or seconds of Unix time")
}

// logs prints what a detached container has written: to standard output what it
// wrote there, and to standard error the rest.
func (a *app) logs(args []string) error {
	var o logsOptions
	f := o.flags()
	args, err := f.parse(args)
	if err != nil {
		return err
	}
	c, err := a.container(f, args)
	if err != nil {
		return err
	}
	defer func() {
		if len(monitor.Incomplete(c.Dir())) > 0 {
			a.log.warn("some output is missing: it could not be written to the log, as when the disk is full")
		}
	}()
	r := monitor.NewReader(c.Dir())
	defer r.Close()
	p := &logPrinter{o: &o, start: [2]bool{true, true}}
	if o.tail >= 0 {
		if p.skip, err = linesBefore(c, &o); err != nil {
			return logError(c, err)
		}
	}
	if !o.follow {
		_, err := p.all(r)
		return logError(c, err)
	}
	w, err := watchLog(c)
	if err != nil {
		return logError(c, err)
	}
	defer w.close()
	for {
		over := w.over() // before reading, so that nothing is missed
		done, err := p.all(r)
		if err != nil || over || done {
			return logError(c, err)
		}
		if err := w.wait(); err != nil {
			return err
		}
	}
}

func logError(c *runtime.Container, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("container %q keeps no log: only detached containers from an image do", c.ID)
	case err == unix.EPIPE:
		return nil // nobody reads on
	}
	return err
}

// logPrinter writes frames to our own streams.
type logPrinter struct {
	o     *logsOptions
	start [2]bool // whether the stream is at the beginning of a line
	skip  int     // lines to leave out
}

// all prints what there is. done is true if nothing that comes could be wanted.
func (p *logPrinter) all(r *monitor.Reader) (done bool, err error) {
	for {
		f, err := r.Next()
		if f == nil || err != nil {
			return false, err
		}
		if !p.o.until.IsZero() && !f.Time.Before(p.o.until) {
			return true, nil
		}
		if f.Time.Before(p.o.since) {
			continue
		}
		if err := p.frame(f); err != nil {
			return false, err
		}
	}
}

func (p *logPrinter) frame(f *monitor.Frame) error {
	data := f.Data
	for p.skip > 0 && len(data) > 0 {
		n := lineEnd(data)
		if data[n-1] == '\n' {
			p.skip--
		}
		data = data[n:]
	}
	out := 1 + int(f.Stream)
	if !p.o.times {
		return linux.WriteAll(out, data)
	}
	b := make([]byte, 0, 2*len(data)+64)
	for len(data) > 0 {
		if p.start[f.Stream] {
			b = append(f.Time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000000Z07:00"), ' ')
		}
		n := lineEnd(data)
		b = append(b, data[:n]...)
		p.start[f.Stream] = data[n-1] == '\n'
		data = data[n:]
	}
	return linux.WriteAll(out, b)
}

// lineEnd is where the first line of data, which is not empty, ends.
func lineEnd(data []byte) int {
	for i, c := range data {
		if c == '\n' {
			return i + 1
		}
	}
	return len(data)
}

// linesBefore is how many lines come before the last ones that are wanted.
func linesBefore(c *runtime.Container, o *logsOptions) (int, error) {
	r := monitor.NewReader(c.Dir())
	defer r.Close()
	lines, last := 0, byte('\n')
	for {
		f, err := r.Next()
		if err != nil {
			return 0, err
		}
		if f == nil || !o.until.IsZero() && !f.Time.Before(o.until) {
			break
		}
		if f.Time.Before(o.since) || len(f.Data) == 0 {
			continue
		}
		for _, b := range f.Data {
			if b == '\n' {
				lines++
			}
		}
		last = f.Data[len(f.Data)-1]
	}
	if last != '\n' {
		lines++
	}
	return max(0, lines-o.tail), nil
}

// logWatch waits for more in a log.
type logWatch struct {
	c       *runtime.Container
	inotify int
	pidfd   int // of the monitor, -1 if it has ended
}

func watchLog(c *runtime.Container) (*logWatch, error) {
	w := &logWatch{c: c, inotify: -1, pidfd: c.OpenMonitor()}
	var err error
	if w.inotify, err = unix.InotifyInit1(unix.IN_CLOEXEC); err != nil {
		w.close()
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	if _, err = unix.InotifyAddWatch(w.inotify, c.Dir(), unix.IN_MODIFY|unix.IN_MOVED_TO|unix.IN_DELETE_SELF|unix.IN_ONLYDIR); err != nil {
		w.close()
		return nil, &os.PathError{Op: "inotify_add_watch", Path: c.Dir(), Err: err}
	}
	return w, nil
}

// over reports whether the monitor has ended: nothing more will come.
func (w *logWatch) over() bool {
	fds := []unix.PollFd{{Fd: int32(w.pidfd), Events: unix.POLLIN}}
	n, _ := unix.Poll(fds, 0)
	return w.pidfd < 0 || n > 0
}

// wait waits until something may have changed.
func (w *logWatch) wait() error {
	fds := []unix.PollFd{{Fd: int32(w.inotify), Events: unix.POLLIN}, {Fd: int32(w.pidfd), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err == nil {
			break
		} else if err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
	}
	if fds[0].Revents != 0 {
		var buf [16 << 10]byte
		_, _ = linux.Read(w.inotify, buf[:])
	}
	return nil
}

func (w *logWatch) close() {
	linux.Close(w.inotify)
	linux.Close(w.pidfd)
}
