package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Options say how a Client behaves. The zero value works, without credentials.
type Options struct {
	UserAgent   string        // "minirun" if empty
	Credentials Credentials   // nil: none
	HostDirs    []string      // where hosts.toml files and certificates are looked for, see [DefaultHostDirs]
	Insecure    bool          // take any certificate of the registry, and plain http if it does not speak https
	Parallel    int           // blobs at a time; 3 if 0
	Attempts    int           // for each request; 5 if 0. For blobs those without progress count
	Backoff     time.Duration // before the second attempt; half a second if 0
	Stall       time.Duration // after which a connection without data is given up; 30 seconds if 0
	Warn        func(string)  // told what people should know; may be nil
}

// Client speaks to registries. It may be used by several goroutines; tokens and
// connections are kept as long as it lives.
type Client struct {
	o      Options
	tokens tokens

	mu        sync.Mutex
	endpoints map[string][]*endpoint // by registry
}

// New returns a Client.
func New(o Options) *Client {
	if o.UserAgent == "" {
		o.UserAgent = "minirun"
	}
	if o.Parallel <= 0 {
		o.Parallel = 3
	}
	if o.Attempts <= 0 {
		o.Attempts = 5
	}
	if o.Backoff <= 0 {
		o.Backoff = 500 * time.Millisecond
	}
	if o.Stall <= 0 {
		o.Stall = 30 * time.Second
	}
	return &Client{o: o, endpoints: map[string][]*endpoint{}}
}

// CloseIdleConnections closes connections that are kept for further requests.
func (c *Client) CloseIdleConnections() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, list := range c.endpoints {
		for _, e := range list {
			e.own.CloseIdleConnections()
			e.other.CloseIdleConnections()
		}
	}
}

func (c *Client) warn(format string, a ...any) {
	if c.o.Warn != nil {
		c.o.Warn(fmt.Sprintf(format, a...))
	}
}

// call is one request.
type call struct {
	what   string // in errors
	method string
	path   string     // below the API's root: "library/alpine/blobs/sha256:..."
	at     *url.URL   // or the whole URL
	query  url.Values // of path
	repo   string
	scope  string // of the token
	header http.Header
	size   int64
	bodyFn func() (io.ReadCloser, error)
}

// maxRedirects is how far a redirection may lead.
const maxRedirects = 8

// send sends k to e with what authorizes it, following redirections of GET and
// HEAD. It returns any answer but a refusal for want of credentials.
func (c *Client) send(ctx context.Context, e *endpoint, k call) (*http.Response, error) {
	authorization, err := c.tokens.cached(ctx, c, e, k)
	if err != nil {
		return nil, err
	}
	for try := 0; ; try++ {
		resp, err := c.follow(ctx, e, k, authorization)
		if err != nil {
			return nil, err
		}
		// Only the host itself can ask for its credentials.
		if resp.StatusCode != http.StatusUnauthorized || !e.owns(resp.Request.URL) {
			return resp, nil
		}
		challenges := parseChallenges(resp.Header.Values("WWW-Authenticate"))
		if len(challenges) == 0 {
			return resp, nil
		}
		drain(resp)
		if try > 0 {
			return nil, &AuthError{Host: e.registryName(), Rejected: authorization != ""}
		}
		if authorization, err = c.tokens.answer(ctx, c, e, k, challenges, authorization); err != nil {
			return nil, err
		}
	}
}

// follow sends k once, and again to where it is redirected.
func (c *Client) follow(ctx context.Context, e *endpoint, k call, authorization string) (*http.Response, error) {
	at := k.at
	if at == nil {
		at = e.url(k.path, k.query)
	}
	left := !e.owns(at)
	var noHTTPS error // why plain http is tried
	for hop := 0; ; hop++ {
		req, err := http.NewRequestWithContext(ctx, k.method, at.String(), nil)
		if err != nil {
			return nil, err
		}
		if k.bodyFn != nil {
			if req.Body, err = k.bodyFn(); err != nil {
				return nil, &localError{err}
			}
			req.ContentLength = k.size
			if k.size == 0 {
				req.Body.Close()
				req.Body = http.NoBody
			}
		}
		for name, v := range k.header {
			req.Header[name] = v
		}
		req.Header.Set("User-Agent", c.o.UserAgent)
		// What is transferred must be what the digest is of.
		req.Header.Set("Accept-Encoding", "identity")
		client := e.other
		if !left {
			client = e.own
			for name, v := range e.header {
				req.Header[name] = v
			}
			if authorization != "" {
				req.Header.Set("Authorization", authorization)
			}
		}
		resp, err := client.Do(req)
		if err != nil {
			mismatch := errors.Is(err, http.ErrSchemeMismatch)
			if k.at == nil && hop == 0 && at.Scheme == "https" && (mismatch || e.noHTTPS(err)) {
				if e.plain() {
					noHTTPS = unwrapURL(err)
					at = e.url(k.path, k.query)
					left = false
					hop--
					continue
				}
				if mismatch {
					return nil, &SchemeError{Host: e.name()}
				}
			}
			if noHTTPS != nil && hop == 0 {
				e.notPlain()
				err = fmt.Errorf("%w (by plain http: %v)", noHTTPS, unwrapURL(err))
			}
			return nil, &requestError{what: k.what, host: at.Host, err: unwrapURL(err)}
		}
		if k.at == nil && hop == 0 {
			e.answered()
		}
		switch resp.StatusCode {
		case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		default:
			return resp, nil
		}
		location := resp.Header.Get("Location")
		if k.method != http.MethodGet && k.method != http.MethodHead || location == "" {
			return resp, nil
		}
		drain(resp)
		if hop == maxRedirects {
			return nil, fmt.Errorf("%s at %s: more than %d redirections", k.what, e.name(), maxRedirects)
		}
		to, err := at.Parse(location)
		if err != nil || to.Host == "" {
			return nil, &SecurityError{Reason: fmt.Sprintf("%s at %s: redirected to %q", k.what, e.name(), oneLine(location))}
		}
		if to.Scheme != "https" && (to.Scheme != "http" || at.Scheme != "http") {
			return nil, &SecurityError{Reason: fmt.Sprintf("%s at %s: redirected from %s to %s://%s", k.what, e.name(), at.Scheme, oneLine(to.Scheme), to.Host)}
		}
		to.User, to.Fragment = nil, ""
		// Once away, always away: where a stranger sends us back to gets nothing.
		left = left || !e.owns(to)
		at = to
	}
}

// requestError is a request without an answer.
type requestError struct {
	what, host string
	err        error
}

func (e *requestError) Error() string { return fmt.Sprintf("%s at %s: %v", e.what, e.host, e.err) }
func (e *requestError) Unwrap() error { return e.err }

// Hint says what can be done where that is known.
func (e *requestError) Hint() string {
	var dns *net.DNSError
	switch {
	case errors.As(e.err, &dns) && dns.IsNotFound:
		return "the host is the first part of the name when it has a dot or a port; hosts.toml can name another one for it"
	case errors.Is(e.err, syscall.ECONNREFUSED):
		return "nothing listens there: is the registry running, and is that its port?"
	}
	return ""
}

// unwrapURL takes method and URL, which may hold a signature, from an error.
func unwrapURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// drain reads the rest of a short body, so that the connection can be used again.
func drain(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	resp.Body.Close()
}

// metadata sends k and returns a small answer's body, within a time for all of it.
func (c *Client) metadata(ctx context.Context, e *endpoint, k call, limit int64, want ...int) (*http.Response, []byte, error) {
	w := newWatch(ctx, 4*c.o.Stall) // for the whole of it
	defer w.stop()
	resp, err := c.send(w.ctx, e, k)
	if err != nil {
		return nil, nil, w.cause(err)
	}
	defer resp.Body.Close()
	ok := false
	for _, s := range want {
		ok = ok || resp.StatusCode == s
	}
	if !ok {
		return resp, nil, responseError(k.what, e, resp)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, nil, &requestError{what: k.what, host: e.name(), err: w.cause(err)}
	}
	if int64(len(b)) > limit {
		return nil, nil, &limitError{what: k.what, host: e.name(), limit: limit}
	}
	return resp, b, nil
}

type limitError struct {
	what, host string
	limit      int64
}

func (e *limitError) Error() string {
	return fmt.Sprintf("%s at %s: it is longer than the limit of %d bytes", e.what, e.host, e.limit)
}

func pullScope(repo string) string { return "repository:" + repo + ":pull" }

func trimSlash(s string) string { return strings.TrimSuffix(s, "/") }

func pushScope(repo string) string { return "repository:" + repo + ":pull,push" }
