package apply

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// front is what stands between an archive and what a layer is made of, whichever
// that is: it reads, limits, checks and normalizes. What it lets through is safe
// to make, but for what depends on the other entries: names below links and
// files, and hard links.
type front struct {
	opts   Options
	result Result
	in     *stream
	buf    []byte
	mem    budget
	to     sink
}

// sink makes files. Names are clean: dir is "" or a relative path without "."
// and "..", base one component that begins with no ".wh.".
type sink interface {
	describeRoot(a attr) error
	file(dir, base string, hdr *tar.Header, r io.Reader, a attr) error
	directory(dir, base string, a attr) error
	symlink(dir, base, target string, a attr) error
	hardlink(dir, base, target string) error // target is clean too
	device(dir, base string, mode, major, minor uint32, a attr) error
	// hide notes that a marker hides what the layers below have as dir/name, or
	// all that they have in dir if name is empty.
	hide(dir, name string) error
}

func newFront(opts Options) *front {
	return &front{opts: opts, mem: budget{opts.MaxMemory}, buf: make([]byte, 256<<10)}
}

// read takes the whole archive, up to its end, to a sink; its bytes also to the
// file keep, if there is one. The digest has to be the expected one.
func (f *front) read(ctx context.Context, archive io.Reader, diffID string, keep archiveKeeper, to sink) error {
	if err := f.readAll(ctx, archive, keep, to); err != nil {
		return err
	}
	got, size, err := f.in.digest()
	if err != nil {
		return err
	}
	if got != diffID {
		return &DigestError{Want: diffID, Got: got}
	}
	f.result.Stream = size
	return nil
}

// readAll is read without the comparison: f.in.digest has the digest.
func (f *front) readAll(ctx context.Context, archive io.Reader, keep archiveKeeper, to sink) error {
	f.to = to
	f.in = newStream(ctx, archive, f.opts.MaxBytes, keep)
	defer f.in.close()
	if err := f.entries(tar.NewReader(f.in)); err != nil {
		return err
	}
	if err := f.in.drain(f.buf); err != nil {
		return f.readError(err)
	}
	return nil
}

func (f *front) entries(r *tar.Reader) error {
	for {
		hdr, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return f.readError(err)
		}
		if f.result.Entries++; f.result.Entries > f.opts.MaxEntries {
			return limit("more than %d entries (MaxEntries)", f.opts.MaxEntries)
		}
		if err := f.entry(hdr, r); err != nil {
			return &EntryError{hdr.Name, err}
		}
	}
}

// readError tells errors of the reader below from those about the archive's
// form, which are ErrInvalid whatever archive/tar calls them.
func (f *front) readError(err error) error {
	if f.in.err != nil {
		return fmt.Errorf("read archive: %w", f.in.err)
	}
	if errors.Is(err, ErrInvalid) || errors.Is(err, ErrLimit) {
		return fmt.Errorf("read archive: %w", err)
	}
	return fmt.Errorf("read archive: %w", &classError{ErrInvalid, err.Error()})
}

func (f *front) warn(format string, a ...any) {
	if len(f.result.Warnings) < maxWarnings {
		f.result.Warnings = append(f.result.Warnings, fmt.Sprintf(format, a...))
	}
}

// entry unpacks one entry of the archive.
func (f *front) entry(hdr *tar.Header, r io.Reader) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return checkGlobal(hdr)
	}
	name, err := cleanName(hdr.Name)
	if err != nil {
		return err
	}
	a, err := f.attrOf(hdr)
	if err != nil {
		return err
	}
	if name == "" {
		if hdr.Typeflag != tar.TypeDir {
			return invalid("the root directory as something else (type %q)", hdr.Typeflag)
		}
		return f.to.describeRoot(a)
	}
	dir, base := cut(name)
	if whiteoutInside(dir) {
		f.warn("%q: left out, it is below a whiteout", clip(name))
		return nil
	}
	if strings.HasPrefix(base, whPrefix) {
		return f.whiteout(dir, base)
	}
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		if err := f.count(hdr.Size); err != nil {
			return err
		}
		return f.to.file(dir, base, hdr, r, a)
	case tar.TypeDir:
		return f.to.directory(dir, base, a)
	case tar.TypeSymlink:
		target := hdr.Linkname
		if target == "" || len(target) >= unix.PathMax || strings.IndexByte(target, 0) >= 0 {
			return invalid("symbolic link with a target of %d bytes", len(target))
		}
		return f.to.symlink(dir, base, target, a)
	case tar.TypeLink:
		target, err := checkTarget(hdr.Linkname)
		if err != nil {
			return err
		}
		return f.to.hardlink(dir, base, target)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return f.device(dir, base, hdr, a)
	}
	f.warn("%q: left out, entry type %q is not known", clip(name), hdr.Typeflag)
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
func (f *front) attrOf(hdr *tar.Header) (attr, error) {
	// -1 means "leave as it is" to chown(2).
	const maxID = 1<<32 - 2
	if hdr.Uid < 0 || hdr.Uid > maxID || hdr.Gid < 0 || hdr.Gid > maxID {
		return attr{}, invalid("owner %d:%d", hdr.Uid, hdr.Gid)
	}
	a := attr{uid: uint32(hdr.Uid), gid: uint32(hdr.Gid), mode: uint32(hdr.Mode) & 0o7777, mtime: timespec(hdr.ModTime)}
	var err error
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse, tar.TypeDir:
		if a.xattrs, err = f.xattrs(hdr); err == nil {
			err = f.settle(hdr.Name, &a, hdr.Typeflag == tar.TypeDir)
		}
	default:
		// user.* cannot be on links and devices (xattr(7)), and a capability
		// there means nothing; but what is refused is refused everywhere.
		if _, err = f.xattrs(hdr); err == nil && hasXattrs(hdr) {
			f.warn("%q: extended attributes left out, it is no file or directory", clip(hdr.Name))
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

// count adds to the size of the layer.
func (f *front) count(size int64) error {
	if size < 0 {
		return invalid("negative size")
	}
	if f.result.Bytes += size; f.result.Bytes > f.opts.MaxBytes || f.result.Bytes < 0 {
		return limit("files of more than %d bytes together (MaxBytes)", f.opts.MaxBytes)
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

// copySparse writes what is not zero to fd from start on, and leaves holes for
// the rest. Errors of r go through failed; wrote, unless nil, hears where data is.
func (f *front) copySparse(fd int, start int64, r io.Reader, size int64, failed func(error) error, wrote func(at, n int64)) error {
	const block = 4096
	var zero [block]byte
	for off := int64(0); off < size; {
		if err := f.in.ctx.Err(); err != nil { // holes do not read the stream
			return err
		}
		n, err := io.ReadFull(r, f.buf[:min(int64(len(f.buf)), size-off)])
		if err != nil {
			return failed(err)
		}
		for b := 0; b < n; {
			run := b // data starts here
			for b < n && !bytes.Equal(f.buf[b:min(b+block, n)], zero[:min(block, n-b)]) {
				b += block
			}
			b = min(b, n)
			if wrote != nil && b > run {
				wrote(off+int64(run), int64(b-run))
			}
			for p := run; p < b; {
				w, err := unix.Pwrite(fd, f.buf[p:b], start+off+int64(p))
				if err == unix.EINTR {
					continue
				}
				if err != nil {
					return os.NewSyscallError("write", err)
				}
				p += w
			}
			for b < n && bytes.Equal(f.buf[b:min(b+block, n)], zero[:min(block, n-b)]) {
				b = min(b+block, n)
			}
		}
		off += int64(n)
	}
	return os.NewSyscallError("ftruncate", unix.Ftruncate(fd, start+size))
}

// device checks devices and FIFOs. Sockets are not in tar archives.
func (f *front) device(dir, base string, hdr *tar.Header, a attr) error {
	if hdr.Typeflag == tar.TypeFifo {
		return f.to.device(dir, base, unix.S_IFIFO, 0, 0, a)
	}
	// 12 and 20 bits: what the kernel's dev_t has.
	if hdr.Devmajor < 0 || hdr.Devmajor > 1<<12-1 || hdr.Devminor < 0 || hdr.Devminor > 1<<20-1 {
		return invalid("device number %d:%d", hdr.Devmajor, hdr.Devminor)
	}
	mode := uint32(unix.S_IFBLK)
	if hdr.Typeflag == tar.TypeChar {
		mode = unix.S_IFCHR
		if hdr.Devmajor == 0 && hdr.Devminor == 0 {
			return invalid("character device 0:0: overlayfs would take it for a whiteout")
		}
	}
	if f.opts.unprivileged {
		return nil
	}
	return f.to.device(dir, base, mode, uint32(hdr.Devmajor), uint32(hdr.Devminor), a)
}

// whiteout notes a marker. What it means depends on what else the archive has,
// before and after it, so nothing is done yet.
func (f *front) whiteout(dir, base string) error {
	if base == whOpaque {
		return f.to.hide(dir, "")
	}
	if strings.HasPrefix(base, whMeta) {
		return nil // hard link store and orphan list of aufs
	}
	name, err := checkWhiteout(base)
	if err != nil {
		return err
	}
	if err := f.mem.take(int64(len(name)) + 40); err != nil {
		return err
	}
	return f.to.hide(dir, name)
}
