package erofs

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// Image is an image that was read back.
type Image struct {
	Root    *Inode
	Devices []Device // sizes in whole blocks
	Inodes  int
	Bits    uint // logarithm of the block size
}

// Check reads an image and tells whether it keeps all rules of the format that
// this package's images keep, links counted and file data within the devices.
// It is for tests and for looking after a suspicion: nothing that mounts needs
// it. Devices come back as Size only, so of an Inode with embedded data Device
// is -1 and Offset that in the image.
func Check(r io.ReaderAt, size int64) (*Image, error) {
	c := &checker{r: r, size: size, inodes: map[uint32]*Inode{}, want: map[*Inode]uint32{}}
	img, err := c.super()
	if err != nil {
		return nil, fmt.Errorf("superblock: %w", err)
	}
	if img.Root, err = c.inode(c.root); err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	if img.Root.Mode&typeMask != typeDir {
		return nil, errors.New("root: not a directory")
	}
	if err := c.walk(img.Root, c.root, c.root, 0); err != nil {
		return nil, err
	}
	for _, in := range c.inodes {
		if in.nlink != c.want[in] {
			return nil, fmt.Errorf("node %d: %d links in the inode, %d found", in.nid, in.nlink, c.want[in])
		}
	}
	if img.Inodes != len(c.inodes) {
		return nil, fmt.Errorf("%d inodes, the superblock says %d", len(c.inodes), img.Inodes)
	}
	return img, nil
}

type checker struct {
	r      io.ReaderAt
	size   int64
	bits   uint
	root   uint32
	blocks int64
	slots  []slot

	redirects bool // some file has one

	inodes map[uint32]*Inode
	want   map[*Inode]uint32
}

type slot struct{ blocks, start int64 }

func (c *checker) read(at, n int64) ([]byte, error) {
	if at < 0 || n < 0 || at > c.size-n {
		return nil, fmt.Errorf("%d bytes at %d of an image of %d bytes", n, at, c.size)
	}
	b := make([]byte, n)
	if got, err := c.r.ReadAt(b, at); got < len(b) {
		return nil, err
	}
	return b, nil
}

func (c *checker) super() (*Image, error) {
	sb, err := c.read(superOffset, superSize)
	if err != nil {
		return nil, err
	}
	if le.Uint32(sb) != superMagic {
		return nil, errors.New("no EROFS image")
	}
	c.bits = uint(sb[12])
	if c.bits < 9 || c.bits > 12 {
		return nil, fmt.Errorf("blocks of 2^%d bytes", c.bits)
	}
	w := writer{bits: c.bits}
	sum, err := c.read(superOffset, w.sumSize())
	if err != nil {
		return nil, err
	}
	want := le.Uint32(sum[4:])
	clear(sum[4:8])
	if got := superChecksum(sum); got != want {
		return nil, fmt.Errorf("checksum %#x, want %#x", got, want)
	}
	c.root = uint32(le.Uint16(sb[14:]))
	c.blocks = int64(le.Uint32(sb[36:]))
	if le.Uint32(sb[8:]) != compatChecksum|compatMtime || le.Uint32(sb[80:])&^uint32(incompatDevTable|incompatChunks) != 0 {
		return nil, fmt.Errorf("features %#x, %#x are not ours", le.Uint32(sb[8:]), le.Uint32(sb[80:]))
	}
	if c.blocks<<c.bits != c.size || le.Uint32(sb[40:]) != 0 || sb[13] != 0 || sb[90] != 0 {
		return nil, fmt.Errorf("%d blocks in an image of %d bytes", c.blocks, c.size)
	}
	volume := strings.TrimRight(string(sb[volumeAt:][:16]), "\x00")
	if c.redirects = volume == RedirectVolume; !c.redirects && volume != "" {
		return nil, fmt.Errorf("volume %q", volume)
	}
	img := &Image{Inodes: int(le.Uint64(sb[16:])), Bits: c.bits}
	n, at := int64(le.Uint16(sb[86:])), int64(le.Uint16(sb[88:]))*slotSize
	if (n > 0) != (le.Uint32(sb[80:])&incompatDevTable != 0) {
		return nil, errors.New("device table without devices, or the reverse")
	}
	next := c.blocks
	for i := range n {
		b, err := c.read(at+i*slotSize, slotSize)
		if err != nil {
			return nil, err
		}
		s := slot{int64(le.Uint32(b[64:])), int64(le.Uint32(b[68:]))}
		if s.start != next || s.start+s.blocks >= 1<<32 {
			return nil, fmt.Errorf("device %d has blocks %d+%d, want them from %d on", i, s.start, s.blocks, next)
		}
		next += s.blocks
		c.slots = append(c.slots, s)
		img.Devices = append(img.Devices, Device{Size: s.blocks << c.bits, Tag: strings.TrimRight(string(b[:tagSize]), "\x00")})
	}
	return img, nil
}

// inode reads the inode nid and, of a link, its target.
func (c *checker) inode(nid uint32) (*Inode, error) {
	at := int64(nid) * nidUnit
	b, err := c.read(at, inodeSize)
	if err != nil {
		return nil, err
	}
	layout := le.Uint16(b) >> 1
	if le.Uint16(b)&1 != extended || layout != layoutPlain && layout != layoutInline && layout != layoutChunks {
		return nil, fmt.Errorf("format %#x", le.Uint16(b))
	}
	in := &Inode{
		Mode: uint32(le.Uint16(b[4:])), UID: le.Uint32(b[24:]), GID: le.Uint32(b[28:]),
		Sec: int64(le.Uint64(b[32:])), Nsec: le.Uint32(b[40:]), nlink: le.Uint32(b[44:]), nid: nid, block: noBlock,
	}
	if in.Nsec >= 1e9 || le.Uint32(b[20:]) != nid {
		return nil, fmt.Errorf("%d nanoseconds, number %d", in.Nsec, le.Uint32(b[20:]))
	}
	size, u := int64(le.Uint64(b[8:])), le.Uint32(b[16:])
	end := at + inodeSize
	if count := int64(le.Uint16(b[2:])); count > 0 {
		n := xattrHeader + (count-1)*4
		raw, err := c.read(end, n)
		if err == nil {
			in.Xattrs, in.Redirect, err = parseXattrs(raw)
		}
		if err != nil {
			return nil, err
		}
		end += n
	}
	switch in.Mode & typeMask {
	case typeReg:
		in.Size = size
		if in.Redirect != "" {
			return in, c.redirect(in, end, layout, u)
		}
		if layout == layoutChunks && size > 0 {
			if u&chunkIndexes != 0 {
				return in, c.index(in, end, u)
			}
			return in, c.chunks(in, end, u)
		}
		if layout != layoutPlain || size < 0 {
			return nil, errors.New("file data that is neither plain nor in chunks")
		}
		if size > 0 {
			return in, c.fileData(in, int64(u))
		}
	case typeChr, typeBlk:
		in.Major, in.Minor = decodeDev(u)
	case typeDir, typeLink:
		from := int64(u) << c.bits
		if layout == layoutInline {
			if from = end; end&(1<<c.bits-1)+size > 1<<c.bits {
				return nil, errors.New("inline data crosses a block")
			}
		} else if int64(u) >= c.blocks {
			return nil, fmt.Errorf("data in block %d of %d", u, c.blocks)
		}
		data, err := c.read(from, size)
		if err != nil {
			return nil, err
		}
		if in.Mode&typeMask == typeLink {
			in.Target = string(data)
			break
		}
		if in.Entries, err = c.entries(data); err != nil {
			return nil, err
		}
	case typeFifo, typeSock:
	default:
		return nil, fmt.Errorf("mode %#o", in.Mode)
	}
	return in, nil
}

func (c *checker) fileData(in *Inode, block int64) error {
	blocks := alignUp(in.Size, 1<<c.bits) >> c.bits
	if block+blocks <= c.blocks {
		in.Device, in.Offset = -1, block<<c.bits
		return nil
	}
	for i, s := range c.slots {
		if block >= s.start && block+blocks <= s.start+s.blocks {
			in.Device, in.Offset = int32(i), (block-s.start)<<c.bits
			return nil
		}
	}
	return fmt.Errorf("data in blocks %d+%d, which no device has", block, blocks)
}

// index reads where the data of a file is that is one chunk.
func (c *checker) index(in *Inode, at int64, format uint32) error {
	w := writer{bits: c.bits}
	if !w.indexed(in) || format != chunkIndexes|uint32(w.indexBits(in.Size)-c.bits) {
		return fmt.Errorf("%d bytes in chunks of format %#x", in.Size, format)
	}
	b, err := c.read(alignUp(at, indexSize), indexSize)
	if err != nil {
		return err
	}
	device, block := int64(le.Uint16(b[2:])), int64(le.Uint32(b[4:]))
	if le.Uint16(b) != 0 || device == 0 || device > int64(len(c.slots)) {
		return fmt.Errorf("a chunk in device %d of %d", device, len(c.slots))
	}
	s := c.slots[device-1]
	if blocks := alignUp(in.Size, 1<<c.bits) >> c.bits; block+blocks > s.blocks {
		return fmt.Errorf("data in blocks %d+%d of device %d, which has %d", block, blocks, device, s.blocks)
	}
	in.Device, in.Offset = int32(device-1), block<<c.bits
	return nil
}

// chunks reads the map of a sparse file. One that is nothing but a hole is in
// device -1.
func (c *checker) chunks(in *Inode, at int64, format uint32) error {
	bits := ChunkBits(in.Size)
	if format != uint32(bits-c.bits) {
		return fmt.Errorf("chunks of format %#x", format)
	}
	n := chunksOf(in.Size, bits)
	b, err := c.read(at, 4*n)
	if err != nil {
		return err
	}
	in.Chunks = make([]byte, (n+7)/8)
	first := int64(-1)
	for i := range n {
		block := int64(le.Uint32(b[4*i:]))
		if block == noChunk {
			continue
		}
		in.Chunks[i/8] |= 1 << (i % 8)
		start := block - i<<(bits-c.bits)
		if first >= 0 && start != first {
			return errors.New("chunks that are not in order")
		}
		first = start
	}
	if first < 0 {
		in.Device = -1
		return nil
	}
	return c.fileData(in, first)
}

// redirect looks at the hole of a file whose data is elsewhere.
func (c *checker) redirect(in *Inode, at int64, layout uint16, format uint32) error {
	w := writer{bits: c.bits}
	b, err := c.read(at, 4)
	if err != nil {
		return err
	}
	in.Device = -1
	if !c.redirects || layout != layoutChunks || in.Size <= 0 || format != uint32(w.indexBits(in.Size)-c.bits) || le.Uint32(b) != noChunk {
		return fmt.Errorf("the file is said to be at %q, and %d bytes in chunks of format %#x are here", in.Redirect, in.Size, format)
	}
	return nil
}

// parseXattrs reads the attributes of an inode. Those for overlayfs are told apart.
func parseXattrs(b []byte) (list []Xattr, redirect string, err error) {
	if b[4] != 0 {
		return nil, "", errors.New("shared attributes")
	}
	b = b[xattrHeader:]
	metacopy := false
	for len(b) > 0 {
		nameLen, index, valueLen := int(b[0]), b[1], int(le.Uint16(b[2:]))
		if xattrEntry+nameLen+valueLen > len(b) {
			return nil, "", errors.New("attribute beyond its inode")
		}
		name, ok := xattrName(index, string(b[xattrEntry:xattrEntry+nameLen]))
		if !ok {
			return nil, "", fmt.Errorf("attribute name with index %d", index)
		}
		value := string(b[xattrEntry+nameLen : xattrEntry+nameLen+valueLen])
		switch name {
		case xattrMetacopy:
			metacopy = true
		case xattrRedirect:
			redirect = value
		default:
			list = append(list, Xattr{name, value})
		}
		b = b[alignUp(int64(xattrEntry+nameLen+valueLen), 4):]
	}
	if metacopy != (redirect != "") {
		return nil, "", fmt.Errorf("half of the attributes for overlayfs, redirect %q", redirect)
	}
	return list, redirect, nil
}

// entries reads a directory. Its inodes hold their nid only, and their type as
// the mode.
func (c *checker) entries(b []byte) ([]Dirent, error) {
	var list []Dirent
	for len(b) > 0 {
		block := b[:min(len(b), 1<<c.bits)]
		b = b[len(block):]
		if len(block) < direntSize {
			return nil, errors.New("directory block too small")
		}
		n := int(le.Uint16(block[8:])) / direntSize
		if n == 0 || n*direntSize > len(block) || int(le.Uint16(block[8:]))%direntSize != 0 {
			return nil, fmt.Errorf("directory block with the first name at %d", le.Uint16(block[8:]))
		}
		for i := range n {
			e := block[i*direntSize:]
			from, to := int(le.Uint16(e[8:])), len(block)
			if i+1 < n {
				to = int(le.Uint16(e[direntSize+8:]))
			} else {
				for to > from && block[to-1] == 0 {
					to--
				}
			}
			if from > to || to > len(block) || from < n*direntSize {
				return nil, fmt.Errorf("directory entry with its name at %d to %d", from, to)
			}
			name := string(block[from:to])
			if name != "." && name != ".." {
				if err := checkName(name); err != nil {
					return nil, err
				}
			}
			if len(list) > 0 && name <= list[len(list)-1].Name {
				return nil, fmt.Errorf("directory entries %q, %q are not sorted", list[len(list)-1].Name, name)
			}
			nid := le.Uint64(e)
			if nid >= 1<<32 || e[11] != 0 {
				return nil, fmt.Errorf("directory entry %q: node %d", name, nid)
			}
			list = append(list, Dirent{name, &Inode{nid: uint32(nid), Mode: uint32(e[10])}})
		}
	}
	return list, nil
}

// walk replaces the entries of dir by their inodes.
func (c *checker) walk(dir *Inode, nid, parent uint32, depth int) error {
	if depth > 4096 {
		return errors.New("directories nested too deep, or in a circle")
	}
	c.inodes[nid] = dir
	c.want[dir] = 2
	var list []Dirent
	dots := 0
	for _, e := range dir.Entries {
		id, ft := e.Inode.nid, byte(e.Inode.Mode)
		if e.Name == "." || e.Name == ".." {
			dots++
			if e.Name == "." && id != nid || e.Name == ".." && id != parent || ft != ftDir {
				return fmt.Errorf("%q is node %d", e.Name, id)
			}
			continue
		}
		in := c.inodes[id]
		known := in != nil
		if !known {
			var err error
			if in, err = c.inode(id); err != nil {
				return fmt.Errorf("%q: %w", e.Name, err)
			}
			c.inodes[id] = in
		}
		if fileType(in.Mode) != ft {
			return fmt.Errorf("%q: type %d for mode %#o", e.Name, ft, in.Mode)
		}
		if ft == ftDir {
			if known {
				return fmt.Errorf("directory %q has two names", e.Name)
			}
			c.want[dir]++
			if err := c.walk(in, id, nid, depth+1); err != nil {
				return fmt.Errorf("%q: %w", e.Name, err)
			}
		} else {
			c.want[in]++
		}
		list = append(list, Dirent{e.Name, in})
	}
	if dots != 2 {
		return errors.New("directory without \".\" or \"..\"")
	}
	dir.Entries = list
	return nil
}
