package bundle

import (
	"strconv"
	"strings"
)

// The largest numbers in lists: no kernel has more processors or memory nodes.
const (
	maxCPU  = 8191 // CONFIG_NR_CPUS of amd64 goes up to 8192
	maxNode = 1023 // CONFIG_NODES_SHIFT up to 10
)

// list checks a list of numbers and ranges such as 0-3,7; it may be empty. last
// is the largest number.
func (c *checker) list(s, path string, last uint64) {
	if s == "" {
		return
	}
	for part := range strings.SplitSeq(s, ",") {
		low, high, ok := listRange(part)
		switch {
		case !ok || low > high:
			c.add("want a list of numbers and ranges such as 0-3,7, got "+strconv.Quote(s), path)
			return
		case high > last:
			c.add("the largest number is "+strconv.FormatUint(last, 10)+", got "+strconv.FormatUint(high, 10), path)
			return
		}
	}
}

// listRange is one part of a list.
func listRange(part string) (low, high uint64, ok bool) {
	from, to, isRange := strings.Cut(part, "-")
	low, err := strconv.ParseUint(strings.TrimSpace(from), 10, 31)
	high = low
	if err == nil && isRange {
		high, err = strconv.ParseUint(strings.TrimSpace(to), 10, 31)
	}
	return low, high, err == nil
}

// Mask is the set of the numbers in a list, a bit for each, as the kernel takes
// it: in whole words, nil for an empty list. The list has been checked.
func Mask(list string) (mask []byte) {
	if list == "" {
		return nil
	}
	for part := range strings.SplitSeq(list, ",") {
		low, high, _ := listRange(part)
		for n := low; n <= min(high, maxCPU); n++ {
			for int(n/8) >= len(mask) {
				mask = append(mask, make([]byte, 8)...)
			}
			mask[n/8] |= 1 << (n % 8)
		}
	}
	return mask
}
