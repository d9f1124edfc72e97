package initprog

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRun_WritesAndExits(t *testing.T) {
	_, out, ws := run(t, func(b *Builder) {
		b.Write(Sync(), "hello")
		b.ExitGroup(7)
	})
	if string(out) != "hello" || ws.ExitStatus() != 7 {
		t.Errorf("got %q, status %d; want hello, 7", out, ws.ExitStatus())
	}
}

// mmap(2) takes six arguments, each of which matters here: the second page of
// the file at descriptor 0 appears at a fixed address.
func TestRun_SlotAsEachArgument(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page := os.Getpagesize()
	if _, err := f.Write(append(bytes.Repeat([]byte("-"), page), "second page"...)); err != nil {
		t.Fatal(err)
	}
	const at = 1 << 33 // above 4 GiB
	args := [6]uint64{at, uint64(page), unix.PROT_READ, unix.MAP_PRIVATE | unix.MAP_FIXED, 0, uint64(page)}
	for mask := range 64 {
		if n := mask & (mask - 1); n != 0 && mask != 63 { // none, each one, all
			continue
		}
		img := link(t, func(b *Builder) {
			var v [6]Value
			for i, a := range args {
				if v[i] = Const(a); mask&(1<<i) != 0 {
					v[i] = b.Slot(a)
				}
			}
			got := b.Slot(0)
			b.add(unix.SYS_MMAP, "", v[:]...).To(got)
			b.add(unix.SYS_WRITE, "", Sync(), got, Const(11))
			b.ExitGroup(0)
		})
		r, w := pipe(t)
		pid, pidfd, err := img.Start(Options{Files: []int{int(f.Fd()), -1, -1, w}, CgroupFD: -1})
		if err != nil {
			t.Fatal(err)
		}
		var buf [64]byte
		n, _ := syscall.Read(r, buf[:])
		if ws := wait(t, pid); ws != 0 || string(buf[:n]) != "second page" {
			t.Errorf("mask %06b: got %q, status %#x", mask, buf[:n], ws)
		}
		for _, fd := range []int{r, w, pidfd} {
			syscall.Close(fd)
		}
	}
}

func TestRun_UnhandledErrors(t *testing.T) {
	for _, e := range []syscall.Errno{1, 2, 4, 1000, 4095} {
		err := failure(t, func(b *Builder) {
			b.Phase("phase")
			b.Fail(e, "this").On(3, b.Here()).On(5, b.Here()).Ignore(6)
		})
		var step *StepError
		if !errors.As(err, &step) || step.Err != e || step.Phase != "phase" || step.Syscall != "this" || step.Op != 0 {
			t.Errorf("errno %d: got %#v", e, err)
		}
	}
}

func TestRun_StepErrorTexts(t *testing.T) {
	tests := []struct {
		name, want string
		build      func(b *Builder)
	}{
		{"phase and object", "mounts: /proc: chdir /nonexistent: no such file or directory", func(b *Builder) {
			b.Phase("mounts")
			b.Object("/proc")
			b.Chdir("/")
			b.Chdir("/nonexistent")
		}},
		{"phase clears the object", "b: close: bad file descriptor", func(b *Builder) {
			b.Phase("a")
			b.Object("x")
			b.Close(FD(3)).Ignore()
			b.Phase("b")
			b.Set(Sync(), FD(4)) // 3 is closed
			b.Close(FD(99))
		}},
		{"detail equal to the object", "a: /x: chdir: no such file or directory", func(b *Builder) {
			b.Phase("a")
			b.Object("/x")
			b.Chdir("/x")
		}},
		{"no phase", "setns: bad file descriptor", func(b *Builder) { b.Setns(FD(-1), 0) }},
		{"detail", "ioctl TIOCSCTTY: bad file descriptor", func(b *Builder) { b.Ioctl(FD(99), unix.TIOCSCTTY, Const(0)).Detail("TIOCSCTTY") }},
		{"deliberate", "exec: sh: lookup: is a directory", func(b *Builder) {
			b.Phase("exec")
			b.Object("sh")
			b.Fail(syscall.EISDIR, "lookup")
		}},
		{"many lines", `write "0 1000 1\n1 2000 1\n": bad file descriptor`, func(b *Builder) { b.Write(FD(99), "0 1000 1\n1 2000 1\n") }},
		{"long", "write " + strings.Repeat("x", 200) + "...: bad file descriptor", func(b *Builder) { b.Write(FD(99), strings.Repeat("x", 5000)) }},
		{"retried", "a: /x: openat2 dir/file: resource temporarily unavailable", func(b *Builder) {
			b.Phase("a")
			b.Object("/x")
			b.Openat2(FD(99), "dir/file", b.How(unix.O_PATH, 0)).RetrySome(syscall.EBADF)
		}},
		{"past the end", "a: run past the last op: exec format error", func(b *Builder) {
			b.Phase("a")
			b.Chdir("/")
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			img := link(t, tt.build)
			r, w := pipe(t)
			pid, pidfd, err := img.Start(Options{Files: []int{0, 1, 2, w, w}, CgroupFD: -1})
			if err != nil {
				t.Fatal(err)
			}
			syscall.Close(w)
			syscall.Close(pidfd)
			var buf [64]byte
			n, _ := syscall.Read(r, buf[:])
			syscall.Close(r)
			if ws := wait(t, pid); n != RecordSize || ws.ExitStatus() != 1 {
				t.Fatalf("%d bytes, status %#x", n, ws)
			}
			got := img.Failure(ParseRecord(buf[:n]))
			if got.Error() != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestFailure_StrangeRecords(t *testing.T) {
	img := link(t, func(b *Builder) { b.ExitGroup(0) })
	for _, a := range []uint64{1, img.opStart - 96, img.opStart + 1, img.opStart + 96, 1 << 63, ^uint64(0)} {
		if err := img.Failure(Record{a, 2}); IsStep(err) != nil {
			t.Errorf("%#x: got %v, want no step", a, err)
		}
	}
	if err := img.Failure(Record{img.opStart, 2}); IsStep(err) == nil {
		t.Errorf("got %v", err)
	}
}

func TestPending(t *testing.T) {
	img := link(t, func(b *Builder) {
		b.Phase("first")
		b.Chdir("/")
		b.Phase("exec")
		b.Object("sh")
		b.Openat(CWD(), "/etc", 0).RetrySome(syscall.EAGAIN)
		b.Fail(syscall.ENOENT, "lookup")
	})
	want := []PendingOp{
		{img.opStart + 96, "exec", "sh", "openat", "/etc"},
		{img.opStart + 192, "exec", "sh", "openat", "/etc"}, // the countdown
		{img.opStart + 288, "exec", "sh", "lookup", ""},
	}
	got := img.Pending(1)
	if len(got) != len(want) {
		t.Fatalf("got %v", got)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Errorf("got %v, want %v", got[i], want[i])
		}
		e := syscall.EPERM
		if now, kept := img.Failure(Record{got[i].Address, uint64(e)}), got[i].Failure(e); now.Error() != kept.Error() {
			t.Errorf("kept %q, direct %q", kept, now)
		}
	}
}

// Every way to treat the errors of an op has to hold with RetrySome before or
// after it, and labels keep their places.
func TestRun_RetrySomeCombinations(t *testing.T) {
	const busy, gone, other = syscall.EBUSY, syscall.ENOENT, syscall.EPERM
	tests := []struct {
		name, want string
		build      func(b *Builder, skip Label)
	}{
		{"success goes on", ".1", func(b *Builder, skip Label) { b.Chdir("/").RetrySome(busy) }},
		{"positive result goes on", ".x1", func(b *Builder, skip Label) { b.Write(Sync(), "x").RetrySome(busy) }},
		{"ignored before", ".1", func(b *Builder, skip Label) { b.Fail(gone, "").Ignore(gone).RetrySome(busy) }},
		{"ignored after", ".1", func(b *Builder, skip Label) { b.Fail(gone, "").RetrySome(busy).Ignore(gone) }},
		{"any ignored before", ".1", func(b *Builder, skip Label) { b.Fail(other, "").IgnoreAny().RetrySome(busy) }},
		{"jump before", ".", func(b *Builder, skip Label) { b.Fail(gone, "").On(gone, skip).RetrySome(busy) }},
		{"jump after", ".", func(b *Builder, skip Label) { b.Fail(gone, "").RetrySome(busy).On(gone, skip) }},
		{"success jump before", ".", func(b *Builder, skip Label) { b.Chdir("/").OnSuccess(skip).RetrySome(busy) }},
		{"success jump after", ".", func(b *Builder, skip Label) { b.Chdir("/").RetrySome(busy).OnSuccess(skip) }},
		{"two errors", ".1", func(b *Builder, skip Label) { b.Chdir("/").RetrySome(busy).RetrySome(gone) }},
		{"result after", ".1", func(b *Builder, skip Label) { b.Chdir("/").RetrySome(busy).Result() }},
		{"label behind", ".1", func(b *Builder, skip Label) {
			l := b.NewLabel()
			b.Jump(l)
			b.Fail(other, "").RetrySome(busy)
			b.Place(l)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, out, ws := run(t, func(b *Builder) {
				skip := b.NewLabel()
				b.Write(Sync(), ".")
				tt.build(b, skip)
				b.Write(Sync(), "1")
				b.Place(skip)
				b.ExitGroup(0)
			})
			if string(out) != tt.want || ws != 0 {
				t.Errorf("got %q, status %#x; want %q", out, ws, tt.want)
			}
		})
	}
}

// The budget is shared, and what fails for ever ends with EAGAIN.
func TestRun_RetrySomeEnds(t *testing.T) {
	for _, both := range []bool{false, true} {
		var tries int
		img, out, _ := run(t, func(b *Builder) {
			again := b.Here()
			b.Write(Sync(), ".")
			r := b.Fail(syscall.EBUSY, "never").To(b.Slot(0))
			r.RetrySome(syscall.EBUSY)
			if both {
				r.RetrySome(syscall.ENOENT)
			}
			// Every retry takes the way over the write.
			b.meta[r.i+1].nonzero = again
			b.ExitGroup(0)
		})
		tries = bytes.Count(out[:len(out)-RecordSize], []byte("."))
		if tries != 1+retryBudget {
			t.Errorf("%d tries, want one and %d retries", tries, retryBudget)
		}
		err := img.Failure(ParseRecord(out[len(out)-RecordSize:]))
		if !errors.Is(err, syscall.EAGAIN) || err.Error() != "never: resource temporarily unavailable" {
			t.Errorf("got %v", err)
		}
	}
}

func TestRun_Retry(t *testing.T) {
	// A full pipe: the first write fails with EAGAIN until it was read.
	img := link(t, func(b *Builder) {
		b.Write(FD(4), "x").Retry(syscall.EAGAIN)
		b.ExitGroup(0)
	})
	r, w := pipe(t)
	defer syscall.Close(r)
	if err := syscall.SetNonblock(w, true); err != nil {
		t.Fatal(err)
	}
	page := make([]byte, 4096)
	for {
		if _, err := syscall.Write(w, page); err != nil {
			break
		}
	}
	pid, pidfd, err := img.Start(Options{Files: []int{0, 1, 2, 2, w}, CgroupFD: -1})
	if err != nil {
		t.Fatal(err)
	}
	syscall.Close(pidfd)
	for range 2 {
		if _, err := syscall.Read(r, page); err != nil {
			t.Error(err)
		}
	}
	if ws := wait(t, pid); ws != 0 {
		t.Errorf("status %#x", ws)
	}
	syscall.Close(w)
}

func TestRun_SyncRedirected(t *testing.T) {
	img := link(t, func(b *Builder) {
		b.WriteWords(Sync(), b.Words(0, 77), 2)
		b.Set(Sync(), FD(4))
		b.Chdir("/nonexistent")
	})
	r1, w1 := pipe(t)
	r2, w2 := pipe(t)
	pid, pidfd, err := img.Start(Options{Files: []int{0, 1, 2, w1, w2}, CgroupFD: -1})
	if err != nil {
		t.Fatal(err)
	}
	var buf [64]byte
	n, _ := syscall.Read(r1, buf[:])
	if rec := ParseRecord(buf[:]); n != RecordSize || !rec.Progress() || rec.Value != 77 {
		t.Errorf("first descriptor: %d bytes, %v", n, rec)
	}
	n, _ = syscall.Read(r2, buf[:])
	if err := img.Failure(ParseRecord(buf[:])); n != RecordSize || !errors.Is(err, syscall.ENOENT) {
		t.Errorf("second descriptor: %d bytes, %v", n, err)
	}
	wait(t, pid)
	for _, fd := range []int{r1, w1, r2, w2, pidfd} {
		syscall.Close(fd)
	}
}

func TestRun_SyncNowhere(t *testing.T) {
	b := NewBuilder(-1)
	b.Chdir("/nonexistent")
	img, err := b.Link()
	if err != nil {
		t.Fatal(err)
	}
	if out, ws := runImage(t, img); len(out) != 0 || ws.ExitStatus() != 1 {
		t.Errorf("got %q, status %#x", out, ws)
	}
}

func execProgram(t *testing.T, args, env []string) (string, syscall.WaitStatus) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	_, out, ws := run(t, func(b *Builder) {
		b.Execve(exe, b.Strings(append([]string{"print-arguments"}, args...)), b.Strings(env))
	})
	return string(out), ws
}

func TestRun_Execve(t *testing.T) {
	out, ws := execProgram(t, []string{"", "a b", "ü"}, []string{"A=1", "EMPTY="})
	if want := `["" "a b" "ü"] ["A=1" "EMPTY="]`; out != want || ws.ExitStatus() != 5 {
		t.Errorf("got %s, status %#x; want %s", out, ws, want)
	}
	out, ws = execProgram(t, nil, nil)
	if want := `[] []`; out != want || ws.ExitStatus() != 5 {
		t.Errorf("got %s, status %#x; want %s", out, ws, want)
	}
}

// A mebibyte of arguments, in strings that execve takes.
func TestRun_LargeArguments(t *testing.T) {
	args := make([]string, 16)
	for i := range args {
		args[i] = strings.Repeat(string(rune('a'+i)), 64<<10)
	}
	out, ws := execProgram(t, args, nil)
	want := "["
	for i, a := range args {
		if i > 0 {
			want += " "
		}
		want += strconv.Quote(a)
	}
	if want += "] []"; out != want || ws.ExitStatus() != 5 {
		t.Errorf("got %d bytes, status %#x; want %d bytes", len(out), ws, len(want))
	}
}

func TestRun_ManyOps(t *testing.T) {
	const n = 10_000
	_, out, ws := run(t, func(b *Builder) {
		last, end := b.NewLabel(), b.NewLabel()
		b.Jump(last)
		first := b.Here()
		for range n {
			b.Umask(0).Ignore(syscall.EPERM)
		}
		b.Jump(end)
		b.Place(last)
		b.Jump(first)
		b.Place(end)
		b.Write(Sync(), "end")
		b.ExitGroup(0)
	})
	if string(out) != "end" || ws != 0 {
		t.Errorf("got %q, %#x", out, ws)
	}
}

func TestRun_CloneSibling(t *testing.T) {
	for name, clone := range map[string]func(*Builder) Ref{
		"clone3": func(b *Builder) Ref { return b.CloneSibling(0) },
		"clone":  (*Builder).Fork,
	} {
		t.Run(name, func(t *testing.T) { testSibling(t, clone) })
	}
}

func testSibling(t *testing.T, clone func(*Builder) Ref) {
	_, out, ws := run(t, func(b *Builder) {
		child := b.NewLabel()
		rec := b.Words(0, 0)
		clone(b).To(SlotAt(rec, 8)).OnZero(child)
		b.WriteWords(Sync(), rec, 2)
		b.ExitGroup(3)
		b.Place(child)
		b.Write(Sync(), "c")
		b.ExitGroup(4)
	})
	if ws.ExitStatus() != 3 || len(out) != RecordSize+1 {
		t.Fatalf("got %q, %#x", out, ws)
	}
	rec := ParseRecord(out)
	if out[0] == 'c' {
		rec = ParseRecord(out[1:])
	}
	if !rec.Progress() {
		t.Fatalf("got %q", out)
	}
	if ws := wait(t, int(rec.Value)); ws.ExitStatus() != 4 { // it is our child
		t.Errorf("sibling: %#x", ws)
	}
}
