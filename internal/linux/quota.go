package linux

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// FSXAttr is struct fsxattr, see ioctl_xfs_fsgetxattr(2): inode flags and the
// project that an inode's disk use counts for.
type FSXAttr struct {
	XFlags  uint32
	_       [2]uint32 // extent size, number of extents
	Project uint32
	_       [3]uint32
}

// Requests that change inode flags and the project: ioctl_xfs_fssetxattr(2) and
// FS_IOC_SETFLAGS of ioctl_iflags(2), for 32-bit programs too.
const (
	fsGetXAttr           = 0x801c581f
	FSSetXAttr    uint32 = 0x401c5820
	FSSetFlags    uint32 = 0x40086602
	FSSetFlags32  uint32 = 0x40046602
	XFlagInherits uint32 = 0x200 // FS_XFLAG_PROJINHERIT: what is made below has the same project
)

// GetFSXAttr reads the attributes of an open file.
func GetFSXAttr(fd int) (a FSXAttr, err error) {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), fsGetXAttr, uintptr(unsafe.Pointer(&a)))
	if e != 0 {
		err = e
	}
	return a, err
}

// SetFSXAttr changes them. The project is that of the initial user namespace.
func SetFSXAttr(fd int, a FSXAttr) error {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(FSSetXAttr), uintptr(unsafe.Pointer(&a)))
	if e != 0 {
		return e
	}
	return nil
}

// ProjectQuota is struct if_nextdqblk, see quotactl(2): limits and use of one
// project. Blocks have 1024 bytes, space is in bytes, 0 is no limit.
type ProjectQuota struct {
	BlockHard, BlockSoft uint64
	Space                uint64
	InodeHard, InodeSoft uint64
	Inodes               uint64
	_                    [2]uint64 // grace periods
	valid                uint32
	ID                   uint32 // of NextProjectQuota
}

const (
	prjQuota     = 2
	getQuota     = 0x800007
	setQuota     = 0x800008
	getNextQuota = 0x800009
	getStateV    = 'X'<<8 + 8 // Q_XGETQSTATV
)

func quotactl(fd int, cmd uint32, id uint32, p unsafe.Pointer) error {
	_, _, e := unix.Syscall6(unix.SYS_QUOTACTL_FD, uintptr(fd), uintptr(cmd<<8|prjQuota), uintptr(id), uintptr(p), 0, 0)
	if e != 0 {
		return e
	}
	return nil
}

// ProjectQuotaOf reads what is known of a project on the file system of fd, any
// descriptor (quotactl_fd(2), Linux 5.14).
func ProjectQuotaOf(fd int, id uint32) (q ProjectQuota, err error) {
	err = quotactl(fd, getQuota, id, unsafe.Pointer(&q))
	if err == unix.ENOENT { // XFS, of one that has nothing
		err = nil
	}
	return q, err
}

// NextProjectQuota is that of the first project from id on of which something is
// known; unix.ENOENT if there is none.
func NextProjectQuota(fd int, id uint32) (q ProjectQuota, err error) {
	err = quotactl(fd, getNextQuota, id, unsafe.Pointer(&q))
	return q, err
}

// SetProjectLimits sets the four limits of a project.
func SetProjectLimits(fd int, id uint32, q ProjectQuota) error {
	q.valid = 1 | 4 // QIF_BLIMITS, QIF_ILIMITS
	return quotactl(fd, setQuota, id, unsafe.Pointer(&q))
}

// EnforcesProjectQuota reports whether the file system of fd holds projects to
// their limits. One that only counts, an ext4 with the feature that is mounted
// without the option, does not.
func EnforcesProjectQuota(fd int) bool {
	const counted, enforced = 1 << 4, 1 << 5 // FS_QUOTA_PDQ_ACCT, FS_QUOTA_PDQ_ENFD
	var state [256]byte                      // struct fs_quota_statv has 160
	state[0] = 1                             // FS_QSTATV_VERSION1
	if quotactl(fd, getStateV, 0, unsafe.Pointer(&state)) != nil {
		return false
	}
	flags := *(*uint16)(unsafe.Pointer(&state[2]))
	return flags&counted != 0 && flags&enforced != 0
}
