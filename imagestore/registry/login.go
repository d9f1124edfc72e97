package registry

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/minirun/minirun/imagestore"
)

// ParseHost reads the name of a registry as people give it to login: a host
// with an optional port, with or without a scheme; empty is docker.io.
func ParseHost(s string) (string, error) {
	host, _ := keyHost(s)
	if s == "" {
		host = "docker.io"
	}
	r, err := imagestore.ParseReference(host + "/x")
	if err != nil || r.Domain != host {
		return "", fmt.Errorf("registry %q: want a host such as registry.example.com or localhost:5000", oneLine(s))
	}
	return host, nil
}

// Check asks a registry whether it accepts a credential, and changes nothing.
// Only the registry itself is asked, no mirror.
func (c *Client) Check(ctx context.Context, host string, cred Credential) error {
	check := New(c.o)
	check.o.Credentials = One{Host: host, Credential: cred}
	defer check.CloseIdleConnections()
	list, err := check.hosts(host)
	if err != nil {
		return err
	}
	e := list[len(list)-1]
	for _, x := range list {
		if !x.mirror {
			e = x
		}
	}
	return check.again(ctx, func() error {
		resp, _, err := check.metadata(ctx, e, call{what: "login", method: http.MethodGet, path: "", query: url.Values{}}, 64<<10, http.StatusOK)
		if err == nil && resp != nil {
			if !strings.HasPrefix(resp.Request.Header.Get("Authorization"), "B") {
				check.warn("%s lets everybody in: it did not look at the credentials", host)
			}
		}
		return err
	})
}
