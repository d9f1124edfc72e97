package cgroups

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// walk visits the group and all groups below it. A container with a writable
// hierarchy decides how deep that is, so the walk holds one descriptor whatever
// the depth and goes back up through "..", which in a cgroup file system cannot
// lead elsewhere: groups do not move.
//
// enter is called with the descriptor of each group before its sub-groups are
// looked at; leave, which may be nil, after them, with the descriptor of the
// parent and the name, for every group but the first. Groups that vanish
// meanwhile are skipped.
func (g *Group) walk(enter func(dir int) error, leave func(parent int, name string) error) error {
	dir, err := g.FD()
	if err != nil {
		return err
	}
	defer func() { linux.Close(dir) }()
	type level struct {
		name string   // of the group at this level
		todo []string // its sub-groups to visit
	}
	visit := func(name string) (level, error) {
		if err := enter(dir); err != nil {
			return level{}, err
		}
		subs, err := subgroups(dir)
		return level{name, subs}, err
	}
	top, err := visit("")
	if err != nil {
		return err
	}
	stack := []level{top}
	for {
		cur := &stack[len(stack)-1]
		if n := len(cur.todo); n > 0 {
			name := cur.todo[n-1]
			cur.todo = cur.todo[:n-1]
			next, err := linux.OpenAt(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
			if gone(err) {
				continue
			}
			if err != nil {
				return err
			}
			linux.Close(dir)
			dir = next
			l, err := visit(name)
			if err != nil && !gone(err) {
				return err
			}
			l.name = name
			stack = append(stack, l)
			continue
		}
		if len(stack) == 1 {
			return nil
		}
		up, err := linux.OpenAt(dir, "..", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		linux.Close(dir)
		dir = up
		if leave != nil {
			if err := leave(dir, cur.name); err != nil && !gone(err) {
				return err
			}
		}
		stack = stack[:len(stack)-1]
	}
}

// subgroups returns the names of the directories in dir.
func subgroups(dir int) ([]string, error) {
	var names []string
	buf := make([]byte, 8192)
	if _, err := unix.Seek(dir, 0, unix.SEEK_SET); err != nil {
		return nil, err
	}
	for {
		n, err := unix.Getdents(dir, buf)
		if err == unix.EINTR {
			continue
		}
		if err == unix.ENOENT { // removed
			return names, nil
		}
		if err != nil || n <= 0 {
			return names, err
		}
		// struct linux_dirent64 {u64 ino; s64 off; u16 reclen; u8 type; char name[]}
		for b := buf[:n]; len(b) >= 19; {
			size := int(binary.NativeEndian.Uint16(b[16:]))
			if size < 19 || size > len(b) {
				break
			}
			name := b[19:size]
			for i, c := range name {
				if c == 0 {
					name = name[:i]
					break
				}
			}
			if s := string(name); b[18] == unix.DT_DIR && s != "." && s != ".." {
				names = append(names, s)
			}
			b = b[size:]
		}
	}
}

// Procs returns the ids of the processes in the group and its sub-groups. A
// process that this pid namespace does not show is 0. A group that does not
// exist has none.
func (g *Group) Procs() ([]int, error) {
	var pids []int
	err := g.walk(func(dir int) error {
		p, err := procs(dir)
		if gone(err) {
			return nil
		}
		pids = append(pids, p...)
		return err
	}, nil)
	if gone(err) {
		err = nil
	}
	return pids, err
}

// procs returns the processes of the one group dir. Threaded groups show none:
// their processes are listed in the domain above, which the walk saw.
func procs(dir int) ([]int, error) {
	b, err := linux.ReadFileAt(dir, "cgroup.procs", 0)
	if err != nil {
		if cause(err) == unix.EOPNOTSUPP {
			return nil, nil
		}
		return nil, err
	}
	return parsePids(string(b), nil), nil
}
