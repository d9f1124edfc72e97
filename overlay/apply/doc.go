// Package apply unpacks one layer, a tar archive, into an overlay store: as a
// directory with its files, or as it is with an index ([Kind]).
//
// # What is trusted
//
// Nothing of the archive. Whoever wrote it wants a file outside of the layer's
// directory, a lower layer's file, or a host that is out of memory or disk. So:
//
//   - names become descriptors by openat2(2) with the layer's new directory as
//     root; the last component is then only created (O_EXCL, mkdirat, ...), never
//     opened if it exists;
//   - attributes are set through descriptors of what was created, or on names
//     without following links;
//   - directories are 0700 and owned by the unpacker until the end, so that no
//     set-group-ID bit or default ACL acts on what is unpacked later;
//   - everything that is kept in memory is counted against a limit;
//   - the digest of the whole stream is compared before the layer becomes visible.
//
// # How an archive is kept with an index
//
// Byte for byte, but for large files where the kernel's overlayfs has data-only lower
// directories: those are files of their own, and holes in the archive. The names and
// attributes that overlayfs obeys then are made here, of numbers only; an archive that
// brings such attributes is refused.
//
// # How a layer becomes an overlay layer
//
// The rules are the OCI image-spec's (layer.md), seen as "apply to a flat file
// system", and where that and overlayfs differ the flat result is what counts:
//
//   - ".wh.NAME" becomes a character device 0:0 if the layers below have NAME
//     there; in other places overlayfs would show it. If the archive itself has
//     NAME, it stays; as a directory it is made opaque.
//   - ".wh..wh..opq" makes the directory opaque (trusted.overlay.opaque=y).
//   - A directory that nothing in the archive describes has the attributes it has
//     below, for in overlayfs the upper directory's attributes win.
//   - A hard link to a file of a lower layer copies that file up first.
//   - A name below a symbolic link of the same archive goes where the link points,
//     within the layer. A link in a lower layer is not seen: the name makes a
//     directory that hides the link, as with every unpacker for overlayfs. The
//     result has a warning then.
//   - An entry that replaces one of another type replaces it wholly.
//
// # What the tar reader does not check
//
// Archives are read by archive/tar, which takes the size of a PAX header over
// that of the ustar header as POSIX says, and does not report that they differ
// (CVE-2025-62518 is about readers that took the other one). It bounds PAX
// headers and sparse maps at 1 MiB. The holes of sparse files are read as zeros
// and turned back into holes, at memory speed.
package apply
