package apply

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/overlay/erofs"
)

// inode is a file in memory: of one layer, or of a chain of layers merged.
type inode struct {
	erofs.Inode
	dir *dirInfo // of a directory

	// Of a name that this layer's hard links brought here: the file of the
	// layers below, and its path there.
	below *inode
	path  string
}

type dirInfo struct {
	parent *inode
	name   string
	depth  int
	length int // of the path
	names  map[string]*inode

	// Of a layer's directory only.
	described bool     // by an entry; otherwise attributes come from below
	opaque    bool     // hides what is below
	fresh     bool     // does not merge with a directory below: replaced one
	hidden    []string // names of the layers below that do not show
}

func newDir(parent *inode, name string) *inode {
	n := &inode{Inode: erofs.Inode{Mode: unix.S_IFDIR | 0o755}, dir: &dirInfo{parent: parent, name: name, names: map[string]*inode{}}}
	if parent != nil {
		n.dir.depth = parent.dir.depth + 1
		n.dir.length = parent.dir.length + 1 + len(name)
	}
	return n
}

func (n *inode) isDir() bool  { return n.dir != nil }
func (n *inode) isLink() bool { return n.Mode&unix.S_IFMT == unix.S_IFLNK }

// setAttr gives n an entry's attributes.
func (n *inode) setAttr(a attr) {
	n.Mode = n.Mode&unix.S_IFMT | a.mode
	n.UID, n.GID, n.Sec, n.Nsec = a.uid, a.gid, a.mtime.Sec, uint32(a.mtime.Nsec)
	n.Xattrs = nil
	for _, x := range a.xattrs {
		n.Xattrs = append(n.Xattrs, erofs.Xattr{Name: x.name, Value: x.value})
	}
}

// path returns the path of a directory, "" for the root.
func (n *inode) dirPath() string {
	var names []string
	for ; n.dir.parent != nil; n = n.dir.parent {
		names = append(names, n.dir.name)
	}
	for i, j := 0, len(names)-1; i < j; i, j = i+1, j-1 {
		names[i], names[j] = names[j], names[i]
	}
	return strings.Join(names, "/")
}

func join(dir, base string) string {
	if dir == "" {
		return base
	}
	return dir + "/" + base
}

// hidesBelow reports whether nothing of the layers below shows in n.
func (n *inode) hidesBelow() bool {
	for ; n != nil; n = n.dir.parent {
		if n.dir.opaque || n.dir.fresh {
			return true
		}
	}
	return false
}

// attached reports whether the directory was not replaced since.
func (n *inode) attached() bool {
	for ; n.dir.parent != nil; n = n.dir.parent {
		if n.dir.parent.dir.names[n.dir.name] != n {
			return false
		}
	}
	return true
}

// indexer builds the tree of one layer in memory, by the rules by which unpacker
// makes it on disk.
type indexer struct {
	*front
	ctx    context.Context
	root   *inode
	base   *Base // the layers below, read when they are needed
	load   func() error
	links  []link
	hides  []hidden
	copied map[*inode]copiedAt // names of the layers below that hard links need

	layer      int // number of layers below
	sparse     int // descriptor of the file of sparse files, -1
	sparseSize int64
	openSparse func() (int, error)

	// See large.go: the large files of the archive so far, those included that another
	// has replaced; and where they are written to, unless they are only to be listed.
	large    []largeFile
	separate *separator

	lastName string // directory that was looked up last
	lastDir  *inode
}

type hidden struct {
	dir  *inode
	name string
}

type copiedAt struct {
	dir  *inode
	name string
}

// nodeCost estimates the memory of a name and its inode, here and merged.
func nodeCost(name string, a *attr) int64 {
	size := int64(320 + len(name))
	if a != nil {
		for _, x := range a.xattrs {
			size += int64(len(x.name)+len(x.value)) + 64
		}
	}
	return size
}

// newIndexer is for a layer on top of parent, with so many layers below it.
func newIndexer(ctx context.Context, f *front, s *overlay.Store, parent overlay.ChainID, below int) (x *indexer, closeSparse func()) {
	base := f.opts.Base
	x = &indexer{front: f, ctx: ctx, root: newDir(nil, ""), base: base, copied: map[*inode]copiedAt{}, layer: below, sparse: -1}
	x.load = func() error { return base.advance(ctx, s, parent, &f.mem) }
	return x, func() { linux.Close(x.sparse) }
}

// index keeps the archive as it is and writes what is in it where.
func (f *front) index(ctx context.Context, s *overlay.Store, st *overlay.Staged, parent overlay.ChainID, diffID string, archive io.Reader) error {
	base := f.opts.Base
	if err := f.mem.take(base.memory); err != nil {
		return err
	}
	x, closeSparse := newIndexer(ctx, f, s, parent, len(st.Parents()))
	x.openSparse = func() (int, error) { return create(st.Dir(), overlay.SparseFile) }
	defer closeSparse()

	keep, err := newKeeper(st.Dir(), f.opts.Plain)
	if err != nil {
		return err
	}
	defer keep.close()
	x.separate = &separator{layer: st.Dir(), dir: -1}
	defer x.separate.close()
	if !x.canSeparate(s, keep) {
		x.opts.largeFrom = 0
	}
	if err := f.read(ctx, archive, diffID, keep.writer(), x); err != nil {
		return err
	}
	if err := x.finish(); err != nil {
		return err
	}
	large := int64(0)
	if len(x.large) > 0 {
		large = x.opts.largeFrom
		if err := x.separate.finish(ctx); err != nil {
			return err
		}
	}
	if err := keep.finish(f.result.Stream); err != nil {
		return err
	}
	if x.sparse >= 0 {
		if err := unix.Ftruncate(x.sparse, alignUp(x.sparseSize, 4096)); err != nil {
			return os.NewSyscallError("ftruncate", err)
		}
		if err := unix.Fdatasync(x.sparse); err != nil {
			return os.NewSyscallError("fdatasync", err)
		}
	}
	if err := writeEntries(st.Dir(), &entriesFile{root: x.root, archive: f.result.Stream, sparse: alignUp(x.sparseSize, 4096), large: large}); err != nil {
		return err
	}
	if err := x.load(); err != nil {
		return err
	}
	base.add(Chain(parent, diffID), x.root, sizes{alignUp(f.result.Stream, erofs.BlockSize), alignUp(x.sparseSize, 4096), large}, f)
	return nil
}

func alignUp(n, to int64) int64 { return (n + to - 1) / to * to }

func create(dir int, name string) (int, error) {
	return linux.OpenAt(dir, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
}

var (
	errNone     = errors.New("not there")
	errNotDir   = errors.New("not a directory")
	errLoop     = errors.New("too many symbolic links")
	errNowhere  = errors.New("a symbolic link leads nowhere")
	errTooLong  = errors.New("name too long")
	maxLinks    = 40 // as in the kernel
	maxSplitLen = 4096
)

// walk finds a directory, following links within the layer as a process would
// that has its root as root directory. With make, what is missing is made,
// behind dangling links too.
func (x *indexer) walk(path string, mk bool) (*inode, error) {
	at := x.root
	rest := path
	links := 0
	for rest != "" {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		switch {
		case name == "" || name == ".":
			continue
		case name == "..":
			if at.dir.parent != nil {
				at = at.dir.parent
			}
			continue
		case len(name) > 255:
			return nil, errTooLong
		}
		n := at.dir.names[name]
		switch {
		case n == nil && !mk:
			return nil, errNone
		case n == nil:
			if strings.HasPrefix(rest, "../") || rest == ".." || strings.Contains(rest, "/../") || strings.HasSuffix(rest, "/..") {
				return nil, errNowhere
			}
			child, err := x.addDir(at, name)
			if err != nil {
				return nil, err
			}
			at = child
		case n.isDir():
			at = n
		case n.isLink():
			if links++; links > maxLinks {
				return nil, errLoop
			}
			if len(n.Target)+len(rest) > 2*maxSplitLen {
				return nil, errTooLong
			}
			if strings.HasPrefix(n.Target, "/") {
				at = x.root
			}
			rest = n.Target + "/" + rest
		default:
			return nil, errNotDir
		}
	}
	return at, nil
}

func (x *indexer) addDir(at *inode, name string) (*inode, error) {
	n := newDir(at, strings.Clone(name))
	if n.dir.depth > maxDepth || n.dir.length > maxName-1 {
		return nil, limit("directory nested deeper than %d or with a path longer than %d bytes", maxDepth, maxName-1)
	}
	if err := x.mem.take(nodeSize(name) + nodeCost(name, nil)); err != nil {
		return nil, err
	}
	at.dir.names[n.dir.name] = n
	return n, nil
}

// lookup finds or makes the directory of a name. Files that are here only for
// the sake of hard links are in nobody's way.
func (x *indexer) lookup(dir string) (*inode, error) {
	if x.lastDir != nil && x.lastName == dir {
		return x.lastDir, nil
	}
	n, err := x.walk(dir, true)
	if len(x.copied) > 0 && err != nil && !errors.Is(err, ErrLimit) {
		for i := 0; i <= len(dir); i++ {
			if (i == len(dir) || dir[i] == '/') && x.dropCopied(cut(dir[:i])) {
				n, err = x.walk(dir, true)
				break
			}
		}
	}
	if err != nil {
		return nil, walkError(dir, err)
	}
	x.lastName, x.lastDir = dir, n
	return n, nil
}

func (x *indexer) dropCopied(dir, base string) bool {
	d, err := x.walk(dir, false)
	if err != nil {
		return false
	}
	n := d.dir.names[base]
	if at, ok := x.copied[n]; n == nil || !ok || at.dir != d || at.name != base {
		return false
	}
	delete(x.copied, n)
	delete(d.dir.names, base)
	return true
}

// walkError says what parentError says.
func walkError(dir string, err error) error {
	switch err {
	case errNotDir:
		return parentError(dir, unix.ENOTDIR)
	case errLoop:
		return parentError(dir, unix.ELOOP)
	case errNowhere, errNone:
		return parentError(dir, unix.ENOENT)
	case errTooLong:
		return parentError(dir, unix.ENAMETOOLONG)
	}
	return err
}

// put makes dir/base the file n, in place of what is there.
func (x *indexer) put(dir, base string, n *inode, cost int64) error {
	d, err := x.lookup(dir)
	if err != nil {
		return err
	}
	if err := x.mem.take(cost); err != nil {
		return err
	}
	x.remove(d, base)
	d.dir.names[strings.Clone(base)] = n
	return nil
}

// remove takes a name away, if it is there.
func (x *indexer) remove(d *inode, base string) (was *inode) {
	was = d.dir.names[base]
	if was == nil {
		return nil
	}
	if at, ok := x.copied[was]; ok && at.dir == d && at.name == base {
		delete(x.copied, was)
	}
	delete(d.dir.names, base)
	x.lastDir = nil
	return was
}

func (x *indexer) describeRoot(a attr) error { return x.describe(x.root, a) }

func (x *indexer) describe(n *inode, a attr) error {
	if err := x.mem.take(nodeCost("", &a)); err != nil {
		return err
	}
	n.dir.described = true
	n.setAttr(a)
	return nil
}

func (x *indexer) directory(dir, base string, a attr) error {
	d, err := x.lookup(dir)
	if err != nil {
		return err
	}
	n := d.dir.names[base]
	if n == nil || !n.isDir() {
		replaced := x.remove(d, base) != nil
		if n, err = x.addDir(d, base); err != nil {
			return err
		}
		n.dir.fresh = replaced
	}
	return x.describe(n, a)
}

func (x *indexer) file(dir, base string, hdr *tar.Header, r io.Reader, a attr) error {
	n := &inode{Inode: erofs.Inode{Mode: unix.S_IFREG, Size: hdr.Size, Device: int32(2 * x.layer), Offset: x.in.pos}}
	n.setAttr(a)
	switch {
	case hdr.Size == 0:
		n.Device, n.Offset = 0, 0
	case isSparse(hdr):
		if x.sparse < 0 {
			fd, err := x.openSparse()
			if err != nil {
				return err
			}
			x.sparse = fd
		}
		n.Device++
		n.Offset = x.sparseSize
		bits := erofs.ChunkBits(hdr.Size)
		n.Chunks = make([]byte, chunkBytes(hdr.Size))
		wrote := func(at, size int64) {
			for i := at >> bits; i <= (at+size-1)>>bits; i++ {
				n.Chunks[i/8] |= 1 << (i % 8)
			}
		}
		if err := x.copySparse(x.sparse, n.Offset, r, hdr.Size, x.readError, wrote); err != nil {
			return err
		}
		x.sparseSize = alignUp(n.Offset+hdr.Size, 4096)
	case n.isLarge(x.opts.largeFrom):
		if err := x.mem.take(largeCost); err != nil {
			return err
		}
		if err := x.setApart(n); err != nil {
			return err
		}
	}
	return x.put(dir, base, n, nodeCost(base, &a)+int64(len(n.Chunks)))
}

// chunkBytes is the length of the bits that tell the holes of a sparse file.
func chunkBytes(size int64) int64 {
	return ((size-1)>>erofs.ChunkBits(size) + 8) / 8
}

func (x *indexer) symlink(dir, base, target string, a attr) error {
	n := &inode{Inode: erofs.Inode{Mode: unix.S_IFLNK, Target: strings.Clone(target)}}
	a.mode = 0o777
	n.setAttr(a)
	return x.put(dir, base, n, nodeCost(base, nil)+int64(len(target)))
}

func (x *indexer) device(dir, base string, mode, major, minor uint32, a attr) error {
	n := &inode{Inode: erofs.Inode{Mode: mode, Major: major, Minor: minor}}
	n.setAttr(a)
	return x.put(dir, base, n, nodeCost(base, nil))
}

func (x *indexer) hide(dir, name string) error {
	d, err := x.lookup(dir)
	if err != nil {
		return err
	}
	if name == "" {
		d.dir.opaque = true
	} else {
		x.hides = append(x.hides, hidden{d, strings.Clone(name)})
	}
	return nil
}

// hardlink is what unpacker.hardlink does.
func (x *indexer) hardlink(dir, base, target string) error {
	found, err := x.linkNow(dir, base, target)
	if err != nil || found {
		return err
	}
	tdir, tbase := cut(target)
	copied, err := x.bringUp(tdir, tbase)
	if err != nil {
		return err
	}
	if copied {
		_, err := x.linkNow(dir, base, target)
		return err
	}
	name := join(dir, base)
	if err := x.mem.take(int64(len(name)+len(target)) + 64); err != nil {
		return err
	}
	x.links = append(x.links, link{strings.Clone(name), strings.Clone(target)})
	return nil
}

func (x *indexer) linkNow(dir, base, target string) (found bool, err error) {
	tdir, tbase := cut(target)
	td, err := x.walk(tdir, false)
	if err != nil {
		return false, nil
	}
	n := td.dir.names[tbase]
	if n == nil {
		return false, nil
	}
	if n.isDir() {
		return false, invalid("hard link to the directory %q", clip(target))
	}
	d, err := x.lookup(dir)
	if err != nil {
		return true, err
	}
	if td.dir.names[tbase] != n { // the directory of the link took its place
		return true, invalid("hard link to %q, which it replaces", clip(target))
	}
	was := d.dir.names[base]
	if was == n {
		return true, nil // linked already, or to itself
	}
	if was != nil && was.isDir() {
		for up := td; up != nil; up = up.dir.parent {
			if up == was { // making room removes the target
				return true, invalid("hard link to %q, which it replaces", clip(target))
			}
		}
	}
	if err := x.mem.take(nodeCost(base, nil)); err != nil {
		return true, err
	}
	x.remove(d, base)
	d.dir.names[strings.Clone(base)] = n
	return true, nil
}

// bringUp puts the file dir/base of the layers below to its place in this layer.
// false: there is none.
func (x *indexer) bringUp(dir, base string) (bool, error) {
	if x.layer == 0 {
		return false, nil
	}
	d, err := x.lookup(dir)
	if err != nil {
		return false, err
	}
	if d.hidesBelow() {
		return false, nil
	}
	if err := x.load(); err != nil {
		return false, err
	}
	path := join(d.dirPath(), base)
	n := x.base.find(path)
	if n == nil {
		return false, nil
	}
	if n.isDir() {
		return false, invalid("hard link to the directory %q", clip(path))
	}
	if err := x.count(n.Size); err != nil {
		return false, err
	}
	if err := x.mem.take(nodeCost(path, nil)); err != nil {
		return false, err
	}
	up := &inode{Inode: n.Inode, below: n, path: path}
	base = strings.Clone(base)
	d.dir.names[base] = up
	x.copied[up] = copiedAt{d, base}
	return true, nil
}

// finish does what had to wait for the end of the archive, as unpacker.finish.
func (x *indexer) finish() error {
	x.lastDir = nil
	for _, l := range x.links {
		dir, base := cut(l.name)
		if d, err := x.walk(dir, false); err == nil && d.dir.names[base] != nil {
			continue // a name that came later wins
		}
		found, err := x.linkNow(dir, base, l.target)
		if err == nil && !found {
			err = invalid("hard link to %q, which does not exist", clip(l.target))
		}
		if err != nil {
			return &EntryError{l.name, err}
		}
	}
	for i, h := range x.hides {
		if i%1000 == 0 && x.ctx.Err() != nil {
			return x.ctx.Err()
		}
		if n := h.dir.dir.names[h.name]; n != nil && n.isDir() && h.dir.attached() {
			n.dir.fresh = true
		}
	}
	if x.root.dir.opaque {
		// Directories of this layer are not those of the layers below.
		for _, n := range x.root.dir.names {
			if n.isDir() {
				n.dir.fresh = true
			}
		}
	}
	for n, at := range x.copied {
		if at.dir.hidesBelow() {
			delete(at.dir.dir.names, at.name)
			delete(x.copied, n)
		}
	}
	for _, h := range x.hides {
		if !h.dir.attached() {
			continue
		}
		n := h.dir.dir.names[h.name]
		if at, ok := x.copied[n]; n != nil && ok && at.dir == h.dir && at.name == h.name {
			delete(h.dir.dir.names, h.name)
			delete(x.copied, n)
			n = nil
		}
		if n == nil && !h.dir.dir.opaque && !h.dir.dir.fresh {
			h.dir.dir.hidden = append(h.dir.dir.hidden, h.name)
		}
	}
	return nil
}
