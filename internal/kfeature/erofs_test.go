package kfeature

import (
	"errors"
	"os"
	"testing"
)

// TestRootEROFSFileIn: the answer depends on the kernel and on the directory,
// and the two must not be mixed up.
func TestRootEROFSFileIn(t *testing.T) {
	dir := t.TempDir()
	file, err := os.CreateTemp(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	disk := backs(int(file.Fd()))
	file.Close()
	os.Remove(file.Name())
	err = EROFSFileIn(dir)
	t.Logf("%s, on a disk file system: %v: %v", dir, disk, err)
	var missing *Error
	switch isMissing := errors.As(err, &missing); {
	case disk && kernel(t) >= 6012 && err != nil && !(isMissing && missing.Reason != ""):
		t.Errorf("got %v, want support from this kernel", err)
	case disk && kernel(t) < 6012 && !isMissing:
		t.Errorf("got %v, want an *Error from a kernel that is too old", err)
	case !disk && isMissing && missing.Reason == "":
		t.Errorf("got %v about a file system that may be to blame itself", err)
	}
	// tmpfs cannot back EROFS on any kernel: that says nothing about the kernel.
	if err := EROFSFileIn("/dev/shm"); err == nil || errors.As(err, &missing) && missing.Reason == "" {
		t.Errorf("/dev/shm: got %v, want an error that is no answer", err)
	}
	// Below overlayfs it takes more; this kernel is known to do it.
	lower := EROFSLowerIn(dir)
	if err != nil && lower == nil {
		t.Errorf("not mounted (%v), and yet below overlayfs", err)
	}
	if disk && kernel(t) >= 6018 && err == nil && lower != nil {
		t.Errorf("below overlayfs: %v", lower)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left in %s: %v, %v", dir, left, err)
	}
}
