// Image writes the init program that its argument names to standard output, for
// the architecture it was built for. Tests run the same programs natively and
// under an emulator.
package main

import (
	"os"
	"syscall"

	"github.com/minirun/minirun/internal/initprog"
)

// The programs write what they have to say to descriptor 3.
func main() {
	b := initprog.NewBuilder(3)
	switch os.Args[1] {
	case "write":
		b.Write(initprog.Sync(), "hello")
		b.ExitGroup(7)
	case "jumps":
		jumps(b)
	case "slots":
		slots(b)
	case "countdown":
		n := b.Slot(0)
		b.Write(initprog.FD(3), "x")
		b.Fail(syscall.EBUSY, "busy").Ignore(syscall.ENOENT).RetrySome(syscall.EBUSY).To(n)
	case "measure":
		room := b.Slot(10)
		again, full := b.NewLabel(), b.NewLabel()
		b.Place(again)
		b.Countdown(room, initprog.Const(4)).OnAny(full)
		b.Write(initprog.FD(3), "m")
		b.Jump(again)
		b.Place(full)
		b.WriteAt(initprog.FD(3), initprog.AddressOf(room), 8)
		b.ExitGroup(0)
	case "failure":
		b.Phase("mounts")
		b.Object("/proc")
		b.Chdir("/")
		b.Chdir("/nonexistent").Ignore(syscall.EPERM, syscall.EACCES, syscall.EISDIR)
		b.ExitGroup(0)
	}
	img, err := b.Link()
	if err != nil {
		panic(err)
	}
	if _, err := os.Stdout.Write(img.Bytes()); err != nil {
		panic(err)
	}
}

// jumps goes through every kind of jump and writes a letter at each place.
func jumps(b *initprog.Builder) {
	wrong := b.NewLabel()
	say := func(s string) { b.Write(initprog.Sync(), s) }
	fail := func(e syscall.Errno) initprog.Ref { return b.Fail(e, "") }
	step := func(s string, f func(l initprog.Label)) {
		l := b.NewLabel()
		f(l)
		b.Jump(wrong)
		b.Place(l)
		say(s)
	}
	step("a", func(l initprog.Label) { b.Chdir("/").OnZero(l).OnNonzero(wrong) })
	step("b", func(l initprog.Label) { b.Write(initprog.Sync(), "").OnZero(l).OnNonzero(wrong) })
	step("d", func(l initprog.Label) { b.Write(initprog.Sync(), "c").OnZero(wrong).OnNonzero(l) })
	step("e", func(l initprog.Label) { fail(1).On(1, l).On(2, wrong).On(3, wrong) })
	step("f", func(l initprog.Label) { fail(2).On(1, wrong).On(2, l).On(3, wrong) })
	step("g", func(l initprog.Label) { fail(3).On(1, wrong).On(2, wrong).On(3, l) })
	step("h", func(l initprog.Label) { fail(4095).On(1, wrong).On(4095, l) })
	step("i", func(l initprog.Label) { fail(4095).OnAny(l).On(1, wrong).On(2, wrong) })
	step("j", func(l initprog.Label) { fail(2).OnAny(wrong).On(1, wrong).On(2, l) })
	step("k", func(l initprog.Label) { b.Chdir("/nonexistent").On(syscall.ENOENT, l) })
	// -4096 and 2^63 are no errors.
	big := b.Slot(0)
	step("l", func(l initprog.Label) {
		b.Set(big, initprog.Const(^uint64(4095))).OnZero(wrong).OnNonzero(l).OnAny(wrong)
	})
	step("m", func(l initprog.Label) { b.Set(big, initprog.Const(1<<63)).OnZero(wrong).OnNonzero(l).OnAny(wrong) })
	step("n", func(l initprog.Label) { b.Set(big, initprog.Const(1<<32)).OnZero(wrong).OnNonzero(l).OnAny(wrong) })
	b.ExitGroup(0)
	b.Place(wrong)
	say("!")
	b.ExitGroup(1)
}

// slots moves results through memory.
func slots(b *initprog.Builder) {
	s, t := b.Slot(0), b.Slot(1)
	record := b.Words(0xaaaa, 0xbbbb, 0xcccc)
	b.Set(s, initprog.Const(0x123456789abcdef0))
	b.Set(t, s)
	b.Set(initprog.SlotAt(record, 8), t)
	b.Write(initprog.FD(3), "four").To(initprog.SlotAt(record, 16))
	b.Chdir("/nonexistent").To(s).Ignore(syscall.ENOENT) // errors are stored too
	b.WriteWords(initprog.Sync(), record, 3)
	b.WriteWords(initprog.Sync(), initprog.AddressOf(s), 1)
	b.ExitGroup(0)
}
