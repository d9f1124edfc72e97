package archive

import (
	"bufio"
	"os"

	"github.com/minirun/minirun/imagestore"
)

// plainKeeper keeps a decompressed archive in a file without a name, which goes
// with the process. It is a help and nothing more: where such files cannot be
// made, or the disk is full, there is none.
type plainKeeper struct {
	f *os.File // nil if it does not work
	w *bufio.Writer
}

func keepPlain(g *imagestore.Ingest) *plainKeeper {
	f, err := g.Nameless()
	if err != nil {
		return &plainKeeper{}
	}
	return &plainKeeper{f, bufio.NewWriterSize(f, chunk)}
}

// Write always succeeds.
func (k *plainKeeper) Write(p []byte) (int, error) {
	if k.f != nil {
		if _, err := k.w.Write(p); err != nil {
			k.drop() // others need the space
		}
	}
	return len(p), nil
}

// take is the file, whose owner is then the caller, or nil.
func (k *plainKeeper) take() *os.File {
	if k == nil || k.f == nil {
		return nil
	}
	if err := k.w.Flush(); err != nil {
		k.drop()
		return nil
	}
	f := k.f
	k.f = nil
	return f
}

// drop closes the file if nobody has taken it.
func (k *plainKeeper) drop() {
	if k.f != nil {
		k.f.Close()
		k.f = nil
	}
}
