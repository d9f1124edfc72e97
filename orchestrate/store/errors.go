package store

import (
	"fmt"
	"io/fs"
)

// NotFoundError reports an object that does not exist.
type NotFoundError struct{ Kind, Namespace, Name string }

func (e *NotFoundError) Error() string { return fmt.Sprintf("%s %q not found", e.Kind, e.Name) }

// Is makes it fs.ErrNotExist.
func (e *NotFoundError) Is(target error) bool { return target == fs.ErrNotExist }

// ExistsError reports an object that exists already.
type ExistsError struct{ Kind, Namespace, Name string }

func (e *ExistsError) Error() string { return fmt.Sprintf("%s %q already exists", e.Kind, e.Name) }

// Is makes it fs.ErrExist.
func (e *ExistsError) Is(target error) bool { return target == fs.ErrExist }

// ConflictError reports a write that is not based on the newest version.
type ConflictError struct {
	Kind, Namespace, Name string
	// Why says what does not fit.
	Why string
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%s %q cannot be changed: %s", e.Kind, e.Name, e.Why)
}

// GoneError reports a revision, or a page of a list, that is not kept any more.
// The caller must list again.
type GoneError struct {
	Revision uint64
	// Oldest is the oldest one that changes are known since.
	Oldest uint64
}

func (e *GoneError) Error() string {
	return fmt.Sprintf("too old resource version: %d (%d)", e.Revision, e.Oldest)
}

// CorruptError reports a file that is not what was written.
type CorruptError struct {
	Path string
	Err  error
}

func (e *CorruptError) Error() string { return fmt.Sprintf("store %q is damaged: %v", e.Path, e.Err) }
func (e *CorruptError) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *CorruptError) Hint() string {
	return "restore the newest backup, which keeps the damaged file beside it"
}

// KeyError reports a key file that cannot be used.
type KeyError struct {
	Path string
	Err  error
}

func (e *KeyError) Error() string { return fmt.Sprintf("key of the store %q: %v", e.Path, e.Err) }
func (e *KeyError) Unwrap() error { return e.Err }
