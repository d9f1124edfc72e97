package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/minirun/minirun/imagestore"
)

// progressBytes is what an attempt must bring in so that it does not count as a
// failed one: a registry that drips gets only so much patience.
const progressBytes = 64 << 10

// transfer brings blobs of one repository into an Ingest.
type transfer struct {
	c       *Client
	g       *imagestore.Ingest
	ref     imagestore.Reference
	counted *counters
}

// blob makes sure that the Ingest has d.
func (t *transfer) blob(ctx context.Context, what string, d imagestore.Descriptor) error {
	part, err := t.g.Partial(ctx, what, d, func() { t.counted.wait(what + " " + d.Digest.Short()) })
	if err != nil {
		return &localError{err}
	}
	if part == nil {
		t.counted.have(d.Size)
		return nil
	}
	defer part.Close()
	object := what + " " + string(d.Digest)
	t.counted.resumed(part.Size())
	if part.Size() == d.Size { // all of it was there
		return local(part.Commit(ctx))
	}
	return t.c.try(ctx, t.ref.Domain, canPull, func(e *endpoint, last bool) error {
		return t.from(ctx, e, last, object, part, d)
	})
}

func local(err error) error {
	if err != nil {
		return &localError{err}
	}
	return nil
}

// from fetches what is missing of a blob from one endpoint.
func (t *transfer) from(ctx context.Context, e *endpoint, last bool, object string, part *imagestore.Partial, d imagestore.Descriptor) error {
	limit := t.c.o.Attempts
	if !last {
		limit = 2
	}
	wrong := 0
	whole := false // it does not answer Range as it should
	for n := 1; ; n++ {
		before := part.Size()
		err := t.stream(ctx, e, object, part, d, whole)
		if err == nil {
			err = part.Commit(ctx)
			var digest *imagestore.DigestError
			if err == nil || !errors.As(err, &digest) {
				return local(err)
			}
			// Somewhere in it is a wrong byte; nothing of it can be used.
			t.counted.resumed(-part.Size())
			if resetErr := part.Reset(); resetErr != nil {
				return &localError{resetErr}
			}
			if wrong++; wrong > 1 || !last {
				return &imagestore.DigestError{Object: object + " at " + e.name(), Want: digest.Want, Got: digest.Got}
			}
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var ranges *rangeError
		if errors.As(err, &ranges) {
			whole = true
			t.counted.retry(err)
			n--
			continue
		}
		if permanent(err) {
			return err
		}
		if part.Size()-before >= progressBytes {
			n = 1
		}
		if n >= limit {
			return err
		}
		t.counted.retry(err)
		if err := sleep(ctx, t.c.backoff(n, err)); err != nil {
			return err
		}
	}
}

// rangeError is an answer to a request for the rest of a blob that is not the rest.
type rangeError struct{ err error }

func (e *rangeError) Error() string { return e.err.Error() }
func (e *rangeError) Unwrap() error { return e.err }

// stream is one request: it appends to part what comes, up to the blob's size.
// With whole it asks for all of the blob and skips what is there.
func (t *transfer) stream(ctx context.Context, e *endpoint, object string, part *imagestore.Partial, d imagestore.Descriptor, whole bool) error {
	w := newWatch(ctx, t.c.o.Stall)
	defer w.stop()
	off := part.Size()
	header := http.Header{}
	ranged := off > 0 && !whole
	if ranged {
		header.Set("Range", "bytes="+strconv.FormatInt(off, 10)+"-")
	}
	resp, err := t.c.send(w.ctx, e, call{
		what: object, method: http.MethodGet, path: t.ref.Path + "/blobs/" + string(d.Digest), repo: t.ref.Path, scope: pullScope(t.ref.Path), header: header,
	})
	if err != nil {
		return w.cause(err)
	}
	defer resp.Body.Close()
	skip := int64(0)
	switch {
	case resp.StatusCode == http.StatusOK:
		skip = off // a server that knows no ranges sends all of it again
	case resp.StatusCode == http.StatusPartialContent && ranged && startsAt(resp, off, d.Size):
	case resp.StatusCode == http.StatusPartialContent && ranged:
		return &rangeError{&requestError{what: object, host: e.name(), err: fmt.Errorf("asked for bytes from %d on, got %q", off, oneLine(resp.Header.Get("Content-Range")))}}
	case resp.StatusCode == http.StatusPartialContent:
		return &requestError{what: object, host: e.name(), err: fmt.Errorf("asked for all of it, got a part: %q", oneLine(resp.Header.Get("Content-Range")))}
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && ranged:
		return &rangeError{responseError(object, e, resp)}
	default:
		return responseError(object, e, resp)
	}
	if n := resp.ContentLength; n > d.Size-off+skip {
		return &imagestore.SizeError{Object: object + " at " + e.name(), Want: d.Size, Got: n + off - skip}
	}
	buf := make([]byte, 128<<10)
	for {
		n, err := resp.Body.Read(buf)
		w.touch(n)
		b := buf[:n]
		if skip > 0 {
			k := min(skip, int64(len(b)))
			skip, b = skip-k, b[k:]
			t.counted.wire(k)
		}
		if len(b) > 0 {
			if _, werr := part.Write(b); werr != nil {
				var size *imagestore.SizeError
				if errors.As(werr, &size) {
					size.Object += " at " + e.name()
					return size
				}
				return &localError{werr}
			}
			t.counted.arrived(int64(len(b)))
		}
		if err == io.EOF {
			if part.Size() < d.Size {
				return &requestError{what: object, host: e.name(), err: fmt.Errorf("it ended after %d of %d bytes", part.Size(), d.Size)}
			}
			return nil
		}
		if err != nil {
			return &requestError{what: object, host: e.name(), err: w.cause(err)}
		}
	}
}

// startsAt tells whether an answer is the part of a blob that was asked for.
func startsAt(resp *http.Response, off, size int64) bool {
	rest, ok := strings.CutPrefix(resp.Header.Get("Content-Range"), "bytes ")
	if !ok {
		return false
	}
	span, total, ok := strings.Cut(rest, "/")
	first, _, ok2 := strings.Cut(span, "-")
	return ok && ok2 && first == strconv.FormatInt(off, 10) && (total == "*" || total == strconv.FormatInt(size, 10))
}
