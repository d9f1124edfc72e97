package archive

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// What marks a removed file, and a directory that hides what lies below it, in
// the archive of a layer (image-spec, layer.md).
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
)

// Extended attributes of overlayfs, as it writes them where it may use the
// namespace trusted: nobody in a container can make those up.
const (
	xattrOpaque   = "trusted.overlay.opaque"
	xattrRedirect = "trusted.overlay.redirect"
	xattrMetacopy = "trusted.overlay.metacopy"
)

// Owner says what ids of the host are in a container: -1 for those that it does
// not have.
type Owner func(uid, gid uint32) (int, int)

// xattr changes ids in the value of an extended attribute: capabilities that are
// valid for root of a user namespace alone, and entries of POSIX ACLs.
func (o Owner) xattr(key, v string) string {
	const (
		revision3   = 0x03000000 // struct vfs_ns_cap_data, capabilities(7)
		revision2   = 0x02000000
		revisions   = 0xff000000
		aclUser     = 2 // posix_acl_xattr_entry
		aclGroup    = 8
		aclHead     = 4
		aclEntry    = 8
		capSize     = 24
		capHeadSize = 20
	)
	if o == nil {
		return v
	}
	le := binary.LittleEndian
	b := []byte(v)
	switch {
	case key == "security.capability" && len(b) == capSize && le.Uint32(b)&revisions == revision3:
		if root, _ := o(le.Uint32(b[capHeadSize:]), 0); root == 0 {
			le.PutUint32(b, le.Uint32(b)&^revisions|revision2)
			b = b[:capHeadSize]
		}
	case strings.HasPrefix(key, "system.posix_acl_"):
		for e := b[min(aclHead, len(b)):]; len(e) >= aclEntry; e = e[aclEntry:] {
			id := le.Uint32(e[4:])
			switch le.Uint16(e) {
			case aclUser:
				uid, _ := o(id, 0)
				le.PutUint32(e[4:], uint32(uid))
			case aclGroup:
				_, gid := o(0, id)
				le.PutUint32(e[4:], uint32(gid))
			}
		}
	}
	return string(b)
}

// isNothing reports whether an entry is an empty file with one name, or an empty directory.
func isNothing(dir int, name string, st *unix.Stat_t) (bool, error) {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return st.Size == 0 && st.Nlink == 1, nil
	case unix.S_IFDIR:
		fd, err := linux.OpenAt(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return false, fmt.Errorf("%q: %w", name, err)
		}
		f := os.NewFile(uintptr(fd), name)
		defer f.Close()
		if _, err = f.Readdirnames(1); err == io.EOF {
			return true, nil
		}
		return false, err
	}
	return false, nil
}

// marker writes an empty file that says something about another name.
func (w *dirWriter) marker(full string) error {
	return w.put(&tar.Header{Name: full, Typeflag: tar.TypeReg, Mode: 0, ModTime: time.Unix(0, 0), Format: tar.FormatPAX})
}

// opaque writes the marker of a directory that hides the lower ones.
func (w *dirWriter) opaque(fd int, prefix string) error {
	var b [1]byte
	n, err := unix.Fgetxattr(fd, xattrOpaque, b[:])
	switch {
	case err == unix.ENODATA || err == unix.ENOTSUP:
	case err != nil:
		return &os.PathError{Op: "fgetxattr", Path: xattrOpaque, Err: err}
	case n == 1 && b[0] == 'y':
		return w.marker(prefix + opaqueMarker)
	default:
		return fmt.Errorf("the attribute %s is %q", xattrOpaque, b[:n])
	}
	// A directory that was renamed instead of copied has its content elsewhere.
	if _, err := unix.Fgetxattr(fd, xattrRedirect, nil); err == nil {
		return fmt.Errorf("overlayfs has put its content elsewhere (%s)", xattrRedirect)
	}
	return nil
}

// sparse writes a regular file with holes in the PAX format of GNU tar, version
// 1.0, which docker, containerd, podman and archive/tar read; done is false for
// a file that is none. Holes that the file system knows count, not zeros: a hole
// of a terabyte must not be read.
func (w *dirWriter) sparse(f *os.File, st *unix.Stat_t, full string, xattrs map[string]string) (done bool, err error) {
	fd := int(f.Fd())
	if _, err := unix.Fgetxattr(fd, xattrMetacopy, nil); err == nil {
		return false, fmt.Errorf("%q: overlayfs has put its content elsewhere (%s)", full, xattrMetacopy)
	}
	if st.Size < minHoles || st.Blocks*512 > st.Size-minHoles {
		return false, nil
	}
	data, filled, err := segments(w.ctx, fd, st.Size)
	if err != nil {
		return false, err
	}
	if filled > max(maxFill, st.Blocks*512) {
		return false, &HolesError{full, st.Size, st.Blocks * 512}
	}
	// The map, in decimal: how many, then offset and length of each. It ends
	// with one that says where the file ends.
	if len(data) == 0 || data[len(data)-1].off+data[len(data)-1].n < st.Size {
		data = append(data, segment{st.Size, 0})
	}
	m := strconv.AppendInt(nil, int64(len(data)), 10)
	size := int64(0)
	for _, s := range data {
		m = append(strconv.AppendInt(append(m, '\n'), s.off, 10), '\n')
		m = strconv.AppendInt(m, s.n, 10)
		size += s.n
	}
	m = append(m, '\n')
	m = append(m, make([]byte, padding(int64(len(m))))...)
	h := w.newHeader(st, full)
	h.Typeflag, h.Size = tar.TypeReg, int64(len(m))+size
	if err := w.sparseHeader(h, st.Size, xattrs); err != nil {
		return false, fmt.Errorf("%q: %w", full, err)
	}
	if _, err := w.raw.Write(m); err != nil {
		return false, err
	}
	for _, s := range data {
		n, err := io.Copy(w.raw, io.NewSectionReader(f, s.off, s.n))
		if err != nil {
			return false, fmt.Errorf("%q: %w", full, err)
		}
		if n != s.n {
			return false, fmt.Errorf("%q changed while it was read", full)
		}
		w.n += n
	}
	_, err = w.raw.Write(make([]byte, padding(size)))
	return true, err
}

// sparseHeader writes a PAX header and a header behind w.tw's back: that has no
// way to write a sparse file.
func (w *dirWriter) sparseHeader(h *tar.Header, realSize int64, xattrs map[string]string) error {
	if err := w.tw.Flush(); err != nil {
		return err
	}
	if h.Uid < 0 || h.Gid < 0 {
		return errors.New("it belongs to a user or group that the container does not have")
	}
	records := map[string]string{
		"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": h.Name, "GNU.sparse.realsize": strconv.FormatInt(realSize, 10),
		"mtime": paxTime(h.ModTime),
	}
	for k, v := range xattrs {
		records["SCHILY.xattr."+k] = w.owner.xattr(k, v)
	}
	// What a name or a number of the old header has no room for.
	plain := *h
	plain.Name, plain.Format, plain.ModTime = "GNUSparseFile.0/"+clipName(h.Name), tar.FormatUSTAR, time.Unix(max(h.ModTime.Unix(), 0), 0)
	const maxOctal, maxSize = 1<<21 - 1, 1<<33 - 1
	for key, p := range map[string]*int{"uid": &plain.Uid, "gid": &plain.Gid} {
		if *p > maxOctal {
			records[key], *p = strconv.Itoa(*p), 0
		}
	}
	if plain.Size > maxSize {
		records["size"], plain.Size = strconv.FormatInt(plain.Size, 10), 0
	}
	var body []byte
	for _, k := range slices.Sorted(maps.Keys(records)) {
		if strings.ContainsAny(k, "=\x00") || strings.Contains(k, "\n") {
			return fmt.Errorf("the attribute %q cannot be in an archive", k)
		}
		body = append(body, paxRecord(k, records[k])...)
	}
	block, err := ustarBlock(&tar.Header{
		Typeflag: tar.TypeReg, Name: "PaxHeaders.0/" + clipName(h.Name), Mode: 0o644, Size: int64(len(body)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR,
	})
	if err != nil {
		return err
	}
	retype(block, tar.TypeXHeader)
	body = append(body, make([]byte, padding(int64(len(body))))...)
	main, err := ustarBlock(&plain)
	if err != nil {
		return err
	}
	for _, b := range [][]byte{block, body, main} {
		if _, err := w.raw.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// ustarBlock is the header block of h.
func ustarBlock(h *tar.Header) ([]byte, error) {
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	if err := tw.WriteHeader(h); err != nil {
		return nil, err
	}
	if b.Len() != 512 {
		return nil, errors.New("its header does not fit into one block")
	}
	return b.Bytes(), nil
}

// retype changes the type in a header block, and its checksum.
func retype(block []byte, typ byte) {
	block[156] = typ
	sum := 8 * int(' ')
	for i, c := range block {
		if i < 148 || i >= 156 {
			sum += int(c)
		}
	}
	copy(block[148:], fmt.Sprintf("%06o\x00 ", sum))
}

// clipName is the end of a name that fits into an old header: nobody who reads
// the PAX header looks at it.
func clipName(name string) string {
	name = strings.ToValidUTF8(name, "_")
	name = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '_'
		}
		return r
	}, name[strings.LastIndexByte(name, '/')+1:])
	return name[:min(len(name), 60)]
}

// paxRecord is "LENGTH KEY=VALUE\n", where the length counts itself.
func paxRecord(k, v string) string {
	rest := " " + k + "=" + v + "\n"
	n := len(rest) + len(strconv.Itoa(len(rest)))
	if n = len(rest) + len(strconv.Itoa(n)); n != len(rest)+len(strconv.Itoa(n)) {
		n++
	}
	return strconv.Itoa(n) + rest
}

// paxTime is a time in seconds, to the nanosecond.
func paxTime(t time.Time) string {
	sec, nsec := t.Unix(), int64(t.Nanosecond())
	if nsec == 0 {
		return strconv.FormatInt(sec, 10)
	}
	sign := ""
	if sec < 0 {
		sign, sec, nsec = "-", -(sec + 1), 1e9-nsec
	}
	return strings.TrimRight(fmt.Sprintf("%s%d.%09d", sign, sec, nsec), "0")
}

func padding(n int64) int64 { return -n & 511 }
