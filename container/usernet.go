package container

import (
	"errors"
	"os"
	"strconv"
	"strings"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/network"
	"github.com/minirun/minirun/network/store"
	"github.com/minirun/minirun/network/usernet"
	"github.com/minirun/minirun/runtime"
	"github.com/minirun/minirun/runtime/bundle"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// IsUserNetwork reports whether a name is that of a program that connects the
// containers of ordinary users.
func IsUserNetwork(name string) bool { return name == usernet.Pasta || name == usernet.Slirp }

// Unprivileged reports whether we can make no interfaces on the host: we are an
// ordinary user, perhaps as root of a user namespace.
func Unprivileged() bool { return os.Geteuid() != 0 || linux.InUserNS() }

// A RootNetworkError refuses a program for ordinary users to root.
type RootNetworkError struct{ Name string }

func (e *RootNetworkError) Error() string {
	return "network " + e.Name + " is for containers of ordinary users"
}

// Hint says what to do.
func (*RootNetworkError) Hint() string {
	return "root has networks of its own: --network " + network.DefaultName + ", or one of minirun network create"
}

// A UserNetwork is how the container of an ordinary user is connected.
type UserNetwork struct{ helper *usernet.Helper }

// NewUserNetwork looks for the program; kind "" is any.
func NewUserNetwork(kind string, ports []store.Port, files network.Files) (*UserNetwork, error) {
	if !Unprivileged() {
		return nil, &RootNetworkError{kind}
	}
	h, err := usernet.New(kind, ports, files)
	if err != nil {
		return nil, err
	}
	return &UserNetwork{h}, nil
}

// annotation is the text of [NetworkAnnotation].
func (u *UserNetwork) annotation() string {
	return Summary(&store.Container{Endpoints: []store.Endpoint{{Network: u.helper.Kind}}, Ports: u.helper.Ports})
}

const resolvPath = "/etc/" + network.ResolvFile

// Bundle changes the configuration of a bundle, and reserves its ID: from then on the
// files of the network have a place. undo gives that back.
func (u *UserNetwork) Bundle(s *runtime.Store, o *runtime.CreateOptions) (undo func(), err error) {
	spec := o.Bundle.Spec
	if err := ownNetwork(spec); err != nil {
		return nil, err
	}
	text, err := network.ResolvConf(&u.helper.Files)
	if err != nil {
		return nil, err
	}
	dir := s.Root() + "/" + o.ID
	r, err := s.Reserve(o.ID, "", func() error { return usernet.Wait(dir) })
	if err != nil {
		return nil, err
	}
	if err := network.WriteFile(dir+"/"+network.ResolvFile, text); err != nil {
		return nil, errors.Join(err, r.Cancel())
	}
	if !mounted(spec, resolvPath) {
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: resolvPath, Type: "bind", Source: dir + "/" + network.ResolvFile, Options: []string{"bind", "rprivate", "ro", "nosuid", "nodev", "noexec"}})
	}
	if spec.Annotations == nil {
		spec.Annotations = map[string]string{}
	}
	spec.Annotations[NetworkAnnotation] = u.annotation()
	// exec and the later hooks read it again.
	if o.Bundle.Raw, err = bundle.AppendJSON(nil, spec); err != nil {
		return nil, errors.Join(err, r.Cancel())
	}
	o.Reservation = r
	o.ConnectInside = func(pid, user, net int) error { return u.helper.Start(dir, pid, user, net) }
	return func() { _ = r.Cancel() }, nil
}

func mounted(spec *specs.Spec, path string) bool {
	for i := range spec.Mounts {
		if spec.Mounts[i].Destination == path || spec.Mounts[i].Destination == "/etc" {
			return true
		}
	}
	return false
}

// ownNetwork has the container get a network namespace of its own.
func ownNetwork(spec *specs.Spec) error {
	if spec.Linux == nil {
		spec.Linux = &specs.Linux{}
	}
	for i, n := range spec.Linux.Namespaces {
		if n.Type != specs.NetworkNamespace {
			continue
		}
		if n.Path != "" {
			return &ForeignNetworkError{i, n.Path}
		}
		return nil
	}
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	return nil
}

// A ForeignNetworkError reports a configuration with the network of somebody else.
type ForeignNetworkError struct {
	Index int
	Path  string
}

func (e *ForeignNetworkError) Error() string {
	return "linux.namespaces[" + strconv.Itoa(e.Index) + "].path: the network namespace " + strconv.Quote(e.Path) + " is not the container's own to connect"
}

// Hint says what to do.
func (*ForeignNetworkError) Hint() string {
	return "remove the path, or leave --network and --publish out"
}

// userNetworkOf is what the record of a container says; nil if nothing.
func userNetworkOf(c *runtime.Container) (*store.Container, error) {
	h, err := usernet.Load(c.Dir())
	if h == nil || err != nil {
		return nil, err
	}
	return &store.Container{ID: c.ID, Endpoints: []store.Endpoint{{Network: h.Kind, Name: usernet.Interface}}, Ports: h.Ports}, nil
}

// hasUserNetwork reports whether a program may connect the container. The annotation
// is no proof, but its absence is.
func hasUserNetwork(c *runtime.Container) bool {
	kind, _, _ := strings.Cut(c.Annotations[NetworkAnnotation], "\n")
	return IsUserNetwork(kind) && unix.Access(c.Dir(), unix.F_OK) == nil
}

// awaitUserNetwork waits for the end of that program, when the container has ended.
func awaitUserNetwork(c *runtime.Container) error {
	if !hasUserNetwork(c) {
		return nil
	}
	return usernet.Wait(c.Dir())
}
