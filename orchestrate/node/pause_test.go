package node

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The first process of a pod waits, and does nothing else after its filter.
func TestPauseProgram(t *testing.T) {
	image, err := pauseProgram([]uint64{unix.CLONE_NEWNET, unix.CLONE_NEWUTS})
	if err != nil {
		t.Fatal(err)
	}
	text := image.Listing()
	_, after, ok := strings.Cut(text, "seccomp(")
	if !ok {
		t.Fatalf("no filter:\n%s", text)
	}
	if !strings.Contains(text, "setns(0, CLONE_NEWNET)") || !strings.Contains(text, "setns(1, CLONE_NEWUTS)") {
		t.Errorf("it does not join:\n%s", text)
	}
	for line := range strings.Lines(after[strings.Index(after, "\n")+1:]) {
		call := strings.TrimLeft(line, " 0123456789")
		if !strings.Contains(line, "(") || strings.Contains(line, "(set)") { // the second is no system call
			continue
		}
		known := false
		for _, allowed := range []string{"write(", "close_range(", "ppoll("} {
			known = known || strings.HasPrefix(call, allowed)
		}
		if !known {
			t.Errorf("after the filter: %s", line)
		}
	}
}
