package registry

import (
	"context"
	"errors"
	"io/fs"
	"slices"

	"github.com/minirun/minirun/imagestore"
)

// maxReferrers bounds how many manifests are looked at for signatures.
const maxReferrers = 64

// trust fetches the signatures of the image and asks whether it is trusted. It
// returns the blobs that the signatures' manifests need.
func (p *puller) trust(ctx context.Context, manifests []imagestore.Descriptor) (blobs []imagestore.Descriptor, err error) {
	digests := []imagestore.Digest{p.target.Digest}
	if len(manifests) == 1 && manifests[0].Digest != p.target.Digest && !p.o.AllPlatforms {
		// Of several, each has to be signed, or the index.
		digests = append(digests, manifests[0].Digest)
	}
	var found []imagestore.Signature
	take := func(subject imagestore.Digest, d imagestore.Descriptor, m *imagestore.Manifest) error {
		layers := imagestore.SignatureLayers(m)
		if len(layers) == 0 || slices.ContainsFunc(p.about, func(have imagestore.Descriptor) bool { return have.Digest == d.Digest }) {
			return nil
		}
		for _, l := range append(slices.Clone(layers), m.Config) {
			if p.early[l.Digest] {
				continue
			}
			p.early[l.Digest] = true
			p.counted.expect(l.Size)
			if err := p.blob(ctx, "signature", l); err != nil {
				return err
			}
			p.counted.finished()
		}
		list, err := imagestore.SignaturesIn(p.g.ReadBlob, m)
		if err != nil {
			return err
		}
		found = append(found, list...)
		blobs = append(append(blobs, layers...), m.Config)
		p.about = append(p.about, imagestore.Descriptor{
			MediaType: d.MediaType, Digest: d.Digest, Size: d.Size,
			Annotations: map[string]string{imagestore.AnnotationSubject: string(subject)},
		})
		return nil
	}
	for _, subject := range digests {
		d, m, err := p.signatureTag(ctx, subject)
		if err == nil && m != nil {
			err = take(subject, d, m)
		}
		if err != nil {
			return nil, err
		}
		list, err := p.referrersOf(ctx, subject)
		if err != nil {
			return nil, err
		}
		for i, d := range list {
			if i == maxReferrers || !imagestore.IsManifestType(d.MediaType) || d.Size > imagestore.MaxMetadata {
				continue
			}
			m, err := p.manifest(ctx, imagestore.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size})
			if err != nil {
				return nil, err
			}
			if m.Subject != nil && m.Subject.Digest == subject {
				if err := take(subject, d, m); err != nil {
					return nil, err
				}
			}
		}
	}
	return blobs, p.o.Trust(digests, found)
}

// signatureTag fetches the manifest that cosign keeps an image's signatures in;
// nil if there is none. It is asked of those who may say what a tag means.
func (p *puller) signatureTag(ctx context.Context, subject imagestore.Digest) (d imagestore.Descriptor, m *imagestore.Manifest, err error) {
	tag := imagestore.SignatureTag(subject)
	var body []byte
	err = p.c.try(ctx, p.ref.Domain, canPull|canResolve, func(e *endpoint, last bool) error {
		return p.c.attempts(ctx, last, func() error {
			var err error
			d, body, err = p.c.get(ctx, e, p.ref.Path, tag, imagestore.Descriptor{})
			if last && errors.Is(err, fs.ErrNotExist) { // a mirror need not have it
				body = nil
				return nil
			}
			return err
		})
	})
	if err != nil || body == nil || !imagestore.IsManifestType(d.MediaType) {
		return d, nil, err
	}
	if m, err = imagestore.ParseManifest(body, d.MediaType); err != nil {
		return d, nil, &imagestore.FormatError{Object: "manifest " + tag, Err: err}
	}
	return d, m, store(ctx, p.g, d, body)
}
