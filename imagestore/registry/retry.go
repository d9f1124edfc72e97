package registry

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/minirun/minirun/imagestore"
)

// maxRetryAfter is the longest wait that a registry may ask for. One that asks
// for more, such as until a daily allowance is renewed, is an error at once.
const maxRetryAfter = 2 * time.Minute

// retryAfter reads the header of that name: seconds, or a date.
func retryAfter(resp *http.Response, now time.Time) time.Duration {
	v := strings.TrimSpace(resp.Header.Get("Retry-After"))
	if v == "" {
		return 0
	}
	if n, err := strconv.ParseInt(v, 10, 64); err == nil {
		return time.Duration(min(max(n, 0), 1<<31)) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}

// backoff is how long to wait before attempt n, from 1: twice as long each
// time, with a random half so that many clients do not come back together.
func (c *Client) backoff(n int, err error) time.Duration {
	wait := c.o.Backoff << min(n-1, 10)
	wait = min(wait, 30*time.Second)
	if wait > 0 {
		wait = wait/2 + rand.N(wait/2+1)
	}
	var status *StatusError
	if errors.As(err, &status) && status.RetryAfter > wait {
		wait = status.RetryAfter
	}
	return wait
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// permanent tells errors that the same request to the same host gives again.
func permanent(err error) bool {
	var (
		status   *StatusError
		auth     *AuthError
		security *SecurityError
		scheme   *SchemeError
		size     *imagestore.SizeError
		digest   *imagestore.DigestError
		format   *imagestore.FormatError
		kind     *imagestore.UnsupportedError
		dns      *net.DNSError
	)
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return true // a name server has said so
	case isLocal(err), errors.As(err, &auth), errors.As(err, &security), errors.As(err, &scheme), errors.As(err, &size),
		errors.As(err, &digest), errors.As(err, &format), errors.As(err, &kind), isCertificate(err):
		return true
	case errors.As(err, &status):
		return !status.retryable() || status.RetryAfter > maxRetryAfter
	}
	return false
}

// again calls f until it succeeds, fails for good, or has failed often enough.
func (c *Client) again(ctx context.Context, f func() error) error {
	for n := 1; ; n++ {
		err := f()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if permanent(err) || n >= c.o.Attempts {
			return err
		}
		if err := sleep(ctx, c.backoff(n, err)); err != nil {
			return err
		}
	}
}

// watch is a context that ends when nothing has happened for a while.
type watch struct {
	ctx    context.Context // of one request
	cancel context.CancelCauseFunc
	timer  *time.Timer
	after  time.Duration
	bytes  int
}

// stallBytes is what must arrive within the time: a byte now and then is no progress.
const stallBytes = 1 << 10

func newWatch(ctx context.Context, after time.Duration) *watch {
	w := &watch{after: after}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(after, func() { w.cancel(&StallError{After: after}) })
	return w
}

// touch says that n bytes have arrived.
func (w *watch) touch(n int) {
	if w.bytes += n; w.bytes >= stallBytes {
		w.bytes = 0
		w.timer.Reset(w.after)
	}
}

func (w *watch) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// cause is why a request under the watch failed.
func (w *watch) cause(err error) error {
	var stall *StallError
	if cause := context.Cause(w.ctx); errors.As(cause, &stall) {
		return stall
	}
	return err
}
