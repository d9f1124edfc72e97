package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// challenge is one way in which a host can be satisfied (RFC 9110, 11.6.1).
type challenge struct {
	scheme string // lower case
	params map[string]string
}

// parseChallenges reads WWW-Authenticate. What it does not understand is left out.
func parseChallenges(headers []string) []challenge {
	var list []challenge
	for _, h := range headers {
		if len(h) > 8<<10 {
			continue
		}
		rest := h
		for {
			rest = strings.TrimLeft(rest, " \t,")
			scheme, after := token(rest)
			if scheme == "" {
				break
			}
			c := challenge{scheme: strings.ToLower(scheme), params: map[string]string{}}
			rest = after
			for {
				at := strings.TrimLeft(rest, " \t,")
				name, after := token(at)
				after = strings.TrimLeft(after, " \t")
				if name == "" || !strings.HasPrefix(after, "=") {
					break // the next scheme, or the end
				}
				value, after := parameter(strings.TrimLeft(after[1:], " \t"))
				c.params[strings.ToLower(name)] = value
				rest = after
			}
			list = append(list, c)
		}
	}
	return list
}

// token splits s after a token of RFC 9110, 5.6.2.
func token(s string) (tok, rest string) {
	i := 0
	for i < len(s) && s[i] > ' ' && s[i] < 0x7f && !strings.ContainsRune(`"(),/:;<=>?@[\]{}`, rune(s[i])) {
		i++
	}
	return s[:i], s[i:]
}

// parameter splits s after a token or a quoted string.
func parameter(s string) (value, rest string) {
	if !strings.HasPrefix(s, `"`) {
		i := strings.IndexAny(s, ", \t")
		if i < 0 {
			i = len(s)
		}
		return s[:i], s[i:]
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:]
		case s[i] == '\\' && i+1 < len(s):
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String(), ""
}

// tokens keeps what hosts have accepted, and how they want it.
type tokens struct {
	mu sync.Mutex
	m  map[string]*grant // by host, and for bearer tokens by scope
}

// grant is an Authorization header of one host and scope. Its lock makes
// transfers that start together ask for one token.
type grant struct {
	mu      sync.Mutex
	value   string
	expires time.Time  // zero: never
	how     *challenge // bearer: how to get another
}

func (t *tokens) grant(e *endpoint, scope string) *grant {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = map[string]*grant{}
	}
	key := e.host + e.prefix + " " + scope
	g := t.m[key]
	if g == nil {
		g = &grant{}
		t.m[key] = g
	}
	return g
}

// cached returns what worked before, or a new token in place of one that has
// expired; empty for a host that has not asked yet.
func (t *tokens) cached(ctx context.Context, c *Client, e *endpoint, k call) (string, error) {
	g := t.grant(e, k.scope)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.value != "" && !g.expires.IsZero() && !time.Now().Before(g.expires) {
		g.value = ""
		if g.how != nil {
			cred, err := c.credential(ctx, e, k.repo)
			if err != nil {
				return "", err
			}
			if err := c.fetchToken(ctx, e, k, g, cred); err != nil {
				return "", err
			}
		}
	}
	return g.value, nil
}

// answer returns what satisfies one of the challenges. refused is what was sent.
func (t *tokens) answer(ctx context.Context, c *Client, e *endpoint, k call, challenges []challenge, refused string) (string, error) {
	g := t.grant(e, k.scope)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.value != "" && g.value != refused {
		return g.value, nil // somebody else just got it
	}
	g.value = ""
	cred, err := c.credential(ctx, e, k.repo)
	if err != nil {
		return "", err
	}
	var schemes []string
	for _, ch := range challenges {
		schemes = append(schemes, oneLine(ch.scheme))
	}
	if i := slices.Index(schemes, "bearer"); i >= 0 {
		if cred.RegistryToken != "" {
			if refused != "" {
				return "", &AuthError{Host: e.registryName(), Rejected: true}
			}
			g.value = "Bearer " + cred.RegistryToken
			return g.value, nil
		}
		g.how = &challenges[i]
		err := c.fetchToken(ctx, e, k, g, cred)
		return g.value, err
	}
	if slices.Contains(schemes, "basic") {
		if cred.Username == "" {
			return "", &AuthError{Host: e.registryName()}
		}
		basic := basicAuth(cred)
		if refused == basic {
			return "", &AuthError{Host: e.registryName(), Rejected: true}
		}
		g.value = basic
		return basic, nil
	}
	return "", &AuthError{Host: e.registryName(), Reason: fmt.Sprintf("by %s, which is not known here", strings.Join(schemes, ", "))}
}

func basicAuth(cred Credential) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(cred.Username+":"+cred.Password))
}

func (c *Client) credential(ctx context.Context, e *endpoint, repo string) (Credential, error) {
	if c.o.Credentials == nil {
		return Credential{}, nil
	}
	host := e.registryName()
	cred, err := c.o.Credentials.Get(ctx, host, repo)
	if err != nil {
		return Credential{}, fmt.Errorf("credentials of %s: %w", host, err)
	}
	return cred, nil
}

// checkRealm decides whether the token service that e names may be asked, and
// gets the credentials that there may be.
func checkRealm(e *endpoint, realm string) (*url.URL, error) {
	u, err := url.Parse(realm)
	if err != nil || u.Host == "" || u.User != nil {
		return nil, &SecurityError{Reason: fmt.Sprintf("%s names %q as its token service, which is no URL", e.name(), oneLine(realm))}
	}
	switch {
	case u.Scheme == "https":
		return u, nil
	case u.Scheme != "http":
	case !e.isPlain():
		return nil, &SecurityError{Reason: fmt.Sprintf("%s names %q as its token service: https must not become http", e.name(), oneLine(realm))}
	case strings.EqualFold(u.Hostname(), (&url.URL{Host: e.host}).Hostname()):
		return u, nil // its name may be spoken to by http; the service is often at a port of its own
	default:
		return nil, &SecurityError{Reason: fmt.Sprintf("%s names %q as its token service: another host, by plain http", e.name(), oneLine(realm))}
	}
	return nil, &SecurityError{Reason: fmt.Sprintf("%s names %q as its token service, which is no https URL", e.name(), oneLine(realm))}
}

// maxToken bounds the answer of a token service.
const maxToken = 1 << 20

// fetchToken asks the token service of g.how and fills g. The lock of g is held.
// See distribution's docs, spec/auth/token.md and oauth.md.
func (c *Client) fetchToken(ctx context.Context, e *endpoint, k call, g *grant, cred Credential) error {
	realm, err := checkRealm(e, g.how.params["realm"])
	if err != nil {
		return err
	}
	scopes := scopeList(k.scope, g.how.params["scope"])
	var token struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
		ExpiresIn   int64  `json:"expires_in"`
	}
	asked := time.Now()
	b, err := c.askRealm(ctx, e, realm, g.how.params["service"], scopes, cred)
	var status *StatusError
	if errors.As(err, &status) && (status.Status == http.StatusUnauthorized || status.Status == http.StatusForbidden) {
		return &AuthError{Host: e.registryName(), Rejected: !cred.empty(), Reason: status.Message}
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &token); err != nil {
		return fmt.Errorf("token service %s: its answer is no JSON: %w", realm.Host, err)
	}
	if token.Token == "" {
		token.Token = token.AccessToken
	}
	if token.Token == "" || strings.ContainsFunc(token.Token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return fmt.Errorf("token service %s: its answer has no usable token", realm.Host)
	}
	if token.ExpiresIn < 60 {
		token.ExpiresIn = 60 // the least that the specification allows
	}
	g.value = "Bearer " + token.Token
	g.expires = asked.Add(time.Duration(min(token.ExpiresIn, 1<<31)) * time.Second * 9 / 10)
	return nil
}

// scopeList joins what is wanted and what the host asks for.
func scopeList(wanted, asked string) []string {
	var list []string
	for _, s := range strings.Fields(wanted + " " + asked) {
		if !slices.Contains(list, s) && !slices.ContainsFunc(list, func(have string) bool { return strings.HasPrefix(have, s+",") }) {
			list = append(list, s)
		}
	}
	return list
}

func (c *Client) askRealm(ctx context.Context, e *endpoint, realm *url.URL, service string, scopes []string, cred Credential) ([]byte, error) {
	w := newWatch(ctx, 2*c.o.Stall)
	defer w.stop()
	form := url.Values{}
	if service != "" {
		form.Set("service", service)
	}
	var req *http.Request
	var err error
	if cred.IdentityToken != "" {
		form.Set("grant_type", "refresh_token")
		form.Set("refresh_token", cred.IdentityToken)
		form.Set("client_id", "minirun")
		form.Set("scope", strings.Join(scopes, " "))
		req, err = http.NewRequestWithContext(w.ctx, http.MethodPost, realm.String(), strings.NewReader(form.Encode()))
		if err == nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
	} else {
		u := *realm
		q := u.Query()
		for name, v := range form {
			q[name] = v
		}
		for _, s := range scopes {
			q.Add("scope", s)
		}
		if cred.Username != "" {
			q.Set("account", cred.Username)
		}
		u.RawQuery = q.Encode()
		req, err = http.NewRequestWithContext(w.ctx, http.MethodGet, u.String(), nil)
		if err == nil && cred.Username != "" {
			req.Header.Set("Authorization", basicAuth(cred))
		}
	}
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", c.o.UserAgent)
	client := e.other
	if e.owns(realm) {
		client = e.own
	}
	what := "token service"
	resp, err := client.Do(req) // redirections are not followed: they would take the credentials along
	if err != nil {
		return nil, &requestError{what: what, host: realm.Host, err: w.cause(unwrapURL(err))}
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		err := responseError(what, e, resp).(*StatusError)
		err.Host = realm.Host
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxToken+1))
	if err != nil {
		return nil, &requestError{what: what, host: realm.Host, err: w.cause(err)}
	}
	if len(b) > maxToken {
		return nil, &limitError{what: what, host: realm.Host, limit: maxToken}
	}
	return b, nil
}
