package cgroups

import (
	"strconv"
	"strings"
)

// PidsLimit finds the limit that keeps n more processes out of the group: its
// own or one of a group above it. It returns the group's path, how many
// processes it has and may have; "" if there is room everywhere, or nobody can
// tell.
func (g *Group) PidsLimit(n uint64) (path string, have, limit uint64) {
	for at := g; ; {
		current, err1 := at.Read("pids.current")
		most, err2 := at.Read("pids.max")
		if err1 == nil && err2 == nil {
			c, err1 := strconv.ParseUint(strings.TrimSpace(current), 10, 64)
			m, err2 := strconv.ParseUint(strings.TrimSpace(most), 10, 64) // not for "max"
			if err1 == nil && err2 == nil && c+n > m {
				return at.Path, c, m
			}
		}
		i := strings.LastIndexByte(at.Path, '/')
		if i <= 0 {
			return "", 0, 0
		}
		at = Open(g.Mount, at.Path[:i])
	}
}
