package unpacked

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/minirun/minirun/imagestore/reference"
	"github.com/minirun/minirun/internal/jsonread"
	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// Names in a store, as package imagestore writes them.
const (
	layoutFile        = "oci-layout"
	layoutVersion     = "1.0.0"
	indexFile         = "index.json"
	annotationRefName = "org.opencontainers.image.ref.name"

	maxIndex  = 64 << 20
	maxRecord = 64 << 20
)

// NotUnpackedError reports an image whose layers have not been unpacked.
type NotUnpackedError struct{ Image string }

func (e *NotUnpackedError) Error() string {
	return fmt.Sprintf("image %q: its layers are not unpacked", e.Image)
}

type entry struct {
	name   string
	digest reference.Digest
}

// Find returns the image that ref stands for in the store: a name, a name with a
// digest, "sha256:..." or the first four or more digits of an image ID. It takes
// no lock. The error is a *NotUnpackedError for an image that has no record.
//
// sure is false when ref is the beginning of an ID and there are images without
// a record, whose IDs are not known: ref may stand for another one too.
func Find(store, ref string) (img *Image, sure bool, err error) {
	store, err = filepath.Abs(store)
	if err != nil {
		return nil, false, fmt.Errorf("image store %q: %w", store, err)
	}
	entries, err := readIndex(store)
	if err != nil {
		return nil, false, err
	}
	isID := reference.IsID(ref)
	// As written first: another tool may have given a name that is no
	// reference of ours, such as a bare tag.
	for _, e := range entries {
		if ref != "" && !isID && e.name == ref && reference.Fits(ref, e.digest) {
			img, err = e.image(store, ref)
			return img, true, err
		}
	}
	r, refErr := reference.Parse(ref)
	if refErr == nil && !isID {
		full := r.String()
		for _, e := range entries {
			if r.Digest != "" && e.digest != r.Digest {
				continue // whatever it is called
			}
			match := e.name == full
			if !match && r.Digest != "" {
				have, err := reference.Parse(e.name)
				match = err == nil && have.Repository() == r.Repository()
			}
			if match {
				img, err = e.image(store, ref)
				return img, true, err
			}
		}
	}
	if reference.LooksLikeID(ref) {
		return findID(store, entries, ref)
	}
	if refErr != nil {
		return nil, false, refErr
	}
	return nil, false, &reference.NotExistError{Ref: ref}
}

// findID looks for the image whose manifest, index or config has a digest that
// is, or begins with, ref. Several entries of one image are no ambiguity.
func findID(store string, entries []entry, ref string) (found *Image, sure bool, err error) {
	prefix := ref
	if !strings.Contains(ref, ":") {
		prefix = "sha256:" + ref
	}
	sure = true
	var hit *entry
	var ids []string
	for i := range entries {
		e := &entries[i]
		id := e.digest
		match := strings.HasPrefix(string(e.digest), prefix)
		img, imgErr := e.image(store, ref)
		if imgErr != nil {
			sure = false
		} else if !match {
			match = strings.HasPrefix(string(img.ID), prefix) || strings.HasPrefix(string(img.Manifest), prefix)
			id = img.ID
		}
		if !match || hit != nil && hit.digest == e.digest {
			continue
		}
		hit, found, err = e, img, imgErr
		ids = append(ids, id.Short())
	}
	switch {
	case len(ids) > 1:
		return nil, true, &reference.AmbiguousError{Ref: ref, Names: ids}
	case hit == nil && sure:
		return nil, true, &reference.NotExistError{Ref: ref}
	case hit == nil:
		return nil, false, &NotUnpackedError{ref} // perhaps: one of those that are not
	}
	return found, sure || reference.ValidDigest(prefix), err
}

// image reads the record of an entry.
func (e *entry) image(store, ref string) (*Image, error) {
	b, err := linux.ReadFile(recordPath(store, e.digest), maxRecord)
	if err == nil {
		if img, ok := parse(b); ok && img.Target == e.digest {
			img.Name = e.name
			return img, nil
		}
	} else if !errors.Is(err, unix.ENOENT) {
		return nil, err
	}
	return nil, &NotUnpackedError{ref}
}

func recordPath(store string, target reference.Digest) string {
	return store + "/" + dirName + "/" + recordName(target)
}

func recordName(target reference.Digest) string { return target.Algorithm() + "-" + target.Hex() }

// readIndex returns the entries of index.json. A store that does not exist yet
// has none.
func readIndex(store string) ([]entry, error) {
	b, err := linux.ReadFile(store+"/"+layoutFile, 4096)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err == nil {
		var v string
		r := jsonread.New(b)
		for key, more := r.Object(); more; key, more = r.NextKey() {
			if key == "imageLayoutVersion" {
				r.String(&v)
			} else {
				r.Skip()
			}
		}
		if err = r.End(); err == nil && v != layoutVersion {
			err = fmt.Errorf("%s has version %q, want %q", layoutFile, v, layoutVersion)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("image store %q: %w", store, err)
	}
	b, err = linux.ReadFile(store+"/"+indexFile, maxIndex)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	entries, err := parseIndex(b)
	if err != nil {
		return nil, fmt.Errorf("%s/%s: %w", store, indexFile, err)
	}
	return entries, nil
}

func parseIndex(b []byte) (entries []entry, err error) {
	r := jsonread.New(b)
	for key, more := r.Object(); more; key, more = r.NextKey() {
		if key != "manifests" {
			r.Skip()
			continue
		}
		if entries != nil {
			r.Twice()
		}
		entries = []entry{}
		if r.Null() {
			continue
		}
		for more := r.Array(); more; more = r.NextElem() {
			at := r.Offset()
			e := readEntry(&r)
			if err := e.digest.Check(); err != nil {
				r.Fail(at, err.Error())
			}
			entries = append(entries, e)
		}
	}
	return entries, r.End()
}

func readEntry(r *jsonread.Reader) (e entry) {
	for key, more := r.Object(); more; key, more = r.NextKey() {
		switch key {
		case "digest":
			var s string
			r.String(&s)
			e.digest = reference.Digest(s)
		case "annotations":
			if r.Null() {
				continue
			}
			for key, more := r.Object(); more; key, more = r.NextKey() {
				if key == annotationRefName {
					r.String(&e.name)
				} else {
					r.Skip()
				}
			}
		default:
			r.Skip()
		}
	}
	return e
}
