package names

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/minirun/minirun/network/store"
	"golang.org/x/sys/unix"
)

// batch is what has changed since the last one.
type batch struct {
	lost                 bool // more than the kernel remembers
	networks, containers map[string]bool
}

// watcher follows the directories of records. Its map of watches belongs to the
// goroutine that reads, but for what all needs.
type watcher struct {
	file       *os.File
	events     chan batch
	err        error // after events was closed
	places     [2]string
	done       chan struct{}
	finished   sync.WaitGroup
	mu         sync.Mutex
	below      map[int32]place
	registered map[place]bool
}

// place is a directory: of networks or containers, or of one of them.
type place struct {
	kind int // index of places
	name string
}

const (
	kindNetwork, kindContainer = 0, 1

	above = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_ONLYDIR
	// Records are made elsewhere and renamed.
	within = unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_ONLYDIR | unix.IN_DONT_FOLLOW
)

func newWatcher(s store.Store) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	w := &watcher{
		file: os.NewFile(uintptr(fd), "inotify"), events: make(chan batch), done: make(chan struct{}),
		below: map[int32]place{}, registered: map[place]bool{},
	}
	w.places[kindNetwork], w.places[kindContainer] = s.Places()
	for kind := range w.places {
		if err := w.add(place{kind: kind}); err != nil {
			w.file.Close()
			return nil, err
		}
	}
	w.finished.Go(w.read)
	return w, nil
}

func (w *watcher) close() error {
	close(w.done)
	err := w.file.Close()
	w.finished.Wait()
	return err
}

// add watches a directory. One that is gone is no error.
func (w *watcher) add(p place) error {
	path, mask := w.places[p.kind], uint32(above)
	if p.name != "" {
		path, mask = path+"/"+p.name, within
	}
	raw, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	wd := 0
	cerr := raw.Control(func(fd uintptr) { wd, err = unix.InotifyAddWatch(int(fd), path, mask) })
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err := errors.Join(cerr, err); err != nil {
		return fmt.Errorf("inotify_add_watch %q: %w", path, err)
	}
	w.mu.Lock()
	w.below[int32(wd)], w.registered[p] = p, true
	w.mu.Unlock()
	return nil
}

// all watches what is not watched yet and lists everything that there is.
func (w *watcher) all() (networks, containers map[string]bool, err error) {
	var lists [2]map[string]bool
	for kind, path := range w.places {
		lists[kind] = map[string]bool{}
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, nil, err
		}
		for _, e := range entries {
			p := place{kind, e.Name()}
			w.mu.Lock()
			known := w.registered[p]
			w.mu.Unlock()
			if !known {
				if err := w.add(p); err != nil {
					return nil, nil, err
				}
			}
			lists[kind][e.Name()] = true
		}
	}
	return lists[kindNetwork], lists[kindContainer], nil
}

// read passes on what the kernel tells. While the receiver is busy it goes on
// reading: what comes meanwhile is one batch.
func (w *watcher) read() {
	defer close(w.events)
	raw := make(chan []byte)
	failed := make(chan error, 1)
	w.finished.Go(func() {
		defer close(raw)
		for {
			buf := make([]byte, 64<<10)
			n, err := w.file.Read(buf)
			if err != nil {
				failed <- err
				return
			}
			select {
			case raw <- buf[:n]:
			case <-w.done:
				return
			}
		}
	})
	for {
		b := batch{networks: map[string]bool{}, containers: map[string]bool{}}
		buf, ok := <-raw
		for ok {
			w.parse(buf, &b)
			select {
			case buf, ok = <-raw:
				continue
			case w.events <- b:
			case <-w.done:
				return
			}
			break
		}
		if !ok {
			select {
			case w.err = <-failed:
			default:
			}
			return
		}
	}
}

// parse adds the events of a buffer to a batch, and watches new directories: a
// record that was made before is found by who reads after that.
func (w *watcher) parse(buf []byte, b *batch) {
	for len(buf) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(buf))
		mask := binary.NativeEndian.Uint32(buf[4:])
		size := int(binary.NativeEndian.Uint32(buf[12:]))
		name := strings.TrimRight(string(buf[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+size]), "\x00")
		buf = buf[unix.SizeofInotifyEvent+size:]
		w.mu.Lock()
		p, known := w.below[wd]
		if mask&unix.IN_IGNORED != 0 { // the directory is gone
			delete(w.below, wd)
			if p.name != "" {
				delete(w.registered, p)
			}
		}
		w.mu.Unlock()
		switch {
		case mask&unix.IN_Q_OVERFLOW != 0:
			b.lost = true
			continue
		case !known || mask&unix.IN_IGNORED != 0 && p.name == "":
			continue
		case p.name == "":
			p.name = name
			if mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0 && w.add(p) != nil {
				b.lost = true // compared, and tried again
			}
		}
		if p.kind == kindNetwork {
			b.networks[p.name] = true
		} else {
			b.containers[p.name] = true
		}
	}
}
