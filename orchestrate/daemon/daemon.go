package daemon

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/minirun/minirun/orchestrate/api"
	"github.com/minirun/minirun/orchestrate/client"
	"github.com/minirun/minirun/orchestrate/controller"
	"github.com/minirun/minirun/orchestrate/podlife"
	"github.com/minirun/minirun/orchestrate/rest"
	"github.com/minirun/minirun/orchestrate/services"
	"github.com/minirun/minirun/orchestrate/store"
	"golang.org/x/sys/unix"
)

// Where minirund is unless said otherwise.
const (
	DefaultData   = "/var/lib/minirund"
	DefaultSocket = client.DefaultSocket
)

// Options of Run. The zero value is a minirund at its usual places.
type Options struct {
	// Data is the directory of the wanted objects and of volumes, mode 0700.
	Data string
	// Socket is the path of the API's unix socket. A lock file lies beside it.
	Socket string
	// Listen is an address and port to serve the API on over TLS, for kubectl; empty: none.
	Listen string
	// Images is the directory of the image store, see container.StoreDir.
	Images string
	// CgroupParent is the cgroup that pods are made below.
	CgroupParent string
	// Network is the network that pods are on, made when it is missing.
	Network string
	// PodRanges are the subnets that the network of pods is made with, one per family;
	// empty: one that is free.
	PodRanges []netip.Prefix
	// ServiceRanges are where addresses of services come from, one per family; empty:
	// those of the last time, or one that is free.
	ServiceRanges []netip.Prefix
	// FirstNodePort and LastNodePort bound the node ports of services; 0: 30000 and 32767.
	FirstNodePort, LastNodePort uint16
	// ServiceTable is the nftables table of services; empty: proxy.Table.
	ServiceTable string
	// NetNS is a descriptor of the network namespace to work in; 0 is the current one.
	NetNS int
	// Backoff is how long containers wait that end again and again; the zero value is
	// podlife.Default.
	Backoff podlife.Backoff
	// Bare leaves out what touches the host: pods, networks and services.
	Bare bool
	// Restore puts the newest good backup in the place of a damaged store.
	Restore bool
	// Version is shown in the status.
	Version string
	Log     *slog.Logger
	// Ready is called once, when the socket answers.
	Ready func() error
}

// RunningError says that another minirund has the socket.
type RunningError struct {
	Socket string
	Pid    int // 0 if it is not known
}

func (e *RunningError) Error() string {
	if e.Pid != 0 {
		return fmt.Sprintf("minirund is running already: process %d holds %q", e.Pid, e.Socket+".lock")
	}
	return fmt.Sprintf("minirund is running already: it holds %q", e.Socket+".lock")
}

// Hint says how to go on.
func (e *RunningError) Hint() string {
	return "minirun status shows it, minirun down ends it; --socket and --data make another one"
}

// damagedError is a store that cannot be read.
type damagedError struct{ err error }

func (e *damagedError) Error() string { return e.err.Error() }
func (e *damagedError) Unwrap() error { return e.err }

// Hint says how to go on.
func (e *damagedError) Hint() string {
	return "running containers are not touched; minirun up --restore takes the newest good backup, and keeps the damaged file"
}

// Daemon is a running minirund.
type Daemon struct {
	o        Options
	store    *store.Store
	registry *api.Registry
	api      *rest.Server
	started  time.Time
	parts    []*part
	backup   backupState
	warnings warnings
	listen   string // the address of the API over TLS, if there is one
}

// Run is minirund: it works until ctx ends. Containers go on after it.
func Run(ctx context.Context, o Options) (err error) {
	o.Data, o.Socket = cmp.Or(o.Data, DefaultData), cmp.Or(o.Socket, DefaultSocket)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Data, err = filepath.Abs(o.Data); err != nil {
		return err
	}
	if err := privateDir(o.Data); err != nil {
		return err
	}
	if err := privateDir(filepath.Dir(o.Socket)); err != nil {
		return err
	}
	unlock, err := lock(o.Socket)
	if err != nil {
		return err
	}
	defer unlock()
	d := &Daemon{o: o, registry: api.NewRegistry(), started: time.Now()}
	if !o.Bare {
		release, err := d.claim()
		if err != nil {
			return err
		}
		defer release()
	}
	if err := d.chooseRanges(); err != nil {
		return err
	}
	if err := d.openStore(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.store.Close()) }()
	l, err := listen(o.Socket)
	if err != nil {
		return err
	}
	defer os.Remove(o.Socket)
	var secure net.Listener
	var certificates *tls.Config
	if o.Listen != "" {
		if secure, certificates, err = d.secureListener(); err != nil {
			return errors.Join(err, l.Close())
		}
		defer secure.Close()
		d.listen = secure.Addr().String()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	handler, err := d.wire()
	if err != nil {
		return errors.Join(err, l.Close())
	}
	done := d.startParts(ctx)
	err = d.serve(ctx, l, secure, certificates, handler)
	cancel()
	done()
	d.saveBackup()
	return err
}

// ranges are where services get addresses and node ports from.
func (d *Daemon) ranges() services.Ranges {
	return services.Ranges{
		CIDRs:     d.o.ServiceRanges,
		FirstPort: cmp.Or(int32(d.o.FirstNodePort), services.FirstNodePort), LastPort: cmp.Or(int32(d.o.LastNodePort), services.LastNodePort),
	}
}

// openStore opens the objects, from a backup if that is wished.
func (d *Daemon) openStore() error {
	path := filepath.Join(d.o.Data, "objects.db")
	kinds, err := controller.Admission(d.registry.Stored(), d.ranges())
	if err != nil {
		return err
	}
	s, err := store.Open(path, kinds, store.Options{})
	var corrupt *store.CorruptError
	if errors.As(err, &corrupt) {
		if !d.o.Restore {
			return &damagedError{err}
		}
		from, restoreErr := store.Restore(path, kinds)
		if restoreErr != nil {
			return errors.Join(err, restoreErr)
		}
		d.o.Log.Warn("the store was damaged and is a backup now", "store", path, "backup", from, "damaged", path+".damaged", "error", err)
		s, err = store.Open(path, kinds, store.Options{})
	}
	d.store = s
	return err
}

// serve answers requests until ctx ends, at secure over TLS.
func (d *Daemon) serve(ctx context.Context, l, secure net.Listener, certificates *tls.Config, handler http.Handler) error {
	// One of each: HTTP/2 is set up once in a server, and is for TLS alone.
	var servers []*http.Server
	end := make(chan error, 2)
	start := func(at string, serve func(*http.Server) error) {
		srv := &http.Server{
			Handler: handler, ReadHeaderTimeout: 30 * time.Second, TLSConfig: certificates.Clone(), // each server writes to its own
			// Watches and logs end with this.
			BaseContext: func(net.Listener) context.Context { return ctx },
			ErrorLog:    slog.NewLogLogger(d.o.Log.Handler(), slog.LevelWarn),
		}
		servers = append(servers, srv)
		go func() { end <- fmt.Errorf("serve %q: %w", at, serve(srv)) }()
	}
	start(d.o.Socket, func(srv *http.Server) error { return srv.Serve(l) })
	if secure != nil {
		start(d.listen, func(srv *http.Server) error { return srv.ServeTLS(secure, "", "") })
	}
	var err error
	if d.o.Ready != nil {
		err = d.o.Ready()
	}
	if err == nil {
		select {
		case err = <-end:
		case <-ctx.Done():
		}
	}
	stop, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	for _, srv := range servers {
		if err != nil || srv.Shutdown(stop) != nil {
			err = errors.Join(err, srv.Close())
		}
	}
	return err
}

// privateDir makes a directory of ours. One that others can write to would let
// them put another socket or another store in the place of ours.
func privateDir(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return fmt.Errorf("directory %q: %w", path, err)
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return &sharedDirError{path}
	}
	return nil
}

type sharedDirError struct{ path string }

func (e *sharedDirError) Error() string {
	return fmt.Sprintf("directory %q belongs to another user, or others may write to it", e.path)
}

// Hint says how to go on.
func (e *sharedDirError) Hint() string {
	return fmt.Sprintf("chown %d %s && chmod 700 %[2]s, or take a directory of your own", os.Geteuid(), e.path)
}
