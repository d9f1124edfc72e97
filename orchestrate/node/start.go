package node

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/imagestore/unpacked"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/monitor"
	"github.com/minirun/minirun/runtime"
	"github.com/minirun/minirun/runtime/bundle"
)

// configRetry is how long a container waits whose configuration is wrong.
const configRetry = 5 * time.Second

// start makes a container and has it run.
func (w *worker) start(pod *corev1.Pod, v *view, b *box) error {
	select {
	case w.n.starts <- struct{}{}:
	case <-w.ctx.Done():
		return w.ctx.Err()
	}
	defer func() { <-w.n.starts }()
	l := w.live(b.Spec.Name)
	w.mu.Lock()
	image := l.pull.image
	w.mu.Unlock()
	if err := w.retire(b.Spec.Name); err != nil {
		return err
	}
	began := time.Now()
	if w.lostPause(pod) {
		return nil
	}
	c, err := w.create(pod, b, image)
	if err != nil && w.lostPause(pod) {
		return nil // that is why
	}
	var bad *configError
	var mount *mountError
	switch {
	case errors.As(err, &bad):
		w.wait(b, configRetry, "CreateContainerConfigError", bad.text)
		w.warning(pod, b.Spec, "Failed", "Error: %s", bad.text)
		return nil
	case errors.As(err, &mount):
		w.wait(b, configRetry, "CreateContainerError", mount.Error())
		w.warning(pod, b.Spec, "FailedMount", "%v", mount)
		return nil
	case err != nil && c == nil:
		w.wait(b, configRetry, "CreateContainerError", err.Error())
		w.warning(pod, b.Spec, "Failed", "Error: %v", err)
		w.n.log.Warn("start", "pod", w.String(), "container", b.Spec.Name, "error", err)
		return nil
	}
	r := w.rec.container(b.Spec.Name)
	if b.Last != nil { // a restart, by its own will
		switch {
		case b.changed(b.Last):
			r.Wait, r.Last = 0, time.Time{}
		case b.Last.Sandbox == w.rec.Sandbox:
			again := w.n.o.Backoff.Restarted(r.restarts(), b.Last.over(), began)
			r.Wait, r.Last = again.Wait, again.Last
		}
	}
	number := b.Next
	r.Next = number + 1
	w.n.point("container-runs")
	if err == nil {
		r.Failed = nil
		if e := w.rec.write(w.dir); e != nil {
			return e
		}
		w.n.point("container-recorded")
		w.runs(pod, b.Spec, c, c.PidFD(), true)
		w.normal(pod, b.Spec, "Created", "Created container: %s", b.Spec.Name)
		w.normal(pod, b.Spec, "Started", "Started container %s", b.Spec.Name)
		return nil
	}
	// It was made and could not be executed. That counts as a run.
	// Its name has the number of the run: the same failure again would be another event.
	message := strings.TrimPrefix(err.Error(), "container \""+containerID(w.uid, b.Spec.Name, number)+"\": ")
	r.Failed = &failure{Attempt: number, Sandbox: w.rec.Sandbox, At: time.Now().UTC(), Message: message, Code: 128}
	if e := w.rec.write(w.dir); e != nil {
		return e
	}
	w.normal(pod, b.Spec, "Created", "Created container: %s", b.Spec.Name)
	w.warning(pod, b.Spec, "Failed", "Error: %s", message)
	w.mu.Lock()
	defer w.mu.Unlock()
	l.prev, l.last, l.c = l.last, failedAttempt(w, b.Spec.Name, r.Failed), nil
	l.waiting, l.retry = nil, time.Time{}
	return nil
}

func failedAttempt(w *worker, name string, f *failure) *attempt {
	a := &attempt{
		Number: f.Attempt, Sandbox: f.Sandbox, ID: containerID(w.uid, name, f.Attempt), Started: f.At, Finished: f.At,
		Code: f.Code, Reason: "StartError", Message: f.Message,
	}
	if f.Code != 128 {
		a.Reason = ""
	}
	return a.see()
}

// notExecuted stands for a container that was made and whose program could not be
// started: there is no record of it any more.
var notExecuted = &runtime.Container{}

// create makes the container of an attempt. An error with a container means that
// only its program could not be executed.
func (w *worker) create(pod *corev1.Pod, b *box, image *unpacked.Image) (*runtime.Container, error) {
	n := w.n
	id := containerID(w.uid, b.Spec.Name, b.Next)
	l, err := w.launchSpecOf(pod, b)
	if err != nil {
		return nil, err
	}
	defer l.close()
	p, err := n.images.Prepare(n.runtime, id, image, &l.options)
	if err != nil {
		return nil, err
	}
	n.point("container-prepared")
	if err := l.edit(p.Bundle.Spec); err != nil {
		return nil, errors.Join(err, p.Cancel())
	}
	if p.Bundle.Raw, err = bundle.AppendJSON(nil, p.Bundle.Spec); err != nil {
		return nil, errors.Join(err, p.Cancel())
	}
	c, err := n.runtime.Run(runtime.CreateOptions{
		ID: id, Bundle: p.Bundle, Reservation: p.Reservation, RootFD: p.RootFD,
		PlanOptions: runtime.PlanOptions{RootMount: true},
		Monitor:     &runtime.Monitor{Input: b.Spec.Stdin, InputOnce: b.Spec.StdinOnce, Keep: p.Keep()},
	})
	p.Announce(c)
	linux.Close(p.RootFD) // -1 if it was taken back
	if err != nil {
		if e := p.RemoveVolumes(); e != nil {
			err = errors.Join(err, e)
		}
		var exec *runtime.ExecError
		var process *runtime.ProcessError
		if errors.As(err, &exec) || errors.As(err, &process) {
			return notExecuted, err
		}
		return nil, err
	}
	return c, nil
}

// runs notes that a container runs, and watches it. It takes the pidfd of its init.
// child: this process has started it.
func (w *worker) runs(pod *corev1.Pod, spec *corev1.Container, c *runtime.Container, fd int, child bool) {
	number := attemptOf(c)
	a := &attempt{
		Number: number, Sandbox: atoi(c.Annotations[podSandbox]), ID: c.ID, Image: c.Annotations[container.ImageName], ImageID: c.Annotations[container.ImageManifest],
		Asked: c.Annotations[podImage], Started: c.Created, Running: true,
	}
	ctx, cancel := context.WithCancel(w.ctx)
	w.mu.Lock()
	l := w.liveLocked(spec.Name)
	if l.last != nil && l.last.Number != number {
		l.prev = l.last
	}
	l.last, l.c, l.init = a, c, fd
	l.waiting, l.retry, l.doomed, l.stopping = nil, time.Time{}, "", false
	l.hurried = false
	l.started, l.ready, l.quit, l.hurry, l.over = false, false, cancel, make(chan struct{}), make(chan struct{})
	if !child {
		// Before anybody looks: connections to it go on.
		l.started, l.ready = saidToBe(pod, spec)
	}
	w.mu.Unlock()
	w.watchEnd(spec.Name, c, fd, child)
	w.spawn(func() { w.attend(ctx, pod, spec, c, child) })
}

// watchEnd waits for the end of a container in a goroutine that costs no thread.
func (w *worker) watchEnd(name string, c *runtime.Container, pidfd int, child bool) {
	dup, err := unix.FcntlInt(uintptr(pidfd), unix.F_DUPFD_CLOEXEC, 3)
	if err == nil {
		err = unix.SetNonblock(dup, true) // which has the poller of Go wait for it
	}
	if err != nil {
		w.n.log.Error("watch a container", "container", c.ID, "error", err)
		return
	}
	f := os.NewFile(uintptr(dup), "pidfd")
	stop := context.AfterFunc(w.ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	w.spawn(func() {
		defer f.Close()
		defer stop()
		raw, err := f.SyscallConn()
		if err == nil {
			err = raw.Read(func(fd uintptr) bool { return pidfdEnded(int(fd)) })
		}
		if err != nil {
			if w.ctx.Err() == nil {
				w.n.log.Error("watch a container", "container", c.ID, "error", err)
			}
			return
		}
		w.ended(name, c, pidfd, child)
	})
}

// ended notes how a container has ended.
func (w *worker) ended(name string, c *runtime.Container, pidfd int, child bool) {
	w.endRest(c)
	a := w.endOf(name, c, pidfd)
	w.tellLost(name, c)
	if child && c.Monitor > 0 { // it has written its record, or was killed
		w.spawn(func() { reap(c.Monitor) })
	}
	w.mu.Lock()
	l := w.boxes[name]
	if l != nil && l.last != nil && l.last.ID == c.ID && l.last.Running {
		last := l.last
		last.Running = false
		last.Finished, last.Code, last.Signal, last.OOM, last.Unknown, last.Message = a.Finished, a.Code, a.Signal, a.OOM, a.Unknown, a.Message
		last.Seen = time.Now()
		l.started, l.ready, l.stopping = false, false, false
		l.quit()
		close(l.over)
		linux.Close(l.init)
		l.init = -1
	}
	w.mu.Unlock()
	w.poke()
}

// endRest ends what is left of a container whose init has ended. In a process
// namespace of its own the kernel has done that.
func (w *worker) endRest(c *runtime.Container) {
	if c.Own&unix.CLONE_NEWPID != 0 {
		return
	}
	if err := c.Kill(unix.SIGKILL, runtime.AllProcesses); err != nil {
		w.n.log.Warn("kill", "container", c.ID, "error", err)
	}
}

// reap waits for the end of a process that is our child.
func reap(pid int) {
	for {
		if _, err := syscall.Wait4(pid, nil, 0, nil); err != syscall.EINTR {
			return
		}
	}
}

// endOf finds out how a container has ended: by the record of its monitor, or else
// by the kernel, which tells whoever held a pidfd.
func (w *worker) endOf(name string, c *runtime.Container, pidfd int) *attempt {
	a := &attempt{Finished: time.Now()}
	var status syscall.WaitStatus
	known := false
	e, err := c.Exit()
	if err != nil {
		w.n.log.Warn("record of an end", "container", c.ID, "error", err)
	}
	if e != nil {
		status, known, a.Finished = e.Status, true, e.Time
		a.OOM = oomKilled(e.MemoryEvents)
	} else {
		// Its monitor was killed. What the kernel says it says once: who comes after us
		// finds a record, as the monitor would have made it.
		if status, known = c.KernelExit(pidfd); known {
			a.OOM = oomKilled(w.keepEnd(c, status, a.Finished))
		}
	}
	if known {
		a.Code = int32(runtime.ExitCode(status))
		if status.Signaled() {
			a.Signal = int32(status.Signal())
		}
	} else {
		a.Code, a.Unknown = 137, true
		a.Message = "The container could not be located when its end was looked for"
	}
	if text := w.message(name, c, a); text != "" {
		a.Message = text
	}
	return a
}

// keepEnd records how a container has ended, and is what memory.events says.
func (w *worker) keepEnd(c *runtime.Container, status syscall.WaitStatus, at time.Time) (events string) {
	if c.Cgroup != "" {
		raw, _ := os.ReadFile(filepath.Join(c.CgroupMount, c.Cgroup, "memory.events")) // there is none without a memory controller
		events = string(raw)
	}
	err := monitor.WriteExit(c.Dir(), &monitor.Exit{Status: status, Time: at, MemoryEvents: events})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.n.log.Warn("record of an end", "container", c.ID, "error", err)
	}
	w.n.point("end-recorded")
	return events
}

// oomKilled reads memory.events.
func oomKilled(text string) bool {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return atoi(rest) > 0
		}
	}
	return false
}
