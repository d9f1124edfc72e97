package vm

import (
	"fmt"
	"io"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"
)

// cpioWriter writes an initramfs: a cpio archive in the "newc" form
// (Documentation/driver-api/early-userspace/buffer-format.rst in the kernel). The
// first error sticks.
type cpioWriter struct {
	w   io.Writer
	ino int
	err error
}

func (c *cpioWriter) dir(name string) { c.entry(name, unix.S_IFDIR|0o755, nil, 0, 0) }

func (c *cpioWriter) file(name string, perm fs.FileMode, data []byte) {
	c.entry(name, unix.S_IFREG|uint32(perm.Perm()), data, 0, 0)
}

func (c *cpioWriter) charDevice(name string, perm fs.FileMode, major, minor uint32) {
	c.entry(name, unix.S_IFCHR|uint32(perm.Perm()), nil, major, minor)
}

// close writes the end mark.
func (c *cpioWriter) close() error {
	c.ino = -1
	c.entry("TRAILER!!!", 0, nil, 0, 0)
	return c.err
}

func (c *cpioWriter) entry(name string, mode uint32, data []byte, major, minor uint32) {
	if c.err != nil {
		return
	}
	c.ino++
	// magic ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
	head := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.ino, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0, name)
	pad := func(n int) string { return strings.Repeat("\x00", -n&3) }
	if _, c.err = io.WriteString(c.w, head+pad(len(head))); c.err != nil {
		return
	}
	if _, c.err = c.w.Write(data); c.err != nil {
		return
	}
	_, c.err = io.WriteString(c.w, pad(len(data)))
}
