package erofs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"sort"
	"strings"
)

// Inode is a file of an image. A file with several names is in several
// directories.
//
// The content of a file with a Redirect is a file of its own, which overlayfs finds by
// that path, "/" first, in a data-only lower directory. The image itself has a hole in
// its place, and the attributes that tell overlayfs.
type Inode struct {
	Mode         uint32 // type and permissions, as st_mode
	UID, GID     uint32
	Nsec         uint32
	Sec          int64    // time of the last modification
	Size         int64    // of a regular file
	Offset       int64    // of its data in the device; a multiple of BlockSize
	Device       int32    // which one
	Chunks       []byte   // of a sparse file: which chunks are no holes, a bit each, from the lowest; see ChunkBits
	Redirect     string   // of a regular file whose data is in no device, see below
	Major, Minor uint32   // of a device file
	Target       string   // of a symbolic link
	Xattrs       []Xattr  // sorted by name
	Entries      []Dirent // of a directory, sorted by name, without "." and ".."

	// While writing: names that were found, where the inode lies, and the first
	// of its data blocks, relative to the end of the inodes, or none.
	nlink uint32
	nid   uint32
	block int64
}

// ChunkBits is the logarithm of the size of the chunks in which the holes of a
// sparse file of that size are told: so that there are few.
func ChunkBits(size int64) uint {
	bits := uint(12)
	for chunksOf(size, bits) > 8192 {
		bits++
	}
	return bits
}

func chunksOf(size int64, bits uint) int64 { return alignUp(size, 1<<bits) >> bits }

const (
	noBlock = -1 // inline data, or none
	notYet  = 0  // nid of an inode that has no place yet: the superblock is there
)

// Xattr is an extended attribute. Names begin with user., trusted., security.,
// or are those of access control lists.
type Xattr struct{ Name, Value string }

// Dirent is a name in a directory.
type Dirent struct {
	Name  string
	Inode *Inode
}

// Device is a file that holds data of regular files. It is given to mount(2)
// with the option device, in the order of the image. One whose data is embedded
// is copied into the image instead, as far as files use it, and not given; nor is
// one of size 0, for numbers that are not used.
type Device struct {
	Size  int64
	Tag   string // any 64 bytes; a name for whoever mounts
	Embed io.ReaderAt
}

func (d *Device) given() bool { return d.Embed == nil && d.Size > 0 }

// ErrTooLarge says that an image needs more than 2^32 blocks or node ids.
var ErrTooLarge = errors.New("more than 2 TiB of data or 128 GiB of names, which EROFS cannot address here")

// Write writes the image of the tree below root to w and returns its size, a
// multiple of 4096. It keeps eight bytes per inode besides the tree.
func Write(w io.Writer, root *Inode, devices []Device) (int64, error) {
	wr := &writer{bits: blockBits, devices: devices}
	return wr.write(w, root)
}

// WritePlain writes the image of the same tree as [Write] did before files of more
// than a page named their device. Such images are as good, but cost more to read.
func WritePlain(w io.Writer, root *Inode, devices []Device) (int64, error) {
	wr := &writer{bits: blockBits, plain: true, devices: devices}
	return wr.write(w, root)
}

type writer struct {
	bits  uint
	plain bool // no inode is indexed

	redirects bool // some file has one

	devices []Device
	given   int      // devices that are not embedded
	order   []*Inode // by place
	parents []uint32 // nids of the parents of directories, in the order of these
	end     int64    // of the inodes
	blocks  int64    // after the inodes
	base    int64    // number of the first of them
	unified []int64  // first block of each device
	numbers []uint16 // of the devices that are given, from 1
	buf     []byte
}

func (w *writer) size() int64 { return 1 << w.bits }

func (w *writer) write(out io.Writer, root *Inode) (int64, error) {
	if root.Mode&typeMask != typeDir {
		return 0, errors.New("the root of an image must be a directory")
	}
	for _, d := range w.devices {
		if len(d.Tag) > tagSize {
			return 0, fmt.Errorf("device tag %q has more than %d bytes", d.Tag, tagSize)
		}
		if d.given() {
			w.given++
		}
	}
	if w.given > maxDevices {
		return 0, fmt.Errorf("%d devices, an image has at most %d", w.given, maxDevices)
	}
	defer func() {
		for _, in := range w.order {
			in.nid = notYet // for the next image that it is in
		}
	}()
	if err := w.layout(root); err != nil {
		return 0, err
	}
	b := bufio.NewWriterSize(out, 256<<10)
	if err := w.emit(b); err != nil {
		return 0, err
	}
	return w.total() << w.bits, b.Flush()
}

// sumSize is how much the superblock's checksum covers.
func (w *writer) sumSize() int64 {
	if w.size() > superOffset {
		return w.size() - superOffset
	}
	return w.size()
}

// first is where inodes begin: after the device slots and what the checksum covers.
func (w *writer) first() int64 {
	return alignUp(max(slotsOffset+int64(w.given)*slotSize, superOffset+w.sumSize()), nidUnit)
}

// layout gives every inode its place.
func (w *writer) layout(root *Inode) error {
	w.end = w.first()
	if err := w.place(root); err != nil {
		return err
	}
	root.nlink = 2
	w.parents = append(w.parents, root.nid)
	// Breadth first: the inodes of a directory's entries lie together, in the
	// order in which readdir(3) and then stat(2) want them.
	for i := 0; i < len(w.order); i++ {
		dir := w.order[i]
		if dir.Mode&typeMask != typeDir {
			continue
		}
		last := ""
		for j, e := range dir.Entries {
			if err := checkName(e.Name); err != nil {
				return err
			}
			if j > 0 && e.Name <= last {
				return fmt.Errorf("directory entries %q, %q are not sorted", last, e.Name)
			}
			last = e.Name
			in := e.Inode
			isDir := in.Mode&typeMask == typeDir
			if in.nid == notYet {
				if err := w.place(in); err != nil {
					return fmt.Errorf("%q: %w", e.Name, err)
				}
				if isDir {
					in.nlink = 1
					dir.nlink++
					w.parents = append(w.parents, dir.nid)
				}
			} else if isDir {
				return fmt.Errorf("directory %q has two names", e.Name)
			}
			in.nlink++
		}
	}
	w.base = alignUp(w.end, w.size()) >> w.bits
	at := w.total()
	w.unified = make([]int64, len(w.devices))
	w.numbers = make([]uint16, len(w.devices))
	number := uint16(0)
	for i, d := range w.devices {
		if !d.given() {
			continue
		}
		number++
		w.unified[i], w.numbers[i] = at, number
		at += alignUp(d.Size, w.size()) >> w.bits
	}
	if at >= 1<<32-1 || w.end/nidUnit >= 1<<32 {
		return ErrTooLarge
	}
	return nil
}

// total is the size of the image in blocks: whole pages.
func (w *writer) total() int64 {
	return alignUp((w.base+w.blocks)<<w.bits, 4096) >> w.bits
}

func checkName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > maxName || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%.300q cannot be the name of a file", name)
	}
	return nil
}

// place appends an inode.
func (w *writer) place(in *Inode) error {
	xattrs, err := xattrSize(in.attributes())
	if err != nil {
		return err
	}
	var data int64
	switch in.Mode & typeMask {
	case typeDir:
		data = w.dirSize(in)
	case typeLink:
		data = int64(len(in.Target))
		if data == 0 || data >= maxTarget || strings.IndexByte(in.Target, 0) >= 0 {
			return fmt.Errorf("a symbolic link cannot have a target of %d bytes", data)
		}
	case typeReg:
		return w.placeFile(in, xattrs)
	case typeChr, typeBlk, typeFifo, typeSock:
	default:
		return fmt.Errorf("mode %#o is of no type", in.Mode)
	}
	in.block = noBlock
	fixed := inodeSize + xattrs
	switch over := w.end & (w.size() - 1); {
	case data == 0:
	case (over+fixed)&(w.size()-1)+data <= w.size() && data <= w.size():
		// Inline, as it comes.
	case fixed+data <= w.size():
		w.end = alignUp(w.end, w.size()) // inline, in the next block
	default:
		in.block = w.blocks
		w.blocks += alignUp(data, w.size()) >> w.bits
		data = 0
	}
	w.add(in, fixed+data)
	return nil
}

func (w *writer) placeFile(in *Inode, xattrs int64) error {
	in.block = noBlock
	if in.Redirect != "" {
		if in.Size <= 0 || in.Size > 1<<(w.bits+maxChunkBits) || len(in.Redirect) > maxPath || in.Redirect[0] != '/' {
			return fmt.Errorf("a file of %d bytes cannot be at %.300q", in.Size, in.Redirect)
		}
		w.redirects = true
		w.add(in, inodeSize+xattrs+4)
		return nil
	}
	if in.Size > 0 {
		if int(in.Device) >= len(w.devices) || in.Device < 0 {
			return fmt.Errorf("data in device %d of %d", in.Device, len(w.devices))
		}
		if in.Offset < 0 || in.Offset&(w.size()-1) != 0 || in.Offset > w.devices[in.Device].Size-in.Size {
			return fmt.Errorf("data at %d+%d of a device of %d bytes", in.Offset, in.Size, w.devices[in.Device].Size)
		}
		if w.devices[in.Device].Embed != nil {
			in.block = w.blocks
			w.blocks += alignUp(in.Size, w.size()) >> w.bits
		}
	} else if in.Size < 0 {
		return errors.New("negative size")
	}
	size := inodeSize + xattrs
	if w.indexed(in) {
		size = alignUp(size, indexSize) + indexSize
	} else if in.chunked() {
		n := chunksOf(in.Size, ChunkBits(in.Size))
		if int64(len(in.Chunks)) != (n+7)/8 {
			return fmt.Errorf("%d bytes that tell the holes of a file of %d chunks", len(in.Chunks), n)
		}
		size += 4 * n
	}
	w.add(in, size)
	return nil
}

// indexed reports whether the inode names the device of its data, as one chunk that
// has all of it. The kernel asks the device for each page of a file by itself if it
// has to find the device first, by the unified address: there the next page does not
// look like one that follows. Files of one page have nothing to lose, and what is larger
// than the largest chunk (1 TiB) stays as it was.
func (w *writer) indexed(in *Inode) bool {
	return in.Redirect == "" && in.Size > pageSize && in.Size <= 1<<(w.bits+maxChunkBits) && in.Chunks == nil && in.block == noBlock && !w.plain
}

// indexBits is the logarithm of the size of the only chunk of a file of that size.
func (w *writer) indexBits(size int64) uint {
	return max(w.bits, uint(bits.Len64(uint64(size-1))))
}

// chunked reports whether the inode has a map of its chunks. What is embedded
// has its holes filled.
func (in *Inode) chunked() bool { return in.Chunks != nil && in.Size > 0 && in.block == noBlock }

// attributes are those of the inode and those for overlayfs.
func (in *Inode) attributes() []Xattr {
	if in.Redirect == "" {
		return in.Xattrs
	}
	return append([]Xattr{{xattrMetacopy, ""}, {xattrRedirect, in.Redirect}}, in.Xattrs...)
}

func (w *writer) add(in *Inode, size int64) {
	in.nid = uint32(w.end / nidUnit)
	in.nlink = 0
	w.end = alignUp(w.end+size, nidUnit)
	w.order = append(w.order, in)
}

func xattrSize(list []Xattr) (int64, error) {
	if len(list) == 0 {
		return 0, nil
	}
	n := int64(xattrHeader)
	for _, x := range list {
		_, rest, ok := xattrIndex(x.Name)
		if !ok || len(x.Value) > 1<<16-1 {
			return 0, fmt.Errorf("attribute %.100q of %d bytes cannot be stored", x.Name, len(x.Value))
		}
		n += alignUp(int64(xattrEntry+len(rest)+len(x.Value)), 4)
	}
	if n >= maxXattrs {
		return 0, fmt.Errorf("%d bytes of attributes cannot be stored", n)
	}
	return n, nil
}

// names is the content of a directory, "." and ".." in their places.
type names struct {
	entries []Dirent
	dot     int // index of "." ; ".." is the next one but for names between them
	dots    int
}

func namesOf(in *Inode) names {
	n := names{entries: in.Entries}
	n.dot = sort.Search(len(in.Entries), func(i int) bool { return in.Entries[i].Name > "." })
	n.dots = sort.Search(len(in.Entries), func(i int) bool { return in.Entries[i].Name > ".." }) + 1
	return n
}

func (n *names) len() int { return len(n.entries) + 2 }

// at returns entry i; its Inode is nil for "." and "..".
func (n *names) at(i int) Dirent {
	switch {
	case i == n.dot:
		return Dirent{Name: "."}
	case i == n.dots:
		return Dirent{Name: ".."}
	case i > n.dots:
		return n.entries[i-2]
	case i > n.dot:
		return n.entries[i-1]
	}
	return n.entries[i]
}

// blocks calls f with the range of entries of each directory block and the bytes
// that they take.
func (n *names) blocks(size int, f func(from, to, used int)) {
	from, used := 0, 0
	for i := range n.len() {
		need := direntSize + len(n.at(i).Name)
		if used+need > size {
			f(from, i, used)
			from, used = i, 0
		}
		used += need
	}
	f(from, n.len(), used)
}

func (w *writer) dirSize(in *Inode) int64 {
	n := namesOf(in)
	var full, last int
	n.blocks(int(w.size()), func(_, _, used int) {
		full++
		last = used
	})
	return int64(full-1)<<w.bits + int64(last)
}
