package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/imagestore/reference"
	"github.com/minirun/minirun/imagestore/unpacked"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/monitor"
	"github.com/minirun/minirun/runtime"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// imageOptions are the flags of run, create and explain for a container from an
// image, named as docker names them.
type imageOptions struct {
	ref         string
	container   container.Options
	interactive bool
	rm          bool
	pull        string   // always, missing or never; empty is missing
	detach      bool     // set by run
	from        []string // --volumes-from
	net         networkFlags
	used        string // a flag that only makes sense with --image
	logSize     int64  // --log-opt max-size
	logFiles    int    // --log-opt max-file
	logged      bool   // --log-opt was given
}

func (o *imageOptions) add(f *flagSet) {
	c := &o.container
	note := func(name string, set func(string) error) func(string) error {
		return func(v string) error { o.used = name; return set(v) }
	}
	str := func(p *string, name string, letter byte, value, help string) {
		f.add(name, letter, value, help, note(name, func(v string) error { *p = v; return nil }))
	}
	list := func(p *[]string, name string, letter byte, value, help string) {
		f.add(name, letter, value, help, note(name, func(v string) error { *p = append(*p, v); return nil }))
	}
	toggle := func(p *bool, name string, letter byte, help string) {
		f.add(name, letter, "", help, note(name, func(v string) (err error) { *p, err = strconv.ParseBool(v); return err }))
	}
	f.add("image", 0, "REF", "make the container from this image; the flags below need it", func(v string) error {
		if o.ref = v; v == "" {
			return errors.New("the name is empty")
		}
		return nil
	})
	f.add("pull", 0, "always|missing|never", "when to fetch the image from its registry (default missing)", note("pull", func(v string) error {
		if v != "always" && v != "missing" && v != "never" {
			return errors.New("want always, missing or never")
		}
		o.pull = v
		return nil
	}))
	f.add("platform", 0, "OS/ARCH[/VARIANT]", "the image's platform: this host's, no other", note("platform", checkPlatform))
	f.add("env", 'e', "NAME=VALUE", "set an environment variable (repeatable)", note("env", func(v string) error {
		name, _, ok := strings.Cut(v, "=")
		if name == "" {
			return errors.New("want NAME=VALUE or NAME")
		}
		if !ok { // the user's own, who asks for it by name
			value, set := os.LookupEnv(name)
			if !set {
				return nil
			}
			v = name + "=" + value
		}
		c.Env = append(c.Env, v)
		return nil
	}))
	str(&c.WorkDir, "workdir", 'w', "DIR", "working directory in the container")
	str(&c.User, "user", 'u', "USER[:GROUP]", "user, by name or number")
	list(&c.Volumes, "volume", 'v', "[SRC:]DST[:ro]", "mount a volume, or a directory or file of the host (repeatable)")
	list(&c.Mounts, "mount", 0, "type=TYPE,...", "mount a bind, volume or tmpfs: src=, dst=, readonly (repeatable)")
	list(&o.from, "volumes-from", 0, "ID[:ro]", "mount the volumes of another container (repeatable)")
	toggle(&o.interactive, "interactive", 'i', "pass standard input on")
	toggle(&c.Terminal, "tty", 't', "give the process a terminal")
	toggle(&o.rm, "rm", 0, "remove the container when it ends")
	f.add("log-opt", 0, "max-size=BYTES|max-file=N", "bound the log of a detached container (default 10m, 5 files)", note("log-opt", o.logOption))
	toggle(&c.ReadOnly, "read-only", 0, "make the root file system read-only")
	list(&c.Tmpfs, "tmpfs", 0, "DIR[:OPTIONS]", "mount a tmpfs (repeatable)")
	str(&c.Hostname, "hostname", 0, "NAME", "hostname (default: the container's ID)")
	f.add("entrypoint", 0, "PROGRAM", "replace the image's entrypoint", note("entrypoint", func(v string) error { c.Entrypoint = &v; return nil }))
	f.add("memory", 'm', "BYTES[kmg]", "memory limit", note("memory", func(v string) (err error) { c.Memory, err = parseBytes(v); return err }))
	f.add("cpus", 0, "N", "CPU limit, in CPUs: 0.5", note("cpus", func(v string) (err error) {
		c.CPUs, err = strconv.ParseFloat(v, 64)
		if err != nil || !(c.CPUs >= 0.01) || c.CPUs > 1<<20 {
			return errors.New("want a number of CPUs, at least 0.01")
		}
		return nil
	}))
	f.add("pids-limit", 0, "N", "limit on processes and threads", note("pids-limit", func(v string) (err error) {
		c.Pids, err = strconv.ParseInt(v, 10, 64)
		if err != nil || c.Pids < -1 {
			return errors.New("want a number, -1 for no limit")
		}
		return nil
	}))
	f.add("storage-opt", 0, "size=BYTES[kmg]", "limit what the container writes to its root, where the store's file system has project quotas", note("storage-opt", func(v string) (err error) {
		size, ok := strings.CutPrefix(v, "size=")
		if !ok {
			return errors.New("want size=BYTES")
		}
		c.Size, err = parseBytes(size)
		return err
	}))
	list(&c.CapAdd, "cap-add", 0, "CAP", "add a capability, or ALL (repeatable)")
	list(&c.CapDrop, "cap-drop", 0, "CAP", "take a capability away, or ALL (repeatable)")
	toggle(&c.Privileged, "privileged", 0, "all capabilities and devices, nothing masked or filtered")
	f.add("security-opt", 0, "OPTION", "seccomp=FILE, seccomp=unconfined or no-new-privileges (repeatable)", note("security-opt", func(v string) error {
		key, value := v, ""
		if i := strings.IndexAny(v, "=:"); i > 0 { // docker takes both
			key, value = v[:i], v[i+1:]
		}
		switch {
		case key == "seccomp" && value != "":
			c.Seccomp = value
		case key == "no-new-privileges" && (value == "" || value == "true"):
			c.NoNewPrivs = true
		case key == "no-new-privileges" && value == "false":
			c.NoNewPrivs = false
		default:
			return errors.New("want seccomp=FILE, seccomp=unconfined or no-new-privileges")
		}
		return nil
	}))
	maps := func(p *[]specs.LinuxIDMapping) func(string) error {
		return func(v string) error {
			m, err := container.ParseIDMap(v)
			*p = append(*p, m)
			return err
		}
	}
	f.add("uidmap", 0, "ID:HOSTID:N", "user namespace with these user ids (repeatable)", note("uidmap", maps(&c.UIDMap)))
	f.add("gidmap", 0, "ID:HOSTID:N", "the same for group ids (default: those of uidmap)", note("gidmap", maps(&c.GIDMap)))
	f.add("userns", 0, "host|auto", "auto: a user namespace with ids that no other container has (default host: none)", note("userns", func(v string) error {
		if v != "host" && v != "auto" {
			return errors.New("want host or auto")
		}
		c.AutoMap = v == "auto"
		return nil
	}))
	o.addNetwork(f, note)
}

// refuse reports a flag that needs --image and came without.
func (o *imageOptions) refuse(f *flagSet) error {
	if o.used == "" && o.net.used != "" && !o.net.forUsers() {
		o.used = o.net.used
	}
	if o.used != "" {
		return f.fail("flag --%s needs --image; for a bundle, config.json says it", o.used)
	}
	return nil
}

// parseBytes reads a size such as 64m; the units are powers of 1024.
func parseBytes(s string) (int64, error) {
	digits := strings.TrimRight(strings.ToLower(s), "b")
	shift := 0
	if n := len(digits); n > 0 {
		if i := strings.IndexByte("kmgt", digits[n-1]); i >= 0 {
			shift, digits = 10*(i+1), digits[:n-1]
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n <= 0 || n > 1<<62>>shift {
		return 0, errors.New("want a number of bytes, perhaps with k, m, g or t")
	}
	return n << shift, nil
}

// imageStore is the store that --store names.
func (a *app) images() *container.Images {
	return &container.Images{Dir: container.StoreDir(a.storeAt)}
}

// prepareImage makes a container's snapshot and configuration from an image.
func (a *app) prepareImage(f *flagSet, l *launch, o *launchOptions, args []string) error {
	i := &o.image
	id := ""
	if f.dashes {
		id = container.RandomID()
	} else if len(args) > 0 {
		id, args = args[0], args[1:]
	}
	if id == "" {
		return f.fail("want a container ID, or -- for a random one")
	}
	if o.bundle != "" {
		return f.fail("--bundle and --image exclude each other")
	}
	switch {
	case !i.detach && i.logged:
		return f.fail("flag --log-opt needs --detach: only detached containers have a log")
	case i.detach && o.console != "" && i.logged:
		return f.fail("--log-opt and --console-socket exclude each other: the output goes to the socket")
	}
	if err := i.container.CheckIDMaps(); err != nil {
		return f.fail("%v", err)
	}
	if err := a.becomeRoot(); err != nil {
		return err
	}
	i.container.Command = args
	i.container.Disposable = i.rm
	image, err := a.findImage(i.ref, i.pull)
	if err != nil {
		return err
	}
	for _, from := range i.from {
		if err := i.container.FromContainer(l.store, a.images().Dir, from); err != nil {
			return err
		}
	}
	if err := a.network(f, l.store, i); err != nil {
		return err
	}
	p, err := a.images().Prepare(l.store, id, image, &i.container)
	if err != nil {
		return err
	}
	l.remove = i.rm
	l.removeVolumes = p.RemoveVolumes
	l.image = true
	l.undo = func() { _ = p.Cancel() }
	l.options.ID, l.options.Bundle = id, p.Bundle
	l.options.Reservation, l.options.RootFD, l.options.RootMount = p.Reservation, p.RootFD, true
	l.options.Connect, l.options.ConnectInside = p.Connect, p.ConnectInside
	if i.detach && o.console == "" {
		if l.options.Monitor, err = a.monitorOf(l, i, id); err != nil {
			l.undo()
			return err
		}
		l.options.Monitor.Keep, l.announce = p.Keep(), p.Announce
		return nil
	}
	p.Announce(nil)
	if err := a.streams(l, i); err != nil {
		l.undo()
		return err
	}
	return nil
}

// streams decides what the container's standard streams are.
func (a *app) streams(l *launch, i *imageOptions) error {
	if i.container.Terminal {
		return nil
	}
	if !i.interactive {
		null, err := linux.OpenAt(unix.AT_FDCWD, "/dev/null", unix.O_RDWR, 0)
		if err != nil {
			return err
		}
		l.options.Stdio[0] = null
	}
	return nil
}

// monitorOf is the monitor of a detached container.
func (a *app) monitorOf(l *launch, i *imageOptions, id string) (*runtime.Monitor, error) {
	m := &runtime.Monitor{LogSize: i.logSize, LogFiles: i.logFiles, Input: i.interactive}
	if i.rm { // from another working directory
		dir, err := filepath.Abs(a.images().Dir)
		if err != nil {
			return nil, err
		}
		m.Remove = []string{"minirun", "--root", l.store.Root(), "--store", dir, "delete", "--force", "--volumes", id}
		m.RemoveEnv = []string{"PATH=" + os.Getenv("PATH")}
	}
	return m, nil
}

// logOption reads one of docker's --log-opt.
func (o *imageOptions) logOption(v string) error {
	name, value, _ := strings.Cut(v, "=")
	o.logged = true
	switch name {
	case "max-size":
		n, err := parseBytes(value)
		if err != nil || n < monitor.MinLogSize {
			return errors.New("max-size: want a number of bytes, at least 64k, perhaps with k, m or g")
		}
		o.logSize = n
	case "max-file":
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 || n > monitor.MaxLogFiles {
			return errors.New("max-file: want a number of files from 1 to 100")
		}
		o.logFiles = n
	default:
		return errors.New("want max-size=BYTES or max-file=N")
	}
	return nil
}

// findImage looks an image up; the embedded one is made on first use, others are
// fetched from their registry if they are not there, or pull says so.
func (a *app) findImage(ref, pull string) (*unpacked.Image, error) {
	image, err := a.fetchImage(ref, pull)
	if err == nil {
		err = a.checkTrust(image, ref)
	}
	return image, err
}

func (a *app) fetchImage(ref, pull string) (*unpacked.Image, error) {
	images := a.images()
	if pull == "always" {
		if err := a.pullImage(ref); err != nil {
			return nil, err
		}
	}
	image, sure, err := images.Find(ref)
	if err == nil && sure {
		return image, nil
	}
	var packed *container.NotUnpackedError
	switch {
	case err == nil, errors.As(err, &packed):
		err = a.runSibling("image", "unpack", ref) // which knows the IDs of all images
	case errors.Is(err, fs.ErrNotExist) && isDemo(ref):
		err = a.runSibling("image", "demo")
	case errors.Is(err, fs.ErrNotExist) && isID(ref):
		return nil, &hintError{err, noImageHint}
	case errors.Is(err, fs.ErrNotExist) && pull == "never":
		return nil, &hintError{err, "minirun pull fetches it; " + noImageHint}
	case errors.Is(err, fs.ErrNotExist):
		err = a.pullImage(ref)
	}
	if err != nil {
		return nil, err
	}
	image, _, err = images.Find(ref)
	return image, err
}

// pullImage fetches and unpacks an image. What goes wrong minirund has said.
func (a *app) pullImage(ref string) error {
	_, err := reference.Parse(ref)
	if err != nil {
		return err
	}
	return a.runSibling("image", "pull", "--", ref)
}

// isID tells what can only be an ID and no name. The first digits of one are a
// name too, which docker would fetch.
func isID(ref string) bool { return strings.HasPrefix(ref, "sha256:") || len(ref) == 64 }

// lookUpImage looks an image up and changes nothing, for explain.
func (a *app) lookUpImage(ref string) (*unpacked.Image, error) {
	image, _, err := a.images().Find(ref)
	var packed *container.NotUnpackedError
	switch {
	case errors.As(err, &packed):
		err = &hintError{err, "minirun image unpack " + ref}
	case errors.Is(err, fs.ErrNotExist) && isDemo(ref):
		err = &hintError{err, "minirun image demo makes it"}
	case errors.Is(err, fs.ErrNotExist):
		err = &hintError{err, "minirun pull fetches it, as run does; " + noImageHint}
	}
	return image, err
}

type hintError struct {
	error
	hint string
}

func (e *hintError) Unwrap() error { return e.error }
func (e *hintError) Hint() string  { return e.hint }

func isDemo(ref string) bool {
	r, err := reference.Normalize(ref)
	return err == nil && r == "docker.io/minirun/demo:latest"
}

const noImageHint = "minirun image list shows what there is; minirun image load and minirun image import add images, and minirun/demo is built in"
