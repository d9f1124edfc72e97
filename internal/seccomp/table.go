package seccomp

//go:generate go run ./gen

// A table maps names to slots. A slot is the number of a call within its architecture without the architecture's base
// (4000 for MIPS o32, 1<<30 for x32, else 0), so that the compiler can use small dense arrays. The private calls of
// 32-bit Arm, far above all others, follow the ordinary slots.
const (
	mainSlots = 560
	privSlots = 16
	slotCount = mainSlots + privSlots
	armPriv   = 0xf0000 // __ARM_NR_BASE
	noSlot    = 0xffff
)

// muxIPC marks a sub-call of ipc(2) in nameMux; the others are of socketcall(2).
const muxIPC = 0x80

// lookupName returns the number of a name in the tables, or -1.
func lookupName(s string) int {
	h := uint32(2166136261)
	for i := range len(s) {
		h = (h ^ uint32(s[i])) * 16777619
	}
	for {
		h %= uint32(len(nameHash))
		id := int(nameHash[h]) - 1
		if id < 0 || nameAt(id) == s {
			return id
		}
		h++
	}
}

func nameAt(id int) string { return nameText[nameOff[id]:nameOff[id+1]] }

// number returns the system call number of a slot.
func (a *arch) number(slot int) uint32 {
	if slot >= mainSlots {
		return armPriv + uint32(slot-mainSlots)
	}
	return a.base + uint32(slot)
}

// name returns the name of a system call number, or "".
func (a *arch) name(nr uint32) string {
	if a.table == nil {
		return ""
	}
	for id, slot := range a.table {
		if slot != noSlot && a.number(int(slot)) == nr {
			return nameAt(id)
		}
	}
	return ""
}

// SyscallName returns the name of system call nr on a GOARCH, or "" when the tables do not have it. On amd64 a number
// with bit 30 set is an x32 call.
func SyscallName(goarch string, nr int) string {
	a := nativeArch(goarch)
	if a == nil || nr < 0 || nr > 1<<31-1 {
		return ""
	}
	if a.token == archX8664 && nr&x32Bit != 0 {
		a = findArch("SCMP_ARCH_X32")
	}
	return a.name(uint32(nr))
}

// SyscallNumber returns the number of a system call on a GOARCH, and whether that architecture has it.
func SyscallNumber(goarch, name string) (int, bool) {
	a := nativeArch(goarch)
	id := lookupName(name)
	if a == nil || id < 0 || a.table[id] == noSlot {
		return 0, false
	}
	return int(a.number(int(a.table[id]))), true
}
