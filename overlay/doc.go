// Package overlay keeps image layers and gives each container a
// copy-on-write root file system over them, with overlayfs.
//
// # Words
//
// A layer is the result of one tar archive; it is identified by its chain ID,
// which names the archive and everything below it. A snapshot is one
// container's writable directory over a chain, identified by a key, normally
// the container's ID.
//
// # On disk
//
//	<root>/layers/<hex of chain ID>/fs        the layer's files, whiteouts as overlayfs wants them
//	                               /parents   chain IDs below it, nearest first, one per line
//	<root>/layers/<hex of chain ID>.index/    the layer as an archive, see [Indexed]
//	                               /tar       that archive, padded with zeros; or
//	                               /rest      the same with holes for large files, and
//	                               /large/    these
//	                               /sparse    content of sparse files, if any
//	                               /entries   what is where in the two, for overlay/apply
//	                               /image     EROFS: the whole chain, if it was asked for
//	                               /parents
//	<root>/snapshots/<key>/upper              what the container wrote
//	                      /work               scratch space of overlayfs
//	                      /rootfs             empty: where the caller may attach the mount
//	                      /parents            chain ID of the layer that it stands on
//	                      /owner              symbolic link to whom it is for, if that was said
//	<root>/lost/<key>/                        a snapshot whose container cannot exist any more: it claims no layer
//	<root>/staging/<name>                     being made or being deleted
//
// # Invariants
//
//   - What is in layers and snapshots is complete: it was made in staging and
//     renamed. Who makes something holds flock(2) on its staging directory; the
//     lock dies with the process, and [Store.Cleanup] deletes what nobody locks.
//   - A layer never changes once it is there, and outlives everything above it:
//     deleting takes the exclusive lock of layers, adding a user takes the shared
//     one. Only what was found damaged goes before the layers above it.
//   - Layer files keep the owners, modes and set-user-ID bits of the image, so
//     layers, snapshots and staging are 0700: a local user must not reach a
//     set-user-ID file of an image (CVE-2021-41091, CVE-2021-41103).
//
// Mounts are made detached (fsmount(2), open_tree(2)): a descriptor that is in
// no mount namespace. Closing it unmounts; nothing is ever left mounted by this
// package.
//
// Package [github.com/minirun/minirun/overlay/apply] fills layers from tar
// archives. It is apart because opening and mounting is done in every container
// start, and unpacking is not.
package overlay
