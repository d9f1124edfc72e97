// Package host keeps the Node object of this host: what it has, how it is, and
// where it is reached. It looks every ten seconds, and writes when something has
// changed, otherwise once in five minutes.
//
// Labels, taints and the rest of the spec belong to the user, but for the taints
// and labels that say what is seen here.
package host

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/orchestrate/store"
)

const kind = "nodes"

// every is how often the host is looked at.
const every = 10 * time.Second

// Options of New.
type Options struct {
	Store *store.Store
	Log   *slog.Logger
	// Name is the node's; empty is the host name in lower case.
	Name string
	// Dir is on the file system that pods and volumes are on.
	Dir string
	// MaxPods is how many pods there may be; 0 is 500.
	MaxPods int64
	// Version is that of minirun.
	Version string
}

// Host keeps the Node object.
type Host struct {
	o    Options
	look func() (Facts, error)
	now  func() time.Time
}

// New makes one that does nothing until Run.
func New(o Options) (*Host, error) {
	if o.Store == nil {
		return nil, errors.New("a node needs a store")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Name == "" {
		name, err := os.Hostname()
		if err != nil {
			return nil, err
		}
		o.Name = strings.ToLower(name)
	}
	if o.Dir == "" {
		o.Dir = "/"
	}
	if o.MaxPods == 0 {
		o.MaxPods = 500
	}
	h := &Host{o: o, now: time.Now}
	h.look = func() (Facts, error) { return Look(o.Dir) }
	return h, nil
}

// Run works until ctx ends or the store is closed.
func (h *Host) Run(ctx context.Context) error {
	said := ""
	for {
		err := h.Sync()
		if errors.Is(err, store.ErrClosed) {
			return nil
		}
		// The same again is not said again.
		if text := errorText(err); text != said {
			if said = text; err != nil {
				h.o.Log.Error("look at this host", "node", h.o.Name, "error", err)
			}
		}
		select {
		case <-time.After(every):
		case <-ctx.Done():
			return nil
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Sync looks once, and writes what has changed.
func (h *Host) Sync() error {
	f, err := h.look()
	if err != nil {
		return err
	}
	f.Name, f.MaxPods, f.Version = h.o.Name, h.o.MaxPods, h.o.Version
	obj, err := h.o.Store.Get(kind, "", h.o.Name)
	if errors.Is(err, fs.ErrNotExist) {
		n := &corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: h.o.Name}}
		n = Node(n, f, h.now())
		_, err = h.o.Store.Create(kind, n)
		return err
	}
	if err != nil {
		return err
	}
	old := obj.(*corev1.Node)
	n := Node(old, f, h.now())
	if !reflect.DeepEqual(n.ObjectMeta, old.ObjectMeta) || !reflect.DeepEqual(n.Spec, old.Spec) {
		if obj, err = h.o.Store.Update(kind, n, store.Main); err != nil {
			return ignoreConflict(err)
		}
		n.ResourceVersion = obj.GetResourceVersion()
	}
	_, err = h.o.Store.Update(kind, n, store.Status)
	return ignoreConflict(err)
}

// ignoreConflict leaves it to the next look when somebody was faster.
func ignoreConflict(err error) error {
	var conflict *store.ConflictError
	if errors.As(err, &conflict) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
