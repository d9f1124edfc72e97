package seccomp

import "slices"

// arch is an ABI as a profile names it. Two of them, x86_64 and x32, share a token and differ in the numbers.
type arch struct {
	scmp   string             // SCMP_ARCH_* of the runtime specification
	goarch string             // GOARCH whose native ABI it is, "" for none
	token  uint32             // AUDIT_ARCH_* (include/uapi/linux/audit.h), as in seccomp_data.arch
	base   uint32             // number of slot 0
	table  *[nameCount]uint16 // nil: numbers unknown, calls get the bad-architecture action
	wide   bool               // arguments in seccomp_data have 64 significant bits
	big    bool               // big-endian: the high half of an argument comes first
	muxes  bool               // has socketcall(2) and ipc(2)
}

const (
	archX8664 = 0xc000003e
	x32Bit    = 1 << 30 // __X32_SYSCALL_BIT
)

// archs are all architectures of the runtime specification (config-linux.md, "Seccomp") plus 64-bit big-endian ones
// that Go has. x32 calls carry 64-bit registers, so its arguments are wide.
var archs = [...]arch{
	{scmp: "SCMP_ARCH_X86_64", goarch: "amd64", token: archX8664, table: &tableAMD64, wide: true},
	{scmp: "SCMP_ARCH_X86", goarch: "386", token: 0x40000003, table: &table386, muxes: true},
	{scmp: "SCMP_ARCH_X32", token: archX8664, base: x32Bit, table: &tableX32, wide: true},
	{scmp: "SCMP_ARCH_AARCH64", goarch: "arm64", token: 0xc00000b7, table: &tableARM64, wide: true},
	{scmp: "SCMP_ARCH_ARM", goarch: "arm", token: 0x40000028, table: &tableARM},
	{scmp: "SCMP_ARCH_RISCV64", goarch: "riscv64", token: 0xc00000f3, table: &tableRISCV64, wide: true},
	{scmp: "SCMP_ARCH_LOONGARCH64", goarch: "loong64", token: 0xc0000102, table: &tableLOONG64, wide: true},
	{scmp: "SCMP_ARCH_PPC64LE", goarch: "ppc64le", token: 0xc0000015, table: &tablePPC64, wide: true, muxes: true},
	{scmp: "SCMP_ARCH_PPC64", goarch: "ppc64", token: 0x80000015, table: &tablePPC64, wide: true, big: true, muxes: true},
	{scmp: "SCMP_ARCH_PPC", token: 0x00000014, table: &tablePPC, big: true, muxes: true},
	{scmp: "SCMP_ARCH_S390X", goarch: "s390x", token: 0x80000016, table: &tableS390X, wide: true, big: true, muxes: true},
	{scmp: "SCMP_ARCH_S390", token: 0x00000016, big: true},
	{scmp: "SCMP_ARCH_MIPS", goarch: "mips", token: 0x00000008, base: 4000, table: &tableMIPS, big: true, muxes: true},
	{scmp: "SCMP_ARCH_MIPSEL", goarch: "mipsle", token: 0x40000008, base: 4000, table: &tableMIPS, muxes: true},
	{scmp: "SCMP_ARCH_MIPS64", goarch: "mips64", token: 0x80000008, base: 5000, table: &tableMIPS64, wide: true, big: true},
	{scmp: "SCMP_ARCH_MIPSEL64", goarch: "mips64le", token: 0xc0000008, base: 5000, table: &tableMIPS64, wide: true},
	{scmp: "SCMP_ARCH_MIPS64N32", token: 0xa0000008, base: 6000, big: true},
	{scmp: "SCMP_ARCH_MIPSEL64N32", token: 0xe0000008, base: 6000},
	{scmp: "SCMP_ARCH_PARISC", token: 0x0000000f, big: true},
	{scmp: "SCMP_ARCH_PARISC64", token: 0x8000000f, wide: true, big: true},
	{scmp: "SCMP_ARCH_M68K", token: 0x00000004, big: true},
	{scmp: "SCMP_ARCH_SH", token: 0x4000002a},
	{scmp: "SCMP_ARCH_SHEB", token: 0x0000002a, big: true},
}

func nativeArch(goarch string) *arch {
	for i := range archs {
		if archs[i].goarch == goarch && goarch != "" {
			return &archs[i]
		}
	}
	return nil
}

func findArch(scmp string) *arch {
	for i := range archs {
		if archs[i].scmp == scmp {
			return &archs[i]
		}
	}
	return nil
}

// Architectures are the names that a profile may list, sorted.
func Architectures() []string {
	names := make([]string, len(archs))
	for i := range archs {
		names[i] = archs[i].scmp
	}
	slices.Sort(names)
	return names
}
