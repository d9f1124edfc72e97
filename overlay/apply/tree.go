package apply

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/safepath"
)

// node is a directory of the layer: what must be known about it at the end, when
// owners, modes and times of directories are set. Everything else of the layer
// needs no memory.
type node struct {
	parent *node
	name   string
	ino    uint64
	depth  int
	length int // of the path

	described bool // by an entry; otherwise attributes come from below
	opaque    bool // hides what is below
	fresh     bool // does not merge with a directory below: replaced one
	attr      attr

	below int8 // see hasBelow: 0 not known, 1 yes, -1 no
}

// attr is what an entry says about owner, mode and times.
type attr struct {
	uid, gid uint32
	mode     uint32 // permission and set-ID bits
	mtime    unix.Timespec
	xattrs   []xattr
}

type xattr struct{ name, value string }

// path returns the real path of the directory in the layer, "." for the root.
// No component of it is a link.
func (n *node) path() string {
	if n.parent == nil {
		return "."
	}
	names := make([]string, 0, n.depth)
	for ; n.parent != nil; n = n.parent {
		names = append(names, n.name)
	}
	for i, j := 0, len(names)-1; i < j; i, j = i+1, j-1 {
		names[i], names[j] = names[j], names[i]
	}
	return strings.Join(names, "/")
}

// hidesBelow reports whether nothing of the layers below shows in n, because of n
// or a directory above it.
func (n *node) hidesBelow() bool {
	for ; n != nil; n = n.parent {
		if n.opaque || n.fresh {
			return true
		}
	}
	return false
}

// nodeSize estimates what a node with a name of that length takes, its place in
// the map and the list included.
func nodeSize(name string) int64 { return 300 + int64(len(name)) }

// tree finds directories of the layer and remembers them.
type tree struct {
	root  int // descriptor of the layer's fs directory
	nodes []*node
	byIno map[uint64]*node
	mem   *budget

	// cache holds recently used directories by the name the archive gives them.
	// Archives list directory by directory, so few are enough.
	cache [8]cached
	next  int
}

type cached struct {
	dir  string
	fd   int
	node *node
}

func newTree(root int, mem *budget) (*tree, error) {
	ino, err := inodeNumber(root)
	if err != nil {
		return nil, err
	}
	top := &node{ino: ino}
	t := &tree{root: root, nodes: []*node{top}, byIno: map[uint64]*node{ino: top}, mem: mem}
	for i := range t.cache {
		t.cache[i].fd = -1
	}
	return t, nil
}

func (t *tree) top() *node { return t.nodes[0] }

// lookup opens the directory named dir in the archive, and makes it with its
// parents if it is missing. Links of this layer are followed within it. The
// descriptor belongs to the cache and lives until the next call.
func (t *tree) lookup(dir string) (int, *node, error) {
	if dir == "" {
		return t.root, t.top(), nil
	}
	for i := range t.cache {
		if c := &t.cache[i]; c.fd >= 0 && c.dir == dir {
			return c.fd, c.node, nil
		}
	}
	fd, err := safepath.MkdirAllFunc(t.root, dir, 0o700, func(parent int, name string, child int) error {
		_, err := t.add(parent, name, child)
		return err
	})
	if err != nil {
		return -1, nil, parentError(dir, err)
	}
	n, err := t.nodeOf(fd)
	if err != nil {
		linux.Close(fd)
		return -1, nil, err
	}
	c := &t.cache[t.next]
	t.next = (t.next + 1) % len(t.cache)
	linux.Close(c.fd)
	*c = cached{dir, fd, n}
	return fd, n, nil
}

// find is lookup for a directory that must be there.
func (t *tree) find(dir string) (int, error) {
	if dir == "" {
		dir = "."
	}
	return linux.OpenInRoot(t.root, dir, unix.O_PATH|unix.O_DIRECTORY)
}

// parentError says in the archive's terms why a directory cannot be had.
func parentError(dir string, err error) error {
	switch {
	case isErr(err, unix.ENOTDIR):
		return invalid("its directory %q is a file in this layer", clip(dir))
	case isErr(err, unix.ELOOP):
		return invalid("its directory %q is a loop of symbolic links", clip(dir))
	case isErr(err, unix.ENOENT):
		return invalid("its directory %q cannot be made: a symbolic link leads nowhere", clip(dir))
	case isErr(err, unix.ENAMETOOLONG):
		return invalid("its directory %q: name too long", clip(dir))
	}
	return err
}

// add registers the new directory child.
func (t *tree) add(parent int, name string, child int) (*node, error) {
	p, err := t.nodeOf(parent)
	if err != nil {
		return nil, err
	}
	ino, err := inodeNumber(child)
	if err != nil {
		return nil, err
	}
	n := &node{parent: p, name: name, ino: ino, depth: p.depth + 1, length: p.length + 1 + len(name)}
	// Links can lead deeper than any single name does.
	if n.depth > maxDepth || n.length > maxName-1 {
		return nil, limit("directory nested deeper than %d or with a path longer than %d bytes", maxDepth, maxName-1)
	}
	if err := t.mem.take(nodeSize(name)); err != nil {
		return nil, err
	}
	t.nodes = append(t.nodes, n)
	t.byIno[ino] = n // a removed directory's number may be used again
	return n, nil
}

// nodeOf returns the node of an open directory of the layer.
func (t *tree) nodeOf(fd int) (*node, error) {
	ino, err := inodeNumber(fd)
	if err != nil {
		return nil, err
	}
	n := t.byIno[ino]
	if n == nil {
		return nil, invalid("directory that is not of this layer")
	}
	return n, nil
}

// open opens the directory of n, or reports false if it was removed or replaced
// since.
func (t *tree) open(n *node) (fd int, ok bool, err error) {
	if t.byIno[n.ino] != n {
		return -1, false, nil
	}
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	path := n.path()
	for {
		fd, err = unix.Openat2(t.root, path, &how)
		if err != unix.EINTR && err != unix.EAGAIN {
			break
		}
	}
	switch err {
	case nil:
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP:
		return -1, false, nil
	default:
		return -1, false, &os.PathError{Op: "open", Path: path, Err: err}
	}
	ino, err := inodeNumber(fd)
	if err != nil || ino != n.ino {
		linux.Close(fd)
		return -1, false, err
	}
	return fd, true, nil
}

// forget empties the cache: some directory was replaced.
func (t *tree) forget() {
	for i := range t.cache {
		linux.Close(t.cache[i].fd)
		t.cache[i] = cached{fd: -1}
	}
}

func inodeNumber(fd int) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, os.NewSyscallError("fstat", err)
	}
	return st.Ino, nil
}

// budget bounds memory that lives until the end of the layer.
type budget struct{ left int64 }

func (b *budget) take(n int64) error {
	if b.left -= n; b.left < 0 {
		return limit("more directories, whiteouts and forward links than fit in memory (MaxMemory)")
	}
	return nil
}
