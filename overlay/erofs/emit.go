package erofs

import (
	"bufio"
	"fmt"
	"io"
)

// emit writes what layout decided, from the beginning to the end.
func (w *writer) emit(out *bufio.Writer) error {
	o := &output{w: out}
	o.write(w.super())
	dirs := 0
	for _, in := range w.order {
		o.pad(int64(in.nid) * nidUnit)
		parent := uint32(0)
		if in.Mode&typeMask == typeDir {
			parent = w.parents[dirs]
			dirs++
		}
		o.write(w.inode(in))
		if in.block == noBlock {
			switch in.Mode & typeMask {
			case typeLink:
				o.write([]byte(in.Target))
			case typeDir:
				w.dir(in, parent, o)
			case typeReg:
				switch {
				case in.Redirect != "":
					o.write(le.AppendUint32(nil, noChunk))
				case w.indexed(in):
					w.index(in, o)
				case in.chunked():
					w.chunks(in, o)
				}
			}
		}
	}
	dirs = 0
	for _, in := range w.order {
		parent := uint32(0)
		if in.Mode&typeMask == typeDir {
			parent = w.parents[dirs]
			dirs++
		}
		if in.block == noBlock {
			continue
		}
		o.pad((w.base + in.block) << w.bits)
		switch in.Mode & typeMask {
		case typeLink:
			o.write([]byte(in.Target))
		case typeDir:
			w.dir(in, parent, o)
		case typeReg:
			o.copy(w.devices[in.Device].Embed, in.Offset, in.Size)
		}
	}
	o.pad(w.total() << w.bits)
	return o.err
}

// super is the beginning of the image: the superblock and the device slots.
func (w *writer) super() []byte {
	b := make([]byte, w.first())
	sb := b[superOffset:]
	le.PutUint32(sb[0:], superMagic)
	le.PutUint32(sb[8:], compatChecksum|compatMtime)
	sb[12] = byte(w.bits)
	le.PutUint16(sb[14:], uint16(w.order[0].nid))
	le.PutUint64(sb[16:], uint64(len(w.order)))
	le.PutUint32(sb[36:], uint32(w.total()))
	features := uint32(0)
	for _, in := range w.order {
		if in.Mode&typeMask == typeReg && (in.Redirect != "" || in.chunked() || w.indexed(in)) {
			features = incompatChunks
			break
		}
	}
	if w.redirects {
		copy(sb[volumeAt:], RedirectVolume)
	}
	if w.given > 0 {
		features |= incompatDevTable
		le.PutUint16(sb[86:], uint16(w.given))
		le.PutUint16(sb[88:], slotsOffset/slotSize)
	}
	le.PutUint32(sb[80:], features)
	at := slotsOffset
	for i, d := range w.devices {
		if !d.given() {
			continue
		}
		copy(b[at:], d.Tag)
		le.PutUint32(b[at+64:], uint32(alignUp(d.Size, w.size())>>w.bits))
		le.PutUint32(b[at+68:], uint32(w.unified[i]))
		at += slotSize
	}
	le.PutUint32(sb[4:], superChecksum(sb[:w.sumSize()]))
	return b
}

// inode is struct erofs_inode_extended with the attributes.
func (w *writer) inode(in *Inode) []byte {
	attributes := in.attributes()
	xattrs, _ := xattrSize(attributes)
	if need := int(inodeSize + xattrs); cap(w.buf) < need {
		w.buf = make([]byte, need)
	}
	b := w.buf[:inodeSize+xattrs]
	clear(b)
	layout := uint16(layoutPlain)
	var size int64
	var u uint32
	switch in.Mode & typeMask {
	case typeReg:
		size = in.Size
		switch {
		case in.Redirect != "":
			layout = layoutChunks
			u = uint32(w.indexBits(size) - w.bits) // a map of one block number
		case in.block != noBlock:
			u = uint32(w.base + in.block)
		case w.indexed(in):
			layout = layoutChunks
			u = chunkIndexes | uint32(w.indexBits(size)-w.bits)
		case in.chunked():
			layout = layoutChunks
			u = uint32(ChunkBits(size) - w.bits) // struct erofs_inode_chunk_info: a map of block numbers
		case size > 0:
			u = uint32(w.unified[in.Device] + in.Offset>>w.bits)
		}
	case typeChr, typeBlk:
		u = encodeDev(in.Major, in.Minor)
	case typeDir, typeLink:
		size = int64(len(in.Target))
		if in.Mode&typeMask == typeDir {
			size = w.dirSize(in)
		}
		if in.block == noBlock {
			layout = layoutInline
			u = ^uint32(0) // no whole blocks
		} else {
			u = uint32(w.base + in.block)
		}
	}
	le.PutUint16(b[0:], layout<<1|extended)
	if xattrs > 0 {
		le.PutUint16(b[2:], uint16((xattrs-xattrHeader)/4+1))
	}
	le.PutUint16(b[4:], uint16(in.Mode))
	le.PutUint64(b[8:], uint64(size))
	le.PutUint32(b[16:], u)
	le.PutUint32(b[20:], in.nid) // i_ino: for stat(2) of 32 bits
	le.PutUint32(b[24:], in.UID)
	le.PutUint32(b[28:], in.GID)
	le.PutUint64(b[32:], uint64(in.Sec))
	le.PutUint32(b[40:], in.Nsec)
	le.PutUint32(b[44:], in.nlink)
	at := inodeSize + xattrHeader
	for _, x := range attributes {
		index, rest, _ := xattrIndex(x.Name)
		b[at] = byte(len(rest))
		b[at+1] = index
		le.PutUint16(b[at+2:], uint16(len(x.Value)))
		copy(b[at+xattrEntry:], rest)
		copy(b[at+xattrEntry+len(rest):], x.Value)
		at += int(alignUp(int64(xattrEntry+len(rest)+len(x.Value)), 4))
	}
	return b
}

// index writes the struct erofs_inode_chunk_index of a file's only chunk.
func (w *writer) index(in *Inode, o *output) {
	o.pad(alignUp(o.n, indexSize))
	b := make([]byte, indexSize)
	le.PutUint16(b[2:], w.numbers[in.Device])
	le.PutUint32(b[4:], uint32(in.Offset>>w.bits))
	o.write(b)
}

// chunks writes the map of a sparse file: the first block of each chunk.
func (w *writer) chunks(in *Inode, o *output) {
	bits := ChunkBits(in.Size)
	b := make([]byte, 4*chunksOf(in.Size, bits))
	first := uint32(w.unified[in.Device] + in.Offset>>w.bits)
	for i := range len(b) / 4 {
		at := uint32(noChunk)
		if in.Chunks[i/8]&(1<<(i%8)) != 0 {
			at = first + uint32(i)<<(bits-w.bits)
		}
		le.PutUint32(b[4*i:], at)
	}
	o.write(b)
}

// dir writes the blocks of a directory, the last one without its padding.
func (w *writer) dir(in *Inode, parent uint32, o *output) {
	n := namesOf(in)
	block := make([]byte, w.size())
	start := o.n
	n.blocks(len(block), func(from, to, used int) {
		o.pad(start)
		start += w.size()
		nameAt := (to - from) * direntSize
		for i := from; i < to; i++ {
			e := n.at(i)
			b := block[(i-from)*direntSize:]
			nid, ft := in.nid, byte(ftDir)
			switch {
			case e.Inode != nil:
				nid, ft = e.Inode.nid, fileType(e.Inode.Mode)
			case e.Name == "..":
				nid = parent
			}
			le.PutUint64(b, uint64(nid))
			le.PutUint16(b[8:], uint16(nameAt))
			b[10], b[11] = ft, 0
			nameAt += copy(block[nameAt:], e.Name)
		}
		o.write(block[:used])
	})
}

// output counts, pads and keeps the first error.
type output struct {
	w   *bufio.Writer
	n   int64
	err error
}

func (o *output) write(b []byte) {
	if o.err == nil {
		_, o.err = o.w.Write(b)
	}
	o.n += int64(len(b))
}

// pad writes zeros up to an offset.
func (o *output) pad(to int64) {
	for o.n < to {
		o.write(zeros[:min(to-o.n, int64(len(zeros)))])
	}
}

var zeros [4096]byte // a local one would be on the heap, and there is one pad per inode

func (o *output) copy(r io.ReaderAt, at, size int64) {
	if o.err != nil {
		return
	}
	n, err := io.Copy(o.w, io.NewSectionReader(r, at, size))
	o.n += n
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		o.err = fmt.Errorf("copy file data: %w", err)
	}
}
