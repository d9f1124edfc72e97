package cgroups

import (
	"os/exec"
	"syscall"
	"testing"
)

// A process of the group ends after its number was read, and another process of
// the host gets the number: that one must not get the signal.
func TestRootSignal_NumberUsedAgain(t *testing.T) {
	g := create(t, parentPath(t))
	start := func(in bool) *exec.Cmd {
		cmd := exec.Command("sleep", "1000")
		if in {
			fd, err := g.FD()
			if err != nil {
				t.Fatal(err)
			}
			defer syscall.Close(fd)
			cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd}
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd
	}
	member, stranger := start(true), start(false)
	if err := g.signal([]int{stranger.Process.Pid, member.Process.Pid}, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := member.Wait(); err == nil || err.Error() != "signal: terminated" {
		t.Errorf("the process of the group: %v, want terminated", err)
	}
	// Signals are delivered at once: had it got one, this one would come second.
	_ = stranger.Process.Signal(syscall.SIGKILL)
	if err := stranger.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("the process outside of the group: %v, want killed by us", err)
	}
}
