package initprog

import (
	"errors"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLink_Refusals(t *testing.T) {
	b := NewBuilder(3)
	if _, err := b.Link(); err == nil || err.Error() != "empty init program" {
		t.Errorf("no ops: got %v", err)
	}
	b = NewBuilder(3)
	for range (dataBase - textBase) / opSize {
		b.Chdir("/")
	}
	if _, err := b.Link(); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too many ops: got %v", err)
	}
	b = NewBuilder(3)
	b.SeccompFilter(make([]byte, 8*65537), 0) // as a 16-bit number this is 1
	if _, err := b.Link(); err == nil {
		t.Error("the kernel would have got a filter of one instruction")
	}
}

// The largest number of ops that Link takes still runs.
func TestLink_JustNotTooLarge(t *testing.T) {
	for n := (dataBase-textBase)/opSize - 20; ; n++ {
		b := NewBuilder(3)
		for range n - 1 {
			b.Umask(0)
		}
		b.Write(Sync(), "end") // and Link adds the op that fails
		img, err := b.Link()
		if err != nil {
			if n < (dataBase-textBase)/opSize-15 {
				t.Fatalf("%d ops: %v", n, err)
			}
			return
		}
		out, ws := runImage(t, img)
		if len(out) != 3+RecordSize || ws.ExitStatus() != 1 {
			t.Fatalf("%d ops: got %q, %#x", n, out, ws)
		}
	}
}

func TestBuilder_Mistakes(t *testing.T) {
	b := NewBuilder(3)
	panics(t, "jump to a label that was never placed", func() {
		b := NewBuilder(3)
		b.Chdir("/").OnZero(b.NewLabel())
		_, _ = b.Link()
	})
	panics(t, "a fourth error", func() { b.Chdir("/").Ignore(1, 2, 3, 4) })
	panics(t, "OnAny after another error", func() { b.Chdir("/").Ignore(1).IgnoreAny() })
	panics(t, "a result can only be stored in a slot", func() { b.Chdir("/").To(b.Words(0)) })
	panics(t, "RetrySome after the next op or label", func() {
		r := b.Chdir("/")
		b.Chdir("/")
		r.RetrySome(syscall.EAGAIN)
	})
	panics(t, "RetrySome after the next op or label", func() {
		r := b.Chdir("/")
		b.Here()
		r.RetrySome(syscall.EAGAIN)
	})
}

// Link adds an op only where control can get past the last one.
func TestLink_PastTheEnd(t *testing.T) {
	tests := []struct {
		name  string
		added int
		build func(b *Builder)
	}{
		{"exit_group", 0, func(b *Builder) { b.ExitGroup(0) }},
		{"execve", 0, func(b *Builder) { b.Execve("/", b.Strings(nil), b.Strings(nil)) }},
		{"execve whose error is ignored", 1, func(b *Builder) { b.Execve("/", b.Strings(nil), b.Strings(nil)).Ignore(1) }},
		{"fail", 0, func(b *Builder) { b.Fail(1, "") }},
		{"fail from a slot", 1, func(b *Builder) { b.Set(b.Slot(0), b.Slot(1)) }},
		{"jump back", 0, func(b *Builder) { b.Jump(b.Here()) }},
		{"any other", 1, func(b *Builder) { b.Chdir("/") }},
		{"jump to the end", 1, func(b *Builder) {
			l := b.NewLabel()
			b.Chdir("/").On(1, l)
			b.ExitGroup(0)
			b.Place(l)
		}},
		{"label at the end that nobody uses", 0, func(b *Builder) { b.ExitGroup(0); b.Here() }},
		{"retried", 1, func(b *Builder) { b.Chdir("/").RetrySome(1) }},
	}
	for _, tt := range tests {
		b := NewBuilder(3)
		tt.build(b)
		n := b.Len()
		img, err := b.Link()
		if err != nil {
			t.Fatal(err)
		}
		if img.Ops() != n+tt.added {
			t.Errorf("%s: %d ops became %d, want %d more", tt.name, n, img.Ops(), tt.added)
		}
		if got := img.Bytes(); len(got) != img.Size() {
			t.Errorf("%s: %d bytes, Size %d", tt.name, len(got), img.Size())
		}
	}
}

func TestValues(t *testing.T) {
	if v := FD(-1); v.bits != ^uint64(0) || v.load || v.IsZero() {
		t.Errorf("FD(-1) is %+v", v)
	}
	if v := CWD(); int64(v.bits) != unix.AT_FDCWD {
		t.Errorf("CWD is %d", int64(v.bits))
	}
	if v := SlotAt(Const(1<<40), 8); v.bits != 1<<40+8 || !v.load {
		t.Errorf("SlotAt gave %+v", v)
	}
	if v := SlotAt(Const(1<<40), -8); v.bits != 1<<40-8 {
		t.Errorf("SlotAt gave %+v", v)
	}
	if v := AddressOf(Sync()); v.load || v.bits != headerSync {
		t.Errorf("AddressOf gave %+v", v)
	}
	if !(Value{}).IsZero() || Sync().IsZero() {
		t.Error("IsZero")
	}
	if v := Const(1 << 63); v.Bits() != 1<<63 {
		t.Errorf("Bits gave %#x", v.Bits())
	}
	b := NewBuilder(3)
	if e := b.String(""); e != b.String("") || b.String("a") == e {
		t.Error("the empty string is shared, others are not")
	}
	b.String("odd")
	if v := b.Bytes([]byte{1}); v.bits%8 != 0 {
		t.Errorf("Bytes at %#x", v.bits)
	}
	b.String("odd")
	if v := b.Slot(0); v.bits%8 != 0 {
		t.Errorf("Slot at %#x", v.bits)
	}
}
