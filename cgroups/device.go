package cgroups

import (
	"math"
	"slices"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// DefaultDevices returns the rules that every container gets after its own:
// runc's list. They make the devices usable that a container's /dev has by
// default (null, zero, full, random, urandom, tty, ptmx, pts), and /dev/net/tun.
// mknod is allowed for every device, as its node cannot be opened without a
// rule; capabilities decide whether mknod(2) works.
func DefaultDevices() []specs.LinuxDeviceCgroup {
	rules := make([]specs.LinuxDeviceCgroup, 0, 12)
	for _, t := range [...]string{"c", "b"} {
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: t, Access: "m"})
	}
	numbers := [...][2]int64{{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 2}, {136, -1}, {10, 200}}
	for _, n := range numbers {
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &n[0], Minor: &n[1], Access: "rwm"})
	}
	return rules
}

// DeviceProgram is a program of type BPF_PROG_TYPE_CGROUP_DEVICE.
type DeviceProgram struct {
	rules []deviceRule // simplified
	base  bool         // the verdict where none matches
}

// Insns assembles the program: struct bpf_insn[], in the byte order of this
// machine. It cannot fail, so it is left for when the init is at work already.
func (p *DeviceProgram) Insns() []byte { return assembleFilter(p.rules, p.base) }

// Rules says what the program does, "allow c 1:3 rwm"; the last that matches decides.
func (p *DeviceProgram) Rules() []string {
	base := deviceRule{allow: p.base, access: accAll, major: wildcard, minor: wildcard}
	list := append(make([]string, 0, len(p.rules)+1), base.String())
	for i := range p.rules {
		list = append(list, p.rules[i].String())
	}
	return list
}

// maxDeviceRules keeps the program within the verifier's limits.
const maxDeviceRules = 1000

// Access bits as the kernel passes them in access_type >> 16.
const (
	accMknod = unix.BPF_DEVCG_ACC_MKNOD
	accRead  = unix.BPF_DEVCG_ACC_READ
	accWrite = unix.BPF_DEVCG_ACC_WRITE
	accAll   = accMknod | accRead | accWrite
)

const wildcard = int64(-1)

// deviceRule is a parsed rule. typ is BPF_DEVCG_DEV_BLOCK or _CHAR, 0 for both.
type deviceRule struct {
	allow        bool
	typ          int32
	access       int32
	major, minor int64
}

// covers reports whether every access that o matches is matched by r.
func (r *deviceRule) covers(o *deviceRule) bool {
	return (r.typ == 0 || r.typ == o.typ) && o.access&^r.access == 0 &&
		(r.major == wildcard || r.major == o.major) && (r.minor == wildcard || r.minor == o.minor)
}

// String returns the rule as "allow c 1:3 rwm". A plan has many, hence the
// buffer.
func (r *deviceRule) String() string {
	var buf [48]byte
	b := append(buf[:0], "deny "...)
	if r.allow {
		b = append(buf[:0], "allow "...)
	}
	switch r.typ {
	case 0:
		b = append(b, "a "...)
	case unix.BPF_DEVCG_DEV_BLOCK:
		b = append(b, "b "...)
	default:
		b = append(b, "c "...)
	}
	b = appendNumber(b, r.major)
	b = append(b, ':')
	b = appendNumber(b, r.minor)
	b = append(b, ' ')
	for i, bit := range [...]int32{accRead, accWrite, accMknod} {
		if r.access&bit != 0 {
			b = append(b, "rwm"[i])
		}
	}
	return string(b)
}

func appendNumber(b []byte, n int64) []byte {
	if n == wildcard {
		return append(b, '*')
	}
	return strconv.AppendInt(b, n, 10)
}

// DeviceFilter compiles rules (linux.resources.devices). Nothing is allowed
// before the first rule; the rules apply in order, so that for each device and
// each of the three accesses the last rule that matches decides. An open for
// reading and writing needs both.
//
// Two differences from runc: a rule may deny part of what a wildcard before it
// allowed (runc refuses, as v1 could not), and type "a" stands for both types
// without making the rule's numbers and access meaningless, so {allow a 42:* r}
// does not allow everything.
func DeviceFilter(rules []specs.LinuxDeviceCgroup) (*DeviceProgram, error) {
	if len(rules) > maxDeviceRules {
		return nil, &FieldError{root + "devices", strconv.Itoa(len(rules)) + " rules", "are more than " + strconv.Itoa(maxDeviceRules), "use wildcards"}
	}
	parsed := make([]deviceRule, len(rules))
	for i := range rules {
		if err := parsed[i].parse(&rules[i], i); err != nil {
			return nil, err
		}
	}
	parsed, allow := simplify(parsed)
	return &DeviceProgram{parsed, allow}, nil
}

func (r *deviceRule) parse(o *specs.LinuxDeviceCgroup, i int) error {
	fail := func(field, value, reason, way string) error {
		return &FieldError{root + "devices[" + strconv.Itoa(i) + "]." + field, value, reason, way}
	}
	*r = deviceRule{allow: o.Allow, major: wildcard, minor: wildcard}
	switch o.Type {
	case "", "a":
	case "b":
		r.typ = unix.BPF_DEVCG_DEV_BLOCK
	case "c":
		r.typ = unix.BPF_DEVCG_DEV_CHAR
	default:
		return fail("type", strconv.Quote(o.Type), "is no device type", `use "a", "b" or "c"`)
	}
	for _, n := range [...]struct {
		name string
		from *int64
		to   *int64
	}{{"major", o.Major, &r.major}, {"minor", o.Minor, &r.minor}} {
		if n.from == nil {
			continue
		}
		if *n.from < wildcard || *n.from > math.MaxUint32 {
			return fail(n.name, itoa(*n.from), "is no device number", "use 0 to 4294967295, or leave it out for all")
		}
		*n.to = *n.from
	}
	if o.Access == "" {
		return fail("access", `""`, "field cannot be empty", `use letters of "rwm"`)
	}
	for _, c := range []byte(o.Access) {
		switch c {
		case 'r':
			r.access |= accRead
		case 'w':
			r.access |= accWrite
		case 'm':
			r.access |= accMknod
		default:
			return fail("access", strconv.Quote(o.Access), "has letters other than r, w and m", `use letters of "rwm"`)
		}
	}
	return nil
}

// simplify drops the rules that decide nothing and returns the rest and what
// holds where none of them matches: engines send their own copy of the
// defaults, and each rule costs time in the verifier.
func simplify(rules []deviceRule) (kept []deviceRule, allow bool) {
	kept = make([]deviceRule, 0, len(rules))
	// Backwards: a rule that a later one covers never decides. One that covers
	// everything is the base, and what is before it does not count.
rules:
	for i := len(rules) - 1; i >= 0; i-- {
		r := &rules[i]
		if r.typ == 0 && r.access == accAll && r.major == wildcard && r.minor == wildcard {
			allow = r.allow
			break
		}
		for k := range kept {
			if kept[k].covers(r) {
				continue rules
			}
		}
		kept = append(kept, *r)
	}
	slices.Reverse(kept)
	// First rules that repeat the base change nothing.
	for len(kept) > 0 && kept[0].allow == allow {
		kept = kept[1:]
	}
	return kept, allow
}
