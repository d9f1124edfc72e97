// Package systemd has systemd make the cgroup of a container: the driver that
// --systemd-cgroup asks for. A container is a transient scope unit with
// Delegate=yes; limits are properties of the unit, so that systemd knows them and
// writes them again when it reloads, and what systemd has no property for is
// written to the group directly, by package cgroups, as everything else is done.
//
// Only who asks for it pays: nothing of this runs, or is initialized, otherwise.
package systemd

import (
	"strconv"
	"strings"
)

// Unit is the scope of a container.
type Unit struct {
	Name  string // minirun-ID.scope
	Slice string // system.slice
	User  bool   // of the user's systemd, not the host's
}

// PathError refuses a linux.cgroupsPath.
type PathError struct{ Path, Reason string }

func (e *PathError) Error() string {
	return "linux.cgroupsPath: " + e.Reason + ", got " + strconv.Quote(e.Path) + " instead"
}

// Hint says what to write.
func (*PathError) Hint() string {
	return `such as "system.slice:minirun:NAME"; a path of directories is for the cgroupfs driver, without --systemd-cgroup`
}

// ParsePath reads linux.cgroupsPath, "slice:prefix:name". Without one the
// container id gets a scope in system.slice, or user.slice of a user's systemd.
func ParsePath(path, id string, user bool) (Unit, error) {
	u := Unit{User: user, Slice: "system.slice"}
	if user {
		u.Slice = "user.slice"
	}
	prefix, name := "minirun", id
	if path != "" {
		f := strings.Split(path, ":")
		if len(f) != 3 {
			return u, &PathError{path, `expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups`}
		}
		if f[0] != "" {
			u.Slice = f[0]
		}
		prefix, name = f[1], f[2]
	}
	if _, ok := sliceDir(u.Slice); !ok {
		return u, &PathError{path, "the slice must be a name such as system.slice or a-b.slice"}
	}
	if strings.HasSuffix(name, ".slice") {
		return u, &PathError{path, "a container is a scope, its name no slice"}
	}
	u.Name = prefix + "-" + name + ".scope"
	if prefix == "" {
		u.Name = name + ".scope"
	}
	if name == "" || len(u.Name) > 255 || !plain(u.Name) {
		return u, &PathError{path, "prefix and name must make a unit name of letters, digits and :-_.\\ that is not longer than 255 bytes"}
	}
	return u, nil
}

func plain(s string) bool {
	for _, c := range []byte(s) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(`:-_.\@`, c) >= 0) {
			return false
		}
	}
	return true
}

// sliceDir is the directory of a slice below that of its manager: a-b.slice is in
// a.slice. See systemd.slice(5).
func sliceDir(slice string) (string, bool) {
	name, ok := strings.CutSuffix(slice, ".slice")
	if !ok || name == "" || !plain(name) || len(slice) > 255 {
		return "", false
	}
	if name == "-" {
		return "", true
	}
	var dir strings.Builder
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '-' {
			continue
		}
		if i == 0 || name[i-1] == '-' || i == len(name)-1 { // a dash first, last, or twice
			return "", false
		}
		dir.WriteString("/" + name[:i] + ".slice")
	}
	return dir.String(), true
}

// Dir is the path of the scope's group below the group of its manager.
func (u *Unit) Dir() string {
	dir, _ := sliceDir(u.Slice)
	return dir + "/" + u.Name
}
