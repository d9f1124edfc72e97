package cgroups

import (
	"strconv"
	"strings"
)

// PathError reports a linux.cgroupsPath that cannot be used.
type PathError struct {
	Path, Reason, Way string

	sub bool // of a group below a container's
}

func (e *PathError) Error() string {
	from := " (linux.cgroupsPath): "
	if e.sub {
		from = " (below the container's cgroup): "
	}
	return "cgroup path " + strconv.Quote(e.Path) + from + e.Reason
}

// Hint says what to do about it.
func (e *PathError) Hint() string { return e.Way }

// defaultName is the name of a container's group without a linux.cgroupsPath. An
// ID may be as long as a name of a file can be, and has no room for more then.
func defaultName(id string) string {
	if name := "minirun-" + id; len(name) <= 255 {
		return name
	}
	return id
}

// CleanPath turns linux.cgroupsPath of the container id into an absolute path
// in the cgroup v2 hierarchy: "" means /minirun-ID, or /ID where that is longer
// than a name can be; a relative path begins at the root of the hierarchy as in
// runc, doubled and trailing slashes and "." go away. Refused, with a *PathError:
// "..", NUL and newline, the root itself, and the form slice:prefix:name, which
// only the systemd driver understands.
func CleanPath(cgroupsPath, id string) (string, error) {
	path := cgroupsPath
	if path == "" {
		if id == "" || strings.Contains(id, "/") {
			return "", &PathError{Path: id, Reason: "the container's id is no file name", Way: "give the container another id, or set linux.cgroupsPath"}
		}
		path = "/" + defaultName(id)
	}
	if !strings.Contains(path, "/") && strings.Count(path, ":") == 2 {
		return "", &PathError{
			Path: path, Reason: "slice:prefix:name is a path for the systemd cgroup driver",
			Way: "use --systemd-cgroup, or set linux.cgroupsPath to a path such as /minirun/" + path[strings.LastIndexByte(path, ':')+1:],
		}
	}
	var b strings.Builder
	b.Grow(len(path) + 1)
	for name := range strings.SplitSeq(path, "/") {
		switch {
		case name == "" || name == ".":
			continue
		case name == "..":
			return "", &PathError{Path: cgroupsPath, Reason: `".." is not allowed`, Way: "write the path without .."}
		case strings.ContainsAny(name, "\x00\n"):
			// The kernel refuses newlines too: they would break /proc/PID/cgroup.
			return "", &PathError{Path: cgroupsPath, Reason: "contains a NUL or newline character", Way: "use a plain path"}
		case len(name) > 255:
			return "", &PathError{Path: cgroupsPath, Reason: "a component is longer than 255 bytes", Way: "use shorter names"}
		}
		b.WriteByte('/')
		b.WriteString(name)
	}
	if b.Len() == 0 {
		return "", &PathError{Path: cgroupsPath, Reason: "names the root of the hierarchy, which is no container's", Way: "name a group below the root"}
	}
	if b.Len() > 3500 { // PATH_MAX, less room for the mount point and a file
		return "", &PathError{Path: cgroupsPath, Reason: "longer than 3500 bytes", Way: "use a shorter path"}
	}
	return b.String(), nil
}
