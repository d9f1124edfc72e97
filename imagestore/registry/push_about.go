package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/minirun/minirun/imagestore"
)

// About is what of that which is about an image is sent with it.
type About int

const (
	Signatures About = iota // signatures
	Everything              // bills of materials and the like, too
	Nothing
)

// about is a manifest about an image.
type about struct {
	d       imagestore.Descriptor
	m       *imagestore.Manifest
	subject imagestore.Digest
	tagged  bool // its subject stands in the store alone: it is found by its tag
}

// about picks of what is about the image what is sent, and collects what that needs.
func (w *walk) about(list []imagestore.Descriptor, want About) (found []about, err error) {
	for _, d := range list {
		if want == Nothing || !imagestore.IsManifestType(d.MediaType) {
			continue
		}
		b, err := w.g.ReadBlob("manifest", d, imagestore.MaxMetadata)
		if err != nil {
			return nil, err
		}
		m, err := imagestore.ParseManifest(b, d.MediaType)
		if err != nil {
			return nil, &imagestore.FormatError{Object: "manifest " + string(d.Digest), Err: err}
		}
		a := about{d: d, m: m, subject: imagestore.Digest(d.Annotations[imagestore.AnnotationSubject]), tagged: true}
		if m.Subject != nil {
			a.subject, a.tagged = m.Subject.Digest, false
		}
		signature := len(imagestore.SignatureLayers(m)) > 0
		// Of an image that was picked of an index, what is about that one.
		if a.tagged && !signature || !signature && want != Everything || !w.seen[a.subject] {
			continue
		}
		if err := w.visit(d, 1); err != nil {
			return nil, fmt.Errorf("what is about the image: %w", err)
		}
		found = append(found, a)
	}
	return found, nil
}

// sendAbout sends the manifest of something that is about the image, so that it is
// found there.
func (p *pusher) sendAbout(ctx context.Context, a about) error {
	err := p.aboutManifest(ctx, a)
	if err != nil {
		return &AboutError{Digest: a.d.Digest, Err: err}
	}
	return nil
}

// AboutError reports something about an image that could not be sent with it.
type AboutError struct {
	Digest imagestore.Digest
	Err    error
}

func (e *AboutError) Error() string {
	return fmt.Sprintf("%s, which is about it: %v", e.Digest.Short(), e.Err)
}
func (e *AboutError) Unwrap() error { return e.Err }

// Hint says what can be done.
func (e *AboutError) Hint() string {
	return "the image itself was not named there yet; push --no-signatures sends it alone"
}

func (p *pusher) aboutManifest(ctx context.Context, a about) error {
	b, err := p.g.ReadBlob("manifest", a.d, imagestore.MaxMetadata)
	if err != nil {
		return err
	}
	if a.tagged {
		tag := imagestore.SignatureTag(a.subject)
		have, err := p.look(ctx, tag)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			_, err = p.put(ctx, a.d, b, tag)
		case err == nil && have.Digest != a.d.Digest:
			// Somebody has signed there, too: those signatures may be wanted.
			p.res.Others = append(p.res.Others, tag)
			return nil
		}
		if err == nil {
			p.res.About = append(p.res.About, a.d.Digest)
		}
		return err
	}
	said, err := p.put(ctx, a.d, b, string(a.d.Digest))
	if err != nil {
		return err
	}
	p.res.About = append(p.res.About, a.d.Digest)
	if said.Get("OCI-Subject") != "" {
		return nil
	}
	return p.list(ctx, a)
}

// look asks what a tag stands for.
func (p *pusher) look(ctx context.Context, tag string) (d imagestore.Descriptor, err error) {
	err = p.c.again(ctx, func() error {
		d, err = p.c.head(ctx, p.e, p.to.Path, tag)
		return err
	})
	return d, err
}

// list adds a to the list of referrers that a tag stands for at a registry that does not
// keep one: see the distribution specification, "Referrers Tag Schema".
func (p *pusher) list(ctx context.Context, a about) error {
	tag := referrersTag(a.subject)
	x := &imagestore.Index{SchemaVersion: 2, MediaType: imagestore.MediaTypeIndex}
	err := p.c.again(ctx, func() error {
		_, b, err := p.c.get(ctx, p.e, p.to.Path, tag, imagestore.Descriptor{})
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			x, err = imagestore.ParseIndex(b, imagestore.MediaTypeIndex)
		}
		if err != nil {
			return &imagestore.FormatError{Object: "the list of referrers " + tag, Err: err}
		}
		return nil
	})
	if err != nil || slices.ContainsFunc(x.Manifests, func(d imagestore.Descriptor) bool { return d.Digest == a.d.Digest }) {
		return err
	}
	entry := imagestore.Descriptor{MediaType: a.d.MediaType, Digest: a.d.Digest, Size: a.d.Size, ArtifactType: a.m.ArtifactType, Annotations: a.m.Annotations}
	if entry.ArtifactType == "" {
		entry.ArtifactType = a.m.Config.MediaType
	}
	x.Manifests = append(x.Manifests, entry)
	b, err := json.Marshal(x)
	if err != nil {
		return err
	}
	if len(b) > imagestore.MaxMetadata || len(x.Manifests) > maxReferrerList {
		return &imagestore.FormatError{Object: "the list of referrers " + tag, Err: fmt.Errorf("it has %d entries, which is too long for another one", len(x.Manifests)-1)}
	}
	_, err = p.put(ctx, imagestore.Descriptor{MediaType: imagestore.MediaTypeIndex, Digest: imagestore.FromBytes(b), Size: int64(len(b))}, b, tag)
	return err
}
