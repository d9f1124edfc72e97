// Package erofs writes EROFS file system images that hold metadata only: names,
// owners, modes, times, attributes and links. The content of regular files lies
// in other files, the image's devices, for example in tar archives that stay as
// they are. Mounting such an image shows the files without a single inode having
// been made for them.
//
// # Why the kernel can be trusted with it
//
// EROFS has parsers in the kernel, so nobody mounts the images of strangers.
// These images are always made here, from a tree in memory that was validated
// before; of the strangers' archives the kernel sees opaque file content and
// nothing else.
//
// # Format
//
// Names are those of fs/erofs/erofs_fs.h of the kernel. Everything is little
// endian. An image is
//
//	0       empty
//	1024    struct erofs_super_block, 128 bytes
//	1152    struct erofs_deviceslot, 128 bytes each: one per device
//	        inodes: struct erofs_inode_extended, 64 bytes, then extended
//	        attributes, then the data of links and small directories
//	        blocks of larger directories and of embedded files
//
// with
//
//   - blocks of 512 bytes, what tar aligns content to (Linux 6.4 has blocks smaller
//     than a page, 6.12 images in files);
//   - node ids counted from the beginning (meta_blkaddr is 0) in units of 32 bytes.
//     The root comes first, for its id has 16 bits only;
//   - inodes of layout EROFS_INODE_FLAT_PLAIN, one extent each, or
//     EROFS_INODE_FLAT_INLINE, whose data follows the inode and may not cross a
//     block; sparse files are EROFS_INODE_CHUNK_BASED, a block number for each chunk;
//   - file data by unified addresses: device i covers the blocks from its uniaddr
//     on, after those of the image, and an inode needs 32 bits to say where its
//     data is. Image and devices together have at most 2^32 blocks, 2 TiB;
//   - files of more than a page are EROFS_INODE_CHUNK_BASED too, with one chunk and
//     its struct erofs_inode_chunk_index, 8 bytes that name the device and the
//     block in it: the kernel reads such a file in few requests, and by unified
//     addresses page by page;
//   - files whose content overlayfs is to take from elsewhere, by the attributes
//     trusted.overlay.metacopy and trusted.overlay.redirect, are one chunk that is a
//     hole. An image with such files has the volume name "redirects", for whoever mounts
//     it: alone it does not show them;
//   - directory blocks with struct erofs_dirent, 12 bytes each, then the names.
//     Names are sorted bytewise over the whole directory, "." and ".." among them;
//   - attributes in the inode (struct erofs_xattr_ibody_header and struct
//     erofs_xattr_entry), none shared.
//
// The same tree gives the same bytes.
package erofs
