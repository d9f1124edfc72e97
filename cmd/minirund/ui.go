package main

// What people see:
//
//   - Results go to standard output, everything else to standard error.
//   - An error is one line, "minirun: operation object: cause", in lower case
//     and without a full stop; lines "hint: ..." say what to do instead. Hints
//     are chosen by the type of the error and never by its text.
//   - The exit status is 0 or 1.
//   - With --log, errors and warnings also go to that file, one entry a line.
//   - No colours. A line that is rewritten in place only on a terminal.

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/minirun/minirun/container/inventory"
	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/archive"
	"github.com/minirun/minirun/imagestore/registry"
	"github.com/minirun/minirun/overlay/apply"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

type ui struct {
	in       io.Reader
	out, err io.Writer
	log      logger
}

// globals checks the flags that every command has.
func (u *ui) globals(*cli.Context) error {
	if f := u.log.format; f != "text" && f != "json" {
		u.log.file = ""
		return &usageError{text: fmt.Sprintf("unknown log format %q, want text or json", f)}
	}
	return nil
}

// usageError is a command line that cannot be understood.
type usageError struct{ text, command string }

func (e *usageError) Error() string { return e.text }

// hinted is an error with advice of its own.
type hinted struct {
	error
	hint string
}

func (h *hinted) Unwrap() error { return h.error }

// exitStatus is an exit status without a message: it was printed already.
type exitStatus int

func (e exitStatus) Error() string { return "exit status " + strconv.Itoa(int(e)) }

// fail prints err and returns the exit status.
func (u *ui) fail(err error) int {
	var status exitStatus
	if errors.As(err, &status) {
		return int(status)
	}
	for _, e := range split(err) {
		u.log.entry("error", e)
		fmt.Fprintf(u.err, "minirun: %s\n", oneLine(e))
		for _, h := range hints(e) {
			fmt.Fprintf(u.err, "hint: %s\n", printable(h))
		}
	}
	return 1
}

// split returns the errors of a command that had several arguments.
func split(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var list []error
	for _, e := range joined.Unwrap() {
		list = append(list, split(e)...)
	}
	return list
}

func (u *ui) warn(format string, a ...any) {
	text := fmt.Errorf(format, a...)
	u.log.entry("warning", text)
	fmt.Fprintf(u.err, "minirun: warning: %s\n", oneLine(text))
}

// oneLine keeps what an image's metadata may bring into an error, such as
// terminal escapes, from the terminal.
func oneLine(err error) string {
	return printable(strings.ReplaceAll(err.Error(), "\n", "; "))
}

// hints returns advice for an error.
func hints(err error) []string {
	var (
		usage     *usageError
		own       *hinted
		load      *archive.Error
		pull      *registry.PullError
		noImage   *archive.NoImageError
		notExist  *imagestore.NotExistError
		ambiguous *imagestore.AmbiguousError
		inUse     *imagestore.InUseError
		platform  *imagestore.PlatformError
		hinter    interface{ Hint() string }
	)
	switch {
	case errors.As(err, &hinter) && hinter.Hint() != "":
		return []string{hinter.Hint()}
	case errors.As(err, &own):
		return []string{own.hint}
	case errors.As(err, &usage):
		command := usage.command
		if command == "" {
			command = "minirun"
		}
		return []string{command + " --help lists what there is"}
	case errors.As(err, &noImage):
		return []string{"an archive of a root file system becomes an image with: minirun image import FILE NAME"}
	case errors.As(err, &notExist):
		return []string{"minirun image list shows the images that there are"}
	case errors.As(err, &ambiguous):
		return []string{"give the full name, or more digits of the ID"}
	case errors.As(err, &inUse) && !slices.ContainsFunc(inUse.Containers, func(s string) bool { return s != inventory.MountUser }):
		return []string{"it is mounted: minirun image unmount " + printable(inUse.Ref)}
	case errors.As(err, &inUse):
		return []string{"delete these containers first, or remove the image with --force: they go on, and their layers stay until they are gone"}
	case errors.As(err, &platform) && platform.Elsewhere:
		return []string{"the one for " + platform.Host + " comes with: minirun pull " + printable(platform.Ref)}
	case errors.As(err, &platform):
		return []string{"use an image that was built for " + platform.Host}
	case errors.As(err, &pull) && (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)):
		return []string{"free space in the store, for example with: minirun image rm NAME; the next pull goes on with what has come by now, and minirun image gc removes it"}
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return []string{"free space in the store, for example with: minirun image rm NAME; nothing of this attempt was kept"}
	case errors.As(err, &load) && isDamaged(err):
		return []string{"the source is damaged or incomplete: make or fetch it again; nothing of it was kept"}
	case errors.As(err, &pull) && isDamaged(err):
		return []string{"the registry, or something on the way, sent what it should not; nothing of it was kept"}
	case isDamaged(err):
		return []string{"what is stored is damaged: minirun image fsck --repair takes that out, then load or pull the image again"}
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0:
		return []string{"the store belongs to root: run as root, or name a store of your own with --store"}
	}
	return nil
}

// isDamaged tells content that is not what it should be.
func isDamaged(err error) bool {
	var (
		digest  *imagestore.DigestError
		size    *imagestore.SizeError
		missing *imagestore.MissingError
		format  *imagestore.FormatError
	)
	return errors.As(err, &digest) || errors.As(err, &size) || errors.As(err, &missing) || errors.As(err, &format) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, apply.ErrInvalid)
}

func quote(s string) string { return strconv.Quote(s) }

// bytesText shows a size in the unit that leaves one to three digits before the point.
func bytesText(n int64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return strconv.FormatInt(n, 10) + " B"
	}
	v, unit := float64(n), -1
	for v >= 999.95 && unit < len(units)-1 {
		v /= 1000
		unit++
	}
	return strconv.FormatFloat(v, 'f', 1, 64) + " " + units[unit:unit+1] + "B"
}

func isTerminal(f any) bool {
	file, ok := f.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}
