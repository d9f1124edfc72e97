package reference

import (
	"fmt"
	"io/fs"
	"strings"
)

// NotExistError reports a reference that the store does not have. It is fs.ErrNotExist.
type NotExistError struct{ Ref string }

func (e *NotExistError) Error() string        { return fmt.Sprintf("image %q does not exist", Clip(e.Ref)) }
func (e *NotExistError) Is(target error) bool { return target == fs.ErrNotExist }

// AmbiguousError reports an image ID that is the beginning of several, or that
// has several names where one is needed.
type AmbiguousError struct {
	Ref   string
	Names []string
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("image %q stands for more than one: %s", Clip(e.Ref), strings.Join(e.Names, ", "))
}
