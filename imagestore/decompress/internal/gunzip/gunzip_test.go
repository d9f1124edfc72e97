package gunzip

import (
	"bytes"
	stdgzip "compress/gzip"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"
)

func inflate(b []byte) ([]byte, error) {
	z, err := NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

func oracle(b []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

func deflate(t testing.TB, level int, b []byte) []byte {
	var out bytes.Buffer
	w, err := stdgzip.NewWriterLevel(&out, level)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// contents are what deflate makes different things of.
func contents() map[string][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 300<<10)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	words := strings.Fields("the quick brown fox jumps over a lazy dog and then some more of it all")
	var text strings.Builder
	for text.Len() < 700<<10 {
		text.WriteString(words[r.IntN(len(words))])
		text.WriteByte(" \n\t,."[r.IntN(5)])
	}
	// Matches from everywhere within reach, of all lengths, and short periods.
	mixed := append([]byte(nil), noise[:40<<10]...)
	for len(mixed) < 500<<10 {
		switch r.IntN(3) {
		case 0:
			d := 1 + r.IntN(32<<10)
			n := 3 + r.IntN(300)
			for range n {
				mixed = append(mixed, mixed[len(mixed)-d])
			}
		case 1:
			d := 1 + r.IntN(12)
			for range r.IntN(600) {
				mixed = append(mixed, mixed[len(mixed)-d])
			}
		default:
			at := r.IntN(len(noise) - 20)
			mixed = append(mixed, noise[at:at+r.IntN(20)]...)
		}
	}
	skewed := make([]byte, 200<<10) // with codes of all lengths
	for i := range skewed {
		skewed[i] = byte(r.ExpFloat64() * 12)
	}
	return map[string][]byte{
		"nothing": nil, "one": {'x'}, "zeros": make([]byte, 1<<20), "noise": noise, "text": []byte(text.String()), "mixed": mixed, "skewed": skewed,
	}
}

func TestReader(t *testing.T) {
	for name, want := range contents() {
		for _, level := range []int{stdgzip.NoCompression, stdgzip.BestSpeed, stdgzip.DefaultCompression, stdgzip.BestCompression, stdgzip.HuffmanOnly} {
			b := deflate(t, level, want)
			got, err := inflate(b)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, level %d: %d bytes, %v, want %d", name, level, len(got), err, len(want))
			}
			for how, wrap := range map[string]func(io.Reader) io.Reader{
				"single bytes": iotest.OneByteReader, "halves": iotest.HalfReader, "end with data": iotest.DataErrReader,
			} {
				z, err := NewReader(wrap(bytes.NewReader(b)))
				if err == nil {
					got, err = io.ReadAll(iotest.HalfReader(z))
				}
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s, level %d, %s: %d bytes, %v, want %d", name, level, how, len(got), err, len(want))
				}
			}
		}
	}
}

// Members follow each other, and none reaches back into what was before.
func TestReader_Members(t *testing.T) {
	text := bytes.Repeat([]byte("members "), 3000)
	empty := deflate(t, 6, nil)
	var all, want []byte
	for i := range 40 {
		all = append(all, deflate(t, i%10, text[i:])...)
		all = append(all, empty...)
		want = append(want, text[i:]...)
	}
	if got, err := inflate(all); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v, want %d", len(got), err, len(want))
	}
	back := member([]byte{0b11_0_01_1, 0, 0}, nil) // see TestReader_Invalid
	if _, err := inflate(back); err == nil {
		t.Fatal("a match with nothing before it")
	}
	if _, err := inflate(append(deflate(t, 6, text), back...)); err == nil {
		t.Error("a match reaches into the member before")
	}
}

// member is deflated data with header and trailer.
func member(data, content []byte) []byte {
	b := append([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}, data...)
	sum := crcOf(content)
	b = binary.LittleEndian.AppendUint32(b, sum)
	return binary.LittleEndian.AppendUint32(b, uint32(len(content)))
}

func TestReader_Header(t *testing.T) {
	plain := deflate(t, 6, []byte("content"))
	head := func(flags byte, more ...byte) []byte {
		b := append([]byte{0x1f, 0x8b, 8, flags, 1, 2, 3, 4, 0, 255}, more...)
		return append(b, plain[10:]...)
	}
	withSum := func(flags byte, more ...byte) []byte {
		b := append([]byte{0x1f, 0x8b, 8, flags, 1, 2, 3, 4, 0, 255}, more...)
		sum := crcOf(b)
		return append(append(b, byte(sum), byte(sum>>8)), plain[10:]...)
	}
	for name, b := range map[string][]byte{
		"text": head(1), "extra": head(4, 3, 0, 'a', 'b', 'c'), "name": head(8, 'n', 0), "comment": head(16, 0),
		"all": withSum(31, 2, 0, 'x', 'y', 'n', 0, 'c', 0), "long name": head(8, append(bytes.Repeat([]byte{'n'}, maxName), 0)...),
	} {
		if got, err := inflate(b); err != nil || string(got) != "content" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if got, err := oracle(b); err != nil || string(got) != "content" {
			t.Errorf("%s: oracle: %q, %v", name, got, err)
		}
	}
	wrong := withSum(2)
	wrong[4]++
	for name, b := range map[string][]byte{
		"checksum": wrong, "reserved": head(0x20), "method": {0x1f, 0x8b, 7, 0, 0, 0, 0, 0, 0, 0}, "magic": {0x1f, 0x8c, 8, 0, 0, 0, 0, 0, 0, 0},
		"longer name": head(8, append(bytes.Repeat([]byte{'n'}, maxName+2), 0)...), "behind": append(bytes.Clone(plain), "behind it"...),
	} {
		if _, err := inflate(b); err != errHeader {
			t.Errorf("%s: %v, want %v", name, err, errHeader)
		}
		if _, err := oracle(b); err == nil {
			t.Errorf("%s: the oracle takes it", name)
		}
	}
	if _, err := inflate(nil); err != io.EOF {
		t.Errorf("nothing: %v", err)
	}
}

// Whatever is cut off, it is an error, and so is every other change of the content.
func TestReader_Damaged(t *testing.T) {
	text := contents()["text"][:1500]
	for _, level := range []int{0, 1, 6, stdgzip.HuffmanOnly} {
		b := deflate(t, level, text)
		for n := range b {
			got, err := inflate(b[:n])
			if n == 0 && err == io.EOF {
				continue
			}
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("level %d, the first %d of %d bytes: %d bytes, %v", level, n, len(b), len(got), err)
			}
		}
		for n := 10; n < len(b); n++ {
			d := bytes.Clone(b)
			d[n] ^= 1 << (n % 8)
			got, err := inflate(d)
			want, oerr := oracle(d)
			if (err == nil) != (oerr == nil) || err == nil && !bytes.Equal(got, want) {
				t.Fatalf("level %d, a bit of byte %d changed: %d bytes, %v; oracle %d bytes, %v", level, n, len(got), err, len(want), oerr)
			}
			if err == nil && !bytes.Equal(got, text) {
				t.Fatalf("level %d, a bit of byte %d changed, and nobody notices", level, n)
			}
		}
	}
	broken := errors.New("broken")
	b := deflate(t, 6, text)
	z, err := NewReader(io.MultiReader(bytes.NewReader(b[:len(b)/2]), iotest.ErrReader(broken)))
	if err == nil {
		_, err = io.ReadAll(z)
	}
	if err != broken {
		t.Errorf("got %v, want the source's error", err)
	}
	if z, err = NewReader(io.MultiReader(bytes.NewReader(b[:20]), stuck{})); err == nil {
		_, err = io.ReadAll(z)
	}
	if err != io.ErrNoProgress {
		t.Errorf("got %v from a source that brings nothing", err)
	}
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

// bitWriter writes bits as deflate has them.
type bitWriter struct {
	b []byte
	n int
}

func (w *bitWriter) bits(v, n int) *bitWriter {
	for i := range n {
		if w.n%8 == 0 {
			w.b = append(w.b, 0)
		}
		w.b[w.n/8] |= byte(v >> i & 1 << (w.n % 8))
		w.n++
	}
	return w
}

// code writes a Huffman code, whose first bit is its highest.
func (w *bitWriter) code(v, n int) *bitWriter {
	for i := n - 1; i >= 0; i-- {
		w.bits(v>>i&1, 1)
	}
	return w
}

func TestReader_Invalid(t *testing.T) {
	fixed := func() *bitWriter { return new(bitWriter).bits(1, 1).bits(1, 2) }
	end := func(w *bitWriter) []byte { return w.code(0, 7).b }
	dynamic := func(lit, dist, n int) *bitWriter {
		return new(bitWriter).bits(1, 1).bits(2, 2).bits(lit, 5).bits(dist, 5).bits(n-4, 4)
	}
	for name, data := range map[string][]byte{
		"block of type 3":       {7},
		"stored, wrong length":  {1, 1, 0, 0, 0},
		"distance at the start": end(fixed().code(1, 7).code(0, 5)),
		"distance too far":      end(fixed().code(0x30, 8).code(1, 7).code(1, 5)),
		"distance 30":           end(fixed().code(0x30, 8).code(1, 7).code(30, 5)),
		"length 286":            end(fixed().code(0x30, 8).code(0xc6, 8).code(0, 5)),
		"287 literals":          dynamic(30, 0, 19).bits(0, 60).b,
		"31 distances":          dynamic(0, 30, 19).bits(0, 60).b,
		"no codes of lengths":   dynamic(0, 0, 4).bits(0, 12).bits(0, 60).b,
		"too many codes":        dynamic(0, 0, 4).bits(1|1<<3|1<<6, 12).bits(0, 60).b,
		"too few codes":         dynamic(0, 0, 4).bits(2|2<<3|2<<6, 12).bits(0, 60).b,
		"repeats nothing":       dynamic(0, 0, 4).bits(1|1<<3, 12).bits(0, 60).b,
		"repeats too much":      dynamic(0, 0, 4).bits(1<<3|1<<6, 12).bits(-1, 60).b,
	} {
		b := member(append(data, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), nil)
		if got, err := inflate(b); err != errData {
			t.Errorf("%s: %d bytes, %v, want %v", name, len(got), err, errData)
		}
		if _, err := oracle(b); err == nil {
			t.Errorf("%s: the oracle takes it", name)
		}
	}
	if got, err := inflate(member(end(fixed().code(0x30, 8).code(1, 7).code(0, 5)), []byte{0, 0, 0, 0})); err != nil || len(got) != 4 {
		t.Errorf("a match of one byte: %v, %v", got, err)
	}
	if got, err := inflate(member(end(fixed()), []byte{0})); err != errChecksum {
		t.Errorf("another content: %v, %v", got, err)
	}
}

// Codes of every form that zlib's enough.c counts fit into the tables.
func TestBuild(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 3000 {
		n := 2 + r.IntN(maxLit-1)
		lengths := complete(r, n)
		var table [litTable]uint32
		if !build(table[:], litIndex, lengths, litEntry) {
			t.Fatalf("complete codes are refused: %v", lengths)
		}
		if n <= 30 {
			var table [distTable]uint32
			if !build(table[:], distIndex, lengths, distEntry) {
				t.Fatalf("complete codes of distances are refused: %v", lengths)
			}
		}
		for i, was := range lengths { // one bit less or more
			if was > 1 && n > 2 {
				lengths[i]--
				if build(table[:], litIndex, lengths, litEntry) {
					t.Fatalf("too many codes: %v", lengths)
				}
				lengths[i]++
			}
			if was > 0 && was < maxCode {
				lengths[i]++
				if build(table[:], litIndex, lengths, litEntry) {
					t.Fatalf("too few codes: %v", lengths)
				}
				lengths[i]--
				break
			}
		}
	}
}

// complete are lengths of n codes that leave no room, some of them long.
func complete(r *rand.Rand, n int) []uint8 {
	lengths := []uint8{1, 1}
	for len(lengths) < n {
		i := r.IntN(len(lengths))
		if r.IntN(3) > 0 {
			i = len(lengths) - 1
		}
		if lengths[i] == maxCode {
			i = r.IntN(len(lengths))
		}
		if lengths[i] < maxCode {
			lengths[i]++
			lengths = append(lengths, lengths[i])
		}
	}
	r.Shuffle(n, func(a, b int) { lengths[a], lengths[b] = lengths[b], lengths[a] })
	return lengths
}

// FuzzInflate compares with another implementation: both fail, or both have the
// same content.
func FuzzInflate(f *testing.F) {
	for _, b := range contents() {
		b = b[:min(len(b), 3000)]
		for _, level := range []int{0, 1, 6, stdgzip.HuffmanOnly} {
			f.Add(deflate(f, level, b)[10:])
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b := append([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}, data...)
		got, err := limited(NewReader(bytes.NewReader(b)))
		want, oerr := limited(gzip.NewReader(bytes.NewReader(b)))
		if (err == nil) != (oerr == nil) || err == nil && !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, %v; oracle %d bytes, %v", len(got), err, len(want), oerr)
		}
		n := min(len(got), len(want))
		if !errors.Is(err, io.ErrUnexpectedEOF) && !bytes.Equal(got[:n], want[:n]) {
			t.Fatalf("other content before %v; oracle %v", err, oerr)
		}
	})
}

func limited[R io.Reader](r R, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(r, 1<<20))
}

func BenchmarkReader(b *testing.B) {
	text := contents()["text"]
	z := deflate(b, 6, text)
	for name, open := range map[string]func(io.Reader) (io.Reader, error){
		"this":   func(r io.Reader) (io.Reader, error) { return NewReader(r) },
		"oracle": func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				r, err := open(bytes.NewReader(z))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, struct{ io.Reader }{r}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func crcOf(b []byte) uint32 { return crc32.ChecksumIEEE(b) }
