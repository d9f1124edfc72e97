package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"

	"github.com/minirun/minirun/imagestore"
)

// referrers fetches the manifests that are about the image, the index as well as
// the manifests that were picked of it, and returns the blobs that they need.
func (p *puller) referrers(ctx context.Context, manifests []imagestore.Descriptor) (blobs []imagestore.Descriptor, err error) {
	subjects := []imagestore.Digest{p.target.Digest}
	for _, m := range manifests {
		if m.Digest != p.target.Digest {
			subjects = append(subjects, m.Digest)
		}
	}
	for _, subject := range subjects {
		list, err := p.referrersOf(ctx, subject)
		if err != nil {
			return nil, err
		}
		for _, d := range list {
			known := slices.ContainsFunc(p.about, func(have imagestore.Descriptor) bool { return have.Digest == d.Digest })
			if known || !imagestore.IsManifestType(d.MediaType) {
				continue // an index about an image needs all that it lists
			}
			m, err := p.manifest(ctx, imagestore.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size})
			if err != nil {
				return nil, err
			}
			if m.Subject == nil || m.Subject.Digest != subject {
				return nil, &imagestore.FormatError{Object: "manifest " + string(d.Digest), Err: fmt.Errorf("it is listed as one about %s and is not", subject)}
			}
			p.about = append(p.about, d)
			blobs = append(append(blobs, m.Layers...), m.Config)
		}
	}
	return blobs, nil
}

// referrersOf asks for the list, see the distribution specification, "Listing
// Referrers"; of a registry that does not know the question, for the tag that
// clients keep in place of the answer.
func (p *puller) referrersOf(ctx context.Context, subject imagestore.Digest) (list []imagestore.Descriptor, err error) {
	what := "referrers of " + string(subject)
	err = p.c.try(ctx, p.ref.Domain, canPull|canResolve, func(e *endpoint, last bool) error {
		return p.c.attempts(ctx, last, func() error {
			resp, b, err := p.c.metadata(ctx, e, call{
				what: what, method: http.MethodGet, path: p.ref.Path + "/referrers/" + string(subject), repo: p.ref.Path, scope: pullScope(p.ref.Path),
				header: http.Header{"Accept": {imagestore.MediaTypeIndex}},
			}, imagestore.MaxMetadata, http.StatusOK)
			// A page of some other program is no answer either.
			if err == nil && contentType(resp) != imagestore.MediaTypeIndex || errors.Is(err, fs.ErrNotExist) {
				tag := subject.Algorithm() + "-" + subject.Hex()
				if _, b, err = p.c.get(ctx, e, p.ref.Path, tag, imagestore.Descriptor{}); errors.Is(err, fs.ErrNotExist) {
					list = nil
					return nil
				}
			}
			if err != nil {
				return err
			}
			x, err := imagestore.ParseIndex(b, imagestore.MediaTypeIndex)
			if err != nil {
				return &imagestore.FormatError{Object: what, Err: err}
			}
			list = x.Manifests
			return nil
		})
	})
	return list, err
}
