package container

import (
	"errors"
	"io/fs"
	"strconv"
	"strings"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/runtime"
	"golang.org/x/sys/unix"
)

// A snapshot says whose it is: BOOT:ROOT:RECORD. BOOT is the beginning of the boot ID,
// ROOT tells how to know the state root again, RECORD is the directory of the
// container's record in it. It is short, because a link of 59 bytes takes no block.

const (
	bootDigits   = 8
	rootInMemory = "m" // the state root is on a file system that ends with the boot
	rootOnDisk   = "i" // and its inode: that of a mount point is another one
	disposable   = "d" // in front: nobody wants what the container has written
)

// ownerOf is what a new snapshot says.
func ownerOf(root, id string, rm bool) string {
	boot, err := linux.BootID()
	kind := rootKind(root)
	if err != nil || len(boot) < bootDigits || kind == "" {
		return ""
	}
	if rm {
		kind = disposable + kind
	}
	return boot[:bootDigits] + ":" + kind + ":" + root + "/" + id
}

func rootKind(root string) string {
	var f unix.Statfs_t
	if unix.Statfs(root, &f) != nil {
		return ""
	}
	if f.Type == unix.TMPFS_MAGIC || f.Type == unix.RAMFS_MAGIC {
		return rootInMemory
	}
	var st unix.Stat_t
	if unix.Stat(root, &st) != nil {
		return ""
	}
	return rootOnDisk + strconv.FormatUint(st.Ino, 10)
}

// Lost is a snapshot whose container cannot exist any more: the machine was started
// anew since, and there is no record of it.
type Lost struct {
	Record     string // where the record was
	Disposable bool   // the container was to be removed at its end (--rm)
}

// LostSnapshot tells whether the container that a snapshot was made for is lost; nil if
// not, or if that cannot be told. key is the snapshot's, and owner what it says of itself.
func LostSnapshot(key, owner string) *Lost {
	boot, err := linux.BootID()
	then, rest, _ := strings.Cut(owner, ":")
	kind, record, ok := strings.Cut(rest, ":")
	// In the same boot processes may live that no record leads to.
	if err != nil || !ok || len(boot) < bootDigits || len(then) != bootDigits || then == boot[:bootDigits] {
		return nil
	}
	l := &Lost{Record: record}
	kind, l.Disposable = strings.CutPrefix(kind, disposable)
	slash := strings.LastIndexByte(record, '/')
	if slash < 0 {
		return nil
	}
	// A record that has survived, or come back from a backup, keeps its snapshot.
	text, err := runtime.RecordedSnapshot(record)
	recorded, _, complete := strings.Cut(text, "@")
	if complete && recorded == key {
		return nil
	}
	if kind == rootInMemory {
		return l
	}
	// On a disk a record without content may be what a power cut has left; and a
	// directory that is not there may be on a disk that is not mounted yet.
	gone := err == nil && complete || errors.Is(err, fs.ErrNotExist) && unix.Access(record, unix.F_OK) == unix.ENOENT
	if gone && rootKind(record[:slash]) == kind {
		return l
	}
	return nil
}

// ManifestOf is the digest of the manifest that the container of a snapshot was made
// from, by what the snapshot says of its owner; "" if that is not known.
func ManifestOf(owner string) string {
	_, rest, _ := strings.Cut(owner, ":")
	_, record, _ := strings.Cut(rest, ":")
	slash := strings.LastIndexByte(record, '/')
	if slash < 0 {
		return ""
	}
	s, err := runtime.OpenStore(record[:slash])
	if err != nil {
		return ""
	}
	c, err := s.Load(record[slash+1:])
	if err != nil {
		return ""
	}
	return c.Annotations[ImageManifest]
}
