package cgroups

import (
	"strconv"
	"strings"
)

// OOMCount are counters of memory.events.
type OOMCount struct {
	Kills   uint64 // oom_kill: processes that the kernel has killed
	Reached uint64 // oom: how often memory was wanted at the limit and could not be had
}

// OOMCount reads the counters of the group and its sub-groups: zeros without a
// memory controller, or when the group is gone.
func (g *Group) OOMCount() (OOMCount, error) {
	text, err := g.Read("memory.events")
	if gone(err) {
		return OOMCount{}, nil
	}
	return ParseOOMCount(text), err
}

// ParseOOMCount takes the counters out of a text of memory.events.
func ParseOOMCount(text string) (c OOMCount) {
	c.Kills, _ = strconv.ParseUint(keyed(text, "oom_kill"), 10, 64)
	c.Reached, _ = strconv.ParseUint(keyed(text, "oom"), 10, 64)
	return c
}

// OOMLimit tells which memory limit made the kernel kill processes of the group:
// that of the group itself, of one above it or below it. The nearest that counts
// such an event of its own (oom in memory.events.local, Linux 5.2) is it. path is
// g.Path if nobody can tell, limit is memory.max or "" if that is "max" or, as
// for groups below, not known.
func (g *Group) OOMLimit() (path, limit string) {
	own, err := g.Key("memory.events.local", "oom")
	if err != nil {
		return g.Path, g.memoryMax()
	}
	if all, err := g.Key("memory.events", "oom"); own == 0 && err == nil && all > 0 {
		return g.Path + "/...", ""
	}
	for at := g; own == 0; {
		up := at.Path[:strings.LastIndexByte(at.Path, '/')]
		if up == "" {
			return g.Path, "" // no limit was reached: the machine has no memory left
		}
		at = Open(g.Mount, up)
		if n, err := at.Key("memory.events.local", "oom"); err == nil && n > 0 {
			return at.Path, at.memoryMax()
		}
	}
	return g.Path, g.memoryMax()
}

func (g *Group) memoryMax() string {
	max, err := g.Read("memory.max")
	if _, numErr := strconv.ParseUint(max, 10, 64); err != nil || numErr != nil {
		return ""
	}
	return max
}
