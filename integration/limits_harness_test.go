package integration

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/minirun/minirun/internal/testenv"
)

const limCgroups = "/sys/fs/cgroup"

// limBox makes a container whose /bin has minirun's applets beside busybox, as
// programs that use up what is limited.
func limBox(t testing.TB, mutate ...func(*specs.Spec)) *ociBox {
	t.Helper()
	b := newBox(t, mutate...)
	data := readFile(t, testenv.Binary(t))
	first := b.rootfs("bin/eat")
	if err := os.WriteFile(first, []byte(data), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"burn", "forks"} {
		if err := os.Link(first, b.rootfs("bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// limited sets limits.
func limited(change func(*specs.LinuxResources)) func(*specs.Spec) {
	return func(s *specs.Spec) { change(s.Linux.Resources) }
}

func limMemory(limit int64) func(*specs.Spec) {
	return limited(func(r *specs.LinuxResources) { r.Memory = &specs.LinuxMemory{Limit: &limit} })
}

func limPids(limit int64) func(*specs.Spec) {
	return limited(func(r *specs.LinuxResources) { r.Pids = &specs.LinuxPids{Limit: &limit} })
}

func limArgs(args ...string) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Process.Args = args }
}

// limCgroup is a file of the container's group, seen from the host.
func (b *ociBox) limCgroup(file string) string { return filepath.Join(limCgroups, b.cgroup, file) }

func (b *ociBox) limRead(file string) string {
	b.t.Helper()
	return strings.TrimSpace(readFile(b.t, b.limCgroup(file)))
}

// limKeyed are the "key value" lines of a text.
func limKeyed(t testing.TB, text string) map[string]int64 {
	t.Helper()
	m := map[string]int64{}
	for _, l := range lines(text) {
		if f := strings.Fields(l); len(f) == 2 {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatalf("%q: %v", l, err)
			}
			m[f[0]] = n
		}
	}
	return m
}

// limTiny is the smallest static program: it exits with status 0.
func limTiny(t testing.TB, path string) {
	t.Helper()
	const base, headers = 0x400000, 64 + 56
	code := []byte{0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05} // xor edi, edi; mov eax, SYS_exit; syscall
	h := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Entry: base + headers, Phoff: 64,
		Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	p := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base,
		Filesz: headers + uint64(len(code)), Memsz: headers + uint64(len(code)), Align: 4096,
	}
	var b bytes.Buffer
	for _, v := range []any{h, p, code} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, b.Bytes(), 0o755); err != nil {
		t.Fatal(err)
	}
}

// limTime is how long f takes.
func limTime(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}
