package node

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"sort"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/orchestrate/podlife"
	"github.com/minirun/minirun/runtime"
)

// adopt finds what there is of the pod: its record, its sandbox, its containers. What
// was half made when we were killed is taken back; the program of a container that
// is not complete in its record never ran.
func (w *worker) adopt() error {
	if w.rec == nil {
		r, err := readRecord(w.dir)
		if err != nil {
			// Nothing is lost that the containers and the status do not say.
			w.n.log.Error("a pod's record is damaged, and begun anew", "pod", w.String(), "error", err)
		}
		if r == nil {
			r = &record{UID: w.uid, Namespace: w.namespace, Name: w.name}
		}
		w.rec = r
		if w.name == "" {
			w.namespace, w.name = r.Namespace, r.Name
		}
	}
	pod, err := w.pod()
	if err != nil {
		return err
	}
	if pod != nil {
		if err := os.MkdirAll(w.dir, 0o711); err != nil {
			return err
		}
		w.up = w.sandboxUp(pod)
		if w.up && sharesProcesses(&pod.Spec) {
			if fd := w.openPause(); fd >= 0 {
				w.watchPause(fd, func() {})
			}
		}
	}
	ids, err := w.n.containersOf(w.uid)
	if err != nil {
		return err
	}
	found := map[string][]int32{}
	for _, id := range ids {
		if uid, name, number, ok := parseID(id); ok && uid == w.uid {
			found[name] = append(found[name], number)
		}
	}
	names := make([]string, 0, len(found))
	for name := range found {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if err := w.adoptContainer(pod, name, found[name]); err != nil {
			return err
		}
	}
	if pod == nil {
		return nil
	}
	for _, s := range everyStatus(&pod.Status) {
		w.recall(s)
	}
	return w.rec.write(w.dir)
}

// recall takes from the status what the records do not say any more.
func (w *worker) recall(s *corev1.ContainerStatus) {
	r := w.rec.container(s.Name)
	ran := s.State.Running != nil || s.State.Terminated != nil || s.LastTerminationState.Terminated != nil
	if next := s.RestartCount + 1; ran && r.Next < next {
		r.Next = next
	}
	l := w.live(s.Name)
	w.mu.Lock()
	defer w.mu.Unlock()
	if f := r.Failed; f != nil && (l.last == nil || l.last.Number < f.Attempt) {
		l.prev, l.last = l.last, failedAttempt(w, s.Name, f)
	}
	if l.last != nil {
		return
	}
	t := s.State.Terminated
	switch {
	case t == nil && s.State.Running != nil: // it is gone, with all that was known of it
		t = &corev1.ContainerStateTerminated{ExitCode: 137, Reason: statusUnknown, StartedAt: s.State.Running.StartedAt, Message: "The container could not be located when the pod was looked for"}
		t.FinishedAt.Time = time.Now()
	case t == nil:
		t = s.LastTerminationState.Terminated
	}
	if t == nil {
		return
	}
	l.last = &attempt{
		Number: s.RestartCount, ID: containerID(w.uid, s.Name, s.RestartCount), Image: s.Image, ImageID: s.ImageID, Started: t.StartedAt.Time, Finished: t.FinishedAt.Time,
		Code: t.ExitCode, Signal: t.Signal, Reason: t.Reason, Message: t.Message,
	}
	l.last.see()
}

// adoptContainer finds out what became of the attempts to run a container. The last
// two are kept.
func (w *worker) adoptContainer(pod *corev1.Pod, name string, numbers []int32) error {
	slices.Sort(numbers)
	r := w.rec.container(name)
	for _, number := range numbers {
		id := containerID(w.uid, name, number)
		c, err := w.n.runtime.Load(id)
		if err != nil || !c.Complete || c.Annotations[podUID] != string(w.uid) {
			// Its program has not run.
			if err := w.discard(id); err != nil {
				return err
			}
			continue
		}
		if number >= r.Next {
			// We were killed between the start and the note that it was one: nobody
			// reads its output. It may have run for a moment, which counts. That is
			// noted first: if we are killed here, it must not run again as the same.
			r.Next = number + 1
			r.Failed = &failure{Attempt: number, Sandbox: w.rec.Sandbox, At: time.Now().UTC(), Message: "the container was ended: minirund was killed while it started", Code: 137}
			if err := w.rec.write(w.dir); err != nil {
				return err
			}
			w.n.point("adopt-noted")
		}
		if r.Failed != nil && r.Failed.Attempt == number {
			if err := w.discard(id); err != nil {
				return err
			}
			w.n.point("adopt-discarded")
			continue
		}
		if err := w.take(pod, name, number, c); err != nil {
			return err
		}
	}
	w.mu.Lock()
	l := w.liveLocked(name)
	if f := r.Failed; f != nil && (l.last == nil || l.last.Number < f.Attempt) {
		l.prev, l.last, l.c = l.last, failedAttempt(w, name, f), nil
	}
	w.mu.Unlock()
	return nil
}

// take notes an attempt that was complete.
func (w *worker) take(pod *corev1.Pod, name string, number int32, c *runtime.Container) error {
	fd, err := w.openInit(c)
	if err != nil {
		return err
	}
	spec := &corev1.Container{Name: name}
	if pod != nil {
		if s := findContainer(&pod.Spec, name); s != nil {
			spec = s
		}
	}
	if fd >= 0 {
		w.runs(pod, spec, c, fd, false)
		return nil
	}
	w.endRest(c)
	a := w.endOf(name, c, -1)
	a.Number, a.Sandbox, a.ID = number, atoi(c.Annotations[podSandbox]), c.ID
	a.Asked = c.Annotations[podImage]
	a.Image, a.ImageID, a.Started = c.Annotations[container.ImageName], c.Annotations[container.ImageManifest], c.Created
	if a.Unknown {
		// A minirund before us was told by the kernel, and has said so.
		if t := saidEnd(pod, name, c.ID); t != nil {
			a.Code, a.Signal, a.Finished, a.Message = t.ExitCode, t.Signal, t.FinishedAt.Time, t.Message
			a.OOM, a.Unknown = t.Reason == podlife.Reason(t.ExitCode, true), t.Reason == statusUnknown
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.liveLocked(name)
	l.prev, l.last, l.c = l.last, a.see(), c
	return nil
}

// saidEnd is the end of a container as its status has it; nil if it has none.
func saidEnd(pod *corev1.Pod, name, id string) *corev1.ContainerStateTerminated {
	if pod == nil {
		return nil
	}
	for _, s := range everyStatus(&pod.Status) {
		for _, t := range []*corev1.ContainerStateTerminated{s.State.Terminated, s.LastTerminationState.Terminated} {
			if s.Name == name && t != nil && t.ContainerID == "minirun://"+id {
				return t
			}
		}
	}
	return nil
}

// openInit opens a container's init, a pidfd; -1 if it has ended.
func (w *worker) openInit(c *runtime.Container) (int, error) {
	status, err := c.Status()
	if err != nil || status == runtime.Stopped {
		return -1, err
	}
	fd, err := unix.PidfdOpen(c.Pid, 0)
	if err == unix.ESRCH {
		return -1, nil
	}
	if err != nil {
		return -1, os.NewSyscallError("pidfd_open", err)
	}
	// Looked at after opening: if it is the right one now, the descriptor is.
	if status, err = c.Status(); err != nil || status == runtime.Stopped {
		linux.Close(fd)
		return -1, err
	}
	return fd, nil
}

// discard removes whatever there is of a container.
func (w *worker) discard(id string) error {
	c, err := w.n.runtime.Load(id)
	var missing *runtime.NotExistError
	if err != nil {
		if _, e := os.Lstat(w.n.runtime.Root() + "/" + id); errors.Is(e, fs.ErrNotExist) {
			return nil
		}
		if c, err = container.DeleteRemains(w.n.runtime, id); err != nil || c == nil {
			return err
		}
	}
	err = container.DeleteVolumes(c, runtime.Force)
	if errors.As(err, &missing) {
		return nil
	}
	return err
}

// retire removes all attempts to run a container but the last one, whose log and
// end are of use; of the others logs are kept for a while. It comes before a new one.
func (w *worker) retire(name string) error {
	w.mu.Lock()
	l := w.liveLocked(name)
	keep := ""
	if l.last != nil {
		keep = l.last.ID
	}
	w.mu.Unlock()
	ids, err := w.n.runtime.IDs()
	if err != nil {
		return err
	}
	for _, id := range ids {
		uid, of, number, ok := parseID(id)
		if ok && uid == w.uid && of == name && id != keep {
			w.keepLogs(name, number, id)
			if err := w.discard(id); err != nil {
				return err
			}
		}
	}
	return nil
}

// containersOf are the containers of a pod, when its worker begins. Nobody else
// makes any for it.
func (n *Node) containersOf(uid types.UID) ([]string, error) {
	n.mu.Lock()
	ids, ok := n.found[uid]
	delete(n.found, uid)
	n.mu.Unlock()
	if ok {
		return ids, nil
	}
	all, err := n.runtime.IDs()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(id string) bool {
		of, _, _, ok := parseID(id)
		return !ok || of != uid
	}), nil
}
