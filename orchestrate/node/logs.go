package node

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/monitor"
	"github.com/minirun/minirun/orchestrate/rest"
	"github.com/minirun/minirun/runtime"
)

// target is a container that somebody wants to see into.
type target struct {
	w    *worker
	pod  *corev1.Pod
	spec *corev1.Container
	id   string // of the attempt, empty if there is none
	c    *runtime.Container
	over <-chan struct{} // closed when it has ended
	dir  string          // of the log
}

var closedChannel = func() <-chan struct{} { c := make(chan struct{}); close(c); return c }

// find finds a container by the names that users have for it.
func (n *Node) find(namespace, name, container string, previous bool) (*target, error) {
	return n.findRun(namespace, name, container, previous, nil)
}

// findRun is find for one run of a container.
func (n *Node) findRun(namespace, name, container string, previous bool, run *int32) (*target, error) {
	pod, err := get[*corev1.Pod](n, pods, namespace, name)
	if err != nil {
		return nil, err
	}
	if pod == nil {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: pods}, name)
	}
	if container == "" {
		container = pod.Annotations["kubectl.kubernetes.io/default-container"]
	}
	if container == "" {
		if len(pod.Spec.Containers) != 1 {
			return nil, apierrors.NewBadRequest("a container name must be specified for pod " + name + ", choose one of: " + containerNames(pod))
		}
		container = pod.Spec.Containers[0].Name
	}
	spec := findContainer(&pod.Spec, container)
	if spec == nil {
		return nil, apierrors.NewBadRequest("container " + container + " is not valid for pod " + name)
	}
	n.mu.Lock()
	w := n.workers[pod.UID]
	n.mu.Unlock()
	t := &target{w: w, pod: pod, spec: spec, over: closedChannel()}
	if w == nil {
		return t, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.boxes[container]
	if l == nil {
		return t, nil
	}
	if run != nil {
		if t.dir, t.id, err = w.runDir(l, container, *run); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		if l.last.ID == t.id && l.last.Running {
			t.over = l.over
		}
		return t, nil
	}
	a := l.last
	if previous {
		a = l.prev
		if a == nil && l.last != nil && !l.last.Running && l.waiting == nil { // it waits to be started again
			a = nil
		}
	}
	if a == nil {
		return t, nil
	}
	t.id, t.dir = a.ID, filepath.Join(n.runtime.Root(), a.ID)
	if a.Running {
		t.over = l.over
	}
	if !previous {
		t.c = l.c
	}
	return t, nil
}

func containerNames(pod *corev1.Pod) string {
	text := "["
	for i := range pod.Spec.Containers {
		if i > 0 {
			text += " "
		}
		text += pod.Spec.Containers[i].Name
	}
	return text + "]"
}

// Logs writes the log of a container.
func (n *Node) Logs(ctx context.Context, namespace, pod string, o *rest.LogOptions, w io.Writer) error {
	t, err := n.findRun(namespace, pod, o.Container, o.Previous, o.Run)
	if err != nil {
		return err
	}
	if t.dir == "" {
		if o.Previous {
			return apierrors.NewBadRequest("previous terminated container \"" + t.spec.Name + "\" in pod \"" + pod + "\" not found")
		}
		return apierrors.NewBadRequest("container \"" + t.spec.Name + "\" in pod \"" + pod + "\" is waiting to start: " + reasonOf(t.pod, t.spec.Name))
	}
	dir := t.dir
	p := &logPrinter{w: w, limit: -1, times: o.Timestamps, start: [2]bool{true, true}, only: -1}
	if o.LimitBytes != nil {
		p.limit = *o.LimitBytes
	}
	if o.SinceSeconds != nil {
		p.since = time.Now().Add(-time.Duration(*o.SinceSeconds) * time.Second)
	}
	if o.SinceTime != nil {
		p.since = o.SinceTime.Time
	}
	if o.Stream != nil {
		switch *o.Stream {
		case corev1.LogStreamStdout:
			p.only = int(monitor.Stdout)
		case corev1.LogStreamStderr:
			p.only = int(monitor.Stderr)
		}
	}
	if o.TailLines != nil {
		if p.skip, err = p.before(dir, *o.TailLines); err != nil {
			return noLog(err)
		}
	}
	return noLog(p.follow(ctx, dir, o.Follow, t.over))
}

// noLog: a container that could not be started has none.
func noLog(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errLimit) {
		return nil
	}
	return err
}

func reasonOf(pod *corev1.Pod, name string) string {
	for _, s := range everyStatus(&pod.Status) {
		if s.Name == name && s.State.Waiting != nil {
			return s.State.Waiting.Reason
		}
	}
	return "ContainerCreating"
}

var errLimit = errors.New("as many bytes as were asked for")

// logPrinter writes frames of a log.
type logPrinter struct {
	w     io.Writer
	errw  io.Writer // for standard error; nil: w
	times bool
	since time.Time
	limit int64 // bytes that may be written, < 0: any number
	skip  int64 // lines to leave out
	only  int   // stream, < 0: both
	start [2]bool
}

func (p *logPrinter) wants(f *monitor.Frame) bool {
	return !f.Time.Before(p.since) && (p.only < 0 || int(f.Stream) == p.only)
}

// before is how many lines come before the last ones that are wanted.
func (p *logPrinter) before(dir string, tail int64) (int64, error) {
	r := monitor.NewReader(dir)
	defer r.Close()
	var lines int64
	last := byte('\n')
	for {
		f, err := r.Next()
		if err != nil {
			return 0, err
		}
		if f == nil {
			break
		}
		if !p.wants(f) || len(f.Data) == 0 {
			continue
		}
		for _, b := range f.Data {
			if b == '\n' {
				lines++
			}
		}
		last = f.Data[len(f.Data)-1]
	}
	if last != '\n' {
		lines++
	}
	return max(0, lines-tail), nil
}

// follow writes what there is, and with on what comes, until over is closed.
func (p *logPrinter) follow(ctx context.Context, dir string, on bool, over <-chan struct{}) error {
	r := monitor.NewReader(dir)
	defer r.Close()
	return p.followFrom(ctx, r, dir, on, over)
}

func (p *logPrinter) followFrom(ctx context.Context, r *monitor.Reader, dir string, on bool, over <-chan struct{}) error {
	var changes <-chan struct{}
	if on {
		w, err := watchDir(ctx, dir)
		if err != nil {
			return err
		}
		defer w.close()
		changes = w.c
	}
	for {
		ended := false
		select {
		case <-over: // before reading, so that nothing is missed
			ended = true
		default:
		}
		if err := p.all(r); err != nil || !on || ended {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-over:
		case <-changes:
		}
	}
}

func (p *logPrinter) all(r *monitor.Reader) error {
	for {
		f, err := r.Next()
		if f == nil || err != nil {
			return err
		}
		if p.wants(f) {
			if err := p.frame(f); err != nil {
				return err
			}
		}
	}
}

func (p *logPrinter) frame(f *monitor.Frame) error {
	data := f.Data
	var b []byte
	for len(data) > 0 {
		n := len(data)
		for i, c := range data {
			if c == '\n' {
				n = i + 1
				break
			}
		}
		line := data[:n]
		data = data[n:]
		if p.skip > 0 {
			if line[n-1] == '\n' {
				p.skip--
			}
			continue
		}
		if p.times && p.start[f.Stream] {
			b = append(f.Time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000000Z07:00"), ' ')
		}
		b = append(b, line...)
		p.start[f.Stream] = line[n-1] == '\n'
	}
	full := p.limit >= 0 && int64(len(b)) >= p.limit
	if full {
		b = b[:p.limit]
	}
	if p.limit >= 0 {
		p.limit -= int64(len(b))
	}
	to := p.w
	if f.Stream == monitor.Stderr && p.errw != nil {
		to = p.errw
	}
	if len(b) > 0 && to != nil {
		if _, err := to.Write(b); err != nil {
			return err
		}
	}
	if full {
		return errLimit
	}
	return nil
}

// dirWatch tells that something in a directory has changed.
type dirWatch struct {
	f    *os.File
	c    chan struct{}
	stop func() bool
}

func watchDir(ctx context.Context, dir string) (*dirWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_MOVED_TO|unix.IN_DELETE_SELF|unix.IN_ONLYDIR); err != nil {
		f.Close()
		return nil, &os.PathError{Op: "inotify_add_watch", Path: dir, Err: err}
	}
	w := &dirWatch{f: f, c: make(chan struct{}, 1)}
	go func() {
		buf := make([]byte, 16<<10)
		for {
			if _, err := f.Read(buf); err != nil {
				return
			}
			select {
			case w.c <- struct{}{}:
			default:
			}
		}
	}()
	w.stop = context.AfterFunc(ctx, func() { f.Close() })
	return w, nil
}

func (w *dirWatch) close() {
	w.stop()
	w.f.Close()
}
