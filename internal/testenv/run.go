package testenv

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Result is what a finished command left.
type Result struct {
	Stdout, Stderr string
	Code           int // exit status; 128 + signal number if a signal ended it
}

// runLimit ends a command that hangs, long before the limit of `go test` does.
const runLimit = 60 * time.Second

// Run runs `minirun --root StateRoot(t) args...` with no standard input and
// returns its output and exit status. A first argument of "--root" replaces the
// test's state root. A command that exceeds one minute (see [Timeout]) is killed
// with its process group and fails the test.
//
// The output goes to files, not pipes: `minirun create` leaves its descriptors to
// the container, and a pipe would have to be read until the container ends.
func Run(t testing.TB, args ...string) Result {
	t.Helper()
	return RunCmd(t, Command(t, args...))
}

// Command returns the command that [Run] runs, for tests that set its input,
// directory or environment first.
func Command(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	if len(args) == 0 || args[0] != "--root" {
		args = append([]string{"--root", StateRoot(t)}, args...)
	}
	return exec.Command(Binary(t), args...)
}

// RunCmd runs any command as [Run] does. Output that the command already
// directs elsewhere is left alone and empty in the result.
func RunCmd(t testing.TB, cmd *exec.Cmd) Result {
	t.Helper()
	return RunCmdWithin(t, cmd, runLimit)
}

// RunCmdWithin is [RunCmd] for a command that may need another time than a
// minute: a big program of others on a busy machine.
func RunCmdWithin(t testing.TB, cmd *exec.Cmd, limit time.Duration) Result {
	t.Helper()
	result, err := runCmd(cmd, Timeout(limit))
	if err != nil {
		t.Fatalf("run %q: %v\nstdout: %s\nstderr: %s", strings.Join(cmd.Args, " "), err, result.Stdout, result.Stderr)
	}
	return result
}

func runCmd(cmd *exec.Cmd, limit time.Duration) (Result, error) {
	var files [2]*os.File
	for i, w := range []*io.Writer{&cmd.Stdout, &cmd.Stderr} {
		if *w != nil {
			continue
		}
		fd, err := unix.MemfdCreate("output", unix.MFD_CLOEXEC)
		if err != nil {
			return Result{}, os.NewSyscallError("memfd_create", err)
		}
		files[i] = os.NewFile(uintptr(fd), "output")
		defer files[i].Close()
		*w = files[i]
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	if !cmd.SysProcAttr.Setsid {
		cmd.SysProcAttr.Setpgid = true
	}
	cmd.WaitDelay = limit
	if err := cmd.Start(); err != nil {
		return Result{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		}
	}()
	err := cmd.Wait()
	late := ctx.Err() != nil
	cancel()
	<-stopped
	var result Result
	for i, s := range []*string{&result.Stdout, &result.Stderr} {
		if files[i] == nil {
			continue
		}
		b, rerr := io.ReadAll(io.NewSectionReader(files[i], 0, 1<<40))
		if rerr != nil {
			return result, rerr
		}
		*s = string(b)
	}
	if late {
		return result, errors.New("timed out after " + limit.String())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return result, err
	}
	ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
	result.Code = ws.ExitStatus()
	if ws.Signaled() {
		result.Code = 128 + int(ws.Signal())
	}
	return result, nil
}
