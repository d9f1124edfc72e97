package gunzip

import "math/bits"

// Entries of the tables. The low six bits are how many bits the entry takes from the
// stream; a code that is longer than the table's index has an entry in the middle
// of the way, which leads to a second table behind the first.
//
//	literal   1<<31 | byte<<16                          | bits of the code
//	length    base<<16 | bits of the code<<8            | bits with those behind the code
//	distance  likewise
//	link      start<<16 | odd | link | index bits<<8    | bits of the first index
//	end       odd | end                                 | bits of the code
//	invalid   odd
const (
	entryLiteral = 1 << 31
	entryOdd     = 1 << 15
	entryLink    = 1 << 14
	entryEnd     = 1 << 13
	takes        = 63

	maxCode  = 15
	litIndex = 11
	// The longest tables that complete codes of 288 and 32 symbols lead to are 2342
	// and 402, as enough.c of zlib counts. Powers of two, so that a mask is enough.
	litTable  = 4096
	distIndex = 8
	distTable = 512

	endOfBlock = 256
	maxLit     = 286
	maxDist    = 30
)

var (
	lengthBase  = [29]uint16{3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258}
	lengthExtra = [29]uint8{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0}
	distBase    = [30]uint16{1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577}
)

// litEntry is the entry of a symbol of the alphabet of literals and lengths, less
// the bits of its code.
func litEntry(sym int) uint32 {
	switch {
	case sym < endOfBlock:
		return entryLiteral | uint32(sym)<<16
	case sym == endOfBlock:
		return entryOdd | entryEnd
	case sym < maxLit:
		return uint32(lengthBase[sym-257])<<16 | uint32(lengthExtra[sym-257])
	}
	return entryOdd
}

func distEntry(sym int) uint32 {
	if sym >= maxDist {
		return entryOdd
	}
	return uint32(distBase[sym])<<16 | uint32(max(sym/2-1, 0))
}

// withCode adds the bits of the code to an entry.
func withCode(e uint32, n int) uint32 {
	e += uint32(n)
	if e&(entryLiteral|entryOdd) == 0 {
		e |= uint32(n) << 8
	}
	return e
}

// build fills a table of which the first index bits are looked at first, from the
// lengths of the codes. It fails unless the codes are complete; but none at all is
// fine as long as none is used, and so is one alone, of one bit.
func build(table []uint32, index int, lengths []uint8, entry func(int) uint32) bool {
	var count, next [maxCode + 2]int
	for _, n := range lengths {
		count[n]++
	}
	count[0] = 0
	longest, code := 0, 0
	for n := 1; n <= maxCode; n++ {
		code <<= 1
		next[n] = code
		code += count[n]
		if count[n] > 0 {
			longest = n
		}
		if code > 1<<n {
			return false
		}
	}
	if longest == 0 || longest == 1 && code == 1<<(maxCode-1) {
		for i := range 1 << index {
			table[i] = entryOdd | 1
		}
		for sym, n := range lengths {
			if n == 1 {
				e := withCode(entry(sym), 1)
				for i := 0; i < 1<<index; i += 2 {
					table[i] = e
				}
			}
		}
		return true
	}
	if code != 1<<maxCode {
		return false
	}

	// Symbols in the order of their codes: by length, then by themselves.
	var sorted [288]uint16
	var at [maxCode + 2]int
	for n := 1; n <= maxCode; n++ {
		at[n+1] = at[n] + count[n]
	}
	total := at[maxCode+1]
	for sym, n := range lengths {
		if n > 0 {
			sorted[at[n]] = uint16(sym)
			at[n]++
		}
	}

	// Codes that the index holds: the table for those of n bits is two times the one
	// for n-1 bits, and what is new.
	i, size := 0, 1
	for n := 1; n <= index; n++ {
		copy(table[size:2*size], table[:size])
		size *= 2
		for range count[n] {
			table[reverse(next[n], n)] = withCode(entry(int(sorted[i])), n)
			next[n]++
			i++
		}
	}

	// Longer ones: a table for all that have their first bits in common.
	end, prefix, start, width := size, -1, 0, 0
	for n := index + 1; n <= longest; n++ {
		for left := count[n]; left > 0; left-- {
			rev := reverse(next[n], n)
			next[n]++
			if p := rev & (size - 1); p != prefix {
				// As wide as it has to be so that what is left of the codes fills it.
				prefix, start, width = p, end, n-index
				for room := 1<<width - left; room > 0 && width+index < maxCode; {
					width++
					room = room<<1 - count[width+index]
				}
				end += 1 << width
				if end > len(table) {
					return false
				}
				table[p] = uint32(start)<<16 | entryOdd | entryLink | uint32(width)<<8 | uint32(index)
			}
			e := withCode(entry(int(sorted[i])), n-index)
			for j := rev >> index; j < 1<<width; j += 1 << (n - index) {
				table[start+j] = e
			}
			i++
		}
	}
	return i == total
}

func reverse(code, n int) int { return int(bits.Reverse16(uint16(code)) >> (16 - n)) }
