package jsonread

import "strconv"

// Int reads an integer into p; null leaves p alone.
func (r *Reader) Int(p *int) {
	if n, ok := r.signed(strconv.IntSize); ok {
		*p = int(n)
	}
}

// Int32 reads an integer into p; null leaves p alone.
func (r *Reader) Int32(p *int32) {
	if n, ok := r.signed(32); ok {
		*p = int32(n)
	}
}

// Int64 reads an integer into p; null leaves p alone.
func (r *Reader) Int64(p *int64) {
	if n, ok := r.signed(64); ok {
		*p = n
	}
}

// Uint reads an integer into p; null leaves p alone.
func (r *Reader) Uint(p *uint) {
	if n, ok := r.unsigned(strconv.IntSize); ok {
		*p = uint(n)
	}
}

// Uint16 reads an integer into p; null leaves p alone.
func (r *Reader) Uint16(p *uint16) {
	if n, ok := r.unsigned(16); ok {
		*p = uint16(n)
	}
}

// Uint32 reads an integer into p; null leaves p alone.
func (r *Reader) Uint32(p *uint32) {
	if n, ok := r.unsigned(32); ok {
		*p = uint32(n)
	}
}

// Uint64 reads an integer into p; null leaves p alone.
func (r *Reader) Uint64(p *uint64) {
	if n, ok := r.unsigned(64); ok {
		*p = n
	}
}

// signed reads an integer that fits in the given number of bits.
func (r *Reader) signed(bits int) (int64, bool) {
	start, end, ok := r.integer()
	if !ok {
		return 0, false
	}
	digits, limit := r.b[start:end], uint64(1)<<(bits-1)-1
	neg := digits[0] == '-'
	if neg {
		digits, limit = digits[1:], limit+1
	}
	n, ok := parse(digits, limit)
	if !ok {
		r.failRange(start, end, bits, true)
		return 0, false
	}
	r.i = end
	if neg {
		return -int64(n), true
	}
	return int64(n), true
}

// unsigned reads a non-negative integer that fits in the given number of bits.
func (r *Reader) unsigned(bits int) (uint64, bool) {
	start, end, ok := r.integer()
	if !ok {
		return 0, false
	}
	n, ok := parse(r.b[start:end], 1<<bits-1)
	if !ok {
		r.failRange(start, end, bits, false)
		return 0, false
	}
	r.i = end
	return n, true
}

// integer finds the bounds of the integer at the cursor. It reports false for
// null, which it consumes, and for anything else, which is an error.
func (r *Reader) integer() (start, end int, ok bool) {
	switch c := r.peek(); {
	case c == '-' || '0' <= c && c <= '9':
	case c == 'n':
		r.literal("null")
		return 0, 0, false
	default:
		r.want("a number")
		return 0, 0, false
	}
	start = r.i
	end, ok = r.scanNumber()
	if !ok {
		return 0, 0, false
	}
	for _, c := range r.b[start:end] {
		if c == '.' || c == 'e' || c == 'E' {
			r.fail(start, "want an integer, got "+string(r.b[start:min(end, start+40)]))
			return 0, 0, false
		}
	}
	return start, end, true
}

// parse converts decimal digits; it reports false above the limit and for a
// sign, which an unsigned number must not have, not even as -0.
func parse(digits []byte, limit uint64) (uint64, bool) {
	if len(digits) > 20 {
		return 0, false
	}
	var n uint64
	for _, c := range digits {
		d := uint64(c - '0')
		if d > 9 || n > (limit-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, true
}

// scanNumber checks the number at the cursor and returns its end.
func (r *Reader) scanNumber() (int, bool) {
	b, i := r.b, r.i
	if b[i] == '-' {
		i++
	}
	switch {
	case i < len(b) && b[i] == '0':
		i++
	case i < len(b) && '1' <= b[i] && b[i] <= '9':
		i = digitsEnd(b, i)
	default:
		return 0, r.failNumber(i)
	}
	if i < len(b) && b[i] == '.' {
		frac := i + 1
		if i = digitsEnd(b, frac); i == frac {
			return 0, r.failNumber(i)
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		exp := i
		if i = digitsEnd(b, exp); i == exp {
			return 0, r.failNumber(i)
		}
	}
	return i, true
}

func digitsEnd(b []byte, i int) int {
	for i < len(b) && '0' <= b[i] && b[i] <= '9' {
		i++
	}
	return i
}
