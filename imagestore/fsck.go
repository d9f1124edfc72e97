package imagestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"github.com/minirun/minirun/imagestore/reference"
	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// Finding is something that is wrong with a store.
type Finding struct {
	Object  string `json:"object"` // "index.json", `image "alpine:latest"`, "blob sha256:..."
	Problem string `json:"problem"`
	// Residue is not damage: work that was interrupted, content that nothing needs.
	Residue bool `json:"residue,omitempty"`
	// Repaired says what was done; Advice what can be done.
	Repaired string `json:"repaired,omitempty"`
	Advice   string `json:"advice,omitempty"`
}

// FsckOptions are optional.
type FsckOptions struct {
	// Repair removes what is broken, so that it can be loaded or pulled again.
	// Content that is what its digest says is never removed for damage elsewhere.
	Repair   bool
	Progress func(done, total int64)
}

// OpenDamaged is Open for a store whose layout file may be damaged.
func OpenDamaged(root string) (*Store, error) {
	s, err := Open(root)
	if err == nil {
		return s, nil
	}
	abs, absErr := absolute(root)
	if absErr != nil {
		return nil, err
	}
	return &Store{root: abs}, nil
}

// Fsck reads everything and compares it with what it should be: the layout file,
// index.json, each blob with its digest, each descriptor with what it describes.
// It may run beside everything: nothing is locked while blobs are read.
func (s *Store) Fsck(ctx context.Context, o FsckOptions) ([]Finding, error) {
	if _, err := os.Lstat(s.path(blobsDir)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil // no store yet
	}
	c := &checker{s: s, o: o}
	if err := c.layout(ctx); err != nil {
		return c.found, err
	}
	if err := c.blobs(ctx); err != nil {
		return c.found, err
	}
	if err := c.index(ctx); err != nil { // after bad blobs went: they name no images
		return c.found, err
	}
	if err := c.images(); err != nil {
		return c.found, err
	}
	return c.found, c.residue(ctx)
}

type checker struct {
	s     *Store
	o     FsckOptions
	found []Finding
}

func (c *checker) add(f Finding) { c.found = append(c.found, f) }

// layout checks the file that makes the directory an image layout.
func (c *checker) layout(ctx context.Context) error {
	b, err := linux.ReadFile(c.s.path(layoutFile), 4096)
	f := Finding{Object: layoutFile}
	var l struct {
		Version string `json:"imageLayoutVersion"`
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.Problem = "it is missing"
	case err != nil:
		return err
	case json.Unmarshal(b, &l) != nil:
		f.Problem = "it is not JSON"
	case l.Version != layoutVersion:
		return fmt.Errorf("%s has version %q, want %q", layoutFile, l.Version, layoutVersion)
	default:
		return nil
	}
	if c.o.Repair {
		unlock, err := c.s.lock(ctx)
		if err != nil {
			return err
		}
		defer unlock()
		if err := replaceFile(c.s.root, layoutFile, layoutFile+".new", []byte(`{"imageLayoutVersion":"`+layoutVersion+`"}`)); err != nil {
			return err
		}
		f.Repaired = "written again"
	}
	c.add(f)
	return nil
}

// blobs reads every blob.
func (c *checker) blobs(ctx context.Context) error {
	type blob struct {
		d    Digest
		size int64
	}
	var list []blob
	var total, done int64
	err := c.s.eachBlob(func(d Digest, st *unix.Stat_t) error {
		list = append(list, blob{d, st.Size})
		total += st.Size
		return nil
	}, func(name string) {
		c.add(Finding{Object: name, Problem: "it is none of a store's files", Advice: "nothing reads it; remove it if it is not yours either"})
	})
	if err != nil {
		return err
	}
	for _, b := range list {
		err := c.s.verifyBlob(ctx, "blob", Descriptor{Digest: b.d, Size: b.size})
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		done += b.size
		if c.o.Progress != nil {
			c.o.Progress(done, total)
		}
		var missing *MissingError
		if err == nil || errors.As(err, &missing) { // removed meanwhile
			continue
		}
		f := Finding{Object: "blob " + string(b.d), Problem: err.Error()}
		var de *DigestError
		var se *SizeError
		if errors.As(err, &de) || errors.As(err, &se) {
			f.Problem = "its content is another"
		}
		if c.o.Repair && (f.Problem != err.Error() || errors.Is(err, unix.EIO)) {
			removed, err := c.removeBad(ctx, b.d)
			if err != nil {
				return err
			}
			if !removed {
				continue // somebody brought it in again
			}
			f.Repaired = "removed"
		}
		c.add(f)
	}
	return nil
}

// removeBad removes a blob unless it is good by now.
func (c *checker) removeBad(ctx context.Context, d Digest) (bool, error) {
	unlock, err := c.s.lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	var st unix.Stat_t
	if err := unix.Lstat(c.s.blobPath(d), &st); err != nil {
		return false, nil
	}
	if c.s.verifyBlob(ctx, "blob", Descriptor{Digest: d, Size: st.Size}) == nil || ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	if err := os.Remove(c.s.blobPath(d)); err != nil {
		return false, err
	}
	return true, nil
}

// index checks index.json. A repair keeps the entries that can be read; if it is
// no index at all, the images are found again by their content, without names.
func (c *checker) index(ctx context.Context) error {
	unlock, err := c.s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	_, statErr := os.Lstat(c.s.path(indexFile))
	_, err = c.s.readIndex()
	f := Finding{Object: indexFile}
	var format *FormatError
	switch {
	case errors.Is(statErr, fs.ErrNotExist):
		f.Problem = "it is missing"
	case err == nil:
		return nil
	case errors.As(err, &format):
		f.Problem = format.Err.Error()
	default:
		return err
	}
	if c.o.Repair {
		x, lost := c.salvage()
		f.Repaired = fmt.Sprintf("written again with %d images, %s", len(x.Manifests), lost)
		if statErr == nil {
			kept, err := c.keepIndex()
			if err != nil {
				return err
			}
			f.Repaired += "; the old one is " + kept
		}
		if err := c.s.writeIndex(x, false); err != nil {
			return err
		}
	}
	c.add(f)
	return nil
}

// keepIndex gives the damaged index a second name, and returns that. Names of others
// that were damaged before are taken; one that a killed repair has given is its own.
func (c *checker) keepIndex() (name string, err error) {
	damaged, err := os.Lstat(c.s.path(indexFile))
	if err != nil {
		return "", err
	}
	for n := 1; ; n++ {
		if name = indexFile + ".damaged"; n > 1 {
			name += "." + strconv.Itoa(n)
		}
		if err = os.Link(c.s.path(indexFile), c.s.path(name)); !errors.Is(err, fs.ErrExist) {
			return name, err
		}
		if st, err := os.Lstat(c.s.path(name)); err == nil && os.SameFile(st, damaged) {
			return name, nil
		}
	}
}

// salvage makes an index of what can be read of the damaged one, or else of the
// manifests and indexes among the blobs that no other one leads to.
func (c *checker) salvage() (x *Index, lost string) {
	x = &Index{}
	b, err := linux.ReadFile(c.s.path(indexFile), maxIndex)
	var raw struct {
		Manifests []json.RawMessage `json:"manifests"`
	}
	if err == nil && json.Unmarshal(b, &raw) == nil && len(raw.Manifests) > 0 {
		bad := 0
		for _, r := range raw.Manifests {
			var d Descriptor
			if json.Unmarshal(r, &d) != nil || d.check() != nil {
				bad++
				continue
			}
			x.Manifests = append(x.Manifests, d)
		}
		return x, fmt.Sprintf("without %d entries that could not be read", bad)
	}
	below := map[Digest]bool{}
	var tops []Descriptor
	_ = c.s.eachBlob(func(d Digest, st *unix.Stat_t) error {
		if st.Size > MaxMetadata {
			return nil
		}
		desc := Descriptor{Digest: d, Size: st.Size}
		b, err := c.s.ReadBlob("blob", desc, MaxMetadata)
		var body struct {
			MediaType string       `json:"mediaType"`
			Config    *Descriptor  `json:"config"`
			Layers    []Descriptor `json:"layers"`
			Manifests []Descriptor `json:"manifests"`
		}
		if err != nil || json.Unmarshal(b, &body) != nil {
			return nil
		}
		desc.MediaType = body.MediaType
		switch {
		case body.MediaType != "":
		case body.Config != nil && body.Layers != nil:
			desc.MediaType = MediaTypeManifest
		case body.Manifests != nil:
			desc.MediaType = MediaTypeIndex
		}
		if _, err := ParseManifest(b, desc.MediaType); err != nil {
			if _, err := ParseIndex(b, desc.MediaType); err != nil {
				return nil
			}
		}
		for _, m := range body.Manifests {
			below[m.Digest] = true
		}
		tops = append(tops, desc)
		return nil
	}, func(string) {})
	for _, d := range tops {
		if !below[d.Digest] {
			x.Manifests = append(x.Manifests, d)
		}
	}
	return x, "without their names"
}

// images follows every entry and checks that what is described is there, and as
// long as it should be. Of an index, only the image for this host has to be.
func (c *checker) images() error {
	x, err := c.s.readIndex()
	if err != nil {
		return nil // reported by index
	}
	const again = "load or pull it again, or remove it"
	for _, d := range x.Manifests {
		object := fmt.Sprintf("image %q", Familiar(entryName(&d)))
		if entryName(&d) == "" {
			object = "image " + d.Digest.Short() + " without a name"
		}
		problem := func(err error) {
			c.add(Finding{Object: object, Problem: err.Error(), Advice: again})
		}
		var st unix.Stat_t
		if unix.Lstat(c.s.blobPath(d.Digest), &st) == nil && st.Size != d.Size {
			problem(&SizeError{Object: kind(d.MediaType) + " " + string(d.Digest), Want: d.Size, Got: st.Size})
			continue
		}
		if !reference.Fits(entryName(&d), d.Digest) {
			c.add(Finding{Object: object, Problem: "the digest in its name is not its own, " + string(d.Digest), Advice: "no command takes it by that name; remove it by its ID: image rm --force " + string(d.Digest)})
		}
		e := Entry{Name: entryName(&d), Target: d}
		e.Image, e.Err = c.s.load(d, HostPlatform(), false)
		switch {
		case e.Image != nil:
			for _, l := range e.Image.Layers {
				if f, err := c.s.OpenBlob("layer", l); err != nil {
					problem(err)
				} else {
					f.Close()
				}
			}
		case e.Artifact() != "":
			c.artifact(d, problem)
		default:
			problem(e.Err)
		}
	}
	return nil
}

func (c *checker) artifact(d Descriptor, problem func(error)) {
	b, err := c.s.ReadBlob("manifest", d, MaxMetadata)
	if err != nil {
		problem(err)
		return
	}
	m, err := ParseManifest(b, d.MediaType)
	if err != nil {
		return // an index: what it lists need not be there
	}
	for _, l := range append(m.Layers, m.Config) {
		if f, err := c.s.OpenBlob("blob", l); err != nil {
			problem(err)
		} else {
			f.Close()
		}
	}
}

// Damaged tells whether findings are more than residue. Then nothing is collected:
// what seems to be of no use may be of the image whose manifest is broken.
func Damaged(found []Finding) bool {
	for _, f := range found {
		if !f.Residue {
			return true
		}
	}
	return false
}

// residue lists what a collection would remove, and runs one in a store that is
// otherwise in order.
func (c *checker) residue(ctx context.Context) error {
	v, err := c.s.Survey(ctx)
	if err != nil {
		return nil // reported by index
	}
	damaged := Damaged(c.found)
	removed := ""
	if c.o.Repair {
		removed = "removed"
		if damaged {
			err = c.removeDead(ctx)
		} else {
			_, err = c.s.GC(ctx)
		}
		if err != nil {
			return err
		}
	}
	for _, l := range v.Leases {
		if !l.Live {
			c.add(Finding{Object: "ingest/" + l.Dir, Problem: "left by a process that is gone", Residue: true, Repaired: removed, Advice: "minirun image gc"})
		}
	}
	if damaged {
		return nil
	}
	for _, b := range v.Blobs {
		if len(b.Why) == 0 {
			c.add(Finding{Object: "blob " + string(b.Digest), Problem: "nothing needs it", Residue: true, Repaired: removed, Advice: "minirun image gc"})
		}
	}
	return nil
}

func (c *checker) removeDead(ctx context.Context) error {
	unlock, err := c.s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	_, _, err = c.s.removeDead()
	return err
}
