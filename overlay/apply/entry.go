package apply

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/safepath"
)

// entry unpacks one entry of the archive.
func (u *unpacker) entry(hdr *tar.Header, r io.Reader) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return checkGlobal(hdr)
	}
	name, err := cleanName(hdr.Name)
	if err != nil {
		return err
	}
	a, err := u.attrOf(hdr)
	if err != nil {
		return err
	}
	if name == "" {
		if hdr.Typeflag != tar.TypeDir {
			return invalid("the root directory as something else (type %q)", hdr.Typeflag)
		}
		return u.describe(u.tree.top(), a)
	}
	dir, base := cut(name)
	if whiteoutInside(dir) {
		u.warn("%q: left out, it is below a whiteout", clip(name))
		return nil
	}
	if strings.HasPrefix(base, whPrefix) {
		return u.whiteout(dir, base)
	}
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return u.file(dir, base, hdr, r, a)
	case tar.TypeDir:
		return u.directory(dir, base, a)
	case tar.TypeSymlink:
		return u.symlink(dir, base, hdr.Linkname, a)
	case tar.TypeLink:
		return u.hardlink(dir, base, hdr.Linkname)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return u.device(dir, base, hdr, a)
	}
	u.warn("%q: left out, entry type %q is not known", clip(name), hdr.Typeflag)
	return nil
}

// checkGlobal refuses global PAX headers that say where things are: readers
// disagree about how long they apply. Others (a comment, as git writes) are
// ignored.
func checkGlobal(hdr *tar.Header) error {
	for key := range hdr.PAXRecords {
		if key == "path" || key == "linkpath" || key == "size" || strings.HasPrefix(key, "GNU.sparse.") {
			return invalid("global PAX header with %q", key)
		}
	}
	return nil
}

// attrOf checks and converts what the header says about owner, mode and times.
// Numbers win: names are looked up nowhere.
func (u *unpacker) attrOf(hdr *tar.Header) (attr, error) {
	// -1 means "leave as it is" to chown(2).
	const maxID = 1<<32 - 2
	if hdr.Uid < 0 || hdr.Uid > maxID || hdr.Gid < 0 || hdr.Gid > maxID {
		return attr{}, invalid("owner %d:%d", hdr.Uid, hdr.Gid)
	}
	a := attr{uid: uint32(hdr.Uid), gid: uint32(hdr.Gid), mode: uint32(hdr.Mode) & 0o7777, mtime: timespec(hdr.ModTime)}
	var err error
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse, tar.TypeDir:
		a.xattrs, err = u.xattrs(hdr)
	default:
		// user.* cannot be on links and devices (xattr(7)), and a capability
		// there means nothing; but what is refused is refused everywhere.
		if _, err = u.xattrs(hdr); err == nil && hasXattrs(hdr) {
			u.warn("%q: extended attributes left out, it is no file or directory", clip(hdr.Name))
		}
	}
	return a, err
}

// timespec clamps t to what file systems store.
func timespec(t time.Time) unix.Timespec {
	const low, high = -1 << 31, 1 << 33
	switch sec := t.Unix(); {
	case t.IsZero():
		return unix.Timespec{}
	case sec < low:
		return unix.Timespec{Sec: low}
	case sec > high:
		return unix.Timespec{Sec: high}
	default:
		return unix.Timespec{Sec: sec, Nsec: int64(t.Nanosecond())}
	}
}

// make calls create with the directory dir until it does not fail with EEXIST,
// deleting what is in the way in between: nothing is ever opened, written or
// changed because its name happened to exist. create gets the directory's
// descriptor, which is valid until the next lookup, and whether something was
// replaced.
func (u *unpacker) make(dir, base string, create func(fd int, n *node, replaced bool) error) error {
	for replaced := false; ; replaced = true {
		fd, n, err := u.lookup(dir)
		if err != nil {
			return err
		}
		err = create(fd, n, replaced)
		if !errors.Is(err, unix.EEXIST) || replaced {
			return err
		}
		if err := safepath.RemoveAllAt(fd, base); err != nil {
			return err
		}
		delete(u.copied, place{n, base})
		u.tree.forget()
	}
}

func (u *unpacker) file(dir, base string, hdr *tar.Header, r io.Reader, a attr) error {
	if err := u.count(hdr.Size); err != nil {
		return err
	}
	return u.make(dir, base, func(parent int, _ *node, _ bool) error {
		fd, err := safepath.CreateAt(parent, base, unix.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer linux.Close(fd)
		if isSparse(hdr) {
			err = u.copySparse(fd, r, hdr.Size, u.readError)
		} else {
			err = u.copyData(fd, r, hdr.Size)
		}
		if err != nil {
			return err
		}
		return u.setAttr(fd, &a)
	})
}

// count adds to the size of the layer.
func (u *unpacker) count(size int64) error {
	if size < 0 {
		return invalid("negative size")
	}
	if u.result.Bytes += size; u.result.Bytes > u.opts.MaxBytes || u.result.Bytes < 0 {
		return limit("files of more than %d bytes together (MaxBytes)", u.opts.MaxBytes)
	}
	return nil
}

func (u *unpacker) copyData(fd int, r io.Reader, size int64) error {
	for size > 0 {
		n, err := io.ReadFull(r, u.buf[:min(int64(len(u.buf)), size)])
		if err != nil {
			return u.readError(err)
		}
		if err := linux.WriteAll(fd, u.buf[:n]); err != nil {
			return os.NewSyscallError("write", err)
		}
		size -= int64(n)
	}
	return nil
}

func isSparse(hdr *tar.Header) bool {
	if hdr.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range hdr.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// copySparse writes what is not zero, and leaves holes for the rest. Errors of r
// go through failed.
func (u *unpacker) copySparse(fd int, r io.Reader, size int64, failed func(error) error) error {
	const block = 4096
	var zero [block]byte
	for off := int64(0); off < size; {
		if err := u.in.ctx.Err(); err != nil { // holes do not read the stream
			return err
		}
		n, err := io.ReadFull(r, u.buf[:min(int64(len(u.buf)), size-off)])
		if err != nil {
			return failed(err)
		}
		for b := 0; b < n; {
			run := b // data starts here
			for b < n && !bytes.Equal(u.buf[b:min(b+block, n)], zero[:min(block, n-b)]) {
				b += block
			}
			b = min(b, n)
			for p := run; p < b; {
				w, err := unix.Pwrite(fd, u.buf[p:b], off+int64(p))
				if err == unix.EINTR {
					continue
				}
				if err != nil {
					return os.NewSyscallError("write", err)
				}
				p += w
			}
			for b < n && bytes.Equal(u.buf[b:min(b+block, n)], zero[:min(block, n-b)]) {
				b = min(b+block, n)
			}
		}
		off += int64(n)
	}
	return os.NewSyscallError("ftruncate", unix.Ftruncate(fd, size))
}

// directory makes a directory, or gives an existing one this entry's attributes.
func (u *unpacker) directory(dir, base string, a attr) error {
	return u.make(dir, base, func(parent int, _ *node, replaced bool) error {
		err := safepath.MkdirAt(parent, base, 0o700)
		exists := errors.Is(err, unix.EEXIST)
		if err != nil && !exists {
			return err
		}
		fd, err := safepath.OpenDirAt(parent, base, unix.O_PATH)
		if err != nil {
			if exists && (errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)) {
				return unix.EEXIST
			}
			return err
		}
		defer linux.Close(fd)
		var n *node
		if exists {
			n, err = u.tree.nodeOf(fd)
		} else {
			n, err = u.tree.add(parent, base, fd)
		}
		if err != nil {
			return err
		}
		n.fresh = n.fresh || replaced
		return u.describe(n, a)
	})
}

// describe keeps a directory's attributes for the end.
func (u *unpacker) describe(n *node, a attr) error {
	var size int64
	for _, x := range a.xattrs {
		size += int64(len(x.name)+len(x.value)) + 64
	}
	if err := u.mem.take(size); err != nil {
		return err
	}
	n.described, n.attr = true, a
	return nil
}

func (u *unpacker) symlink(dir, base, target string, a attr) error {
	if target == "" || len(target) >= unix.PathMax || strings.IndexByte(target, 0) >= 0 {
		return invalid("symbolic link with a target of %d bytes", len(target))
	}
	return u.make(dir, base, func(parent int, _ *node, _ bool) error {
		if err := safepath.SymlinkAt(target, parent, base); err != nil {
			return err
		}
		return u.setAttrAt(parent, base, &a)
	})
}

// device makes devices and FIFOs. Sockets are not in tar archives.
func (u *unpacker) device(dir, base string, hdr *tar.Header, a attr) error {
	mode := uint32(unix.S_IFIFO)
	var dev uint64
	if hdr.Typeflag != tar.TypeFifo {
		// 12 and 20 bits: what the kernel's dev_t has.
		if hdr.Devmajor < 0 || hdr.Devmajor > 1<<12-1 || hdr.Devminor < 0 || hdr.Devminor > 1<<20-1 {
			return invalid("device number %d:%d", hdr.Devmajor, hdr.Devminor)
		}
		dev = unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor))
		mode = unix.S_IFBLK
		if hdr.Typeflag == tar.TypeChar {
			mode = unix.S_IFCHR
			if dev == 0 {
				return invalid("character device 0:0: overlayfs would take it for a whiteout")
			}
		}
		if u.opts.unprivileged {
			return nil
		}
	}
	return u.make(dir, base, func(parent int, _ *node, _ bool) error {
		if err := safepath.MknodAt(parent, base, mode|0o600, dev); err != nil {
			return err
		}
		return u.setAttrAt(parent, base, &a)
	})
}
