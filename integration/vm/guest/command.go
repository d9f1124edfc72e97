package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// command runs the command as a child in a session of its own and returns its
// status. Its output goes through pipes, since a port can be opened only once
// and programs open /dev/stderr again. As process 1 it also reaps orphans.
func command(cfg *Config) (int, error) {
	null, err := os.Open("/dev/null")
	if err != nil {
		return 0, err
	}
	files := []uintptr{null.Fd()}
	var copies sync.WaitGroup
	var writeEnds []*os.File
	for _, name := range []string{"out", "err"} {
		fd, err := port(name)
		if err != nil {
			return 0, err
		}
		r, w, err := os.Pipe()
		if err != nil {
			return 0, err
		}
		writeEnds = append(writeEnds, w)
		files = append(files, w.Fd())
		copies.Go(func() {
			buf := make([]byte, 32<<10)
			for {
				n, err := r.Read(buf)
				if n > 0 {
					writeAll(fd, buf[:n])
				}
				if err != nil {
					return
				}
			}
		})
	}
	dir := cfg.Dir
	if _, err := os.Stat(dir); err != nil {
		return 0, fmt.Errorf("working directory: %w", err)
	}
	path, err := lookPath(cfg.Command[0], cfg.Env)
	if err != nil {
		return 0, err
	}
	report(StatusUp)
	pid, err := syscall.ForkExec(path, cfg.Command, &syscall.ProcAttr{
		Dir: dir, Env: cfg.Env, Files: files, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, fmt.Errorf("execute %q: %w", path, err)
	}
	for _, w := range writeEnds {
		w.Close()
	}
	code := 0
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(-1, &ws, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("wait: %w", err)
		}
		if got == pid {
			if code = ws.ExitStatus(); ws.Signaled() {
				code = 128 + int(ws.Signal())
			}
			break
		}
	}
	// What is left may hold the pipes. It does not outlive the guest anyway.
	drained := make(chan struct{})
	go func() { copies.Wait(); close(drained) }()
	select {
	case <-drained:
	case <-time.After(5 * time.Second):
	}
	return code, nil
}

func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, e := range env {
		dirs, ok := strings.CutPrefix(e, "PATH=")
		if !ok {
			continue
		}
		for dir := range strings.SplitSeq(dirs, ":") {
			path := filepath.Join(dir, name)
			if unix.Access(path, unix.X_OK) == nil {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("no program %q in the PATH", name)
}
