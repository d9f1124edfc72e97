// Reading cgroup limits for GOMAXPROCS at start, and again every second, is of
// no use to a command that lives for some milliseconds.

//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Command minirun creates and runs Linux containers: an OCI runtime with the
// command line of runc, and "run --image" for images.
//
// What happens on "minirun run" is in four files: run.go here, then
// runtime/create.go, runtime/plan.go and internal/initprog/launch.go.
package main

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"time"

	_ "github.com/minirun/minirun/internal/bigstack" // first of all packages
	"github.com/minirun/minirun/internal/demo"
	"github.com/minirun/minirun/runtime"
)

func main() {
	if code, ok := demo.Main(filepath.Base(os.Args[0]), os.Args[1:]); ok {
		os.Exit(code)
	}
	os.Exit(run(os.Args[1:]))
}

// app is what the global flags say.
type app struct {
	log         logger
	root        string
	storeAt     string
	systemd     bool
	rootless    runtime.Rootless
	hookTimeout time.Duration
	showVersion bool
	args        []string // the whole command line, for minirund
}

var errHelp = errors.New("help wanted")

// exitStatus is the status of a process that is passed on.
type exitStatus int

func (exitStatus) Error() string { return "exit status" }

func run(args []string) int {
	a := &app{args: args}
	err := a.dispatch(args)
	var status exitStatus
	var execErr *runtime.ExecError
	var interrupted *runtime.InterruptError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	}
	a.log.fail(err)
	var unknown *unknownCommandError
	var failed *execFailure
	switch {
	case errors.As(err, &unknown):
		return 3
	case errors.As(err, &failed): // runc: an exec that could not start
		return 255
	case errors.As(err, &execErr):
		return execErr.ExitCode()
	case errors.As(err, &interrupted):
		return interrupted.ExitCode()
	}
	return 1
}

func (a *app) globalFlags() *flagSet {
	f := newFlags("")
	f.String(&a.root, "root", 0, "DIR", "where containers are recorded (default "+runtime.DefaultRoot+", for users $XDG_RUNTIME_DIR/minirun)")
	f.String(&a.storeAt, "store", 0, "DIR", "where images and snapshots are kept (default $MINIRUN_STORE or /var/lib/minirun, for users ~/.local/share/minirun)")
	f.String(&a.log.file, "log", 0, "FILE", "append errors and warnings to FILE")
	f.add("log-format", 0, "text|json", "format of the log (default text)", func(v string) error {
		if v != "text" && v != "json" {
			return errors.New("want text or json")
		}
		a.log.json = v == "json"
		return nil
	})
	f.Bool(&a.log.debug, "debug", 0, "log every step of what the init will do")
	f.add("hook-timeout", 0, "DURATION", "limit for hooks that have no timeout of their own, such as 30s; 0: none (default 2m)", a.setHookTimeout)
	f.Bool(&a.systemd, "systemd-cgroup", 0, "have systemd make the cgroup; linux.cgroupsPath is slice:prefix:name")
	f.add("rootless", 0, "auto|true|false", "do without what only root of the host can set (default auto: if we are not)", a.setRootless)
	f.Bool(&a.showVersion, "version", 'v', "print the version")
	return f
}

func (a *app) dispatch(args []string) error {
	rest, err := a.globalFlags().parse(args)
	if err == nil && a.showVersion {
		return a.version(nil)
	}
	if errors.Is(err, errHelp) || err == nil && len(rest) == 0 {
		return a.help()
	}
	if err != nil {
		return err
	}
	name, rest := rest[0], rest[1:]
	for i := range commands {
		c := &commands[i]
		if c.name != name {
			continue
		}
		err := c.run(a, rest)
		if errors.Is(err, errHelp) {
			return a.commandHelp(c)
		}
		return err
	}
	if forSibling(name) {
		return a.sibling()
	}
	if name == "help" {
		return a.help()
	}
	return &unknownCommandError{name}
}

func (a *app) setHookTimeout(v string) error {
	d, err := time.ParseDuration(v)
	if n, e := strconv.ParseUint(v, 10, 31); e == nil { // seconds, as in config.json
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d < 0 {
		return errors.New("want a duration such as 30s")
	}
	if a.hookTimeout = d; d == 0 {
		a.hookTimeout = -1
	}
	return nil
}

func (a *app) setRootless(v string) error {
	switch b, err := strconv.ParseBool(v); {
	case v == "auto":
		a.rootless = runtime.RootlessAuto
	case err != nil:
		return errors.New("want auto, true or false")
	case b:
		a.rootless = runtime.RootlessYes
	default:
		a.rootless = runtime.RootlessNo
	}
	return nil
}

func (a *app) store() (*runtime.Store, error) {
	if a.root == "" {
		var err error
		if a.root, err = runtime.UserRoot(); err != nil {
			return nil, err
		}
	}
	s, err := runtime.OpenStore(a.root)
	if err == nil {
		s.HookTimeout, s.Warn = a.hookTimeout, a.log.warn
	}
	return s, err
}

// container loads the container that the single argument names.
func (a *app) container(f *flagSet, args []string) (*runtime.Container, error) {
	if len(args) != 1 {
		return nil, f.fail("want exactly one argument, the container ID; got %d", len(args))
	}
	s, err := a.store()
	if err != nil {
		return nil, err
	}
	return s.Load(args[0])
}

type unknownCommandError struct{ name string }

func (e *unknownCommandError) Error() string { return "unknown command \"" + e.name + "\"" }

// Hint also knows what other container tools have in other places.
func (e *unknownCommandError) Hint() string {
	switch e.name {
	case "import", "inspect", "history", "load", "prune", "save", "tag":
		return "for images: minirun image " + e.name
	case "build":
		return "minirun builds no images: Buildah and BuildKit do, with minirun as their runtime"
	case "rmi":
		return "minirun image rm"
	case "rm":
		return "minirun delete"
	case "stop":
		return "minirun kill, minirun delete --force"
	}
	return "minirun --help lists the commands"
}
