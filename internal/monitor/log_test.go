package monitor

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const testMark = 0xfeedfacecafebeee

func frame(mark uint64, stream Stream, sec int64, data string) []byte {
	var b []byte
	for _, w := range []uint64{mark | uint64(stream), uint64(len(data)), uint64(sec), 5} {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return append(b, data...)
}

// logFileOf is the content of log file number n, counted from the first.
func logFileOf(n uint64, frames ...[]byte) []byte {
	b := FileHeader(testMark)
	binary.LittleEndian.PutUint64(b[16:], firstFile-n)
	for _, f := range frames {
		b = append(b, f...)
	}
	return b
}

func put(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// read returns what there is, frames separated by bars, those of standard error
// with an exclamation mark.
func read(t *testing.T, r *Reader) string {
	t.Helper()
	var all []string
	for {
		f, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if f == nil {
			return strings.Join(all, "|")
		}
		s := string(f.Data)
		if f.Stream == Stderr {
			s = "!" + s
		}
		all = append(all, s)
	}
}

func TestReader(t *testing.T) {
	one, two, big := frame(testMark, 0, 1, "one\n"), frame(testMark, 1, 2, "two"), frame(testMark, 0, 3, strings.Repeat("x", bufferSize))
	for _, tt := range []struct {
		name string
		log  []byte
		want string
	}{
		{"empty", logFileOf(0), ""},
		{"frames", logFileOf(0, one, two, one), "one\n|!two|one\n"},
		{"large", logFileOf(0, one, big, big, big, big, big, two), "one\n" + strings.Repeat("|"+strings.Repeat("x", bufferSize), 5) + "|!two"},
		{"not all there yet", logFileOf(0, one, two[:33]), "one\n"},
		{"cut in the data", logFileOf(0, one, two[:34], one), "one\n|!tw|one\n"},
		{"cut in the header", logFileOf(0, one, two[:20], one, two), "one\n|one\n|!two"},
		{"cut in the mark", logFileOf(0, one, two[:3], one, two), "one\n|one\n|!two"},
		{"cut large", logFileOf(0, big[:1000], big, two), strings.Repeat("x", 1000-32) + "|" + strings.Repeat("x", bufferSize) + "|!two"},
		{"another mark", logFileOf(0, one, frame(0x1234567890abcdee, 0, 9, "forged"), two), "one\n|!two"},
		{
			"another mark in the data", logFileOf(0, frame(testMark, 0, 1, string(frame(0x1234567890abcdee, 1, 9, "forged"))), two),
			string(frame(0x1234567890abcdee, 1, 9, "forged")) + "|!two",
		},
		{"a length that cannot be", logFileOf(0, one, func() []byte {
			b := frame(testMark, 0, 1, "")
			binary.LittleEndian.PutUint64(b[8:], 1<<63)
			return b
		}(), two), "one\n|!two"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			put(t, dir, LogFile, tt.log)
			r := NewReader(dir)
			defer r.Close()
			if got := read(t, r); got != tt.want {
				t.Errorf("got %.200q, want %.200q", got, tt.want)
			}
		})
	}
}

func TestReader_Time(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, LogFile, logFileOf(0, frame(testMark, 0, 1700000000, "x")))
	r := NewReader(dir)
	defer r.Close()
	f, err := r.Next()
	if err != nil || !f.Time.Equal(time.Unix(1700000000, 5)) {
		t.Errorf("%+v, %v", f, err)
	}
}

// A reader goes through the files from the oldest to the newest, and follows when
// they are renamed under it.
func TestReader_Files(t *testing.T) {
	dir := t.TempDir()
	f := func(s string) []byte { return frame(testMark, 0, 1, s) }
	put(t, dir, LogFile+".2", logFileOf(3, f("a"), f("b")))
	put(t, dir, LogFile+".1", logFileOf(4, f("c")))
	put(t, dir, LogFile, logFileOf(5, f("d")))
	r := NewReader(dir)
	defer r.Close()
	if got := read(t, r); got != "a|b|c|d" {
		t.Errorf("got %q", got)
	}
	grow := func(name string, data []byte) {
		file, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			_, err = file.Write(data)
			file.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	grow(LogFile, f("e"))
	if got := read(t, r); got != "e" {
		t.Errorf("got %q", got)
	}
	// The current one gets more, is full, and another comes.
	grow(LogFile, f("f"))
	for _, n := range [][2]string{{LogFile + ".1", LogFile + ".2"}, {LogFile, LogFile + ".1"}} {
		if err := os.Rename(filepath.Join(dir, n[0]), filepath.Join(dir, n[1])); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(t, r); got != "f" { // in the moment when there is no file of that name
		t.Errorf("got %q", got)
	}
	put(t, dir, LogFile, logFileOf(6, f("g")))
	if got := read(t, r); got != "g" {
		t.Errorf("got %q", got)
	}
	// A reader that was too slow goes on with what is left.
	put(t, dir, LogFile+".1", logFileOf(9, f("x")))
	put(t, dir, LogFile, logFileOf(10, f("y")))
	if err := os.Remove(filepath.Join(dir, LogFile+".2")); err != nil {
		t.Fatal(err)
	}
	if got := read(t, r); got != "x|y" {
		t.Errorf("got %q", got)
	}
}

func TestReader_Bad(t *testing.T) {
	dir := t.TempDir()
	r := NewReader(dir)
	defer r.Close()
	if _, err := r.Next(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a log: %v", err)
	}
	put(t, dir, LogFile, []byte("what an older minirun wrote\n"))
	if _, err := r.Next(); err == nil || !strings.Contains(err.Error(), LogFile+" has no header") {
		t.Errorf("without a header: %v", err)
	}
}

func FuzzReader(f *testing.F) {
	f.Add(logFileOf(0, frame(testMark, 0, 1, "one\n"), frame(testMark, 1, 2, "two"))[24:])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		put(t, dir, LogFile, append(FileHeader(testMark), data...))
		r := NewReader(dir)
		defer r.Close()
		total := 0
		for {
			fr, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			if fr == nil {
				break
			}
			total += frameHeaderSize + len(fr.Data)
		}
		if total > len(data) {
			t.Errorf("%d bytes of frames in %d", total, len(data))
		}
	})
}

func TestParseExit(t *testing.T) {
	raw := make([]byte, exitSize)
	for i, w := range []uint64{magic, 137 << 8, 1700000000, 7, 1, 500000, 0, 250, 2048} {
		binary.LittleEndian.PutUint64(raw[8*i:], w)
	}
	copy(raw[exitEvents:], "low 0\noom_kill 1\n")
	e, err := parseExit(raw)
	if err != nil {
		t.Fatal(err)
	}
	want := Exit{Status: 137 << 8, Time: time.Unix(1700000000, 7), User: 1500 * time.Millisecond, System: 250 * time.Microsecond, MaxRSS: 2 << 20, MemoryEvents: "low 0\noom_kill 1\n"}
	if *e != want {
		t.Errorf("got %+v, want %+v", *e, want)
	}
	dir := t.TempDir()
	for range 2 { // over what is there
		if err := WriteExit(dir, &want); err != nil {
			t.Fatal(err)
		}
	}
	if e, err := ReadExit(dir); err != nil || *e != want {
		t.Errorf("written, and read: %+v, %v, want %+v", e, err, want)
	}
	if names, _ := os.ReadDir(dir); len(names) != 1 {
		t.Errorf("%d files, want 1", len(names))
	}
	if err := WriteExit(dir+"/none", &want); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	for _, bad := range [][]byte{nil, raw[:len(raw)-1], append([]byte("x"), raw[1:]...)} {
		if _, err := parseExit(bad); err == nil {
			t.Errorf("%d bytes: no error", len(bad))
		}
	}
	if _, err := ReadExit(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no record: %v", err)
	}
}
