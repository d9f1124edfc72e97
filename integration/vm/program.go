package vm

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
)

// staticProgram returns the content of a program, refusing one that needs a
// dynamic loader: there is none in an initramfs.
func staticProgram(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("%q: %w", path, err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return nil, fmt.Errorf("%q is dynamically linked: build it with CGO_ENABLED=0", path)
		}
	}
	return b, nil
}
