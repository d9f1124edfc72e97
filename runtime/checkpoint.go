package runtime

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/runtime/bundle"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Checkpoint has dump save the running container. While it does nobody else
// changes the container's state. Whether it runs on is dump's business; the
// record stays.
func (c *Container) Checkpoint(dump func(pid int, spec *specs.Spec) error) error {
	dir, err := c.lockLoaded()
	if err != nil {
		return err
	}
	defer linux.Close(dir)
	status, err := c.Status()
	if err != nil {
		return err
	}
	if status != Running {
		return &StatusError{ID: c.ID, Op: "checkpoint", Have: status}
	}
	raw, err := linux.ReadFileAt(dir, configFile, bundle.MaxConfigSize)
	if err != nil {
		return err
	}
	spec, err := bundle.Parse(raw)
	if err != nil {
		return err
	}
	if c.Snapshot != "" {
		return &UnsupportedError{Field: "checkpoint of a container made from an image"}
	}
	if spec.Process != nil && spec.Process.Terminal {
		return &UnsupportedError{Field: "checkpoint of a container with a terminal"}
	}
	if err := dump(c.Pid, spec); err != nil {
		return fmt.Errorf("checkpoint container %q: %w", c.ID, err)
	}
	return nil
}

// A Restoration is a container about to be brought back: its cgroup, with all
// limits, exists and is empty, and so does its record.
type Restoration struct {
	Spec      *specs.Spec
	Rootfs    string
	StateDir  string
	Cgroup    int    // descriptor of its directory
	CgroupDir string // path of the same
	Path      string // in the hierarchy
}

// Restore makes a container whose processes restore brings back: restore
// returns the pid of its init, a child of this process in the cgroup. The
// configuration is checked as create does, and on error nothing is left.
func (s *Store) Restore(o CreateOptions, restore func(*Restoration) (int, error)) (*Container, error) {
	o.gate = gateReady
	if o.Bundle.Spec.Process != nil && o.Bundle.Spec.Process.Terminal {
		return nil, &UnsupportedError{Field: "restore of a container with a terminal"}
	}
	t, err := s.newCreation(&o)
	if err != nil {
		return nil, err
	}
	if h := t.plan.Spec.Hooks; h != nil {
		t.c.Warnings = append(t.c.Warnings, "hooks of create and start are not run by restore")
	}
	err = t.restore(restore)
	t.close()
	if err != nil {
		return nil, err
	}
	return t.c, nil
}

func (t *creation) restore(restore func(*Restoration) (int, error)) (err error) {
	c := t.c
	if t.dir, err = c.store.makeDir(c.ID); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.undo())
		}
	}()
	if c.Hooks != 0 { // delete finds them there
		if err = replaceFile(t.dir, configFile, t.o.Bundle.Raw); err != nil {
			return err
		}
	}
	if err = c.save(t.dir); err != nil {
		return err
	}
	if err = t.makeCgroup(); err != nil {
		return err
	}
	if t.group == nil { // criu takes root
		return &UnsupportedError{Field: "restore of a container of an ordinary user"}
	}
	// Before there is a process: what comes back is under limits and device rules.
	if err = t.group.Apply(t.plan.Limits); err != nil {
		return err
	}
	c.Pid, err = restore(&Restoration{
		Spec: t.plan.Spec, Rootfs: t.plan.Rootfs, StateDir: c.Dir(),
		Cgroup: t.cgroup, CgroupDir: t.group.Dir(), Path: t.plan.Cgroup,
	})
	if err != nil {
		return fmt.Errorf("restore container %q: %w", c.ID, err)
	}
	if t.pidfd, err = unix.PidfdOpen(c.Pid, 0); err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	t.releaseHolder()
	info, err := statProcess(c.Pid)
	if err != nil {
		return err
	}
	if info.zombie {
		return fmt.Errorf("restore container %q: its process has ended at once", c.ID)
	}
	if err = t.finishState(); err != nil {
		return err
	}
	if err = renameState(t.dir); err != nil {
		return err
	}
	if t.o.PidFile != "" {
		if err = writePidFile(t.o.PidFile, c.Pid); err != nil {
			return err
		}
	}
	c.exit = &exitInfo{pidfd: t.pidfd, oom: t.oom}
	t.pidfd = -1
	return nil
}

// Signal sends a signal to the init of a container that this process has made.
func (c *Container) Signal(sig syscall.Signal) error {
	return unix.PidfdSendSignal(c.PidFD(), sig, nil, 0)
}
