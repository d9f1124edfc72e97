// Package bundle reads, checks and writes OCI bundles: a directory with a
// config.json (runtime-spec 1.3) and usually a root filesystem.
//
// Everything here is pure: nothing but [Load] touches the host, and Load only
// reads. Decoding is done by generated code instead of encoding/json, because
// the reflection tables of the large specs.Spec cost a fresh process 0.9 ms.
package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// ConfigFile is the name of the configuration in a bundle.
const ConfigFile = "config.json"

// MaxConfigSize is the largest config.json that [Load] reads, in bytes. The
// largest in practice, with a seccomp profile and hundreds of mounts, stay
// below 200 kB.
const MaxConfigSize = 4 << 20

// Bundle is an OCI bundle as read from disk.
type Bundle struct {
	Dir  string      // absolute
	Raw  []byte      // config.json as read; strings of Spec point into it, so it must not be changed
	Spec *specs.Spec // decoded, not validated
}

// readConfig does not wait for whoever writes to it, should it be a pipe.
func readConfig(name string) ([]byte, error) {
	fd, err := linux.OpenAt(unix.AT_FDCWD, name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer linux.Close(fd)
	raw, err := linux.ReadAll(fd, MaxConfigSize)
	if err != nil {
		return nil, &os.PathError{Op: "read", Path: name, Err: err}
	}
	return raw, nil
}

// Load reads the bundle in dir, "" being the working directory. A missing
// config.json is a *MissingError, a wrong one a *FieldError.
func Load(dir string) (*Bundle, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("bundle %q: %w", dir, err)
	}
	name := filepath.Join(abs, ConfigFile)
	raw, err := readConfig(name)
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist):
		return nil, &MissingError{Path: name, Err: err}
	case errors.Is(err, unix.EFBIG):
		return nil, fmt.Errorf("read %q: larger than %d bytes: %w", name, MaxConfigSize, unix.EFBIG)
	default:
		return nil, err
	}
	spec, err := Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("bundle %q: %w", abs, err)
	}
	return &Bundle{Dir: abs, Raw: raw, Spec: spec}, nil
}
