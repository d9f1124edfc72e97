package registry

import (
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"github.com/BurntSushi/toml"
)

// hostTable is what hosts.toml says of one host. Fields that may have several
// forms are read by hand.
type hostTable struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`     // path, or paths
	Client       any            `toml:"client"` // path, paths, or pairs of paths
	SkipVerify   bool           `toml:"skip_verify"`
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`
	Header       map[string]any `toml:"header"`
}

// parseHosts reads a hosts.toml, see containerd's docs/hosts.md.
func (c *Client) parseHosts(registry, dir string, b []byte) ([]*endpoint, error) {
	var file struct {
		Server string               `toml:"server"`
		Host   map[string]hostTable `toml:"host"`
		hostTable
	}
	meta, err := toml.Decode(string(b), &file)
	if err != nil {
		return nil, err
	}
	var list []*endpoint
	seen := map[string]bool{}
	// In the order of the file. A host may have a key before its table, or no table at all.
	for _, key := range meta.Keys() {
		if len(key) < 2 || key[0] != "host" || seen[key[1]] {
			continue
		}
		seen[key[1]] = true
		e, err := c.tableEndpoint(registry, dir, key[1], file.Host[key[1]])
		if err != nil {
			return nil, fmt.Errorf("host %q: %w", key[1], err)
		}
		e.mirror = true
		list = append(list, e)
	}
	e, err := c.tableEndpoint(registry, dir, file.Server, file.hostTable)
	if err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	for _, m := range list {
		if m.host == e.host && m.prefix == e.prefix {
			m.mirror = false // the registry itself, with settings of its own
			if m.can == canAll {
				return list, nil
			}
		}
	}
	return append(list, e), nil
}

func (c *Client) tableEndpoint(registry, dir, server string, t hostTable) (*endpoint, error) {
	var s security
	s.skipVerify = t.SkipVerify
	if t.DialTimeout != "" {
		d, err := time.ParseDuration(t.DialTimeout)
		if err != nil {
			return nil, fmt.Errorf("dial_timeout: %w", err)
		}
		s.dial = d
	}
	authorities, err := paths(dir, t.CA)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	pairs, err := certPairs(dir, t.Client)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	if err := s.load(authorities, pairs); err != nil {
		return nil, err
	}
	e, err := c.newEndpoint(registry, server, s, t.OverridePath)
	if err != nil {
		return nil, err
	}
	if t.Capabilities != nil {
		e.can = 0
		for _, name := range t.Capabilities {
			switch name {
			case "pull":
				e.can |= canPull
			case "resolve":
				e.can |= canResolve | canReferrers // the capability is younger than many files
			case "push":
				e.can |= canPush
			case "referrers":
				e.can |= canReferrers
			default:
				return nil, fmt.Errorf("capabilities: %q is none of pull, resolve, push and referrers", name)
			}
		}
	}
	e.header = http.Header{}
	for name, v := range t.Header {
		values, err := texts(v)
		if err != nil {
			return nil, fmt.Errorf("header %q: %w", name, err)
		}
		e.header[http.CanonicalHeaderKey(name)] = values
	}
	return e, nil
}

var errForm = errors.New("want a text or a list of texts")

// texts reads one text or several.
func texts(v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{v}, nil
	case []any:
		var list []string
		for _, x := range v {
			s, ok := x.(string)
			if !ok {
				return nil, errForm
			}
			list = append(list, s)
		}
		return list, nil
	}
	return nil, errForm
}

// paths are relative to the directory of hosts.toml.
func paths(dir string, v any) ([]string, error) {
	list, err := texts(v)
	for i, p := range list {
		if !filepath.IsAbs(p) {
			list[i] = filepath.Join(dir, p)
		}
	}
	return list, err
}

// certPairs reads "file with both", ["file", ...] and [["certificate", "key"], ...].
func certPairs(dir string, v any) ([][2]string, error) {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
		if v == nil {
			return nil, nil
		}
	}
	var pairs [][2]string
	for _, x := range list {
		p, err := paths(dir, x)
		switch {
		case err != nil:
			return nil, err
		case len(p) == 1:
			pairs = append(pairs, [2]string{p[0], p[0]})
		case len(p) == 2:
			pairs = append(pairs, [2]string{p[0], p[1]})
		default:
			return nil, errors.New("want a file, or pairs of certificate and key")
		}
	}
	return pairs, nil
}
