package demo

import (
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// ls lists directories, one sorted name per line; -a with dot files, -l with
// type, mode, owner, size or device number, and the target of links.
func ls(args []string) int {
	all, long := false, false
	paths, ok := options(args, "", "al1", func(o byte, _ string) bool {
		all, long = all || o == 'a', long || o == 'l'
		return true
	})
	if !ok {
		return usage("ls [-al] [PATH...]")
	}
	if len(paths) == 0 {
		paths = []string{"."}
	}
	code := 0
	o := &out{fd: 1}
	for i, p := range paths {
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			o.flush()
			code = fail("ls", p, ": ", err.Error())
			continue
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			entry(o, unix.AT_FDCWD, p, long)
			continue
		}
		if len(paths) > 1 {
			if i > 0 {
				o.s("\n")
			}
			o.s(p, ":\n")
		}
		dir, err := linux.OpenAt(unix.AT_FDCWD, p, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			o.flush()
			code = fail("ls", err.Error())
			continue
		}
		names, err := list(dir)
		if err != nil {
			code = fail("ls", p, ": ", err.Error())
		}
		for _, name := range names {
			if all || name[0] != '.' {
				entry(o, dir, name, long)
			}
		}
		linux.Close(dir)
	}
	if !o.flush() {
		return 1
	}
	return code
}

func entry(o *out, dir int, name string, long bool) {
	if !long {
		o.s(name, "\n")
		return
	}
	o.s(describe(dir, name))
	o.s(" ", name)
	if target, ok := readlink(dir, name); ok {
		o.s(" -> ", target)
	}
	o.s("\n")
}

// describe is "type mode uid:gid size" of one entry, with the device number
// instead of the size for device nodes: "c 0666 0:0 1:3".
func describe(dir int, name string) string {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return "? " + err.Error()
	}
	kind, last := "?", strconv.FormatInt(st.Size, 10)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		kind = "-"
	case unix.S_IFDIR:
		kind = "d"
	case unix.S_IFLNK:
		kind = "l"
	case unix.S_IFIFO:
		kind = "p"
	case unix.S_IFSOCK:
		kind = "s"
	case unix.S_IFCHR, unix.S_IFBLK:
		kind = "c"
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			kind = "b"
		}
		last = device(st.Rdev)
	}
	return kind + " " + octal(st.Mode&0o7777) + " " + strconv.Itoa(int(st.Uid)) + ":" + strconv.Itoa(int(st.Gid)) + " " + last
}

// octal is four or more octal digits.
func octal(mode uint32) string {
	s := strconv.FormatUint(uint64(mode), 8)
	for len(s) < 4 {
		s = "0" + s
	}
	return s
}

// device is "major:minor".
func device(rdev uint64) string {
	return strconv.Itoa(int(unix.Major(rdev))) + ":" + strconv.Itoa(int(unix.Minor(rdev)))
}

// readlink reads the symbolic link name in dir; ok is false if it is none.
func readlink(dir int, name string) (target string, ok bool) {
	var b [unix.PathMax]byte
	n, err := unix.Readlinkat(dir, name, b[:])
	if err != nil || n < 0 {
		return "", false
	}
	return string(b[:n]), true
}

// list returns the sorted names in the open directory dir without "." and "..".
func list(dir int) ([]string, error) {
	var names []string
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.ReadDirent(dir, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			slices.Sort(names)
			return names, err
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}
