package apply

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sort"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/kfeature"
	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/overlay/erofs"
)

// Base is what a chain of indexed layers looks like, merged, in memory. The zero
// value knows nothing and reads what it needs. Whoever unpacks layer after layer
// hands the same one to every call of [Layer], and the layers below need not be
// read again. It belongs to one store, and to one goroutine.
type Base struct {
	chain  []overlay.ChainID // from the bottom
	root   *inode
	sizes  []sizes
	memory int64 // estimate

	redirects     bool // whether the kernel follows them, if that was asked
	redirectsTold bool
}

// sizes are those of a layer's files, in whole blocks; an archive's file may be longer.
// large is as in entriesFile.
type sizes struct{ archive, sparse, large int64 }

// archiveFile is the name of the layer's archive.
func archiveFile(large int64) string {
	if large > 0 {
		return overlay.RestFile
	}
	return overlay.ArchiveFile
}

// forget is for when it is not sure whether the base is right.
func (b *Base) forget() {
	if b != nil {
		*b = Base{}
	}
}

func (b *Base) top() overlay.ChainID {
	if len(b.chain) == 0 {
		return ""
	}
	return b.chain[len(b.chain)-1]
}

// advance makes b the base that ends with top.
func (b *Base) advance(ctx context.Context, s *overlay.Store, top overlay.ChainID, mem *budget) error {
	if b.root != nil && b.top() == top {
		return nil
	}
	var chain []overlay.ChainID
	if top != "" {
		below, err := s.Parents(top)
		if err != nil {
			return err
		}
		chain = append([]overlay.ChainID{top}, below...)
		slices.Reverse(chain)
	}
	if b.root == nil || len(b.chain) > len(chain) || !slices.Equal(b.chain, chain[:len(b.chain)]) {
		*b = Base{root: newDir(nil, ""), redirects: b.redirects, redirectsTold: b.redirectsTold}
	}
	for _, c := range chain[len(b.chain):] {
		if err := ctx.Err(); err != nil {
			return err
		}
		e, err := readEntries(s, c, b, mem)
		if err != nil {
			b.forget()
			return fmt.Errorf("index of layer %s: %w", c, err)
		}
		b.add(c, e.root, sizes{alignUp(e.archive, erofs.BlockSize), e.sparse, e.large}, nil)
	}
	return nil
}

// find returns the file with that path, no link followed anywhere.
func (b *Base) find(path string) *inode {
	at := b.root
	for path != "" {
		if !at.isDir() {
			return nil
		}
		dir := path
		path = ""
		for i := range len(dir) {
			if dir[i] == '/' {
				dir, path = dir[:i], dir[i+1:]
				break
			}
		}
		if at = at.dir.names[dir]; at == nil {
			return nil
		}
	}
	return at
}

// add puts the layer c on top. The layer's tree is not to be used any more.
func (b *Base) add(c overlay.ChainID, layer *inode, size sizes, f *front) {
	m := merger{f: f}
	m.merge(b.root, layer)
	b.chain = append(b.chain, c)
	b.sizes = append(b.sizes, size)
	if f != nil {
		f.result.Whiteouts = m.whiteouts
		b.memory = f.opts.MaxMemory - f.mem.left
	}
}

// merger applies a layer to the layers below it: layer.md of the image-spec, on
// trees in memory.
type merger struct {
	f         *front // for warnings, nil without
	whiteouts int
}

// merge makes the directory to what it is with the layer's directory l over it.
func (m *merger) merge(to, l *inode) {
	d := l.dir
	if d.opaque && len(to.dir.names) > 0 {
		clear(to.dir.names)
		m.whiteouts++
	}
	for _, name := range d.hidden {
		if to.dir.names[name] != nil {
			delete(to.dir.names, name)
			m.whiteouts++
		}
	}
	if d.described {
		mode := to.Mode
		names := to.dir
		to.Inode = l.Inode
		to.Mode = mode&unix.S_IFMT | l.Mode&^unix.S_IFMT
		to.dir = names
	}
	for name, c := range d.names {
		was := to.dir.names[name]
		switch {
		case c.below != nil:
			to.dir.names[name] = c.below
		case !c.isDir():
			to.dir.names[name] = c
		case was != nil && was.isDir() && !c.dir.fresh:
			m.merge(was, c)
		default:
			if was != nil && c.dir.fresh {
				m.whiteouts++
			}
			if was != nil && was.isLink() && !c.dir.fresh && !c.dir.described && m.f != nil {
				m.f.warn("%q: a directory of this layer hides a symbolic link of a lower one", clip(c.dirPath()))
			}
			n := newDir(to, name)
			m.merge(n, c)
			to.dir.names[name] = n
		}
	}
}

// Every device costs every mount some µs, so an image has copies of the content of
// small layers.
const (
	embedBelow  = 64 << 10 // of those with less than this, however many devices there are;
	fewDevices  = 8        // of the smallest others, while there are more devices than this
	embedBudget = 64 << 20 // and the copies have together no more than this,
	embedShare  = 16       // or than this part of the content of the chain
)

// embed tells of which devices the content is copied, of what is used of each.
// Copies have no holes, so more than a little of the files for sparse files, which
// are those with odd numbers, is not copied.
func embed(used []int64) []bool {
	copied := make([]bool, len(used))
	var left []int
	var total int64
	devices := 0
	for i, n := range used {
		total += n
		if n <= embedBelow {
			copied[i] = n > 0
			continue
		}
		devices++
		if i%2 == 0 {
			left = append(left, i)
		}
	}
	sort.SliceStable(left, func(a, b int) bool { return used[left[a]] < used[left[b]] })
	budget := max(embedBudget, total/embedShare)
	for devices > fewDevices && len(left) > 0 && used[left[0]] <= budget {
		budget -= used[left[0]]
		copied[left[0]] = true
		left = left[1:]
		devices--
	}
	return copied
}

// MakeImage makes the image of the chain of indexed layers that ends with c,
// unless there is one. Of the options only Base and the limits count.
func MakeImage(ctx context.Context, s *overlay.Store, c overlay.ChainID, opts Options) error {
	opts.setDefaults()
	if opts.Base == nil {
		opts.Base = &Base{}
	}
	return opts.Base.makeImage(ctx, s, c, opts)
}

// makeImage makes the image of the chain that ends with c, unless there is one.
func (b *Base) makeImage(ctx context.Context, s *overlay.Store, c overlay.ChainID, limits Options) error {
	if s.HasImage(c) {
		return nil
	}
	mem := budget{limits.MaxMemory}
	if err := b.advance(ctx, s, c, &mem); err != nil {
		return err
	}
	return s.MakeImage(ctx, c, func(fd int) error {
		if !b.current(s) { // a layer was damaged, and made again in another way
			b.forget()
			mem := budget{limits.MaxMemory}
			if err := b.advance(ctx, s, c, &mem); err != nil {
				return err
			}
		}
		return b.writeImage(s, fdWriter{fd}, erofs.Write)
	})
}

// current reports whether the layers are kept in the files that the base knows.
func (b *Base) current(s *overlay.Store) bool {
	for i, c := range b.chain {
		if !s.Has(overlay.Indexed, c) || s.HasLarge(c) != (b.sizes[i].large > 0) {
			return false
		}
	}
	return true
}

// prepare gives directories their sorted entries and counts the content of
// files by device.
func (b *Base) prepare(dir *inode, used []int64) {
	names := make([]string, 0, len(dir.dir.names))
	for name := range dir.dir.names {
		names = append(names, name)
	}
	sort.Strings(names)
	dir.Entries = make([]erofs.Dirent, len(names))
	for i, name := range names {
		n := dir.dir.names[name]
		dir.Entries[i] = erofs.Dirent{Name: name, Inode: &n.Inode}
		switch {
		case n.isDir():
			b.prepare(n, used)
		case n.isLarge(b.sizes[n.Device/2].large):
			n.Redirect = n.redirect(b.chain[n.Device/2])
		case n.Size > 0:
			// A file with several names is counted several times, which only
			// makes a device of what could have been copied.
			used[n.Device] += n.Size
		}
	}
}

func (b *Base) release(dir *inode) {
	dir.Entries = nil
	for _, n := range dir.dir.names {
		if n.isDir() {
			b.release(n)
		}
	}
}

type fdReaderAt struct{ fd int }

func (r fdReaderAt) ReadAt(p []byte, at int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pread(r.fd, p[done:], at+int64(done))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return done, err
		case n == 0:
			return done, io.EOF
		}
		done += n
	}
	return done, nil
}

// CanIndex tells whether indexed layers can be used in the store: nil, or why not.
func CanIndex(s *overlay.Store) error {
	if err := kfeature.EROFSFileIn(s.Root() + "/staging"); err != nil {
		return err
	}
	root := newDir(nil, "")
	var image sliceWriter
	if _, err := erofs.Write(&image, &root.Inode, nil); err != nil {
		return err
	}
	return s.ProbeIndex(image)
}

type sliceWriter []byte

func (w *sliceWriter) Write(p []byte) (int, error) {
	*w = append(*w, p...)
	return len(p), nil
}

// kind decides how a layer on top of parent is kept.
func (o *Options) kind(s *overlay.Store, parent overlay.ChainID) overlay.Kind {
	switch {
	case o.unprivileged && o.Kind != Index:
		return overlay.Extracted
	case o.Kind == Index:
		return overlay.Indexed
	case o.Kind == Extract:
		return overlay.Extracted
	case parent != "" && s.Has(overlay.Indexed, parent):
		return overlay.Indexed
	case parent == "" && CanIndex(s) == nil:
		return overlay.Indexed
	}
	return overlay.Extracted
}
