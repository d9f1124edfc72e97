package bigstack

import (
	"testing"
	"unsafe"
)

// moves reports whether the stack is copied when a call needs some more of it.
func moves(prepare func()) bool {
	result := make(chan bool)
	go func() { // whose stack is small
		prepare()
		var here byte
		before := uintptr(unsafe.Pointer(&here))
		deep(60)
		result <- uintptr(unsafe.Pointer(&here)) != before
	}()
	return <-result
}

//go:noinline
func deep(n int) byte {
	var frame [256]byte
	frame[n] = byte(n)
	if n > 0 {
		return deep(n-1) + frame[n]
	}
	return frame[0]
}

func TestGrow(t *testing.T) {
	if moves(func() { grow(false) }) {
		t.Error("the stack is copied although there should be room")
	}
	if !moves(func() {}) {
		t.Error("a fresh stack is not copied: this test finds nothing")
	}
}
