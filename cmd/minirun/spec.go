package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	goruntime "runtime"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/runtime/bundle"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// specOptions are the flags of spec.
type specOptions struct {
	bundle   string
	rootless bool
}

func specFlags(*app) *flagSet { return new(specOptions).flags() }

func (o *specOptions) flags() *flagSet {
	f := newFlags("spec")
	f.String(&o.bundle, "bundle", 'b', "DIR", "directory to write config.json to (default: the working directory)")
	f.Bool(&o.rootless, "rootless", 0, "for a container of an ordinary user")
	return f
}

// spec writes a config.json to start from. It never overwrites one.
func (a *app) spec(args []string) error {
	var o specOptions
	f := o.flags()
	args, err := f.parse(args)
	if err != nil {
		return err
	}
	if len(args) > 0 {
		return f.fail("want no arguments; got %d", len(args))
	}
	s := bundle.Default()
	if o.rootless {
		s = bundle.DefaultRootless()
	}
	raw, err := bundle.AppendJSON(nil, s)
	if err != nil {
		return err
	}
	path := filepath.Join(o.bundle, bundle.ConfigFile)
	fd, err := linux.OpenAt(unix.AT_FDCWD, path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o666)
	if errors.Is(err, fs.ErrExist) {
		return &specExistsError{path}
	}
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	return linux.WriteAll(fd, raw)
}

type specExistsError struct{ path string }

func (e *specExistsError) Error() string {
	return fmt.Sprintf("file %s exists. Remove it first", e.path) // runc's words
}

// version is set by the Makefile.
var version = "0.1.0-dev"

// version prints what engines parse: "NAME version X", "commit: ", "spec: ".
func (a *app) version(args []string) error {
	f := newFlags("version")
	args, err := f.parse(args)
	if err != nil {
		return err
	}
	if len(args) > 0 {
		return f.fail("want no arguments; got %d", len(args))
	}
	return stdout("minirun version " + version + "\ncommit: " + version + "\nspec: " + specs.Version + "\ngo: " + goruntime.Version() + "\n")
}
