package erofs

import (
	"encoding/binary"
	"hash/crc32"
	"strings"
)

var le = binary.LittleEndian

const (
	superOffset = 1024       // EROFS_SUPER_OFFSET
	superMagic  = 0xe0f5e1e2 // EROFS_SUPER_MAGIC_V1
	superSize   = 128        // sizeof(struct erofs_super_block)
	slotSize    = 128        // EROFS_DEVT_SLOT_SIZE
	tagSize     = 64         // its first field
	slotsOffset = superOffset + superSize
	volumeAt    = 64 // offset of volume_name in the superblock, 16 bytes
	inodeSize   = 64 // sizeof(struct erofs_inode_extended)
	nidUnit     = 32 // 1 << EROFS_ISLOTBITS: node ids count these
	direntSize  = 12 // sizeof(struct erofs_dirent)
	xattrHeader = 12 // sizeof(struct erofs_xattr_ibody_header)
	xattrEntry  = 4  // sizeof(struct erofs_xattr_entry)

	compatChecksum   = 1 // EROFS_FEATURE_COMPAT_SB_CHKSUM
	compatMtime      = 2 // EROFS_FEATURE_COMPAT_MTIME: times are those of modification
	incompatChunks   = 4 // EROFS_FEATURE_INCOMPAT_CHUNKED_FILE
	incompatDevTable = 8 // EROFS_FEATURE_INCOMPAT_DEVICE_TABLE

	layoutPlain  = 0         // EROFS_INODE_FLAT_PLAIN
	layoutInline = 2         // EROFS_INODE_FLAT_INLINE
	layoutChunks = 4         // EROFS_INODE_CHUNK_BASED
	chunkIndexes = 0x20      // EROFS_CHUNK_FORMAT_INDEXES
	maxChunkBits = 31        // EROFS_CHUNK_FORMAT_BLKBITS_MASK: of a chunk's size in blocks
	indexSize    = 8         // sizeof(struct erofs_inode_chunk_index)
	noChunk      = 1<<32 - 1 // EROFS_NULL_ADDR: a hole
	extended     = 1         // EROFS_INODE_LAYOUT_EXTENDED, bit 0 of i_format

	maxName    = 255     // EROFS_NAME_LEN
	maxPath    = 256     // OVL_REDIRECT_MAX of overlayfs
	maxTarget  = 4096    // PATH_MAX
	maxXattrs  = 4 << 16 // what i_xattr_icount can say, less a bit
	maxDevices = 4096    // extra_devices has 16 bits; this is what anybody mounts
)

// blockBits is the logarithm of the block size: tar's.
const blockBits = 9

// BlockSize is the alignment of file data in its device.
const BlockSize = 1 << blockBits

// RedirectVolume is the volume name of images that have a redirect.
const RedirectVolume = "redirects"

// Attributes that overlayfs obeys in a lower directory: the content is elsewhere, and
// where. See "Data-only lower layers" in Documentation/filesystems/overlayfs.rst.
const (
	xattrMetacopy = "trusted.overlay.metacopy"
	xattrRedirect = "trusted.overlay.redirect"
)

// pageSize is the kernel's where pages are smallest.
const pageSize = 4096

// Types of struct erofs_dirent.file_type: FT_REG_FILE and so on.
const (
	ftReg     = 1
	ftDir     = 2
	ftChr     = 3
	ftBlk     = 4
	ftFifo    = 5
	ftSock    = 6
	ftSymlink = 7
)

// Types of st_mode, see inode(7).
const (
	typeMask = 0o170000
	typeSock = 0o140000
	typeLink = 0o120000
	typeReg  = 0o100000
	typeBlk  = 0o060000
	typeDir  = 0o040000
	typeChr  = 0o020000
	typeFifo = 0o010000
)

func fileType(mode uint32) byte {
	switch mode & typeMask {
	case typeReg:
		return ftReg
	case typeDir:
		return ftDir
	case typeChr:
		return ftChr
	case typeBlk:
		return ftBlk
	case typeFifo:
		return ftFifo
	case typeSock:
		return ftSock
	case typeLink:
		return ftSymlink
	}
	return 0
}

// xattrIndex splits a name: EROFS_XATTR_INDEX_USER and so on, and what follows
// the prefix that the index stands for.
func xattrIndex(name string) (index byte, rest string, ok bool) {
	switch name {
	case "system.posix_acl_access":
		return 2, "", true
	case "system.posix_acl_default":
		return 3, "", true
	}
	for _, p := range [...]struct {
		index  byte
		prefix string
	}{{1, "user."}, {4, "trusted."}, {6, "security."}} {
		if rest, ok := strings.CutPrefix(name, p.prefix); ok && rest != "" && len(rest) <= maxName {
			return p.index, rest, true
		}
	}
	return 0, "", false
}

func xattrName(index byte, rest string) (string, bool) {
	switch {
	case index == 2 && rest == "":
		return "system.posix_acl_access", true
	case index == 3 && rest == "":
		return "system.posix_acl_default", true
	case rest == "":
		return "", false
	case index == 1:
		return "user." + rest, true
	case index == 4:
		return "trusted." + rest, true
	case index == 6:
		return "security." + rest, true
	}
	return "", false
}

// encodeDev is new_encode_dev of include/linux/kdev_t.h.
func encodeDev(major, minor uint32) uint32 {
	return minor&0xff | major<<8 | (minor&^0xff)<<12
}

func decodeDev(v uint32) (major, minor uint32) {
	return v & 0xfff00 >> 8, v&0xff | v>>12&0xfff00
}

// superChecksum is crc32c as erofs_superblock_csum_verify has it: over the rest
// of the superblock's block, with the field itself zero, without the final
// inversion.
func superChecksum(sb []byte) uint32 {
	return ^crc32.Checksum(sb, crc32.MakeTable(crc32.Castagnoli))
}

func alignUp(n, to int64) int64 { return (n + to - 1) / to * to }
