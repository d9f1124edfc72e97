package cgroups

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// run executes a device program as the kernel would and returns its verdict. It
// refuses what the verifier refuses: jumps backwards or out of the program,
// reads of registers that were never written, falling off the end. The opcodes
// are numbers here, so that a wrong constant in the compiler shows.
func runFilter(insns []byte, typ, access, major, minor uint32) (bool, error) {
	ctx := map[int16]uint32{0: access<<16 | typ, 4: major, 8: minor}
	var reg [11]uint64
	written := map[uint8]bool{regCtx: true}
	n := len(insns) / 8
	for pc := 0; pc < n; pc++ {
		b := insns[8*pc:]
		op, dst, src := b[0], b[1]&15, b[1]>>4
		off, imm := int16(binary.NativeEndian.Uint16(b[2:])), binary.NativeEndian.Uint32(b[4:])
		need := func(r uint8) error {
			if !written[r] {
				return fmt.Errorf("instruction %d reads r%d, which was never written", pc, r)
			}
			return nil
		}
		jump := func(taken bool) error {
			if off < 0 || pc+1+int(off) >= n {
				return fmt.Errorf("instruction %d jumps by %d", pc, off)
			}
			if taken {
				pc += int(off)
			}
			return need(dst)
		}
		var err error
		switch op {
		case 0x61: // load
			v, ok := ctx[off]
			if !ok || src != regCtx {
				return false, fmt.Errorf("instruction %d loads from r%d%+d", pc, src, off)
			}
			reg[dst], written[dst] = uint64(v), true
		case 0xbc: // movreg
			err = need(src)
			reg[dst], written[dst] = uint64(uint32(reg[src])), true
		case 0xb4: // mov
			reg[dst], written[dst] = uint64(imm), true
		case 0x54: // and
			err = need(dst)
			reg[dst] = uint64(uint32(reg[dst]) & imm)
		case 0x74: // shr
			err = need(dst)
			reg[dst] = uint64(uint32(reg[dst]) >> imm)
		case 0x16: // jeq
			err = jump(uint32(reg[dst]) == imm)
		case 0x56: // jne
			err = jump(uint32(reg[dst]) != imm)
		case 0x46: // jset
			err = jump(uint32(reg[dst])&imm != 0)
		case 0x95: // exit
			return reg[regResult] != 0, need(regResult)
		default:
			err = fmt.Errorf("instruction %d has opcode %#x", pc, op)
		}
		if err != nil {
			return false, err
		}
	}
	return false, errors.New("fell off the end")
}

// evaluate is the definition: each access for itself, the last rule that
// matches decides, nothing is allowed before the first.
func evaluate(rules []specs.LinuxDeviceCgroup, typ, access, major, minor uint32) bool {
	letters := map[uint32]string{accMknod: "m", accRead: "r", accWrite: "w"}
	for bit, letter := range letters {
		if access&bit == 0 {
			continue
		}
		allowed := false
		for _, r := range rules {
			isType := r.Type == "" || r.Type == "a" || r.Type == "b" && typ == unix.BPF_DEVCG_DEV_BLOCK || r.Type == "c" && typ == unix.BPF_DEVCG_DEV_CHAR
			isMajor := r.Major == nil || *r.Major == -1 || *r.Major == int64(major)
			isMinor := r.Minor == nil || *r.Minor == -1 || *r.Minor == int64(minor)
			if isType && isMajor && isMinor && strings.Contains(r.Access, letter) {
				allowed = r.Allow
			}
		}
		if !allowed {
			return false
		}
	}
	return true
}

var someNumbers = []int64{0, 1, 5, 136, 1 << 31, math.MaxUint32}

// compare checks the program against the definition for all accesses to a set
// of devices that hits and misses every rule.
func compare(t *testing.T, rules []specs.LinuxDeviceCgroup) {
	t.Helper()
	p, err := DeviceFilter(rules)
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range []uint32{unix.BPF_DEVCG_DEV_BLOCK, unix.BPF_DEVCG_DEV_CHAR} {
		for access := uint32(1); access <= accAll; access++ {
			for _, major := range append(someNumbers, 77) {
				for _, minor := range append(someNumbers, 77) {
					got, err := runFilter(p.Insns(), typ, access, uint32(major), uint32(minor))
					if err != nil {
						t.Fatalf("%v\n%s", err, strings.Join(p.Rules(), "\n"))
					}
					if want := evaluate(rules, typ, access, uint32(major), uint32(minor)); got != want {
						t.Fatalf("type %d access %d device %d:%d: got %v, want %v, of\n%s", typ, access, major, minor, got, want, strings.Join(p.Rules(), "\n"))
					}
				}
			}
		}
	}
}

func rule(allow bool, typ string, major, minor int64, access string) specs.LinuxDeviceCgroup {
	return specs.LinuxDeviceCgroup{Allow: allow, Type: typ, Major: &major, Minor: &minor, Access: access}
}

func TestDeviceFilter(t *testing.T) {
	denyAll := specs.LinuxDeviceCgroup{Access: "rwm"}
	allowAll := specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"}
	tests := []struct {
		name  string
		rules []specs.LinuxDeviceCgroup
		want  string // rules that are left
		max   int    // instructions
	}{
		{"none", nil, "deny a *:* rwm", 2},
		{"privileged", []specs.LinuxDeviceCgroup{denyAll, allowAll}, "allow a *:* rwm", 2},
		{"privileged with the defaults", append([]specs.LinuxDeviceCgroup{allowAll}, DefaultDevices()...), "allow a *:* rwm", 2},
		{"defaults", append([]specs.LinuxDeviceCgroup{denyAll}, DefaultDevices()...), "deny a *:* rwm, allow c *:* m, allow b *:* m, allow c 1:3 rwm, allow c 1:5 rwm, allow c 1:7 rwm, " +
			"allow c 1:8 rwm, allow c 1:9 rwm, allow c 5:0 rwm, allow c 5:2 rwm, allow c 136:* rwm, allow c 10:200 rwm", 28},
		{"the engine's copy of the defaults", append(DefaultDevices(), DefaultDevices()[2:4]...), "deny a *:* rwm, allow c *:* m, allow b *:* m, allow c 1:7 rwm, " +
			"allow c 1:8 rwm, allow c 1:9 rwm, allow c 5:0 rwm, allow c 5:2 rwm, allow c 136:* rwm, allow c 10:200 rwm, allow c 1:3 rwm, allow c 1:5 rwm", 28},
		{"a hole in a wildcard", []specs.LinuxDeviceCgroup{rule(true, "c", 1, -1, "rw"), rule(false, "c", 1, 5, "w")}, "deny a *:* rwm, allow c 1:* rw, deny c 1:5 w", 18},
		{"a hole in everything", []specs.LinuxDeviceCgroup{allowAll, rule(false, "b", -1, -1, "rwm")}, "allow a *:* rwm, deny b *:* rwm", 12},
		{"all types, one number", []specs.LinuxDeviceCgroup{rule(true, "a", 5, -1, "r")}, "deny a *:* rwm, allow a 5:* r", 13},
		{"accesses add up", []specs.LinuxDeviceCgroup{rule(true, "c", 5, -1, "r"), rule(true, "c", -1, 1, "w")}, "deny a *:* rwm, allow c 5:* r, allow c *:1 w", 18},
		{"denied and allowed again", []specs.LinuxDeviceCgroup{rule(true, "c", 5, 1, "rwm"), rule(false, "c", 5, -1, "rw"), rule(true, "c", 5, 1, "r")}, "deny a *:* rwm, allow c 5:1 rwm, deny c 5:* rw, allow c 5:1 r", 21},
		{"big numbers", []specs.LinuxDeviceCgroup{rule(true, "b", math.MaxUint32, 1<<31, "rwm")}, "deny a *:* rwm, allow b 4294967295:2147483648 rwm", 14},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			compare(t, tt.rules)
			p, err := DeviceFilter(tt.rules)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(p.Rules(), ", "); got != tt.want {
				t.Errorf("rules\n %s\nwant\n %s", got, tt.want)
			}
			if n := len(p.Insns()) / 8; n > tt.max {
				t.Errorf("%d instructions, want at most %d", n, tt.max)
			}
		})
	}
}

func TestDeviceFilter_Refused(t *testing.T) {
	tests := []struct {
		rule specs.LinuxDeviceCgroup
		want string
	}{
		{specs.LinuxDeviceCgroup{Type: "c"}, `linux.resources.devices[1].access "": field cannot be empty`},
		{specs.LinuxDeviceCgroup{Type: "c", Access: "rx"}, `linux.resources.devices[1].access "rx": has letters other than r, w and m`},
		{specs.LinuxDeviceCgroup{Type: "p", Access: "r"}, `linux.resources.devices[1].type "p": is no device type`},
		{rule(true, "c", -2, 0, "r"), "linux.resources.devices[1].major -2: is no device number"},
		{rule(true, "c", 0, 1<<32, "r"), "linux.resources.devices[1].minor 4294967296: is no device number"},
	}
	for _, tt := range tests {
		_, err := DeviceFilter([]specs.LinuxDeviceCgroup{{Access: "rwm"}, tt.rule})
		if err == nil || err.Error() != tt.want {
			t.Errorf("%+v:\n got %v\nwant %s", tt.rule, err, tt.want)
		}
	}
	if _, err := DeviceFilter(make([]specs.LinuxDeviceCgroup, maxDeviceRules+1)); err == nil || !strings.Contains(err.Error(), "are more than 1000") {
		t.Errorf("too many rules: %v", err)
	}
}

// rulesFrom makes rules of arbitrary bytes, five for each.
func rulesFrom(data []byte) []specs.LinuxDeviceCgroup {
	var rules []specs.LinuxDeviceCgroup
	for ; len(data) >= 5 && len(rules) < maxDeviceRules; data = data[5:] {
		r := specs.LinuxDeviceCgroup{Allow: data[0]&1 != 0, Type: []string{"", "a", "b", "c"}[data[1]%4]}
		for i, to := range []**int64{&r.Major, &r.Minor} {
			switch n := int(data[2+i]) % (len(someNumbers) + 2); n {
			case 0:
			case 1:
				all := int64(-1)
				*to = &all
			default:
				*to = &someNumbers[n-2]
			}
		}
		r.Access = []string{"r", "w", "m", "rw", "rm", "wm", "rwm", "mwr"}[data[4]%8]
		rules = append(rules, r)
	}
	return rules
}

func FuzzDeviceFilter(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{1, 3, 3, 0, 3, 0, 3, 3, 4, 1})
	f.Add([]byte{1, 0, 0, 0, 6, 0, 2, 0, 0, 2, 1, 1, 4, 0, 0, 0, 3, 7, 7, 5})
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30})
	f.Fuzz(func(t *testing.T, data []byte) { compare(t, rulesFrom(data[:min(len(data), 200)])) })
}

func BenchmarkDeviceFilter(b *testing.B) {
	for b.Loop() {
		if _, err := DeviceFilter(DefaultDevices()); err != nil {
			b.Fatal(err)
		}
	}
}
