package cgroups

import (
	"path"

	"golang.org/x/sys/unix"
)

// UserPath returns the path of a group for the container id where this process
// may make one without being root of the host: beside the group it is in, or
// below it; "" if it may in neither. Beside comes first, since a group with
// processes of its own, such as ours, cannot have limited children.
//
// own is the group this process is in, for messages.
func UserPath(mount, id string) (group, own string) {
	own, err := PathOf(unix.Getpid())
	if err != nil {
		return "", ""
	}
	for _, parent := range [...]string{path.Dir(own), own} {
		// Both are needed: to make the group, and to be born in it.
		dir := path.Clean(mount + parent)
		if writable(dir) && writable(dir+"/cgroup.procs") {
			return path.Join(parent, defaultName(id)), own
		}
		if own == "/" {
			break
		}
	}
	return "", own
}

func writable(name string) bool {
	return unix.Faccessat(unix.AT_FDCWD, name, unix.W_OK, unix.AT_EACCESS) == nil
}
