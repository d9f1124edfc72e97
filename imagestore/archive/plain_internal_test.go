package archive

import (
	"bufio"
	"os"
	"testing"
)

// A file that cannot be written to is none, and nobody minds.
func TestPlainKeeper_Full(t *testing.T) {
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	k := &plainKeeper{f, bufio.NewWriterSize(f, 16)}
	for range 3 {
		if n, err := k.Write(make([]byte, 40)); n != 40 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	if k.take() != nil || f.Close() == nil {
		t.Error("the file is kept, or open")
	}
	k.drop()
}
