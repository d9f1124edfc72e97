package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strings"

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
	err = p.c.try(ctx, p.ref.Domain, canPull|canReferrers, func(e *endpoint, last bool) error {
		return p.c.attempts(ctx, last, func() (err error) {
			list, err = p.c.referrers(ctx, e, p.ref.Path, subject)
			return err
		})
	})
	return list, err
}

// Limits of a list of referrers, of all its pages.
const (
	maxReferrerPages = 32
	maxReferrerList  = 4096
)

// referrers asks one host for the list.
func (c *Client) referrers(ctx context.Context, e *endpoint, repo string, subject imagestore.Digest) (list []imagestore.Descriptor, err error) {
	k := call{
		what: "referrers of " + string(subject), method: http.MethodGet, path: repo + "/referrers/" + string(subject), repo: repo, scope: pullScope(repo),
		header: http.Header{"Accept": {imagestore.MediaTypeIndex}},
	}
	for page := 1; ; page++ {
		resp, b, err := c.metadata(ctx, e, k, imagestore.MaxMetadata, http.StatusOK)
		// A page of some other program is no answer either.
		if page == 1 && (err == nil && contentType(resp) != imagestore.MediaTypeIndex || errors.Is(err, fs.ErrNotExist)) {
			_, b, err = c.get(ctx, e, repo, referrersTag(subject), imagestore.Descriptor{})
			if errors.Is(err, fs.ErrNotExist) {
				return nil, nil
			}
			resp = nil
		}
		if err != nil {
			return nil, err
		}
		x, err := imagestore.ParseIndex(b, imagestore.MediaTypeIndex)
		if err != nil {
			return nil, &imagestore.FormatError{Object: k.what, Err: err}
		}
		list = append(list, x.Manifests...)
		if k.at, err = nextPage(e, k.what, resp); err != nil || k.at == nil {
			return list, err
		}
		if page == maxReferrerPages || len(list) > maxReferrerList {
			return nil, &imagestore.FormatError{Object: k.what, Err: fmt.Errorf("the list at %s has more than %d pages or %d entries", e.name(), maxReferrerPages, maxReferrerList)}
		}
	}
}

// referrersTag is the tag that stands in for the list.
func referrersTag(subject imagestore.Digest) string { return subject.Algorithm() + "-" + subject.Hex() }

// nextPage is where the list goes on (RFC 8288), nil at its end. Only the host itself
// is believed.
func nextPage(e *endpoint, what string, resp *http.Response) (*url.URL, error) {
	if resp == nil {
		return nil, nil
	}
	for _, link := range resp.Header.Values("Link") {
		for part := range strings.SplitSeq(link, ",") {
			target, params, ok := strings.Cut(strings.TrimSpace(part), ">")
			target, open := strings.CutPrefix(target, "<")
			if !ok || !open || !isNext(params) {
				continue
			}
			at, err := resp.Request.URL.Parse(target)
			if err != nil || at.User != nil || !e.owns(at) {
				return nil, &SecurityError{Reason: fmt.Sprintf("%s at %s: it goes on at %q, which is not that host", what, e.name(), oneLine(target))}
			}
			at.Fragment = ""
			return at, nil
		}
	}
	return nil, nil
}

func isNext(params string) bool {
	for p := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(name, "rel") && strings.EqualFold(strings.Trim(value, `"`), "next") {
			return true
		}
	}
	return false
}
