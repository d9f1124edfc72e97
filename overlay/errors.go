package overlay

import (
	"fmt"
	"io/fs"
)

// NotExistError says that the store has no such layer or snapshot. It is
// fs.ErrNotExist.
type NotExistError struct {
	Kind string // "layer" or "snapshot"
	Name string
}

func (e *NotExistError) Error() string        { return fmt.Sprintf("%s %q does not exist", e.Kind, e.Name) }
func (e *NotExistError) Is(target error) bool { return target == fs.ErrNotExist }

// ExistError says that a snapshot with that key is there already. It is
// fs.ErrExist.
type ExistError struct{ Key string }

func (e *ExistError) Error() string        { return fmt.Sprintf("snapshot %q exists already", e.Key) }
func (e *ExistError) Is(target error) bool { return target == fs.ErrExist }

// NameError says that a key, chain ID or diff ID has a form that is not
// accepted. It is fs.ErrInvalid.
type NameError struct{ Kind, Name string }

func (e *NameError) Error() string {
	switch e.Kind {
	case "snapshot key":
		return fmt.Sprintf("snapshot key %q: want 1 to 255 of A-Z a-z 0-9 _ + - and, not first, a dot", e.Name)
	default:
		return fmt.Sprintf("%s %q: want sha256: and 64 lower-case hex digits", e.Kind, e.Name)
	}
}
func (e *NameError) Is(target error) bool { return target == fs.ErrInvalid }

// InUseError says that a layer cannot be removed: By (a layer, a snapshot, or a
// layer being unpacked) stands on it.
type InUseError struct {
	Layer ChainID
	By    string
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("remove layer %q: %s needs it", string(e.Layer), e.By)
}

// DepthError says that a chain has more extracted layers than overlayfs mounts.
type DepthError struct{ Layers int }

func (e *DepthError) Error() string {
	return fmt.Sprintf("%d layers as directories: overlayfs takes at most %d", e.Layers, MaxLayers)
}

// Hint says what to do.
func (e *DepthError) Hint() string {
	return "an index has no such limit (Linux 6.12): minirun image unpack --unpacker index IMAGE, or pull --unpacker index IMAGE; or import the root file system as one layer"
}

// VolatileError says that a snapshot was mounted by MountVolatile before, so that
// its content may have been lost in part without anybody noticing.
type VolatileError struct{ Key string }

func (e *VolatileError) Error() string {
	return fmt.Sprintf("snapshot %q was mounted volatile and cannot be mounted again", e.Key)
}
