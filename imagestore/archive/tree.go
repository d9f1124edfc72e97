package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/decompress"
	"golang.org/x/sys/unix"
)

// tree is an archive or directory that holds images.
type tree interface {
	// file returns one of the small files at the top: index.json, manifest.json.
	file(name string) ([]byte, error)
	// entry returns a file by its path, in the staging area.
	entry(ctx context.Context, name string) (*content, error)
}

// isTopFile tells the files that say what an archive holds.
func isTopFile(name string) bool {
	switch name {
	case "index.json", "manifest.json", "oci-layout", "repositories":
		return true
	}
	return false
}

// maxNames is how many entries an archive of images may have: four files for
// each layer that an image can have, and as much again.
const maxNames = 32 << 10

// maxLinks bounds chains of links within an archive.
const maxLinks = 16

// spooled is an archive that was read to its end.
type spooled struct {
	top   map[string][]byte
	files map[string]*content
	links map[string]string // name to name, both relative to the top
}

// readTar spools the tar archive r, which may be compressed.
func readTar(ctx context.Context, g *imagestore.Ingest, r io.Reader) (*spooled, error) {
	z, err := decompress.NewReader(imagestore.ContextReader(ctx, r))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	s := &spooled{top: map[string][]byte{}, files: map[string]*content{}, links: map[string]string{}}
	tr := tar.NewReader(z)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if err == io.EOF && n > 0 {
			break
		}
		if err != nil {
			return nil, tarError(err, n)
		}
		if n == maxNames {
			return nil, fmt.Errorf("it has more than %d entries", maxNames)
		}
		if err := s.add(ctx, g, h, tr); err != nil {
			return nil, err
		}
	}
	// To the end, so that checksums behind the last entry are checked and
	// whoever writes into the pipe can finish.
	if _, err := io.Copy(io.Discard, z); err != nil {
		return nil, err
	}
	return s, nil
}

// tarError words what archive/tar says; n is the number of entries before.
func tarError(err error, n int) error {
	switch {
	case err == io.EOF: // of an empty file, or of nothing but zeros
		return errors.New("it is empty")
	case n == 0 && (errors.Is(err, tar.ErrHeader) || err == io.ErrUnexpectedEOF): // the latter: shorter than a header
		return errors.New("it is no tar archive")
	case errors.Is(err, tar.ErrHeader):
		return fmt.Errorf("damaged tar header after entry %d", n)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("it is cut off after entry %d: %w", n, err)
	}
	return err
}

func cleanName(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

func (s *spooled) add(ctx context.Context, g *imagestore.Ingest, h *tar.Header, r io.Reader) error {
	name := cleanName(h.Name)
	if h.Typeflag == tar.TypeDir || name == "" {
		return nil
	}
	if s.has(name) {
		return fmt.Errorf("ambiguous: it has %q twice", name)
	}
	switch h.Typeflag {
	case tar.TypeReg:
		if isTopFile(name) {
			if h.Size > imagestore.MaxMetadata {
				return fmt.Errorf("%s: its %d bytes are more than the limit of %d", name, h.Size, imagestore.MaxMetadata)
			}
			b, err := io.ReadAll(r)
			if err != nil {
				return fmt.Errorf("%s: %w", name, cutOff(err))
			}
			s.top[name] = b
			return nil
		}
		c, err := spool(ctx, g, algorithmOf(name), r)
		if err != nil {
			return fmt.Errorf("%s: %w", name, cutOff(err))
		}
		s.files[name] = c
	case tar.TypeSymlink:
		target := path.Join(path.Dir(name), h.Linkname)
		if path.IsAbs(h.Linkname) || target == ".." || strings.HasPrefix(target, "../") {
			return fmt.Errorf("symbolic link %q leads out of the archive to %q", name, h.Linkname)
		}
		s.links[name] = target
	case tar.TypeLink:
		s.links[name] = cleanName(h.Linkname)
	default:
		return fmt.Errorf("%q is neither file, directory nor link", name)
	}
	return nil
}

func cutOff(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the archive is cut off: %w", err)
	}
	return err
}

func (s *spooled) has(name string) bool {
	return s.top[name] != nil || s.files[name] != nil || s.links[name] != ""
}

// algorithmOf is the digest algorithm by which an OCI layout names the file.
func algorithmOf(name string) string {
	if strings.HasPrefix(name, "blobs/sha512/") {
		return "sha512"
	}
	return "sha256"
}

func (s *spooled) file(name string) ([]byte, error) {
	if b, ok := s.top[name]; ok {
		return b, nil
	}
	return nil, fs.ErrNotExist
}

func (s *spooled) entry(_ context.Context, name string) (*content, error) {
	at := cleanName(name)
	for range maxLinks {
		if c := s.files[at]; c != nil {
			return c, nil
		}
		next, ok := s.links[at]
		if !ok {
			return nil, fs.ErrNotExist
		}
		at = next
	}
	return nil, unix.ELOOP
}

// directory is an OCI layout or an unpacked docker archive. Nothing in it can
// lead outside (os.Root), and files are read when they are asked for.
type directory struct {
	g    *imagestore.Ingest
	root *os.Root
	done map[string]*content
}

func (d *directory) open(name string) (*os.File, error) {
	st, err := d.root.Stat(name) // first: to open a device can be to use it
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%q is no regular file", name)
	}
	if err != nil {
		return nil, err
	}
	return d.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
}

func (d *directory) file(name string) ([]byte, error) {
	f, err := d.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, imagestore.MaxMetadata+1))
	if err == nil && len(b) > imagestore.MaxMetadata {
		err = fmt.Errorf("it is longer than the limit of %d bytes", imagestore.MaxMetadata)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return b, nil
}

func (d *directory) entry(ctx context.Context, name string) (*content, error) {
	name = cleanName(name)
	if c := d.done[name]; c != nil {
		return c, nil
	}
	f, err := d.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c, err := spool(ctx, d.g, algorithmOf(name), f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	d.done[name] = c
	return c, nil
}
