package runtime

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

// Processes in all stages of their end, under the init's name and another.
func TestHasExecuted(t *testing.T) {
	dir := t.TempDir()
	names := map[string]bool{"busybox": true, initprog.Name: false} // has it executed something?
	for name, ran := range names {
		exe := filepath.Join(dir, name)
		if err := os.Symlink(testenv.Busybox(t), exe); err != nil {
			t.Fatal(err)
		}
		for _, how := range []string{"killed", "exited"} {
			cmd := exec.Command(exe)
			cmd.Args = []string{"cat"}
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			pid := cmd.Process.Pid
			pidfd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer linux.Close(pidfd)
			if err := hasExecuted(pid, pidfd); err != nil {
				t.Errorf("%s, alive: %v", name, err)
			}
			if how == "killed" {
				_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
			}
			in.Close()
			if !ended(pidfd, killTimeout) {
				t.Fatal("it does not end")
			}
			if err := hasExecuted(pid, pidfd); (err == nil) != ran {
				t.Errorf("%s, %s, not reaped: %v", name, how, err)
			}
			_ = cmd.Wait()
			ws, known := linux.PidfdExit(pidfd)
			if err := hasExecuted(pid, pidfd); (err == nil) != (how == "exited" || !known) {
				t.Errorf("%s, %s, reaped: %v (exit status known to the kernel: %v)", name, how, err, known)
			}
			if err := hasExecuted(pid, -1); err != nil {
				t.Errorf("%s, %s, reaped, and nobody to ask: %v", name, how, err)
			}
			if known && ws != cmd.ProcessState.Sys() {
				t.Errorf("%s: PidfdExit says %#x, wait4 %#x", how, ws, cmd.ProcessState.Sys())
			}
		}
	}
}
