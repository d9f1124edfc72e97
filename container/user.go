package container

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/minirun/minirun/runtime"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxPasswd is how much of an image's passwd and group is read, in bytes.
const maxPasswd = 1 << 20

// lookupUser resolves a user as image-spec, conversion.md has it: numbers are
// taken as they are, names come from the image's passwd and group. A database
// that is there and cannot be read is an error, whatever it is needed for.
func lookupUser(root int, s string) (specs.User, error) {
	u := specs.User{AdditionalGids: []uint32{0}}
	if s == "" {
		return u, nil
	}
	fail := func(err error) (specs.User, error) { return specs.User{}, fmt.Errorf("user %q: %w", s, err) }
	name, group, hasGroup := strings.Cut(s, ":")
	if name == "" || hasGroup && group == "" {
		return fail(errors.New("want USER or USER:GROUP, names or numbers"))
	}
	passwd, err := readDatabase(root, "etc/passwd")
	if err != nil {
		return fail(err)
	}
	if numeric(name) {
		if u.UID, err = parseID(name); err != nil {
			return fail(err)
		}
		u.GID = primaryGroup(passwd, name)
	} else if u.UID, u.GID, err = findUser(passwd, name); err != nil {
		return fail(err)
	}
	if !hasGroup && numeric(name) {
		u.AdditionalGids = []uint32{u.GID}
		return u, nil
	}
	groups, err := readDatabase(root, "etc/group")
	if err != nil {
		return fail(err)
	}
	if hasGroup {
		if u.GID, err = findGroup(groups, group); err != nil {
			return fail(err)
		}
		u.AdditionalGids = []uint32{u.GID}
		return u, nil
	}
	u.AdditionalGids = memberOf(groups, name, u.GID)
	return u, nil
}

// primaryGroup is the group of the user with the number uid, 0 if passwd does
// not know it.
func primaryGroup(passwd [][]string, uid string) uint32 {
	for _, f := range passwd {
		if len(f) >= 4 && f[2] == uid {
			if gid, err := parseID(f[3]); err == nil {
				return gid
			}
			break
		}
	}
	return 0
}

func findUser(passwd [][]string, name string) (uid, gid uint32, err error) {
	for _, f := range passwd {
		if len(f) < 4 || f[0] != name {
			continue
		}
		uid, err1 := parseID(f[2])
		gid, err2 := parseID(f[3])
		if err := errors.Join(err1, err2); err != nil {
			return 0, 0, fmt.Errorf("the container's /etc/passwd: %w", err)
		}
		return uid, gid, nil
	}
	return 0, 0, fmt.Errorf("unable to find user %s: no matching entries in the container's /etc/passwd", name)
}

func findGroup(groups [][]string, name string) (uint32, error) {
	if numeric(name) {
		return parseID(name)
	}
	for _, f := range groups {
		if len(f) >= 3 && f[0] == name {
			id, err := parseID(f[2])
			if err != nil {
				err = fmt.Errorf("the container's /etc/group: %w", err)
			}
			return id, err
		}
	}
	return 0, fmt.Errorf("unable to find group %s: no matching entries in the container's /etc/group", name)
}

// maxGroups bounds the supplementary groups; the kernel has NGROUPS_MAX.
const maxGroups = 65536

// memberOf are the groups of a user: the primary one too, so that permissions it
// is denied stay denied to a process that changes its group (CVE-2022-36109).
func memberOf(groups [][]string, name string, primary uint32) []uint32 {
	ids, seen := []uint32{primary}, map[uint32]bool{primary: true}
	for _, f := range groups {
		if len(f) < 4 || len(ids) == maxGroups {
			continue
		}
		id, err := parseID(f[2])
		if err != nil || seen[id] {
			continue
		}
		for m := range strings.SplitSeq(f[3], ",") {
			if m == name {
				ids, seen[id] = append(ids, id), true
				break
			}
		}
	}
	return ids
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

// readDatabase reads passwd or group; one that does not exist is empty.
func readDatabase(root int, path string) ([][]string, error) {
	raw, err := runtime.ReadInRoot(root, path, maxPasswd)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return nil, nil
	case errors.Is(err, unix.EFBIG):
		return nil, fmt.Errorf("the container's /%s has more than %d bytes", path, maxPasswd)
	case errors.Is(err, unix.EINVAL):
		return nil, fmt.Errorf("the container's /%s is no regular file", path)
	case err != nil:
		return nil, fmt.Errorf("the container's /%s: %w", path, err)
	}
	var lines [][]string
	for line := range strings.SplitSeq(string(raw), "\n") {
		if line != "" && line[0] != '#' {
			lines = append(lines, strings.Split(line, ":"))
		}
	}
	return lines, nil
}
