package main

import (
	"errors"
	"strings"

	"github.com/minirun/minirun/runtime"
	"github.com/minirun/minirun/runtime/bundle"
)

// launchOptions are the flags that create and run share.
type launchOptions struct {
	bundle, console, pidFile string
	noPivot, noKeyring       bool
	pidfdSocket              string
	preserve                 int
	denials                  string // --debug-seccomp
	timing                   timingOptions
	bundleOnly               bool // the flags of image are not set up
	image                    imageOptions
}

func (o *launchOptions) add(f *flagSet) {
	f.String(&o.bundle, "bundle", 'b', "DIR", "directory of the OCI bundle (default: the working directory)")
	f.String(&o.console, "console-socket", 0, "PATH", "unix socket that receives the terminal's master")
	f.String(&o.pidFile, "pid-file", 0, "FILE", "write the pid of the container's process to FILE")
	f.String(&o.pidfdSocket, "pidfd-socket", 0, "PATH", "unix socket that receives a pidfd of the container's process")
	f.Int(&o.preserve, "preserve-fds", 0, "N", "pass N descriptors from 3 on to the container")
	f.Bool(&o.noPivot, "no-pivot", 0, "do not use pivot_root, for a root on a ramfs")
	denialFlag(f, &o.denials)
	f.Bool(&o.noKeyring, "no-new-keyring", 0, "keep the session keyring of the caller")
	if o.bundleOnly {
		return
	}
	o.image.add(f)
}

// parseLaunch reads the flags of run or create. The two dozen flags that need
// --image are only set up when it is there, or when something is not understood
// and the message should know them: a container from a bundle, started by an
// engine a hundred times a minute, does not pay for them.
func (o *launchOptions) parse(args []string, flags func() *flagSet) (*flagSet, []string, error) {
	o.bundleOnly = true
	for _, arg := range args {
		if strings.HasPrefix(arg, "--image") || strings.HasPrefix(arg, "-image") {
			o.bundleOnly = false
		}
	}
	f := flags()
	rest, err := f.parse(args)
	var usage *usageError
	if errors.As(err, &usage) && o.bundleOnly {
		o.bundleOnly = false
		f = flags()
		if rest, err = f.parse(args); err == nil {
			err = o.image.refuse(f)
		}
	}
	return f, rest, err
}

func createFlags(*app) *flagSet { return new(launchOptions).createFlags() }

func (o *launchOptions) createFlags() *flagSet {
	f := newFlags("create")
	o.add(f)
	o.timing.add(f)
	return f
}

// create makes a container and leaves its process waiting for start.
func (a *app) create(args []string) error {
	var o launchOptions
	f, args, err := o.parse(args, o.createFlags)
	if err != nil {
		return err
	}
	defer o.timing.print("create")
	if o.denials, err = denialFile(f, o.denials, false); err != nil {
		return err
	}
	l, err := a.prepare(f, &o, args)
	if err != nil {
		return err
	}
	return l.createOnly(a)
}

// launch is a container about to be made.
type launch struct {
	store   *runtime.Store
	options runtime.CreateOptions
	undo    func() // gives back what prepare made, if Create or Run is not reached
	// announce tells others of the monitor of a container of an image; nil for others.
	announce func(*runtime.Container)
	image    bool // made from an image: kept when it ends, as docker does
	remove   bool // and --rm was given

	removeVolumes func() error // those that have no name
}

// prepare turns flags and arguments into a bundle, from a directory or from an
// image.
func (a *app) prepare(f *flagSet, o *launchOptions, args []string) (*launch, error) {
	s, err := a.store()
	if err != nil {
		return nil, err
	}
	l := &launch{store: s, undo: func() {}}
	l.options = runtime.CreateOptions{
		Stdio: [3]int{0, 1, 2}, ConsoleSocket: o.console, PidFile: o.pidFile, PidfdSocket: o.pidfdSocket, Debug: a.log.debugf(),
		Notifier: a.notifier(),
		PlanOptions: runtime.PlanOptions{
			PreserveFDs: o.preserve + listenFDs(), NoPivot: o.noPivot, NoNewKeyring: o.noKeyring, Rootless: a.rootless, Systemd: a.systemd, DenialReport: o.denials, Timing: o.timing.Timing,
		},
	}
	if o.denials != "" {
		l.options.Supervise = a.supervisor(func() string { return l.options.ID }, o.denials)
	}
	if err := checkPreserve(f, o.preserve); err != nil {
		return nil, err
	}
	if o.image.ref != "" {
		err := a.prepareImage(f, l, o, args)
		o.timing.Mark("image and snapshot")
		return l, err
	}
	if err := o.image.refuse(f); err != nil {
		return nil, err
	}
	if len(args) != 1 {
		return nil, f.fail("want exactly one argument, the container ID; got %d", len(args))
	}
	l.options.ID = args[0]
	if err := runtime.CheckID(l.options.ID); err != nil {
		return nil, err
	}
	l.options.Bundle, err = bundle.Load(o.bundle)
	if err == nil && o.image.net.used != "" {
		err = a.bundleNetwork(f, l, &o.image)
	}
	if err == nil && l.options.Bundle.Spec.Process != nil {
		p := l.options.Bundle.Spec.Process
		p.Env = append(p.Env, listenEnv()...)
	}
	o.timing.Mark("flags and configuration")
	return l, err
}

func checkPreserve(f *flagSet, n int) error {
	if n < 0 || n > maxPreserve {
		return f.fail("flag --preserve-fds: invalid value %d: want 0 to %d", n, maxPreserve)
	}
	return nil
}

// keep reports whether the container stays when it ends.
func (l *launch) keep(o *runOptions) bool { return o.keep || l.image && !l.remove }

func (l *launch) createOnly(a *app) error {
	c, err := l.store.Create(l.options)
	if err != nil {
		return ofImage(l.image, err)
	}
	a.warnings(c.Warnings)
	return nil
}

func (a *app) warnings(w []string) {
	for _, text := range w {
		a.log.warn(text)
	}
}
