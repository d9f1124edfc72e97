package container

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/minirun/minirun/runtime"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// maxPasswd is how much of an image's passwd and group is read, in bytes.
const maxPasswd = 1 << 20

// lookupUser resolves a user as image-spec, conversion.md has it: numbers are
// taken as they are, names come from the image's passwd and group.
func lookupUser(root int, s string) (specs.User, error) {
	u := specs.User{AdditionalGids: []uint32{0}}
	if s == "" {
		return u, nil
	}
	name, group, hasGroup := strings.Cut(s, ":")
	passwd, _ := readDatabase(root, "etc/passwd")
	groups, _ := readDatabase(root, "etc/group")
	found := name
	if numeric(name) {
		id, err := parseID(name)
		if err != nil {
			return u, fmt.Errorf("user %q: %w", s, err)
		}
		u.UID = id
		found = ""
		for _, f := range passwd {
			if len(f) >= 4 && f[2] == name {
				if id, err := parseID(f[3]); err == nil {
					u.GID = id
				}
				break
			}
		}
	} else {
		ok := false
		for _, f := range passwd {
			if len(f) >= 4 && f[0] == name && name != "" {
				uid, err1 := parseID(f[2])
				gid, err2 := parseID(f[3])
				if err := errors.Join(err1, err2); err != nil {
					return u, fmt.Errorf("user %q: the container's /etc/passwd: %w", s, err)
				}
				u.UID, u.GID, ok = uid, gid, true
				break
			}
		}
		if !ok {
			return u, fmt.Errorf("user %q: unable to find user %s: no matching entries in the container's /etc/passwd", s, name)
		}
	}
	if hasGroup {
		gid, err := lookupGroup(groups, group)
		if err != nil {
			return u, fmt.Errorf("user %q: %w", s, err)
		}
		u.GID = gid
		u.AdditionalGids = []uint32{gid}
		return u, nil
	}
	// The primary group too, so that permissions it is denied stay denied to a
	// process that changes its group (CVE-2022-36109).
	u.AdditionalGids = []uint32{u.GID}
	for _, f := range groups {
		if found == "" || len(f) < 4 {
			continue
		}
		for m := range strings.SplitSeq(f[3], ",") {
			if id, err := parseID(f[2]); err == nil && m == found && id != u.GID {
				u.AdditionalGids = append(u.AdditionalGids, id)
			}
		}
	}
	return u, nil
}

func lookupGroup(groups [][]string, name string) (uint32, error) {
	if numeric(name) {
		return parseID(name)
	}
	for _, f := range groups {
		if len(f) >= 3 && f[0] == name && name != "" {
			return parseID(f[2])
		}
	}
	return 0, fmt.Errorf("unable to find group %s: no matching entries in the container's /etc/group", name)
}

// numeric reports whether s is meant as a number: then it is never looked up as
// a name (CVE-2016-3697, CVE-2026-46680).
func numeric(s string) bool {
	return s != "" && (s[0] >= '0' && s[0] <= '9' || s[0] == '-' || s[0] == '+')
}

func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n > 1<<31-1 {
		return 0, fmt.Errorf("invalid id %q: want a number from 0 to 2147483647", s)
	}
	return uint32(n), nil
}

func readDatabase(root int, path string) ([][]string, error) {
	raw, err := runtime.ReadInRoot(root, path, maxPasswd)
	if err != nil {
		return nil, err
	}
	var lines [][]string
	for line := range strings.SplitSeq(string(raw), "\n") {
		if line != "" && line[0] != '#' {
			lines = append(lines, strings.Split(line, ":"))
		}
	}
	return lines, nil
}
