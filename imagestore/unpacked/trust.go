package unpacked

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/minirun/minirun/imagestore/reference"
	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// What minirund has found about the names of an image, under a policy, is kept
// beside the record of the image, so that minirun need not check signatures:
//
//	minirun trust 1\n
//	names, with blanks between them\n
//	the policy file
//
// It is bound to the image by its digest, and to the policy by all of its text,
// keys included: a policy that has changed in any way makes it useless.

const (
	trustSuffix = ".trust"
	trustMagic  = "minirun trust 1\n"
	maxPolicy   = 1 << 20
)

// PolicyError reports a policy file that cannot be relied on.
type PolicyError struct{ Path, Problem string }

func (e *PolicyError) Error() string { return fmt.Sprintf("trust policy %q: %s", e.Path, e.Problem) }

// Hint says what follows.
func (e *PolicyError) Hint() string {
	return "no image is pulled or run while the policy cannot be relied on"
}

// ReadPolicy reads a policy file: a regular file of at most 1 MiB, of root or of
// the caller, that nobody else can write to.
func ReadPolicy(path string) ([]byte, error) {
	fd, err := linux.OpenAt(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open trust policy", Path: path, Err: err}
	}
	defer linux.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &os.PathError{Op: "fstat", Path: path, Err: err}
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, &PolicyError{path, "it is not a regular file"}
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return nil, &PolicyError{path, fmt.Sprintf("it belongs to user %d", st.Uid)}
	case st.Mode&0o022 != 0:
		return nil, &PolicyError{path, fmt.Sprintf("others can write to it (mode %o)", st.Mode&0o7777)}
	case st.Size > maxPolicy:
		return nil, &PolicyError{path, "it is larger than 1 MiB"}
	}
	b, err := linux.ReadAll(fd, maxPolicy)
	if err != nil {
		return nil, &os.PathError{Op: "read", Path: path, Err: err}
	}
	return b, nil
}

// Trusted tells whether the image was found to be trusted under its name and that
// policy.
func Trusted(store string, img *Image, policy []byte) bool {
	names, under, ok := readTrust(store, img.Target)
	if !ok || !bytes.Equal(under, policy) {
		return false
	}
	for names != "" {
		var name string
		name, names, _ = strings.Cut(names, " ")
		if name == trustName(img.Name) {
			return true
		}
	}
	return false
}

// trustName is a name in the list; one without a name has a place there too.
func trustName(name string) string {
	if name == "" {
		return "-"
	}
	return name
}

func readTrust(store string, target reference.Digest) (names string, policy []byte, ok bool) {
	b, err := linux.ReadFile(recordPath(store, target)+trustSuffix, maxPolicy+maxRecord)
	if err != nil || !bytes.HasPrefix(b, []byte(trustMagic)) {
		return "", nil, false
	}
	line, policy, ok := bytes.Cut(b[len(trustMagic):], []byte("\n"))
	return string(line), policy, ok
}

// WriteTrust records that the image target is trusted under that name.
func WriteTrust(store string, target reference.Digest, name string, policy []byte) error {
	if err := target.Check(); err != nil {
		return err
	}
	name = trustName(name)
	if strings.ContainsAny(name, " \n") {
		return errors.New("a name with blanks cannot be recorded as trusted")
	}
	names, under, ok := readTrust(store, target)
	switch {
	case !ok || !bytes.Equal(under, policy):
		names = name
	case strings.Contains(" "+names+" ", " "+name+" "):
		return nil
	default:
		names += " " + name
	}
	b := append([]byte(trustMagic+names+"\n"), policy...)
	if err := write(store, recordName(target)+trustSuffix, b); err != nil {
		return fmt.Errorf("record of image %s: %w", target, err)
	}
	return nil
}
