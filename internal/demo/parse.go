package demo

import (
	"strconv"
	"time"
)

// forever is what "infinity" means to sleep: about 292 years.
const forever = time.Duration(1<<63 - 1)

// seconds parses a duration as sleep(1) of coreutils does: a decimal fraction
// of seconds, or "infinity".
func seconds(text string) (time.Duration, bool) {
	if text == "infinity" || text == "inf" {
		return forever, true
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f != f || f < 0 {
		return 0, false
	}
	if f >= float64(forever)/float64(time.Second) {
		return forever, true
	}
	return time.Duration(f * float64(time.Second)), true
}

// size parses a number of bytes with an optional suffix k, M or G (powers of 1024).
func size(text string) (int64, bool) {
	shift := 0
	if n := len(text); n > 0 {
		switch text[n-1] {
		case 'k', 'K':
			shift = 10
		case 'm', 'M':
			shift = 20
		case 'g', 'G':
			shift = 30
		}
		if shift > 0 {
			text = text[:n-1]
		}
	}
	v, err := strconv.ParseInt(text, 10, 64)
	if err != nil || v < 0 || v > (1<<62)>>shift {
		return 0, false
	}
	return v << shift, true
}

// number parses a decimal between low and high.
func number(text string, low, high int) (int, bool) {
	v, err := strconv.Atoi(text)
	return v, err == nil && v >= low && v <= high
}
