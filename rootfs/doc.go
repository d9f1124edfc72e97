// Package rootfs plans how a container gets its root file system: mounts,
// devices, masked and read-only paths, and the change of the root directory.
//
// Plan, print, apply: [Plan] turns the spec into steps, each prints itself, and
// their Emit methods add the system calls to an init program. Nothing here
// touches the host.
//
// # Invariants
//
//   - Paths inside the root are only resolved by openat2(2) with
//     RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS, into a descriptor; mounts are
//     attached with move_mount(2) onto that descriptor. No path is looked up
//     twice.
//   - Everything is mounted before the root changes: afterwards the kernel
//     refuses procfs in a user namespace, and the host's paths are gone.
//   - Attributes are set while a mount is detached: there is no moment at which
//     it is visible with others.
//   - The mount namespace is the container's own. When its last process ends,
//     the kernel removes all of it; there is nothing to clean up.
package rootfs
