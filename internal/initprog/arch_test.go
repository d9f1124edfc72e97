package initprog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"
)

const emulator = "qemu-aarch64-static"

// TestArch runs the same programs on every architecture: their images are made
// by testdata/image, built for it.
func TestArch(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) {
			run := func(cmd string, args ...string) *exec.Cmd { return exec.Command(cmd, args...) }
			if arch != runtime.GOARCH {
				if arch != "arm64" {
					t.Skip("there is no emulator of amd64 here")
				}
				if _, err := exec.LookPath(emulator); err != nil {
					t.Skip(emulator + " is not installed (Debian package qemu-user-static)")
				}
				run = func(cmd string, args ...string) *exec.Cmd {
					return exec.Command(emulator, append([]string{cmd}, args...)...)
				}
			}
			maker := t.TempDir() + "/image"
			build := exec.Command("go", "build", "-o", maker, "./testdata/image")
			build.Env = append(os.Environ(), "GOARCH="+arch, "CGO_ENABLED=0")
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			testPrograms(t, arch, maker, run)
		})
	}
}

func testPrograms(t *testing.T, arch, maker string, command func(cmd string, args ...string) *exec.Cmd) {
	enoent := uint64(syscall.ENOENT)
	tests := []struct {
		name, want string
		status     int
		fails      syscall.Errno // the program ends with this, after what it wrote
		op         int
	}{
		{name: "write", want: "hello", status: 7},
		{name: "jumps", want: "abcdefghijklmn"},
		{name: "slots", want: "four" + words(0xaaaa, 0x123456789abcdef0, 4) + words(-enoent)},
		{name: "countdown", want: "x", status: 1, fails: syscall.EAGAIN, op: 2},
		{name: "measure", want: "mm" + words(^uint64(1))},
		{name: "failure", status: 1, fails: syscall.ENOENT, op: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			elf, err := command(maker, tt.name).Output()
			if err != nil {
				t.Fatal(err)
			}
			checkImage(t, arch, elf)
			file := t.TempDir() + "/program"
			if err := os.WriteFile(file, elf, 0o700); err != nil {
				t.Fatal(err)
			}
			out, status := runFile(t, command(file))
			if tt.fails != 0 {
				if len(out) < RecordSize {
					t.Fatalf("wrote %q, no record", out)
				}
				r := ParseRecord([]byte(out[len(out)-RecordSize:]))
				out = out[:len(out)-RecordSize]
				first := binary.LittleEndian.Uint64(elf[dataOffset(elf):])
				if want := first + uint64(tt.op*opSize); r.Address != want || r.Value != uint64(tt.fails) {
					t.Errorf("record %#x, %d; want %#x, %d", r.Address, r.Value, want, tt.fails)
				}
			}
			if out != tt.want || status != tt.status {
				t.Errorf("wrote %q, status %d; want %q, %d", out, status, tt.want, tt.status)
			}
		})
	}
}

// runFile runs a program with a pipe as descriptor 3.
func runFile(t *testing.T, cmd *exec.Cmd) (string, int) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd.ExtraFiles = []*os.File{w}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Error(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if stderr.Len() > 0 {
		t.Errorf("standard error: %s", &stderr)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// checkImage looks at what the kernel and the interpreter take from the file.
func checkImage(t *testing.T, arch string, elf []byte) {
	t.Helper()
	p, err := Disassemble(elf)
	if err != nil {
		t.Fatal(err)
	}
	machine, page, trap := AMD64, uint64(4096), []byte{0x0f, 0x0b}
	if arch == "arm64" { // kernels may have pages of 64 KiB
		machine, page, trap = ARM64, 65536, []byte{0, 0, 0, 0}
	}
	if p.Machine != machine {
		t.Errorf("e_machine %d, want %d", p.Machine, machine)
	}
	le := binary.LittleEndian
	for i, addr := range []uint64{textBase, dataBase} {
		h := elf[elfHeader+i*elfProgHd:]
		if off := le.Uint64(h[8:]); off%page != 0 || addr%page != 0 || le.Uint64(h[48:]) != page {
			t.Errorf("segment %d: offset %#x, address %#x, alignment %#x; want multiples of %#x", i, off, addr, le.Uint64(h[48:]), page)
		}
	}
	code, ok := bytes.CutSuffix(p.Code, []byte("IRTPEND!"))
	if !ok || !bytes.HasSuffix(code, trap) || len(code) < 200 || len(code) > 600 {
		t.Errorf("interpreter of %d bytes ends with % x", len(p.Code), p.Code[max(0, len(p.Code)-16):])
	}
	if arch == "arm64" && len(code)%4 != 0 {
		t.Errorf("interpreter of %d bytes, which are no whole instructions", len(code))
	}
	if strings.Contains(string(code), "IRTPEND!") {
		t.Error("the end marker occurs twice")
	}
}

// The package's tests, too, must go on building for the other architecture.
func TestArch_TestsBuild(t *testing.T) {
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	cmd := exec.Command("go", "test", "-c", "-o", t.TempDir()+"/initprog.test", ".")
	cmd.Env = append(os.Environ(), "GOARCH="+other, "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// A layout that interp_*.s relies on.
func TestArch_OpLayout(t *testing.T) {
	var o op
	got := [...]uintptr{
		unsafe.Sizeof(o), unsafe.Offsetof(o.nr), unsafe.Offsetof(o.load), unsafe.Offsetof(o.args), unsafe.Offsetof(o.store),
		unsafe.Offsetof(o.zero), unsafe.Offsetof(o.nonzero), unsafe.Offsetof(o.on), unsafe.Sizeof(o.on[0]),
	}
	if want := [...]uintptr{96, 0, 4, 8, 56, 64, 68, 72, 8}; got != want {
		t.Errorf("layout %v, the interpreters take %v", got, want)
	}
}
