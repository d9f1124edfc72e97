package imagestore

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/minirun/minirun/imagestore/reference"
)

// Errors of looking a name up.
type (
	// NotExistError reports a reference that the store does not have. It is fs.ErrNotExist.
	NotExistError = reference.NotExistError
	// AmbiguousError reports an image ID that is the beginning of several, or that
	// has several names where one is needed.
	AmbiguousError = reference.AmbiguousError
)

// DigestError reports content that is not what its digest says.
type DigestError struct {
	Object    string // `layer sha256:...`, `diff ID of layer 2`
	Want, Got Digest
}

func (e *DigestError) Error() string {
	return fmt.Sprintf("%s: content has digest %s, want %s", e.Object, e.Got, e.Want)
}

// SizeError reports content that is longer or shorter than its descriptor says.
// Got is -1 for content that was not read past Want bytes.
type SizeError struct {
	Object    string
	Want, Got int64
}

func (e *SizeError) Error() string {
	if e.Got < 0 || e.Got == e.Want+1 {
		return fmt.Sprintf("%s: content is longer than the %d bytes of its descriptor", e.Object, e.Want)
	}
	return fmt.Sprintf("%s: content has %d bytes, want %d", e.Object, e.Got, e.Want)
}

// MissingError reports a blob that something refers to and that is not there.
type MissingError struct {
	Object string // "layer", "config", "manifest"
	Digest Digest
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%s %s is missing", e.Object, e.Digest)
}
func (e *MissingError) Is(target error) bool { return target == fs.ErrNotExist }

// FormatError reports metadata that cannot be used: not JSON, incomplete,
// ambiguous, over a limit.
type FormatError struct {
	Object string // "manifest sha256:...", "index.json"
	Err    error
}

func (e *FormatError) Error() string { return e.Object + ": " + e.Err.Error() }
func (e *FormatError) Unwrap() error { return e.Err }

// PlatformError reports an image that exists, but not for this host. It is
// errors.ErrUnsupported.
type PlatformError struct {
	Ref  string
	Host string
	Have []string
	// Elsewhere: there is one for this host too, but the store has not got it.
	Elsewhere bool
}

func (e *PlatformError) Error() string {
	if e.Elsewhere {
		return fmt.Sprintf("image %q is here for %s only, this host runs %s", clip(e.Ref), strings.Join(e.Have, ", "), e.Host)
	}
	return fmt.Sprintf("image %q is for %s, this host runs %s", clip(e.Ref), strings.Join(e.Have, ", "), e.Host)
}
func (e *PlatformError) Is(target error) bool { return target == errors.ErrUnsupported }

// UnsupportedError reports content of a kind that is recognised and not
// handled. It is errors.ErrUnsupported.
type UnsupportedError struct{ Object, Reason string }

func (e *UnsupportedError) Error() string        { return e.Object + ": " + e.Reason }
func (e *UnsupportedError) Is(target error) bool { return target == errors.ErrUnsupported }

// ArtifactError reports content that is kept like an image and is none: it has
// no file system that could be run. It is errors.ErrUnsupported.
type ArtifactError struct {
	Digest Digest
	Type   string // artifactType, or else the media type of the config
}

func (e *ArtifactError) Error() string {
	return fmt.Sprintf("manifest %s: it is an artifact of type %q and no container image", e.Digest, clip(e.Type))
}
func (e *ArtifactError) Is(target error) bool { return target == errors.ErrUnsupported }

// TakenError reports a name that stands for another image and was to be left alone.
type TakenError struct{ Name string }

func (e *TakenError) Error() string {
	return fmt.Sprintf("name %q stands for another image", clip(Familiar(e.Name)))
}

// Hint says what to do.
func (e *TakenError) Hint() string {
	return "--name gives the image another name; without --no-retag it takes this one"
}

// InUseError reports an image that containers were made from.
type InUseError struct {
	Ref        string
	Containers []string
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("image %q is in use by %s", clip(e.Ref), strings.Join(e.Containers, ", "))
}
