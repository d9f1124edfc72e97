package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/minirun/minirun/imagestore"
)

// PushOptions are optional.
type PushOptions struct {
	As       *imagestore.Reference // the name at the registry, if it is not the image's
	Platform *imagestore.Platform  // of an index, the image for this platform alone
	About    About                 // what else is sent
	Progress func(Progress)
}

// Pushed is what came of a push.
type Pushed struct {
	Name    string
	Target  imagestore.Descriptor
	Wire    int64               // bytes of blobs that were sent
	Mounted int                 // blobs that the registry took over from another repository
	Skipped []imagestore.Digest // layers that may not be distributed
	About   []imagestore.Digest // manifests about the image that were sent
	Others  []string            // tags that the registry has other signatures under, which were left alone
}

// PushError reports an image that could not be sent.
type PushError struct {
	Ref string
	Err error
}

func (e *PushError) Error() string { return fmt.Sprintf("push %q: %v", e.Ref, e.Err) }
func (e *PushError) Unwrap() error { return e.Err }

// IncompleteError reports an index of which parts are not in the store.
type IncompleteError struct {
	Missing []string // platforms, or digests
	Here    []string // platforms that are complete
}

func (e *IncompleteError) Error() string {
	return "its index lists images that are not here: " + strings.Join(e.Missing, ", ")
}

// Hint says what people can do.
func (e *IncompleteError) Hint() string {
	h := "fetch them with minirun pull --all-platforms"
	if len(e.Here) > 0 {
		h += ", or push one image without the index: --platform " + e.Here[0]
	}
	return h
}

// Push sends the image ref of s to the registry that its name, or the option
// As, names. Manifests are sent byte for byte as they are in the store, so
// digests stay. What the registry has is not sent: it is asked for each blob, and
// offered those that repositories of the same registry have according to the
// names in the store. Nothing is removed while it is sent.
func (c *Client) Push(ctx context.Context, s *imagestore.Store, ref string, o PushOptions) (*Pushed, error) {
	res, err := c.push(ctx, s, ref, o)
	if err != nil {
		return nil, &PushError{Ref: ref, Err: err}
	}
	return res, nil
}

type pusher struct {
	c       *Client
	g       *imagestore.Ingest
	e       *endpoint
	to      imagestore.Reference
	from    []source // what may be mounted
	counted *counters
	mu      sync.Mutex
	res     *Pushed
}

// source is a repository of the same registry that has, or had, some blobs.
type source struct {
	repo  string
	blobs map[imagestore.Digest]bool
}

func (c *Client) push(ctx context.Context, s *imagestore.Store, ref string, o PushOptions) (*Pushed, error) {
	held, g, err := s.Hold(ctx, "push "+ref, ref)
	if err != nil {
		return nil, err
	}
	defer g.Close()
	target := held[0].Entry
	p := &pusher{c: c, g: g, counted: &counters{tell: o.Progress}, res: &Pushed{}}
	if o.As != nil {
		p.to = *o.As
	} else if p.to, err = imagestore.ParseReference(target.Annotations[imagestore.AnnotationRefName]); err != nil {
		return nil, fmt.Errorf("it has no name that says where to: %w", err)
	}
	if o.Platform != nil && imagestore.IsIndexType(target.MediaType) {
		m, err := imagestore.Select(g.ReadBlob, target, *o.Platform)
		if err != nil {
			return nil, err
		}
		target = imagestore.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: m.Size}
	}
	if p.to.Digest != "" && p.to.Digest != target.Digest {
		return nil, fmt.Errorf("it has digest %s, which is not that of %q", target.Digest, p.to.Familiar())
	}
	w := walk{g: g, seen: map[imagestore.Digest]bool{}}
	if err := w.visit(target, 1); err != nil {
		return nil, err
	}
	if len(w.missing) > 0 {
		return nil, &IncompleteError{Missing: w.missing, Here: w.here}
	}
	if p.e, err = c.pushEndpoint(p.to.Domain); err != nil {
		return nil, err
	}
	manifests := w.manifests
	about, err := w.about(held[0].Referrers, o.About)
	if err != nil {
		return nil, err
	}
	p.sources(s)
	if err := p.blobs(ctx, w.blobs); err != nil {
		return nil, err
	}
	// Bottom up: a registry takes an index when it has what that lists. What is about
	// the image comes before its name, so that nobody finds it there without.
	last := len(manifests) - 1
	for _, m := range manifests[:last] {
		if err := p.manifest(ctx, m, string(m.Digest)); err != nil {
			return nil, err
		}
	}
	for _, a := range about {
		if err := p.sendAbout(ctx, a); err != nil {
			return nil, err
		}
	}
	name := string(manifests[last].Digest)
	if p.to.Digest == "" {
		name = p.to.Tag
	}
	if err := p.manifest(ctx, manifests[last], name); err != nil {
		return nil, err
	}
	p.res.Name, p.res.Target, p.res.Wire = p.to.String(), target, p.counted.wired()
	return p.res, nil
}

// pushEndpoint is the host that content is sent to: the registry itself, or the
// first of hosts.toml that may be pushed to.
func (c *Client) pushEndpoint(registry string) (*endpoint, error) {
	list, err := c.hosts(registry)
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		if !e.mirror && e.can&canPush != 0 {
			return e, nil
		}
	}
	for _, e := range list {
		if e.can&canPush != 0 {
			return e, nil
		}
	}
	return nil, fmt.Errorf("hosts.toml has no host for %s that may be pushed to", registry)
}

// walk collects what a target leads to, what it needs before itself.
type walk struct {
	g             *imagestore.Ingest
	seen          map[imagestore.Digest]bool
	manifests     []imagestore.Descriptor
	blobs         []imagestore.Descriptor
	missing, here []string
}

func (w *walk) visit(d imagestore.Descriptor, depth int) error {
	if w.seen[d.Digest] {
		return nil
	}
	w.seen[d.Digest] = true
	if depth > 4 {
		return &imagestore.FormatError{Object: "index " + string(d.Digest), Err: errors.New("indexes are nested more than 3 deep")}
	}
	name := string(d.Digest)
	if d.Platform != nil && d.Platform.OS != "unknown" {
		name = d.Platform.String()
	}
	b, err := w.g.ReadBlob("manifest", d, imagestore.MaxMetadata)
	var missing *imagestore.MissingError
	if errors.As(err, &missing) && depth > 1 {
		w.missing = append(w.missing, name)
		return nil
	}
	if err != nil {
		return err
	}
	if imagestore.IsIndexType(d.MediaType) {
		x, err := imagestore.ParseIndex(b, d.MediaType)
		if err != nil {
			return &imagestore.FormatError{Object: "index " + string(d.Digest), Err: err}
		}
		for _, m := range x.Manifests {
			if err := w.visit(m, depth+1); err != nil {
				return err
			}
		}
		w.manifests = append(w.manifests, d)
		return nil
	}
	m, err := imagestore.ParseManifest(b, d.MediaType)
	if err != nil {
		return &imagestore.FormatError{Object: "manifest " + string(d.Digest), Err: err}
	}
	complete := true
	for _, l := range append(m.Layers[:len(m.Layers):len(m.Layers)], m.Config) {
		if w.seen[l.Digest] {
			continue
		}
		if !w.g.Has(l) && !foreign(l.MediaType) {
			if depth == 1 {
				return &imagestore.MissingError{Object: "layer", Digest: l.Digest}
			}
			complete = false
			continue
		}
		w.seen[l.Digest] = true
		w.blobs = append(w.blobs, l)
	}
	if complete {
		w.here = append(w.here, name)
	} else {
		w.missing = append(w.missing, name)
	}
	w.manifests = append(w.manifests, d)
	return nil
}

// foreign tells layers that their owner wants to distribute alone.
func foreign(mediaType string) bool {
	return strings.Contains(mediaType, ".nondistributable.") || strings.Contains(mediaType, ".foreign.")
}

// sources finds repositories of the registry that other names in the store say
// have the same blobs.
func (p *pusher) sources(s *imagestore.Store) {
	list, err := s.List()
	if err != nil {
		return // only a saving
	}
	for _, e := range list {
		r, err := imagestore.ParseReference(e.Name)
		if err != nil || e.Image == nil || r.Domain != p.to.Domain || r.Path == p.to.Path {
			continue
		}
		src := source{repo: r.Path, blobs: map[imagestore.Digest]bool{e.Image.ConfigDigest: true}}
		for _, l := range e.Image.Layers {
			src.blobs[l.Digest] = true
		}
		p.from = append(p.from, src)
	}
}

func (p *pusher) scope(from string) string {
	s := pushScope(p.to.Path)
	if from != "" {
		s += " " + pullScope(from)
	}
	return s
}

// blobs sends what the registry has not got, several at a time.
func (p *pusher) blobs(ctx context.Context, blobs []imagestore.Descriptor) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for _, d := range blobs {
		if !foreign(d.MediaType) {
			p.counted.expect(d.Size)
		}
	}
	slots := make(chan struct{}, p.c.o.Parallel)
	var wg sync.WaitGroup
	for _, d := range blobs {
		if foreign(d.MediaType) {
			p.res.Skipped = append(p.res.Skipped, d.Digest)
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := p.blob(ctx, d); err != nil {
				cancel(err)
				return
			}
			p.counted.finished()
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

func (p *pusher) call(what, method, path string) call {
	return call{what: what, method: method, path: p.to.Path + path, repo: p.to.Path, scope: p.scope("")}
}

// ask is a request without a body worth mentioning, tried again when that may help.
func (p *pusher) ask(ctx context.Context, k call, want ...int) (resp *http.Response, err error) {
	err = p.c.again(ctx, func() error {
		resp, _, err = p.c.metadata(ctx, p.e, k, 64<<10, want...)
		return err
	})
	return resp, err
}

func (p *pusher) blob(ctx context.Context, d imagestore.Descriptor) error {
	object := "blob " + string(d.Digest)
	resp, err := p.ask(ctx, p.call(object, http.MethodHead, "/blobs/"+string(d.Digest)), http.StatusOK, http.StatusNotFound)
	if err != nil {
		return err
	}
	if resp.StatusCode == http.StatusOK {
		p.counted.have(d.Size)
		return nil
	}
	k := p.call(object, http.MethodPost, "/blobs/uploads/")
	k.query = url.Values{}
	for _, src := range p.from {
		if src.blobs[d.Digest] {
			k.query = url.Values{"mount": {string(d.Digest)}, "from": {src.repo}}
			k.scope = p.scope(src.repo)
			break
		}
	}
	resp, err = p.ask(ctx, k, http.StatusCreated, http.StatusAccepted)
	if errors.Is(err, fs.ErrPermission) && len(k.query) > 0 { // no business in the other repository
		k.query, k.scope = nil, p.scope("")
		resp, err = p.ask(ctx, k, http.StatusCreated, http.StatusAccepted)
	}
	if err != nil {
		return err
	}
	if resp.StatusCode == http.StatusCreated {
		p.counted.have(d.Size)
		p.mu.Lock()
		p.res.Mounted++
		p.mu.Unlock()
		return nil
	}
	at, err := p.location(resp)
	if err != nil {
		return err
	}
	return p.upload(ctx, object, d, at)
}

// location is where an upload goes on.
func (p *pusher) location(resp *http.Response) (*url.URL, error) {
	at, err := resp.Request.URL.Parse(resp.Header.Get("Location"))
	if err != nil || at.Host == "" || resp.Header.Get("Location") == "" {
		return nil, &SecurityError{Reason: fmt.Sprintf("%s names %q as the place of an upload, which is no URL", p.e.name(), oneLine(resp.Header.Get("Location")))}
	}
	if at.Scheme != "https" && (at.Scheme != "http" || resp.Request.URL.Scheme != "http") {
		return nil, &SecurityError{Reason: fmt.Sprintf("%s names a place of an upload by %s: https must not become http", p.e.name(), oneLine(at.Scheme))}
	}
	at.User = nil
	return at, nil
}

// upload sends a blob to at in one stream. When that breaks, the registry is
// asked how much it has, and gets the rest.
func (p *pusher) upload(ctx context.Context, object string, d imagestore.Descriptor, at *url.URL) error {
	off := int64(0)
	for n := 1; ; n++ {
		next, err := p.send(ctx, object, d, at, off)
		if err == nil {
			at = next
			break
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if permanent(err) || n >= p.c.o.Attempts {
			return err
		}
		p.counted.retry(err)
		if err := sleep(ctx, p.c.backoff(n, err)); err != nil {
			return err
		}
		have, next, err := p.progress(ctx, object, at, d.Size)
		if errors.Is(err, fs.ErrNotExist) || err == nil && have == 0 {
			// Forgotten; or "0-0", which is nothing or one byte.
			have = 0
			next, err = p.start(ctx, object)
		}
		if err != nil {
			return err
		}
		p.counted.resumed(have - off)
		if have > off {
			n = 0
		}
		off, at = have, next
	}
	// The digest ends the upload.
	q := at.Query()
	q.Set("digest", string(d.Digest))
	end := *at
	end.RawQuery = q.Encode()
	k := p.call(object, http.MethodPut, "")
	k.at = &end
	_, err := p.ask(ctx, k, http.StatusCreated, http.StatusNoContent)
	return err
}

// start begins an upload and returns its place.
func (p *pusher) start(ctx context.Context, object string) (*url.URL, error) {
	resp, err := p.ask(ctx, p.call(object, http.MethodPost, "/blobs/uploads/"), http.StatusAccepted)
	if err != nil {
		return nil, err
	}
	return p.location(resp)
}

// progress asks how much of an upload has arrived.
func (p *pusher) progress(ctx context.Context, object string, at *url.URL, size int64) (int64, *url.URL, error) {
	k := p.call(object, http.MethodGet, "")
	k.at = at
	resp, err := p.ask(ctx, k, http.StatusNoContent, http.StatusAccepted, http.StatusOK)
	if err != nil {
		return 0, nil, err
	}
	_, last, _ := strings.Cut(strings.TrimPrefix(resp.Header.Get("Range"), "bytes="), "-")
	n, err := strconv.ParseInt(last, 10, 64)
	if err != nil || n < 0 || n >= size {
		return 0, nil, &requestError{what: object, host: p.e.name(), err: fmt.Errorf("asked how much of an upload is there, it answered %q", oneLine(resp.Header.Get("Range")))}
	}
	if n > 0 {
		n++
	}
	if resp.Header.Get("Location") != "" {
		if at, err = p.location(resp); err != nil {
			return 0, nil, err
		}
	}
	return n, at, nil
}

// send is one request with what follows off.
func (p *pusher) send(ctx context.Context, object string, d imagestore.Descriptor, at *url.URL, off int64) (*url.URL, error) {
	// Much may have to be written before there is an answer: what counts is
	// that bytes leave.
	w := newWatch(ctx, p.c.o.Stall)
	defer w.stop()
	k := p.call(object, http.MethodPatch, "")
	k.at, k.size = at, d.Size-off
	k.header = http.Header{"Content-Type": {"application/octet-stream"}}
	if off > 0 {
		k.header.Set("Content-Range", strconv.FormatInt(off, 10)+"-"+strconv.FormatInt(d.Size-1, 10))
	}
	counted := off // so that a second try, with a new token, does not count twice
	k.bodyFn = func() (io.ReadCloser, error) {
		r, err := p.g.OpenBlob("layer", d)
		if err != nil {
			return nil, err
		}
		if s, ok := r.(io.Seeker); ok {
			_, err = s.Seek(off, io.SeekStart)
		} else {
			_, err = io.CopyN(io.Discard, r, off)
		}
		if err != nil {
			r.Close()
			return nil, err
		}
		at := off
		return &counting{ReadCloser: r, count: func(n int) {
			w.touch(n)
			if at += int64(n); at > counted {
				p.counted.arrived(at - counted)
				counted = at
			}
		}}, nil
	}
	resp, err := p.c.send(w.ctx, p.e, k)
	if err != nil {
		return nil, w.cause(err)
	}
	defer drain(resp)
	if resp.StatusCode != http.StatusAccepted && resp.StatusCode != http.StatusNoContent && resp.StatusCode != http.StatusCreated {
		return nil, responseError(object, p.e, resp)
	}
	return p.location(resp)
}

type counting struct {
	io.ReadCloser
	count func(int)
}

func (c *counting) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.count(n)
	return n, err
}

// manifest sends a manifest as it is, under a tag or its digest.
func (p *pusher) manifest(ctx context.Context, d imagestore.Descriptor, name string) error {
	b, err := p.g.ReadBlob("manifest", d, imagestore.MaxMetadata)
	if err == nil {
		_, err = p.put(ctx, d, b, name)
	}
	return err
}

// put sends a manifest and returns what the registry says of it.
func (p *pusher) put(ctx context.Context, d imagestore.Descriptor, b []byte, name string) (http.Header, error) {
	k := p.call("manifest "+name, http.MethodPut, "/manifests/"+name)
	k.header = http.Header{"Content-Type": {d.MediaType}}
	k.size = int64(len(b))
	k.bodyFn = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(string(b))), nil }
	resp, err := p.ask(ctx, k, http.StatusCreated, http.StatusOK, http.StatusAccepted)
	if err != nil {
		return nil, err
	}
	if said := resp.Header.Get("Docker-Content-Digest"); said != "" && said != string(d.Digest) {
		return nil, fmt.Errorf("manifest %s at %s: it is kept as %q, and was sent as %s", name, p.e.name(), oneLine(said), d.Digest)
	}
	return resp.Header, nil
}
