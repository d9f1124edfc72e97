package overlay

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// Project quotas limit what a container writes. The upper and the work directory
// of its snapshot get a project of their own, which whatever is made in them
// inherits; both must have the same one, or overlayfs could not rename between
// them. overlayfs writes without CAP_SYS_RESOURCE, which would free it from the limit.
//
// Which project is no record of ours but a fact of the file system: one that
// nothing on it counts for. Two stores, or others who use project quotas there, need
// not know of each other.
const (
	projectFile = "project" // in a snapshot with a limit, its project
	// projectsFrom is where projects are looked for, far from those that people and
	// engines choose, which count up from 1.
	projectsFrom = 1 << 30
	// limitMark is the soft limit on inodes that our limits carry, out of anybody's
	// reach: so a limit without files is known as one that a crash has left.
	limitMark = 'm'<<48 | 'i'<<40 | 'n'<<32 | 'i'<<24 | 'r'<<16 | 'u'<<8 | 'n'
)

// NoQuotaError reports a file system that cannot limit what is written to a
// directory.
type NoQuotaError struct {
	Dir, FS, MountPoint string
	Err                 error
}

func (e *NoQuotaError) Error() string {
	s := fmt.Sprintf("limit the size of %q: the %s file system at %q has no project quotas in force", e.Dir, e.FS, e.MountPoint)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *NoQuotaError) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *NoQuotaError) Hint() string {
	switch e.FS {
	case "ext4":
		return "mount it with the option prjquota; ext4 must have the features project and quota, which tune2fs -O project,quota adds while it is not mounted"
	case "xfs":
		return "mount it with the option prjquota; of the root file system with rootflags=prjquota on the kernel's command line"
	}
	return "keep the store (--store) on ext4 or XFS mounted with the option prjquota"
}

// SetSize limits what the snapshot takes on disk to size bytes, rounded up to
// KiB. It is for a new one, before it is mounted. Where there are no project quotas
// the error is a *NoQuotaError.
func (sn *Snapshot) SetSize(size int64) error {
	if err := sn.setSize(size); err != nil {
		return fmt.Errorf("snapshot %q: %w", sn.key, err)
	}
	return nil
}

func (sn *Snapshot) setSize(size int64) error {
	dir, err := linux.OpenAt(sn.s.dir, sn.path(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer linux.Close(dir)
	if !linux.EnforcesProjectQuota(dir) {
		return sn.s.noQuota(nil)
	}
	for range 100 {
		id := randomProject()
		q, err := linux.ProjectQuotaOf(dir, id)
		if err != nil {
			return os.NewSyscallError("quotactl_fd", err)
		}
		if q.Inodes > 0 || q.Space > 0 || q.BlockHard > 0 {
			continue // somebody's
		}
		// First the record: whoever removes half a snapshot knows what it has.
		if err := writeFile(dir, projectFile, strconv.AppendUint(nil, uint64(id), 10)); err != nil {
			return err
		}
		if err := setProject(dir, id); err != nil {
			return err
		}
		if q, err = linux.ProjectQuotaOf(dir, id); err != nil {
			return os.NewSyscallError("quotactl_fd", err)
		}
		if q.Inodes == 2 && q.BlockHard == 0 {
			q := linux.ProjectQuota{BlockHard: uint64((size + 1023) / 1024), InodeSoft: limitMark}
			return os.NewSyscallError("quotactl_fd", linux.SetProjectLimits(dir, id, q))
		}
		// Somebody else has chosen it at the same moment, and sees that, too.
		if err := unix.Unlinkat(dir, projectFile, 0); err != nil {
			return os.NewSyscallError("unlinkat", err)
		}
	}
	return errors.New("there is no project that nobody uses")
}

// setProject gives upper and work a project; 0 is that of all other files.
func setProject(dir int, id uint32) error {
	for _, name := range []string{"upper", "work"} {
		fd, err := linux.OpenAt(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		a, err := linux.GetFSXAttr(fd)
		if err == nil {
			a.Project, a.XFlags = id, a.XFlags|linux.XFlagInherits
			err = linux.SetFSXAttr(fd, a)
		}
		linux.Close(fd)
		if err != nil {
			return &os.PathError{Op: "set project", Path: name, Err: err}
		}
	}
	return nil
}

func randomProject() uint32 {
	var b [4]byte
	_, _ = unix.Getrandom(b[:], 0)
	return projectsFrom | (uint32(b[0])|uint32(b[1])<<8|uint32(b[2])<<16|uint32(b[3])<<24)&(projectsFrom-1)
}

// projectOf is the project of a snapshot, at path below the store; 0 for none.
func (s *Store) projectOf(path string) uint32 {
	b, err := linux.ReadFileAt(s.dir, path+"/"+projectFile, 16)
	if err != nil {
		return 0
	}
	id, err := strconv.ParseUint(string(b), 10, 32)
	if err != nil || id < projectsFrom {
		return 0
	}
	return uint32(id)
}

// dropLimit gives a project back whose files are gone.
func (s *Store) dropLimit(id uint32) error {
	if q, err := linux.ProjectQuotaOf(s.dir, id); err != nil || q.InodeSoft != limitMark {
		return nil // no quotas any more, or not ours
	}
	return os.NewSyscallError("quotactl_fd", linux.SetProjectLimits(s.dir, id, linux.ProjectQuota{}))
}

// dropLimits gives back projects that have a limit of ours and no files: somebody
// was killed before he did, or the power failed.
func (s *Store) dropLimits() error {
	for id := uint32(projectsFrom); ; {
		q, err := linux.NextProjectQuota(s.dir, id)
		if err != nil {
			return nil // the last one; or there are no quotas here
		}
		if q.InodeSoft == limitMark && q.Inodes == 0 && q.Space == 0 {
			if err := s.dropLimit(q.ID); err != nil {
				return err
			}
		}
		if id = q.ID + 1; id == 0 {
			return nil
		}
	}
}

// noQuota says on what file system the store is.
func (s *Store) noQuota(err error) error {
	e := &NoQuotaError{Dir: s.root, FS: "unknown", MountPoint: "/", Err: err}
	var st unix.Statx_t
	if unix.Statx(s.dir, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st) != nil {
		return e
	}
	raw, _ := linux.ReadFile("/proc/self/mountinfo", 0)
	for line := range strings.Lines(string(raw)) {
		before, after, _ := strings.Cut(line, " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if len(f) > 4 && len(g) > 0 && f[0] == strconv.FormatUint(st.Mnt_id, 10) {
			e.FS, e.MountPoint = g[0], f[4]
		}
	}
	return e
}
