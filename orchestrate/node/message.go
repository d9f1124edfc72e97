package node

import (
	"path/filepath"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/monitor"
	"github.com/minirun/minirun/runtime"
)

// Bounds of what a container's last words can be.
const (
	maxMessage      = 4096
	maxMessageLog   = 2048
	maxMessageLines = 80
)

// message is what a container leaves for people to read about its end.
func (w *worker) message(name string, c *runtime.Container, a *attempt) string {
	pod, err := w.podOf()
	if err != nil || pod == nil {
		return ""
	}
	spec := findContainer(&pod.Spec, name)
	if spec == nil {
		return ""
	}
	if spec.TerminationMessagePath != "" {
		path := filepath.Join(w.dir, messagesDir, name+"_"+strconv.Itoa(int(attemptOf(c))))
		if raw := readHead(path, maxMessage); len(raw) > 0 {
			return string(raw)
		}
	}
	if spec.TerminationMessagePolicy == corev1.TerminationMessageFallbackToLogsOnError && a.Code != 0 {
		return lastLines(c.Dir(), maxMessageLog, maxMessageLines)
	}
	return ""
}

// readHead reads the beginning of a file that a container could write. It is a
// regular one: we have made it, and a mount cannot be replaced.
func readHead(path string, limit int) []byte {
	fd, err := linux.OpenAt(-100, path, 0, 0)
	if err != nil {
		return nil
	}
	defer linux.Close(fd)
	buf := make([]byte, limit)
	n := 0
	for n < limit {
		m, err := linux.Read(fd, buf[n:])
		if m <= 0 || err != nil {
			break
		}
		n += m
	}
	return buf[:n]
}

// lastLines is the end of a log.
func lastLines(dir string, bytes, lines int) string {
	r := monitor.NewReader(dir)
	defer r.Close()
	var tail []byte
	for {
		f, err := r.Next()
		if f == nil || err != nil {
			break
		}
		tail = append(tail, f.Data...)
		if len(tail) > 4*bytes {
			tail = append(tail[:0], tail[len(tail)-2*bytes:]...)
		}
	}
	if len(tail) > bytes {
		tail = tail[len(tail)-bytes:]
	}
	n := 0
	for i := len(tail) - 1; i >= 0; i-- {
		if tail[i] == '\n' && i != len(tail)-1 {
			if n++; n == lines {
				tail = tail[i+1:]
				break
			}
		}
	}
	return string(tail)
}

func attemptOf(c *runtime.Container) int32 {
	_, _, n, _ := parseID(c.ID)
	return n
}

// podOf is pod, for goroutines other than run: names are set before any is started.
func (w *worker) podOf() (*corev1.Pod, error) {
	return get[*corev1.Pod](w.n, pods, w.namespace, w.name)
}
