package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/minirun/minirun/imagestore"
)

// accept are the kinds of manifest that are asked for.
var accept = []string{
	imagestore.MediaTypeIndex, imagestore.MediaTypeManifest, imagestore.MediaTypeDockerList, imagestore.MediaTypeDockerImage,
}

// legacy are kinds that are recognised and refused, with what to call them.
func legacy(mediaType string) string {
	switch mediaType {
	case "application/vnd.docker.distribution.manifest.v1+json", "application/vnd.docker.distribution.manifest.v1+prettyjws":
		return "docker image manifest version 2, schema 1, which is no longer used: push the image again with a docker of this decade"
	case "application/vnd.oci.artifact.manifest.v1+json":
		return "OCI artifact manifest, which was given up before it became a standard"
	}
	return ""
}

// head asks what a tag or digest stands for. A registry that does not say gives
// an empty digest.
func (c *Client) head(ctx context.Context, e *endpoint, repo, ref string) (imagestore.Descriptor, error) {
	var d imagestore.Descriptor
	resp, _, err := c.metadata(ctx, e, call{
		what: "manifest " + ref, method: http.MethodHead, path: repo + "/manifests/" + ref, repo: repo, scope: pullScope(repo),
		header: http.Header{"Accept": accept},
	}, 0, http.StatusOK, http.StatusMethodNotAllowed)
	if err != nil || resp.StatusCode != http.StatusOK {
		return d, err
	}
	if d.Digest, err = imagestore.ParseDigest(resp.Header.Get("Docker-Content-Digest")); err != nil {
		return imagestore.Descriptor{}, nil
	}
	d.MediaType = contentType(resp)
	d.Size, err = strconv.ParseInt(resp.Header.Get("Content-Length"), 10, 64)
	if err != nil || d.Size <= 0 || !slices.Contains(accept, d.MediaType) {
		return imagestore.Descriptor{}, nil // asked for in full, with an error that says more
	}
	return d, nil
}

// get fetches a manifest. want is what it must be: its digest if there is one,
// and its size if that is not negative.
func (c *Client) get(ctx context.Context, e *endpoint, repo, ref string, want imagestore.Descriptor) (imagestore.Descriptor, []byte, error) {
	var d imagestore.Descriptor
	what := "manifest " + ref
	resp, b, err := c.metadata(ctx, e, call{
		what: what, method: http.MethodGet, path: repo + "/manifests/" + ref, repo: repo, scope: pullScope(repo),
		header: http.Header{"Accept": accept},
	}, imagestore.MaxMetadata, http.StatusOK)
	var limit *limitError
	if errors.As(err, &limit) {
		return d, nil, &imagestore.FormatError{Object: what, Err: fmt.Errorf("it is longer than the limit of %d bytes", limit.limit)}
	}
	if err != nil {
		return d, nil, err
	}
	object := what + " at " + e.name()
	d.Size = int64(len(b))
	like := want.Digest
	if said, err := imagestore.ParseDigest(resp.Header.Get("Docker-Content-Digest")); err == nil && like == "" {
		like = said
	}
	d.Digest = imagestore.DigestLike(like, b)
	if like != "" && d.Digest != like {
		return d, nil, &imagestore.DigestError{Object: object, Want: like, Got: d.Digest}
	}
	if want.Digest != "" && want.Size > 0 && d.Size != want.Size {
		return d, nil, &imagestore.SizeError{Object: object, Want: want.Size, Got: d.Size}
	}
	d.MediaType, err = manifestType(contentType(resp), b)
	if err != nil {
		return d, nil, wrapObject(object, err)
	}
	if want.MediaType != "" && want.MediaType != d.MediaType {
		return d, nil, &imagestore.FormatError{Object: object, Err: fmt.Errorf("it is of type %q, the index says %q", d.MediaType, want.MediaType)}
	}
	if imagestore.IsIndexType(d.MediaType) {
		_, err = imagestore.ParseIndex(b, d.MediaType)
	} else {
		_, err = imagestore.ParseManifest(b, d.MediaType)
	}
	if err != nil {
		return d, nil, &imagestore.FormatError{Object: object, Err: err}
	}
	return d, b, nil
}

func wrapObject(object string, err error) error {
	if errors.Is(err, errors.ErrUnsupported) {
		return &imagestore.UnsupportedError{Object: object, Reason: err.Error()}
	}
	return &imagestore.FormatError{Object: object, Err: err}
}

func contentType(resp *http.Response) string {
	t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return t
}

// manifestType decides what kind a manifest is: by the header, or by its own
// word where the header is of the kind that servers give to any file.
func manifestType(header string, b []byte) (string, error) {
	if slices.Contains(accept, header) {
		return header, nil // the body is compared with it when it is parsed
	}
	if l := legacy(header); l != "" {
		return "", &unsupported{"it is a " + l}
	}
	var body struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		FSLayers      json.RawMessage `json:"fsLayers"`
		Manifests     json.RawMessage `json:"manifests"`
		Layers        json.RawMessage `json:"layers"`
	}
	if err := json.Unmarshal(b, &body); err != nil {
		return "", fmt.Errorf("it is no manifest: content type %q, and no JSON: %w", oneLine(header), err)
	}
	switch header {
	case "", "application/json", "application/octet-stream", "text/plain":
	default:
		return "", &unsupported{fmt.Sprintf("content type %q is no manifest's", oneLine(header))}
	}
	switch {
	case slices.Contains(accept, body.MediaType):
		return body.MediaType, nil
	case legacy(body.MediaType) != "":
		return "", &unsupported{"it is a " + legacy(body.MediaType)}
	case body.SchemaVersion == 1 || body.FSLayers != nil:
		return "", &unsupported{"it is a " + legacy("application/vnd.docker.distribution.manifest.v1+json")}
	case body.MediaType != "":
		return "", &unsupported{fmt.Sprintf("media type %q is no manifest's", oneLine(body.MediaType))}
	case body.Manifests != nil:
		return imagestore.MediaTypeIndex, nil
	case body.Layers != nil:
		return imagestore.MediaTypeManifest, nil
	}
	return "", &unsupported{fmt.Sprintf("content type %q says nothing, and its own media type is missing", header)}
}

type unsupported struct{ reason string }

func (e *unsupported) Error() string        { return e.reason }
func (e *unsupported) Is(target error) bool { return target == errors.ErrUnsupported }

// try calls f with each endpoint that can do what is needed until one succeeds,
// and returns the last error: that of the registry itself, if it was asked.
func (c *Client) try(ctx context.Context, registry string, can capability, f func(e *endpoint, last bool) error) error {
	list, err := c.hosts(registry)
	if err != nil {
		return err
	}
	var able []*endpoint
	for _, e := range list {
		if e.can&can == can {
			able = append(able, e)
		}
	}
	if len(able) == 0 {
		return fmt.Errorf("hosts.toml has no host for %s that could be asked", registry)
	}
	var errs []error
	for i, e := range able {
		last := i == len(able)-1
		if e.isDown() != nil && !last {
			continue
		}
		err := f(e, last)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if isLocal(err) {
			return err
		}
		var status *StatusError
		var auth *AuthError
		if !last && !errors.As(err, &status) && !errors.As(err, &auth) {
			e.setDown(err)
		}
		errs = append(errs, err)
	}
	// A mirror's trouble is only of interest where it may be the cause.
	if len(errs) > 1 && !errors.Is(errs[len(errs)-1], fs.ErrNotExist) {
		var others []string
		for _, err := range errs[:len(errs)-1] {
			others = append(others, err.Error())
		}
		return fmt.Errorf("%w (before that: %s)", errs[len(errs)-1], strings.Join(others, "; "))
	}
	return errs[len(errs)-1]
}

// attempts is again for one endpoint of several: who is not the last one gets one
// more chance and no patience.
func (c *Client) attempts(ctx context.Context, last bool, f func() error) error {
	if last {
		return c.again(ctx, f)
	}
	return f()
}

// store keeps a manifest in the ingest directory.
func store(ctx context.Context, g *imagestore.Ingest, d imagestore.Descriptor, b []byte) error {
	if err := g.Copy(ctx, "manifest", d, bytes.NewReader(b)); err != nil {
		return &localError{err}
	}
	return nil
}
