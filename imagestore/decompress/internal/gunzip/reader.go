package gunzip

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
)

var (
	errHeader   = errors.New("invalid header")
	errChecksum = errors.New("invalid checksum")
	errData     = errors.New("invalid compressed data")
)

const (
	history = 32 << 10 // how far matches reach back
	maxCopy = 258
	maxName = 510                  // of names and comments, as elsewhere
	slack   = maxCopy + 16         // what one turn of decode may write, and a word more
	window  = history + 128<<10    // with room for a chunk of who reads
	inSize  = 64<<10 + 2*ahead     // what is read at a time, behind what is left
	load    = 8                    // bytes
	ahead   = 2 * load             // of input, for one turn of decode
	padding = 4 * ahead            // zeros behind the input's end
	inTotal = inSize + padding + 8 // the buffer
)

// Reader is the plain content of a stream.
type Reader struct {
	src  io.Reader
	in   []byte
	pos  int    // the next byte of in that is not in bits
	end  int    // of what is valid, padding included
	real int    // where the input ends, once eof is set
	eof  bool   // end has padding
	bits uint64 // the next nb bits of the stream, zeros behind
	nb   uint

	out   []byte
	first int // of out: what matches may reach back to
	r, w  int // what is to be read
	sum   int // up to where crc has it
	crc   uint32
	size  uint32

	state  func(*Reader) error
	last   bool // the block is the last one of its member
	fixed  bool // the tables are those of fixed codes
	stored int  // bytes of a stored block that are left
	err    error

	lit     [litTable]uint32
	dist    [distTable]uint32
	lengths [maxLit + maxDist + 4]uint8
}

// NewReader reads the header of the first member.
func NewReader(src io.Reader) (*Reader, error) {
	z := &Reader{src: src, in: make([]byte, inTotal), out: make([]byte, window+slack)}
	if err := z.header(); err != nil {
		return nil, err
	}
	return z, nil
}

// Read implements io.Reader.
func (z *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for z.r == z.w {
		if z.err != nil {
			return 0, z.err
		}
		z.fill()
	}
	n := copy(p, z.out[z.r:z.w])
	z.r += n
	return n, nil
}

// fill makes more of out, all of which was read, or sets err.
func (z *Reader) fill() {
	if z.w > history {
		n := z.w - history
		copy(z.out, z.out[n:z.w])
		z.first = max(z.first-n, 0)
		z.w = history
	}
	z.r, z.sum = z.w, z.w
	for z.err == nil && z.w < window {
		z.err = z.state(z)
	}
	z.add()
}

// add counts what was made since.
func (z *Reader) add() {
	z.crc = crc32.Update(z.crc, crc32.IEEETable, z.out[z.sum:z.w])
	z.size += uint32(z.w - z.sum)
	z.sum = z.w
}

// more reads on when less than ahead bytes of input are left. Past its end are
// zeros; who takes them finds out.
func (z *Reader) more() error {
	if z.eof {
		return io.ErrUnexpectedEOF
	}
	copy(z.in, z.in[z.pos:z.end])
	z.end -= z.pos
	z.pos = 0
	for empty := 0; z.end < ahead+1; {
		n, err := z.src.Read(z.in[z.end:inSize])
		z.end += n
		switch {
		case err == io.EOF:
			z.eof, z.real = true, z.end
			clear(z.in[z.end : z.end+padding])
			z.end += padding
			return nil
		case err != nil:
			return err
		case n > 0:
			empty = 0
		default:
			if empty++; empty == 100 {
				return io.ErrNoProgress
			}
		}
	}
	return nil
}

// giveBack takes whole bytes out of bits. The last one was loaded from before pos.
func (z *Reader) giveBack() {
	z.pos -= int(z.nb / 8)
	z.nb %= 8
	z.bits &= 1<<z.nb - 1
}

// need has n bits in bits at least, up to 32.
func (z *Reader) need(n uint) error {
	for z.nb < n {
		if z.pos >= z.end {
			if err := z.more(); err != nil {
				return err
			}
		}
		if z.eof && z.pos >= z.real {
			return io.ErrUnexpectedEOF
		}
		z.bits |= uint64(z.in[z.pos]) << z.nb
		z.pos++
		z.nb += 8
	}
	return nil
}

// take returns the next n bits.
func (z *Reader) take(n uint) (uint32, error) {
	if err := z.need(n); err != nil {
		return 0, err
	}
	v := uint32(z.bits & (1<<n - 1))
	z.bits >>= n
	z.nb -= n
	return v, nil
}

// align drops bits up to the next byte.
func (z *Reader) align() {
	n := z.nb % 8
	z.bits >>= n
	z.nb -= n
}

// header reads the header of a member. io.EOF: there is none.
func (z *Reader) header() error {
	if err := z.need(8); err != nil {
		if err == io.ErrUnexpectedEOF {
			return io.EOF
		}
		return err
	}
	crc := uint32(0)
	next := func(n int) (v uint32, err error) {
		for i := range n {
			b, err := z.take(8)
			if err != nil {
				return 0, err
			}
			crc = crc32.Update(crc, crc32.IEEETable, []byte{byte(b)})
			v |= b << (8 * i)
		}
		return v, nil
	}
	magic, err := next(4) // with the method and the flags
	if err != nil {
		return err
	}
	flags := magic >> 24
	if magic&0xffffff != 0x088b1f || flags&0xe0 != 0 {
		return errHeader
	}
	for range 6 { // time, extra flags, operating system
		if _, err := next(1); err != nil {
			return err
		}
	}
	if flags&4 != 0 { // extra field
		n, err := next(2)
		for ; err == nil && n > 0; n-- {
			_, err = next(1)
		}
		if err != nil {
			return err
		}
	}
	for _, flag := range []uint32{8, 16} { // name, comment
		for n := 0; flags&flag != 0; n++ {
			b, err := next(1)
			if err != nil {
				return err
			}
			if b == 0 {
				break
			}
			if n == maxName {
				return errHeader
			}
		}
	}
	if flags&2 != 0 {
		want := crc & 0xffff
		got, err := next(2)
		if err != nil {
			return err
		}
		if got != want {
			return errHeader
		}
	}
	z.first, z.crc, z.size = z.w, 0, 0
	z.state = (*Reader).block
	return nil
}

// trailer checks a member that has ended, and begins with the next one.
func (z *Reader) trailer() error {
	z.add()
	z.align()
	crc, err := z.take(32)
	if err != nil {
		return err
	}
	size, err := z.take(32)
	if err != nil {
		return err
	}
	if crc != z.crc || size != z.size {
		return errChecksum
	}
	return z.header()
}

// block reads the header of a block.
func (z *Reader) block() error {
	if z.last {
		z.last = false
		return z.trailer()
	}
	head, err := z.take(3)
	if err != nil {
		return err
	}
	z.last = head&1 != 0
	switch head >> 1 {
	case 0:
		z.align()
		n, err := z.take(32)
		if err != nil {
			return err
		}
		if n&0xffff != ^n>>16 {
			return errData
		}
		z.stored = int(n & 0xffff)
		z.state = (*Reader).copyStored
		return nil
	case 1:
		z.fixedTables()
	case 2:
		if err := z.dynamic(); err != nil {
			return err
		}
	default:
		return errData
	}
	z.state = (*Reader).decode
	return nil
}

// copyStored goes on with a block that is not compressed.
func (z *Reader) copyStored() error {
	for z.stored > 0 && z.w < window {
		if z.nb > 0 {
			z.out[z.w] = byte(z.bits)
			z.bits >>= 8
			z.nb -= 8
			z.w++
			z.stored--
			continue
		}
		if z.pos >= z.end {
			if err := z.more(); err != nil {
				return err
			}
		}
		end := z.end
		if z.eof {
			end = z.real
		}
		n := copy(z.out[z.w:window], z.in[z.pos:min(end, z.pos+z.stored)])
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		z.pos += n
		z.w += n
		z.stored -= n
	}
	if z.stored == 0 {
		z.state = (*Reader).block
	}
	return nil
}

// fixedTables makes the tables of RFC 1951, 3.2.6.
func (z *Reader) fixedTables() {
	if z.fixed {
		return
	}
	z.fixed = true
	var lengths [288]uint8
	for i := range lengths {
		switch {
		case i < 144:
			lengths[i] = 8
		case i < 256:
			lengths[i] = 9
		case i < 280:
			lengths[i] = 7
		default:
			lengths[i] = 8
		}
	}
	build(z.lit[:], litIndex, lengths[:], litEntry)
	for i := range 32 {
		lengths[i] = 5
	}
	build(z.dist[:], distIndex, lengths[:32], distEntry)
}

// order is that of the lengths of the codes for lengths of codes.
var order = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// dynamic reads the tables of a block. RFC 1951, 3.2.7.
func (z *Reader) dynamic() error {
	head, err := z.take(14)
	if err != nil {
		return err
	}
	nlit, ndist, n := int(head&31)+257, int(head>>5&31)+1, int(head>>10)+4
	if nlit > maxLit || ndist > maxDist {
		return errData
	}
	var first [19]uint8
	for _, i := range order[:n] {
		v, err := z.take(3)
		if err != nil {
			return err
		}
		first[i] = uint8(v)
	}
	var table [1 << 7]uint32
	if !build(table[:], 7, first[:], func(sym int) uint32 { return uint32(sym) << 16 }) {
		return errData
	}
	lengths := z.lengths[:nlit+ndist]
	for i := 0; i < len(lengths); {
		// At least one code is here; as many bits as the longest may be more than
		// there are.
		e := uint32(0)
		for {
			e = table[z.bits&(1<<7-1)]
			if e&entryOdd == 0 && uint(e&takes) <= z.nb {
				break
			}
			if z.nb >= 7 {
				return errData
			}
			if err := z.need(z.nb + 1); err != nil {
				return err
			}
		}
		z.bits >>= e & takes
		z.nb -= uint(e & takes)
		sym := e >> 16
		if sym < 16 {
			lengths[i] = uint8(sym)
			i++
			continue
		}
		extra, least, value := uint(7), 11, uint8(0)
		switch sym {
		case 16:
			if i == 0 {
				return errData
			}
			extra, least, value = 2, 3, lengths[i-1]
		case 17:
			extra, least = 3, 3
		}
		more, err := z.take(extra)
		if err != nil {
			return err
		}
		n := least + int(more)
		if n > len(lengths)-i {
			return errData
		}
		for range n {
			lengths[i] = value
			i++
		}
	}
	z.fixed = false
	if !build(z.lit[:], litIndex, lengths[:nlit], litEntry) || !build(z.dist[:], distIndex, lengths[nlit:], distEntry) {
		return errData
	}
	return nil
}

// decode goes on with a compressed block until it ends or out is full.
func (z *Reader) decode() error {
	z.giveBack()
	for {
		if z.end-z.pos <= ahead {
			if err := z.more(); err != nil {
				return err
			}
		}
		w := z.w
		done, err := z.turns()
		z.giveBack()
		if z.eof && z.pos > z.real {
			z.w = w
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		if done {
			z.state = (*Reader).block
			return nil
		}
		if z.w >= window {
			return nil
		}
	}
}

// turns decodes while there are input and room for a turn. Bits beyond nb are those
// of the bytes from pos on: loading them once more changes nothing.
func (z *Reader) turns() (done bool, err error) {
	in, out := z.in[:z.end], z.out
	pos, w, first := z.pos, z.w, z.first
	bits, nb := z.bits, z.nb
	lit, dist := &z.lit, &z.dist
	for pos < len(in)-ahead && w < window {
		bits |= binary.LittleEndian.Uint64(in[pos:]) << (nb & 63)
		pos += int((63 - nb) >> 3)
		nb |= 56
		e := lit[bits&(1<<litIndex-1)]
		// 56 bits: three short codes, and one with what is behind it (20 bits).
		if e&entryLiteral != 0 {
			bits >>= e & takes
			nb -= uint(e & takes)
			out[w] = byte(e >> 16)
			w++
			e = lit[bits&(1<<litIndex-1)]
			if e&entryLiteral != 0 {
				bits >>= e & takes
				nb -= uint(e & takes)
				out[w] = byte(e >> 16)
				w++
				e = lit[bits&(1<<litIndex-1)]
				if e&entryLiteral != 0 {
					bits >>= e & takes
					nb -= uint(e & takes)
					out[w] = byte(e >> 16)
					w++
					e = lit[bits&(1<<litIndex-1)]
				}
			}
		}
		if e&entryOdd != 0 && e&entryLink != 0 {
			bits >>= e & takes
			nb -= uint(e & takes)
			e = lit[(uint64(e>>16)+bits&(1<<(e>>8&15)-1))&(litTable-1)]
		}
		before := bits
		bits >>= e & takes
		nb -= uint(e & takes)
		if e&entryLiteral != 0 {
			out[w] = byte(e >> 16)
			w++
			continue
		}
		if e&entryOdd != 0 {
			done = e&entryEnd != 0
			if !done {
				err = errData
			}
			break
		}
		length := int(e>>16) + int(before&(1<<(e&takes)-1)>>(e>>8&15))

		bits |= binary.LittleEndian.Uint64(in[pos:]) << (nb & 63)
		pos += int((63 - nb) >> 3)
		nb |= 56
		e = dist[bits&(1<<distIndex-1)]
		if e&entryOdd != 0 {
			if e&entryLink == 0 {
				err = errData
				break
			}
			bits >>= e & takes
			nb -= uint(e & takes)
			e = dist[(uint64(e>>16)+bits&(1<<(e>>8&15)-1))&(distTable-1)]
			if e&entryOdd != 0 {
				err = errData
				break
			}
		}
		d := int(e>>16) + int(bits&(1<<(e&takes)-1)>>(e>>8&15))
		bits >>= e & takes
		nb -= uint(e & takes)
		if d > w-first {
			err = errData
			break
		}
		// Words may write over the end of the match, for which there is room.
		from, to := out[w-d:w+length+load], out[w:w+length+load]
		w += length
		switch {
		case d >= load && length <= 4*load:
			for i := 0; i < length; i += load {
				binary.LittleEndian.PutUint64(to[i:], binary.LittleEndian.Uint64(from[i:]))
			}
		case d >= length:
			copy(to[:length], from)
		case d >= load:
			for i := 0; i < length; i += load {
				binary.LittleEndian.PutUint64(to[i:], binary.LittleEndian.Uint64(from[i:]))
			}
		case d == 1:
			word := uint64(from[0]) * 0x0101010101010101
			for i := 0; i < length; i += load {
				binary.LittleEndian.PutUint64(to[i:], word)
			}
		default:
			for i := range to[:length] {
				to[i] = from[i]
			}
		}
	}
	z.pos, z.w, z.bits, z.nb = pos, w, bits, nb
	return done, err
}
