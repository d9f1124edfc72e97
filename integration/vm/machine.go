package vm

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/integration/vm/guest"
)

// machine is one guest and what serves it.
type machine struct {
	o        Options
	kernel   kernel
	self     string
	work     string
	start    time.Time
	children []*exec.Cmd
	ports    []net.Listener
	logLock  sync.Mutex
}

func (m *machine) logf(format string, args ...any) {
	m.logLock.Lock()
	defer m.logLock.Unlock()
	fmt.Fprintf(m.o.Log, "vm: %6.2f s: %s\n", time.Since(m.start).Seconds(), fmt.Sprintf(format, args...))
}

// cleanUp kills what is left, with its process groups, and removes the files.
func (m *machine) cleanUp() {
	for _, c := range m.children {
		unix.Kill(-c.Process.Pid, unix.SIGKILL)
	}
	for _, c := range m.children {
		if c.ProcessState == nil {
			c.Wait()
		}
	}
	for _, l := range m.ports {
		l.Close()
	}
	if m.o.Keep {
		m.logf("kept %s", m.work)
	} else if err := os.RemoveAll(m.work); err != nil {
		m.logf("%v", err)
	}
}

func (m *machine) run(ctx context.Context) (int, error) {
	args, err := m.prepare(ctx)
	if err != nil {
		return 0, err
	}
	qemu, err := findProgram("qemu-system-x86_64", "qemu-system-x86")
	if err != nil {
		return 0, err
	}
	out := make(map[string]func(io.Reader), 3)
	copyTo := func(w io.Writer) func(io.Reader) {
		return func(r io.Reader) {
			if _, err := io.Copy(w, r); err != nil {
				m.logf("output: %v", err)
				io.Copy(io.Discard, r) // the guest must not block on a reader that has gone
			}
		}
	}
	out["out"], out["err"] = copyTo(m.o.Stdout), copyTo(m.o.Stderr)
	var status result
	out["status"] = func(r io.Reader) { status.read(r, m.logf) }
	var readers sync.WaitGroup
	for i, name := range []string{"out", "err", "status"} {
		path := filepath.Join(m.work, name+".sock")
		l, err := net.Listen("unix", path)
		if err != nil {
			return 0, err
		}
		m.ports = append(m.ports, l)
		readers.Go(func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			out[name](conn)
		})
		args = append(args, "-chardev", "socket,id=p"+name+",path="+path,
			"-device", fmt.Sprintf("virtserialport,nr=%d,chardev=p%s,name=%s", i+1, name, name))
	}
	log, err := os.Create(filepath.Join(m.work, "qemu.log"))
	if err != nil {
		return 0, err
	}
	defer log.Close()
	cmd := child(qemu, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("qemu: %w", err)
	}
	m.children = append(m.children, cmd)
	m.logf("started %s with Linux %s", filepath.Base(qemu), m.kernel.release)

	stop := context.AfterFunc(ctx, func() { unix.Kill(-cmd.Process.Pid, unix.SIGKILL) })
	err = cmd.Wait()
	stop()
	for _, l := range m.ports { // ends an Accept that QEMU did not live to see
		l.Close()
	}
	readers.Wait()
	m.logf("the guest is gone")
	if ctx.Err() != nil {
		m.printConsole()
		return 0, context.Cause(ctx)
	}
	if status.failure != "" {
		return 0, fmt.Errorf("guest: %s", status.failure)
	}
	if !status.up {
		m.printConsole()
		return 0, fmt.Errorf("%w (qemu: %v)", errNoBoot, err)
	}
	if !status.exited {
		m.printConsole()
		return 0, fmt.Errorf("the guest ended without a status (qemu: %v)", err)
	}
	return status.code, nil
}

// result is what the guest's init reports.
type result struct {
	up      bool
	exited  bool
	code    int
	failure string
}

func (s *result) read(r io.Reader, logf func(string, ...any)) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case guest.StatusUp:
			s.up = true
		case guest.StatusExit:
			if code, err := strconv.Atoi(rest); err == nil {
				s.exited, s.code = true, code
			}
		case guest.StatusFailure:
			s.failure = rest
		}
		logf("guest: %s", lines.Text())
	}
}

// printConsole writes the end of what kernel, QEMU and virtiofsd said to Log.
func (m *machine) printConsole() {
	for _, name := range []string{"console", "qemu.log", "root.log"} {
		b, err := os.ReadFile(filepath.Join(m.work, name))
		if err != nil || len(b) == 0 {
			continue
		}
		fmt.Fprintf(m.o.Log, "vm: end of %s:\n%s\n", name, b[max(0, len(b)-4000):])
	}
}
