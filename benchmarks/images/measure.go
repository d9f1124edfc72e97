package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// group is a control group in which a tool runs, daemon and all: its cpu.stat counts what they
// use, whoever waits for whom. That needs no controller.
type group struct {
	path string
	dir  *os.File
}

// cgroup2 is where the host has its cgroup2 file system.
func cgroup2() (string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 6 && strings.Contains(line, " - cgroup2 ") {
			return f[4], nil
		}
	}
	return "", errors.New("no cgroup2 file system is mounted")
}

func newGroup(parent, name string) (*group, error) {
	g := &group{path: filepath.Join(parent, name)}
	if err := os.MkdirAll(g.path, 0o755); err != nil {
		return nil, err
	}
	var err error
	g.dir, err = os.Open(g.path)
	return g, err
}

func (g *group) cpu() (time.Duration, error) {
	text, err := os.ReadFile(filepath.Join(g.path, "cpu.stat"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "usage_usec "); ok {
			n, err := strconv.ParseInt(v, 10, 64)
			return time.Duration(n) * time.Microsecond, err
		}
	}
	return 0, errors.New("cpu.stat has no usage_usec")
}

// remove ends what is left in the group, a daemon's helpers for example.
func (g *group) remove() error {
	g.dir.Close()
	if err := os.WriteFile(filepath.Join(g.path, "cgroup.kill"), []byte("1"), 0); err != nil {
		return err
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := unix.Rmdir(g.path)
		if err != unix.EBUSY || time.Now().After(deadline) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// command is prepared to run in the group, with a fixed environment.
func (b *bench) command(g *group, argv []string) *exec.Cmd {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + b.dir, "LC_ALL=C", "TMPDIR=" + b.dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(g.dir.Fd()), Pdeathsig: syscall.SIGKILL}
	return cmd
}

// usage is what commands took.
type usage struct {
	wall, cpu time.Duration
	rss       int64 // KiB, of the largest process
	out       []byte
}

// run runs commands one after the other.
func (b *bench) run(g *group, commands ...[]string) (usage, error) {
	var u usage
	before, err := g.cpu()
	if err != nil {
		return u, err
	}
	began := time.Now()
	for _, argv := range commands {
		cmd := b.command(g, argv)
		var words strings.Builder
		cmd.Stderr = &words
		out, err := cmd.Output()
		if err != nil {
			return u, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, tail(words.String()))
		}
		u.out = out
		u.rss = max(u.rss, cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
	}
	u.wall = time.Since(began)
	after, err := g.cpu()
	u.cpu = after - before
	return u, err
}

func tail(s string) string {
	s = strings.TrimSpace(s)
	return s[max(0, len(s)-400):]
}

// daemon is a process that commands talk to.
type daemon struct {
	cmd  *exec.Cmd
	log  string
	done chan error
}

// start starts a daemon and waits until probe succeeds.
func (b *bench) start(g *group, name string, argv, probe []string) (*daemon, error) {
	d := &daemon{cmd: b.command(g, argv), log: filepath.Join(b.dir, name+".log"), done: make(chan error, 1)}
	log, err := os.Create(d.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr.Pdeathsig = 0 // of the thread that starts it, which may end
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { d.done <- d.cmd.Wait() }()
	deadline := time.Now().Add(90 * time.Second)
	for {
		_, err := b.run(g, probe)
		if err == nil {
			return d, nil
		}
		select {
		case <-d.done:
			d.done <- nil
		default:
			if time.Now().Before(deadline) {
				time.Sleep(100 * time.Millisecond)
				continue
			}
			d.stop()
		}
		text, _ := os.ReadFile(d.log)
		return nil, fmt.Errorf("%s does not come up: %s", name, tail(string(text)))
	}
}

func (d *daemon) stop() {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.done:
	case <-time.After(20 * time.Second):
		_ = d.cmd.Process.Kill()
		<-d.done
	}
}

// forgetPeak makes peak begin again.
func (d *daemon) forgetPeak() {
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", d.cmd.Process.Pid), []byte("5"), 0)
}

func (d *daemon) peak() int64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmHWM:" {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n
		}
	}
	return 0
}
