package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/minirun/minirun/imagestore"
	"golang.org/x/sys/unix"
)

// PullOptions say what is wanted of an image. The zero value: what fits this host.
type PullOptions struct {
	Platform     *imagestore.Platform // nil: this host's
	AllPlatforms bool                 // everything that an index holds
	Referrers    bool                 // also what is about the image: signatures, bills of materials
	Progress     func(Progress)       // called from several goroutines, one at a time
	// Trust, if not nil, decides about the image before its config and layers come
	// and before it gets its name. It gets the digests of what the name stands for
	// and of the manifests that are used of that, and the signatures that the
	// registry has of them, which the store then keeps with the image.
	Trust func(digests []imagestore.Digest, found []imagestore.Signature) error
	// Arriving, if not nil, is called once the image's manifest and config are
	// there, and may use layers before all of them have come: g.OpenBlob waits
	// for what is on its way. It runs beside the transfer, and an error of its
	// ends that. It is not called for AllPlatforms.
	Arriving func(ctx context.Context, g *imagestore.Ingest, target imagestore.Descriptor) error
}

// Pulled is what came of a pull.
type Pulled struct {
	Name     string // under which the store has it
	Target   imagestore.Descriptor
	ID       imagestore.Digest // of the config; empty with AllPlatforms for other platforms alone
	Replaced bool              // the name stood for another image before
	UpToDate bool              // all of it was here
	Wire     int64             // bytes of blobs that were fetched
	// Referrers are what was fetched with the option of that name.
	Referrers []imagestore.Descriptor
}

// PullError reports an image that could not be fetched. The store is as before,
// except for parts of blobs that the next attempt uses.
type PullError struct {
	Ref string
	Err error
}

func (e *PullError) Error() string { return fmt.Sprintf("pull %q: %v", e.Ref, e.Err) }
func (e *PullError) Unwrap() error { return e.Err }

// Pull brings an image into the store s. Every blob is fetched once, whoever
// else wants it at the same time, and not at all if the store has it; blobs are
// checked against size and digest as they come. A connection that fails or on
// which nothing comes is replaced and the rest asked for, from the next mirror
// where there is one. Parts are kept for the next Pull when this one fails or its
// process dies. The image gets its name when all of it is on disk.
func (c *Client) Pull(ctx context.Context, s *imagestore.Store, ref imagestore.Reference, o PullOptions) (*Pulled, error) {
	res, err := c.pull(ctx, s, ref, o)
	if err != nil {
		return nil, &PullError{Ref: ref.Familiar(), Err: err}
	}
	return res, nil
}

type puller struct {
	transfer
	o      PullOptions
	target imagestore.Descriptor
	body   []byte                     // of target, if it had to be fetched
	early  map[imagestore.Digest]bool // configs that were needed before the rest
	about  []imagestore.Descriptor    // referrers
}

func (c *Client) pull(ctx context.Context, s *imagestore.Store, ref imagestore.Reference, o PullOptions) (*Pulled, error) {
	g, err := s.BeginFor(ctx, "pull "+ref.Familiar())
	if err != nil {
		return nil, err
	}
	defer g.Close()
	p := &puller{transfer: transfer{c: c, g: g, ref: ref, counted: &counters{tell: o.Progress}}, o: o, early: map[imagestore.Digest]bool{}}
	if err := p.resolve(ctx); err != nil {
		return nil, err
	}
	if ref.Digest != "" {
		ref.Tag = "" // as docker: what the tag stands for by now was not asked
	}
	res := &Pulled{Name: ref.String(), Target: p.target}
	unlock, err := g.LockPull(ctx, p.target, func() { p.counted.wait("the same image") })
	if err != nil {
		return nil, err
	}
	defer unlock()
	before, named := s.Target(res.Name)
	if err := p.content(ctx, s); err != nil {
		return nil, err
	}
	if img, err := g.Image(p.target); err == nil {
		res.ID = img.ConfigDigest
	}
	res.Wire = p.counted.wired()
	res.UpToDate = named && before.Digest == p.target.Digest && res.Wire == 0
	res.Replaced = named && before.Digest != p.target.Digest
	names := []imagestore.Naming{{Name: res.Name, Target: p.target}}
	for _, d := range p.about {
		names = append(names, imagestore.Naming{Target: d}) // the store keeps it with what it is about
	}
	res.Referrers = p.about
	if _, err := g.Publish(ctx, names...); err != nil {
		return nil, err
	}
	s.DropPartials()
	return res, nil
}

// resolve finds out what the reference stands for.
func (p *puller) resolve(ctx context.Context) error {
	what := p.ref.Tag
	can := canPull | canResolve
	if p.ref.Digest != "" {
		what, can = string(p.ref.Digest), canPull
	}
	return p.c.try(ctx, p.ref.Domain, can, func(e *endpoint, last bool) error {
		return p.c.attempts(ctx, last, func() error {
			// A registry may count GET against a limit and HEAD not.
			d, err := p.c.head(ctx, e, p.ref.Path, what)
			if err != nil {
				return err
			}
			if p.ref.Digest != "" && d.Digest != p.ref.Digest {
				d = imagestore.Descriptor{Digest: p.ref.Digest}
			}
			if d.Size > 0 && p.g.Has(d) {
				p.target = d
				return nil
			}
			if d.Digest != "" {
				what = string(d.Digest) // the tag may move between the two requests
			}
			p.target, p.body, err = p.c.get(ctx, e, p.ref.Path, what, d)
			return err
		})
	})
}

// content brings in everything that the target leads to.
func (p *puller) content(ctx context.Context, s *imagestore.Store) error {
	if p.body != nil && !p.g.Has(p.target) {
		if err := store(ctx, p.g, p.target, p.body); err != nil {
			return err
		}
	}
	manifests := []imagestore.Descriptor{p.target}
	var err error
	switch {
	case p.o.AllPlatforms && imagestore.IsIndexType(p.target.MediaType):
		manifests = nil
		err = p.walk(ctx, p.target, 1, &manifests)
	case imagestore.IsIndexType(p.target.MediaType):
		manifests[0], err = imagestore.Select(p.reader(ctx), p.target, p.platform())
	}
	if err != nil {
		return p.platformError(err)
	}
	var signatures []imagestore.Descriptor
	if p.o.Trust != nil {
		if signatures, err = p.trust(ctx, manifests); err != nil {
			return err
		}
	}
	var blobs []imagestore.Descriptor
	seen := map[imagestore.Digest]bool{}
	add := func(list ...imagestore.Descriptor) {
		for _, d := range list {
			if !seen[d.Digest] {
				seen[d.Digest] = true
				blobs = append(blobs, d)
			}
		}
	}
	for _, d := range manifests {
		m, err := p.manifest(ctx, d)
		if err != nil {
			return err
		}
		if err := p.checkManifest(ctx, d, m); err != nil {
			return p.platformError(err)
		}
		add(m.Layers...) // in this order: unpacking begins at the bottom
		add(m.Config)
	}
	add(signatures...)
	if p.o.Referrers {
		list, err := p.referrers(ctx, manifests)
		if err != nil {
			return fmt.Errorf("referrers: %w", err)
		}
		add(list...)
	}
	if err := p.space(s, blobs); err != nil {
		return err
	}
	return p.fetch(ctx, blobs)
}

func (p *puller) platform() imagestore.Platform {
	if p.o.Platform != nil {
		return *p.o.Platform
	}
	return imagestore.HostPlatform()
}

func (p *puller) platformError(err error) error {
	var platform *imagestore.PlatformError
	if errors.As(err, &platform) {
		return &NoPlatformError{Want: p.platform(), Have: platform.Have}
	}
	return err
}

// NoPlatformError reports an image that is not there for the platform that is
// wanted. It is errors.ErrUnsupported.
type NoPlatformError struct {
	Want imagestore.Platform
	Have []string
}

func (e *NoPlatformError) Error() string {
	return fmt.Sprintf("there is none for %s, only for %s", e.Want, strings.Join(e.Have, ", "))
}

// Is makes it errors.ErrUnsupported.
func (e *NoPlatformError) Is(target error) bool { return target == errors.ErrUnsupported }

// Hint says what people can do.
func (e *NoPlatformError) Hint() string {
	return "to have it all the same, to push it elsewhere for example: --platform " + e.Have[0]
}

// reader reads manifests and configs and fetches what is not there.
func (p *puller) reader(ctx context.Context) func(string, imagestore.Descriptor, int) ([]byte, error) {
	return func(what string, d imagestore.Descriptor, limit int) ([]byte, error) {
		b, err := p.g.ReadBlob(what, d, limit)
		var missing *imagestore.MissingError
		if !errors.As(err, &missing) {
			return b, err
		}
		if what == "config" {
			p.early[d.Digest] = true
			p.counted.expect(d.Size)
			if err = p.blob(ctx, what, d); err == nil {
				p.counted.finished()
			}
		} else {
			err = p.fetchManifest(ctx, d)
		}
		if err != nil {
			return nil, err
		}
		return p.g.ReadBlob(what, d, limit)
	}
}

func (p *puller) fetchManifest(ctx context.Context, d imagestore.Descriptor) error {
	if d.Size > imagestore.MaxMetadata {
		return &imagestore.FormatError{Object: "manifest " + string(d.Digest), Err: fmt.Errorf("its %d bytes are more than the limit of %d", d.Size, imagestore.MaxMetadata)}
	}
	return p.c.try(ctx, p.ref.Domain, canPull, func(e *endpoint, last bool) error {
		return p.c.attempts(ctx, last, func() error {
			got, b, err := p.c.get(ctx, e, p.ref.Path, string(d.Digest), d)
			if err != nil {
				return err
			}
			return store(ctx, p.g, got, b)
		})
	})
}

func (p *puller) manifest(ctx context.Context, d imagestore.Descriptor) (*imagestore.Manifest, error) {
	b, err := p.reader(ctx)("manifest", d, imagestore.MaxMetadata)
	if err != nil {
		return nil, err
	}
	p.g.Has(d) // keep it
	m, err := imagestore.ParseManifest(b, d.MediaType)
	if err != nil {
		return nil, &imagestore.FormatError{Object: "manifest " + string(d.Digest), Err: err}
	}
	return m, nil
}

// walk collects the manifests of an index and of the indexes in it.
func (p *puller) walk(ctx context.Context, d imagestore.Descriptor, depth int, list *[]imagestore.Descriptor) error {
	object := "index " + string(d.Digest)
	if depth > 3 {
		return &imagestore.FormatError{Object: object, Err: errors.New("indexes are nested more than 3 deep")}
	}
	b, err := p.reader(ctx)("index", d, imagestore.MaxMetadata)
	if err != nil {
		return err
	}
	x, err := imagestore.ParseIndex(b, d.MediaType)
	if err != nil {
		return &imagestore.FormatError{Object: object, Err: err}
	}
	for _, m := range x.Manifests {
		switch {
		case imagestore.IsIndexType(m.MediaType):
			if err := p.walk(ctx, m, depth+1, list); err != nil {
				return err
			}
		case !imagestore.IsManifestType(m.MediaType):
			return &imagestore.UnsupportedError{Object: object, Reason: fmt.Sprintf("media type %q", oneLine(m.MediaType))}
		case !slices.ContainsFunc(*list, func(have imagestore.Descriptor) bool { return have.Digest == m.Digest }):
			*list = append(*list, m)
		}
		if len(*list) > imagestore.MaxEntries {
			return &imagestore.FormatError{Object: object, Err: fmt.Errorf("it leads to more than %d manifests", imagestore.MaxEntries)}
		}
	}
	return nil
}

// checkManifest refuses what could not be used before gigabytes of it have come.
func (p *puller) checkManifest(ctx context.Context, d imagestore.Descriptor, m *imagestore.Manifest) error {
	object := "manifest " + string(d.Digest)
	if p.o.AllPlatforms {
		return nil // all of what the index holds, attestations too
	}
	if !m.IsImage() {
		return &imagestore.UnsupportedError{Object: object, Reason: fmt.Sprintf("it is an artifact of type %q and no container image", oneLine(m.Kind()))}
	}
	for i, l := range m.Layers {
		if !layerType(l.MediaType) {
			return &imagestore.UnsupportedError{Object: object, Reason: fmt.Sprintf("layer %d is of media type %q", i+1, oneLine(l.MediaType))}
		}
	}
	b, err := p.reader(ctx)("config", m.Config, imagestore.MaxMetadata)
	if err != nil {
		return err
	}
	cfg, err := imagestore.ParseConfig(b, len(m.Layers))
	if err != nil {
		return &imagestore.FormatError{Object: "config " + string(m.Config.Digest), Err: err}
	}
	if !p.platform().Runs(cfg.Platform()) {
		return &NoPlatformError{Want: p.platform(), Have: []string{cfg.Platform().String()}}
	}
	return nil
}

// layerType tells the media types of layers. What they are compressed with shows
// their content.
func layerType(mediaType string) bool {
	t := strings.TrimSuffix(strings.TrimSuffix(mediaType, "+gzip"), "+zstd")
	switch t {
	case imagestore.MediaTypeLayer, "application/vnd.oci.image.layer.nondistributable.v1.tar":
		return true
	}
	t = strings.TrimSuffix(strings.TrimSuffix(mediaType, ".gzip"), ".zstd")
	return t == "application/vnd.docker.image.rootfs.diff.tar" || t == "application/vnd.docker.image.rootfs.foreign.diff.tar"
}

// space fails if the file system is too small for what is missing.
func (p *puller) space(s *imagestore.Store, blobs []imagestore.Descriptor) error {
	var need int64
	for _, d := range blobs {
		if !p.g.Has(d) {
			need += d.Size
			if need < 0 {
				return &imagestore.FormatError{Object: "manifest", Err: errors.New("the sizes of its layers are absurd")}
			}
		}
	}
	need -= min(s.PartialBytes(blobs), need)
	var st unix.Statfs_t
	if err := unix.Statfs(s.Root(), &st); err != nil {
		return nil
	}
	if free := int64(st.Bavail) * st.Bsize; need > free {
		return &SpaceError{Dir: s.Root(), Need: need, Free: free, err: unix.ENOSPC}
	}
	return nil
}

// fetch brings the blobs in, several at a time. The first error ends the others.
func (p *puller) fetch(ctx context.Context, blobs []imagestore.Descriptor) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := map[imagestore.Digest]chan struct{}{}
	for _, d := range blobs {
		done[d.Digest] = make(chan struct{})
		if p.early[d.Digest] {
			close(done[d.Digest])
		} else {
			p.counted.expect(d.Size)
		}
	}
	p.g.Await(func(d imagestore.Descriptor) error {
		here, ok := done[d.Digest]
		if !ok {
			return nil
		}
		select {
		case <-here:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	var wg sync.WaitGroup
	if p.o.Arriving != nil && !p.o.AllPlatforms {
		wg.Go(func() {
			if err := p.o.Arriving(ctx, p.g, p.target); err != nil {
				cancel(err)
			}
		})
	}
	slots := make(chan struct{}, p.c.o.Parallel)
	for _, d := range blobs {
		if p.early[d.Digest] {
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := p.blob(ctx, p.kind(d), d); err != nil {
				cancel(err)
				return
			}
			close(done[d.Digest])
			p.counted.finished()
		})
	}
	wg.Wait()
	p.g.Await(nil)
	return context.Cause(ctx)
}

func (p *puller) kind(d imagestore.Descriptor) string {
	if imagestore.IsImageConfigType(d.MediaType) {
		return "config"
	}
	return "layer"
}
