// Package bigstack gives the main goroutine a stack that no command outgrows,
// when the program starts.
//
// A goroutine begins with 2 KiB. Each doubling on the way to what a command needs
// makes a cache of stacks of that size, copies, and looks all callers up in tables
// that nothing else reads: together some thirty pages that are touched for the
// first time, each for 2 to 5 µs on a virtual machine. One step from the smallest
// to the right size does nothing of that.
//
// It must come before the packages that need more than 2 KiB to initialize. The
// linker orders packages by what they import, then by name (go.dev/ref/spec,
// "Program initialization"): one that imports nothing, below github.com, comes
// before those of the standard library that matter. So this is the one package
// of the hot path that has an init function, and it must not import anything.
package bigstack

func init() { grow(false) }

// size is what has to fit, in bytes. Stacks are powers of two: 32 KiB come of it.
const size = 20 << 10

// grow needs a frame of that size. The compiler reserves the array in it, and
// that is what makes the stack grow; it is not touched, because touch is false.
//
//go:noinline
func grow(touch bool) {
	if touch {
		var room [size]byte
		use(&room)
	}
}

//go:noinline
func use(*[size]byte) {}
