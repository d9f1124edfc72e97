package node

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/rtnetlink"
)

// check compares what is recorded of a pod with what the kernel has, and repairs
// what somebody has taken away. What cannot be repaired is made anew.
func (w *worker) check(pod *corev1.Pod) {
	w.tellLostLogs()
	if !w.up {
		return
	}
	drift := func(format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		w.n.log.Warn("drift", "pod", w.String(), "what", text)
		w.warning(pod, nil, "Drift", "%s", text)
	}
	for _, p := range namespacesOf(&pod.Spec) {
		at := filepath.Join(w.dir, nsDir, p.name)
		if isNamespace(at) {
			continue
		}
		if pid := w.anyInit(); pid > 0 {
			if err := pinAgain(pid, p.name, at); err == nil {
				drift("namespace %s was not pinned any more; it is that of process %d, and pinned again", p.name, pid)
				continue
			}
		}
		drift("namespace %s was not pinned any more; the sandbox is made anew", p.name)
		w.up = false
		return
	}
	if sharesProcesses(&pod.Spec) && !w.pauseUp() {
		drift("the first process of the pod's process namespace has ended; the sandbox is made anew")
		w.up = false
		return
	}
	if !pod.Spec.HostNetwork {
		if err := w.checkLink(drift); err != nil {
			drift("network: %v; the sandbox is made anew", err)
			w.up = false
			return
		}
	}
	w.checkBoxes(pod, drift)
}

// anyInit is a process of the pod that is in its namespaces; 0 if there is none.
func (w *worker) anyInit() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.boxes {
		if l.last != nil && l.last.Running && l.c != nil && l.last.Sandbox == w.rec.Sandbox && !pidfdEnded(l.init) {
			return l.c.Pid
		}
	}
	return 0
}

// pinAgain mounts the namespace of a process.
func pinAgain(pid int, name, at string) error {
	f, err := os.OpenFile(at, os.O_CREATE|os.O_RDONLY, 0o400)
	if err != nil {
		return err
	}
	f.Close()
	if err := unix.Mount("/proc/"+strconv.Itoa(pid)+"/ns/"+name, at, "", unix.MS_BIND, ""); err != nil {
		return &os.PathError{Op: "mount namespace at", Path: at, Err: err}
	}
	return nil
}

// checkLink looks for the pod's interfaces, that in the pod and that at the bridge.
func (w *worker) checkLink(drift func(string, ...any)) error {
	fd, err := linux.OpenAt(unix.AT_FDCWD, filepath.Join(w.dir, nsDir, "net"), unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	c, err := rtnetlink.DialIn(fd)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.LinkByName("eth0"); err != nil {
		return fmt.Errorf("interface eth0: %w", err)
	}
	key, err := os.Readlink(filepath.Join(w.dir, networkLink))
	if err != nil {
		return err
	}
	done, err := container.Networks(w.n.o.Images).Replug(key)
	if done != "" {
		drift("network: %s; it is put right", done)
	}
	return err
}

// checkRegularly has every worker check its pod, and looks for containers that
// nobody looks after.
func (n *Node) checkRegularly(ctx context.Context) {
	for pause(ctx, n.o.CheckEvery) {
		if err := n.adoptAll(ctx, nil); err != nil {
			n.log.Warn("look for containers of no pod", "error", err)
		}
		n.mu.Lock()
		workers := slices.Collect(maps.Values(n.workers))
		n.mu.Unlock()
		// A few at a time: what all of them need at once would stay with us as memory.
		for some := range slices.Chunk(workers, checkedAtOnce) {
			for _, w := range some {
				w.suspect.Store(true)
				w.poke()
			}
			if !pause(ctx, betweenChecks) {
				return
			}
		}
	}
}

const (
	checkedAtOnce = 5
	betweenChecks = 10 * time.Millisecond
)

// DefaultCheckEvery is how often what is recorded is compared with what there is.
const DefaultCheckEvery = time.Minute
