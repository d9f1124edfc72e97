package apply

import (
	"errors"
	"fmt"
	"os"

	"github.com/minirun/minirun/overlay"
)

// Kind is a choice of how to keep a layer.
type Kind int

const (
	Auto    Kind = iota // as the layer below, or what is possible
	Extract             // as a directory with its files
	Index               // as it came, with an index
)

// ParseKind reads "auto", "extract" or "index".
func ParseKind(s string) (Kind, error) {
	for k, name := range [...]string{"auto", "extract", "index"} {
		if s == name {
			return Kind(k), nil
		}
	}
	return 0, fmt.Errorf("%q: want auto, extract or index", s)
}

// Options limit what a layer may cost. The zero value is usable.
type Options struct {
	// MaxBytes bounds the uncompressed stream, and apart from that the sum of
	// the files' sizes with holes counted in full. 0 means 256 GiB.
	MaxBytes int64
	// MaxEntries bounds the archive's entries. 0 means 5,000,000.
	MaxEntries int
	// MaxMemory bounds in bytes what must be remembered until the end:
	// directories, whiteouts, links to files that come later. 0 means 256 MiB,
	// which is about a million directories.
	MaxMemory int64

	// Kind says how to keep the layer. The zero value takes the way of the layer
	// below, and for a bottom layer what the kernel allows: see [CanIndex].
	Kind Kind
	// Base keeps what is known of a chain of indexed layers between calls. It
	// may be nil.
	Base *Base
	// Inner says that nothing will stand on this layer but another layer: an
	// indexed one then gets no image. Calling Layer again without it makes one.
	Inner bool

	// Plain is the archive as a file, when it is one that never changes and has
	// nothing else in it: the blob of a layer that is not compressed. An indexed
	// layer then keeps it by a second name and not by a copy, where that can be
	// done. It may be nil, and is left at the caller's.
	Plain *os.File

	// largeFrom is the size from which files are large. 0 means 256 KiB, a negative one
	// that none is.
	largeFrom int64

	// unprivileged is for tests without root: owners, devices and trusted
	// attributes are left out.
	unprivileged bool
}

const (
	maxName  = 4096 // bytes of an entry's name or link target
	maxDepth = 256  // components
	maxXattr = 64 << 10
)

func (o *Options) setDefaults() {
	if o.MaxBytes <= 0 {
		o.MaxBytes = 256 << 30
	}
	if o.MaxEntries <= 0 {
		o.MaxEntries = 5_000_000
	}
	if o.MaxMemory <= 0 {
		o.MaxMemory = 256 << 20
	}
	if o.largeFrom == 0 {
		o.largeFrom = 256 << 10
	}
}

// Result says what was unpacked.
type Result struct {
	Kind      overlay.Kind
	Existed   bool  // the layer was there: the archive was not read
	Entries   int   // entries of the archive
	Whiteouts int   // names of lower layers that are hidden, opaque directories included
	Bytes     int64 // sum of the files' sizes
	Stream    int64 // bytes of the archive
	// Warnings are things that were left out or look unintended, at most 100.
	Warnings []string
}

const maxWarnings = 100

var (
	// ErrInvalid is the class of errors about an archive that is damaged or
	// hostile.
	ErrInvalid = errors.New("invalid layer")
	// ErrLimit is the class of errors about a layer that exceeds Options or a
	// fixed limit.
	ErrLimit = errors.New("layer too large")
)

// EntryError is an error about one entry of the archive. Err says what; ErrInvalid
// and ErrLimit tell blame by errors.Is, everything else comes from the system.
type EntryError struct {
	Name string
	Err  error
}

func (e *EntryError) Error() string { return fmt.Sprintf("entry %q: %v", clip(e.Name), e.Err) }
func (e *EntryError) Unwrap() error { return e.Err }

// DigestError says that the archive is not the one that was asked for. It is
// ErrInvalid.
type DigestError struct{ Want, Got string }

func (e *DigestError) Error() string {
	return fmt.Sprintf("layer has diff ID %s, want %s", e.Got, e.Want)
}
func (e *DigestError) Is(target error) bool { return target == ErrInvalid }

// classError is a message that belongs to a class.
type classError struct {
	class error
	text  string
}

func (e *classError) Error() string        { return e.text }
func (e *classError) Is(target error) bool { return target == e.class }

func invalid(format string, a ...any) error {
	return &classError{ErrInvalid, fmt.Sprintf(format, a...)}
}

func limit(format string, a ...any) error { return &classError{ErrLimit, fmt.Sprintf(format, a...)} }

func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "..."
	}
	return s
}
