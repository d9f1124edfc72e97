package kfeature

import (
	"encoding/binary"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// probeEROFSFile tries directories that are on a disk on most machines.
func probeEROFSFile() error {
	var doubt error = inconclusive("no directory to put a test file in")
	for _, dir := range [...]string{"/var/lib", "/var/tmp", "/tmp", "/root", "/"} {
		err := mountEROFSIn(dir, nil)
		if err == nil {
			return nil
		}
		if e, missing := err.(*Error); missing {
			return e
		}
		doubt = err
		if err == ErrNeedsRoot {
			break
		}
	}
	return doubt
}

// EROFSLowerIn is [EROFSFileIn] for whoever wants to have the mount, which is in no
// mount namespace, below overlayfs: an *Error also if the kernel does not take it
// there.
func EROFSLowerIn(dir string) error {
	f := Feature{Name: EROFSFile.Name + " below overlayfs", MinKernel: "6.13", probe: func() error {
		return mountEROFSIn(dir, func(mount int) error {
			fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
			if err == unix.ENODEV {
				return no("the kernel has no driver for overlayfs and cannot load one")
			}
			if err != nil {
				return bySyscall(err, nil)
			}
			defer linux.Close(fs)
			if err := unix.FsconfigSetFd(fs, "lowerdir+", mount); err != nil {
				return no("overlayfs does not take a detached mount: " + err.Error())
			}
			return nil
		})
	}}
	return f.Supported()
}

// EROFSFileIn mounts, detached, an EROFS image with blocks of 512 bytes from a
// nameless file in dir: nil if the kernel takes it. *Error says that the kernel
// cannot mount EROFS from files at all. *ProbeError is about the directory: its
// file system may not be one that can back EROFS (it must read through the page
// cache, which overlayfs and tmpfs do not). Nothing is remembered.
func EROFSFileIn(dir string) error {
	f := Feature{Name: EROFSFile.Name, MinKernel: EROFSFile.MinKernel, probe: func() error { return mountEROFSIn(dir, nil) }}
	return f.Supported()
}

func mountEROFSIn(dir string, with func(mount int) error) error {
	fs, err := unix.Fsopen("erofs", unix.FSOPEN_CLOEXEC)
	if err == unix.ENODEV {
		return no("the kernel has no driver for erofs and cannot load one")
	}
	if err != nil {
		return bySyscall(err, nil)
	}
	defer linux.Close(fs)
	file, err := linux.OpenAt(unix.AT_FDCWD, dir, unix.O_TMPFILE|unix.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer linux.Close(file)
	if err := linux.WriteAll(file, erofsImage()); err != nil {
		return err
	}
	if err := unix.FsconfigSetString(fs, "source", "/proc/self/fd/"+strconv.Itoa(file)); err != nil {
		return err
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		if err == unix.ENOTBLK && backs(file) {
			return no("")
		}
		return err
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID)
	if err != nil {
		return err
	}
	defer linux.Close(mount) // detached: this unmounts it
	if with == nil {
		return nil
	}
	return with(mount)
}

// backs: the file system of fd is known to be able to back EROFS, so that a
// refusal is the kernel's and not the file's.
func backs(fd int) bool {
	var st unix.Statfs_t
	if unix.Fstatfs(fd, &st) != nil {
		return false
	}
	switch int64(st.Type) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC:
		return true
	}
	return false
}

// erofsImage is the smallest image: a superblock and an empty root directory.
// Layout: Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h.
func erofsImage() []byte {
	const block, root = 512, 2048
	const rootNID = root / 32 // inodes are addressed in units of 32 bytes from meta_blkaddr, which is 0
	b := make([]byte, 4096)
	le := binary.LittleEndian
	sb := b[1024:]
	le.PutUint32(sb[0:], 0xe0f5e1e2)
	sb[12] = 9 // block size 2^9
	le.PutUint16(sb[14:], rootNID)
	le.PutUint64(sb[16:], 1)          // inodes
	le.PutUint32(sb[36:], 4096/block) // blocks
	inode := b[root:]
	entries := inode[32:]         // inline, after the inode
	le.PutUint16(inode[0:], 2<<1) // compact, data layout flat inline
	le.PutUint16(inode[4:], unix.S_IFDIR|0o755)
	le.PutUint16(inode[6:], 2)  // links
	le.PutUint32(inode[8:], 27) // size: two entries and the names "." and ".."
	le.PutUint32(inode[20:], 1) // inode number
	for i, nameOffset := range [...]uint16{24, 25} {
		e := entries[12*i:]
		le.PutUint64(e[0:], rootNID)
		le.PutUint16(e[8:], nameOffset)
		e[10] = 2 // directory
	}
	copy(entries[24:], "...")
	return b
}
