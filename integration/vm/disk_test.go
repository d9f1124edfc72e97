package vm

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"
)

// What was flushed survives every cut, what was not is there in part, and nothing
// else changes.
func TestDisk(t *testing.T) {
	const size = 1 << 20
	path := filepath.Join(t.TempDir(), "d")
	d, err := NewDisk(path, size)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}()
	c, err := net.Dial("unix", path+".sock")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send := func(fields ...any) {
		t.Helper()
		for _, f := range fields {
			if err := binary.Write(c, binary.BigEndian, f); err != nil {
				t.Fatal(err)
			}
		}
	}
	get := func(n int) []byte {
		t.Helper()
		b := make([]byte, n)
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal(err)
		}
		return b
	}
	get(18)
	send(uint32(nbdFixed), uint64(nbdOption), uint32(99), uint32(3), []byte("abc")) // nobody knows this one
	if got := binary.BigEndian.Uint32(get(20)[12:]); got != nbdRepErrUnsup {
		t.Errorf("an unknown option is answered with %#x", got)
	}
	send(uint64(nbdOption), uint32(nbdOptGo), uint32(6), make([]byte, 6))
	if got := binary.BigEndian.Uint64(get(20 + 12)[22:]); got != size {
		t.Errorf("size %d", got)
	}
	get(20)
	request := func(kind int, off, n int, body []byte) []byte {
		t.Helper()
		send(uint32(nbdRequest), uint16(0), uint16(kind), uint64(7), uint64(off), uint32(n), body)
		if status := binary.BigEndian.Uint32(get(16)[4:]); status != 0 {
			t.Fatalf("request %d at %d: status %d", kind, off, status)
		}
		if kind == nbdRead {
			return get(n)
		}
		return nil
	}
	page := func(b byte) []byte { return bytes.Repeat([]byte{b}, 4096) }
	r := rand.New(rand.NewPCG(1, 2))
	kept, lost := 0, 0
	for range 50 {
		for i := range 8 {
			request(nbdWrite, i*4096, 4096, page(1))
		}
		request(nbdFlush, 0, 0, nil)
		for i := range 4 {
			request(nbdWrite, i*4096, 4096, page(2))
		}
		request(nbdWrite, 0, 4096, page(3)) // once more
		if got := request(nbdRead, 0, 8192, nil); got[0] != 3 || got[4096] != 2 {
			t.Fatal("what was written is not read")
		}
		n, _, err := d.Cut(r)
		if err != nil || n != 5 {
			t.Fatalf("%d writes, %v", n, err)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := range size / 512 {
			b := raw[i*512]
			switch {
			case i >= 64 && b != 0, i >= 32 && i < 64 && b != 1, i < 32 && b == 0, b == 3 && i >= 8:
				t.Fatalf("sector %d has %d", i, b)
			case i < 32 && b == 1:
				lost++
			case i < 32:
				kept++
			}
		}
	}
	if kept < 100 || lost < 100 {
		t.Errorf("%d sectors were kept, %d lost", kept, lost)
	}
}
