package node

import (
	"github.com/minirun/minirun/internal/monitor"
	"github.com/minirun/minirun/runtime"
)

// tellLost tells people that a container has written what is not in its log: once
// for each file of the log. Monitors only leave a mark, see monitor.Incomplete: a
// container does not wait for the disk.
func (w *worker) tellLost(name string, c *runtime.Container) {
	for _, inode := range monitor.Incomplete(c.Dir()) {
		key := lostLog{c.ID, inode}
		w.mu.Lock()
		told := w.lost[key]
		if w.lost == nil {
			w.lost = map[lostLog]bool{}
		}
		w.lost[key] = true
		w.mu.Unlock()
		if told {
			continue
		}
		w.n.log.Warn("output is missing in a log", "container", c.ID, "directory", c.Dir())
		if pod, err := w.podOf(); err == nil && pod != nil {
			w.warning(pod, findContainer(&pod.Spec, name), "LogIncomplete", "output is missing in the log: it could not be written below %s, as when that disk is full", w.n.o.Root)
		}
	}
}

type lostLog struct {
	id    string
	inode uint64
}

// tellLostLogs is tellLost for the containers that run.
func (w *worker) tellLostLogs() {
	running := map[string]*runtime.Container{}
	w.mu.Lock()
	for name, l := range w.boxes {
		if l.c != nil && l.last != nil && l.last.Running {
			running[name] = l.c
		}
	}
	w.mu.Unlock()
	for name, c := range running {
		w.tellLost(name, c)
	}
}
