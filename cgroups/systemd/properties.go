package systemd

import (
	"slices"
	"strconv"
	"strings"

	"github.com/minirun/minirun/cgroups"
	"github.com/minirun/minirun/internal/dbus"
)

// Property is one of a unit.
type Property struct {
	Name  string
	Type  string // signature: t, s, b, as, ay, au
	Value any    // uint64, string, bool, []string, []byte, []uint32
}

// infinity is how systemd writes "max".
const infinity = 1<<64 - 1

func encode(e *dbus.Encoder, list []Property) {
	e.Array(8, func() {
		for _, p := range list {
			e.Struct()
			e.String(p.Name)
			e.Signature(p.Type)
			switch v := p.Value.(type) {
			case uint64:
				e.Uint64(v)
			case string:
				e.String(v)
			case bool:
				e.Bool(v)
			case []string:
				e.Array(4, func() {
					for _, s := range v {
						e.String(s)
					}
				})
			case []byte:
				e.Array(1, func() {
					for _, b := range v {
						e.Byte(b)
					}
				})
			case []uint32:
				e.Array(4, func() {
					for _, n := range v {
						e.Uint32(n)
					}
				})
			}
		}
	})
}

// Properties translates the settings that systemd has a property for. It is
// asked for idle only where CPUWeight=0 is known, since systemd 252.
func Properties(l *cgroups.Limits, idle func() bool) []Property {
	var list []Property
	number := func(name, value string) {
		n, err := strconv.ParseUint(value, 10, 64)
		if value == "max" {
			n, err = infinity, nil
		}
		if err == nil {
			list = put(list, Property{name, "t", n})
		}
	}
	if l == nil {
		return nil
	}
	for i := range l.Settings {
		s := &l.Settings[i]
		switch s.File {
		case "memory.max":
			number("MemoryMax", s.Value)
		case "memory.high":
			number("MemoryHigh", s.Value)
		case "memory.low":
			number("MemoryLow", s.Value)
		case "memory.min":
			number("MemoryMin", s.Value)
		case "memory.swap.max":
			number("MemorySwapMax", s.Value)
		case "cpu.weight":
			number("CPUWeight", s.Value)
		case "cpu.idle":
			if s.Value == "1" && idle() {
				number("CPUWeight", "0")
			}
		case "cpu.max":
			list = quota(list, s.Value)
		case "cpuset.cpus":
			list = putMask(list, "AllowedCPUs", s.Value)
		case "cpuset.mems":
			list = putMask(list, "AllowedMemoryNodes", s.Value)
		case "pids.max":
			if s.Value == "0" { // no unit can have that; the group gets it afterwards
				number("TasksMax", "1")
			} else {
				number("TasksMax", s.Value)
			}
		case "io.weight":
			number("IOWeight", strings.TrimPrefix(s.Value, "default "))
		}
	}
	return list
}

func put(list []Property, p Property) []Property {
	for i := range list {
		if list[i].Name == p.Name {
			list[i] = p
			return list
		}
	}
	return append(list, p)
}

// quota translates cpu.max. systemd keeps whole percents and rounds up; the exact
// value is written to the group afterwards.
func quota(list []Property, value string) []Property {
	q, p, _ := strings.Cut(value, " ")
	perSec := uint64(infinity)
	period, err := strconv.ParseUint(p, 10, 32)
	if err != nil {
		period = 100000
	}
	if q != "max" {
		n, err := strconv.ParseUint(q, 10, 63)
		if err != nil || period == 0 || n > infinity/1000000 {
			return list
		}
		perSec = (n*1000000/period + 9999) / 10000 * 10000
	}
	if p != "" {
		list = put(list, Property{"CPUQuotaPeriodUSec", "t", period})
	}
	return put(list, Property{"CPUQuotaPerSecUSec", "t", perSec})
}

// putMask translates a list such as 0-3,7 to a bit mask, lowest byte first.
func putMask(list []Property, name, value string) []Property {
	var mask []byte
	for part := range strings.SplitSeq(value, ",") {
		if part == "" {
			continue
		}
		a, b, isRange := strings.Cut(part, "-")
		first, err := strconv.ParseUint(strings.TrimSpace(a), 10, 16)
		last := first
		if err == nil && isRange {
			last, err = strconv.ParseUint(strings.TrimSpace(b), 10, 16)
		}
		if err != nil || last >= 8192 {
			return list // the kernel says what is wrong with it
		}
		for n := first; n <= last; n++ {
			for len(mask) <= int(n/8) {
				mask = append(mask, 0)
			}
			mask[n/8] |= 1 << (n % 8)
		}
	}
	return put(list, Property{name, "ay", mask})
}

// AnnotationPrefix begins the names of annotations that are properties.
const AnnotationPrefix = "org.systemd.property."

// AnnotationError refuses an annotation.
type AnnotationError struct{ Key, Reason string }

func (e *AnnotationError) Error() string {
	return "annotations[" + strconv.Quote(e.Key) + "]: " + e.Reason
}

// Hint says what may be set.
func (*AnnotationError) Hint() string {
	return "known are TimeoutStopUSec, TimeoutStopSec, RuntimeMaxUSec, CollectMode, OOMPolicy, Description, DefaultDependencies, After and Before; others could have systemd run programs on the host"
}

// FromAnnotations reads org.systemd.property.NAME annotations, in the text form
// of GVariant. Only properties that cannot reach beyond the unit are taken
// (CVE-2024-3154).
func FromAnnotations(m map[string]string) ([]Property, error) {
	var keys []string
	for k := range m {
		if strings.HasPrefix(k, AnnotationPrefix) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	var list []Property
	for _, k := range keys {
		p, reason := annotation(k[len(AnnotationPrefix):], strings.TrimSpace(m[k]))
		if reason != "" {
			return nil, &AnnotationError{k, reason}
		}
		list = put(list, p)
	}
	return list, nil
}

func annotation(name, value string) (Property, string) {
	switch name {
	case "TimeoutStopUSec", "RuntimeMaxUSec":
		n, err := strconv.ParseUint(strings.TrimSpace(strings.TrimPrefix(value, "uint64 ")), 10, 64)
		if err != nil {
			return Property{}, "want a number of microseconds, such as uint64 5000000"
		}
		return Property{name, "t", n}, ""
	case "TimeoutStopSec":
		n := value
		for _, t := range [...]string{"uint64 ", "uint32 ", "int32 ", "int64 ", "double "} {
			n = strings.TrimPrefix(n, t)
		}
		f, err := strconv.ParseFloat(strings.TrimSpace(n), 64)
		if err != nil || !(f >= 0 && f < 1e12) {
			return Property{}, "want a number of seconds"
		}
		return Property{"TimeoutStopUSec", "t", uint64(f * 1e6)}, ""
	case "CollectMode":
		s, ok := quoted(value)
		if !ok || s != "inactive" && s != "inactive-or-failed" {
			return Property{}, "want 'inactive' or 'inactive-or-failed'"
		}
		return Property{name, "s", s}, ""
	case "OOMPolicy":
		s, ok := quoted(value)
		if !ok || s != "continue" && s != "stop" && s != "kill" {
			return Property{}, "want 'continue', 'stop' or 'kill'"
		}
		return Property{name, "s", s}, ""
	case "Description":
		s, ok := quoted(value)
		if !ok {
			return Property{}, "want a text in quotes"
		}
		return Property{name, "s", s}, ""
	case "DefaultDependencies":
		if value != "true" && value != "false" {
			return Property{}, "want true or false"
		}
		return Property{name, "b", value == "true"}, ""
	case "After", "Before":
		units, ok := unitList(strings.TrimSpace(strings.TrimPrefix(value, "@as ")))
		if !ok {
			return Property{}, "want a list of units, such as ['a.service', 'b.service']"
		}
		return Property{name, "as", units}, ""
	}
	return Property{}, "this property of a unit may not be set"
}

// quoted reads a text of GVariant in its simple form, without escapes.
func quoted(s string) (string, bool) {
	if len(s) < 2 || s[0] != s[len(s)-1] || s[0] != '\'' && s[0] != '"' || strings.ContainsAny(s[1:len(s)-1], "'\"\\\n\x00") {
		return "", false
	}
	return s[1 : len(s)-1], true
}

func unitList(s string) ([]string, bool) {
	if len(s) < 2 || s[0] != '[' || s[len(s)-1] != ']' {
		return nil, false
	}
	units := []string{}
	if s = strings.TrimSpace(s[1 : len(s)-1]); s == "" {
		return units, true
	}
	for part := range strings.SplitSeq(s, ",") {
		u, ok := quoted(strings.TrimSpace(part))
		if !ok || u == "" || !plain(u) {
			return nil, false
		}
		units = append(units, u)
	}
	return units, true
}
