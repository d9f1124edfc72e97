// Package kfeature answers whether this kernel, as it is configured and as far
// as this process may use it, has a feature. Features are values:
//
//	if err := kfeature.IDMappedMounts.Supported(); err != nil {
//		return err // idmapped mounts not supported (needs Linux 5.12 or newer)
//	}
//
// The kernel is asked, never its version: distributions backport features,
// administrators and seccomp filters take them away. An answer is one of three:
//
//   - nil: it is there;
//   - *Error, which wraps errors.ErrUnsupported: it is not there;
//   - any other error: the question could not be answered, mostly because it
//     takes privileges (ErrNeedsRoot). Such answers are not remembered.
//
// Probes leave nothing behind: mounts are only made detached and go away with
// their descriptor, children are waited for, files have no name. Most use calls
// that fail on purpose in an argument that is looked at after the one in
// question. The kernel may load a file system's module for a probe, as it does
// for a mount.
//
// Nothing happens at package init, and there are no maps or formatted strings:
// short-lived commands link this package too.
package kfeature
