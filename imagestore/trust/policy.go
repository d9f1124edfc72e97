package trust

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/minirun/minirun/imagestore/reference"
	"github.com/minirun/minirun/imagestore/unpacked"
)

// Action is what a rule says about an image.
type Action int

const (
	Reject Action = iota // the zero value: no rule accepts by mistake
	Accept
	Signed
)

// Rule says what is wanted of the images with names in its scope.
type Rule struct {
	Scope  string // "default", or the beginning of a full name
	Action Action
	Keys   []*Key // one of them must have signed
	As     string // repository that must have been signed, if not the image's own
}

// Policy is a policy file.
type Policy struct {
	Path string
	Text []byte // the file's content
	def  Rule
	rule map[string]Rule
}

// Load reads a policy file, see [unpacked.ReadPolicy] for whose it may be.
func Load(path string) (*Policy, error) {
	b, err := unpacked.ReadPolicy(path)
	if err != nil {
		return nil, err
	}
	p, err := Parse(b)
	if err != nil {
		return nil, &PolicyError{path, err}
	}
	p.Path = path
	return p, nil
}

// PolicyError reports a policy file that says nothing that can be followed.
type PolicyError struct {
	Path string
	Err  error
}

func (e *PolicyError) Error() string { return fmt.Sprintf("trust policy %q: %v", e.Path, e.Err) }
func (e *PolicyError) Unwrap() error { return e.Err }

// Hint says what follows.
func (e *PolicyError) Hint() string {
	return "no image is pulled or run while the policy cannot be read"
}

// Parse reads a policy.
func Parse(b []byte) (*Policy, error) {
	v, err := decode(b)
	if err != nil {
		return nil, err
	}
	m, err := object("policy", v, "version", "keys", "default", "rules")
	if err != nil {
		return nil, err
	}
	if m["version"] != json.Number("1") {
		return nil, fmt.Errorf("version: want 1, have %v", m["version"])
	}
	keys := map[string]*Key{}
	if list, ok := m["keys"]; ok {
		named, ok := list.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("keys: want an object")
		}
		for name, v := range named {
			s, err := text("keys."+name, v)
			if err != nil {
				return nil, err
			}
			if keys[name], err = ParseKey(name, []byte(s)); err != nil {
				return nil, err
			}
		}
	}
	p := &Policy{Text: b, rule: map[string]Rule{}}
	if _, ok := m["default"]; !ok {
		return nil, fmt.Errorf("default is missing")
	}
	if p.def, err = parseRule("default", m["default"], keys); err != nil {
		return nil, err
	}
	if list, ok := m["rules"]; ok {
		scopes, ok := list.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("rules: want an object")
		}
		for scope, v := range scopes {
			if err := checkScope(scope); err != nil {
				return nil, fmt.Errorf("rules: %w", err)
			}
			if p.rule[scope], err = parseRule(scope, v, keys); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

// checkScope wants a host, or a name with its host as it is spelled in full:
// "alpine" would never match.
func checkScope(scope string) error {
	host, rest, _ := strings.Cut(scope, "/")
	name := scope
	if rest == "" {
		name += "/x"
	}
	ref, err := reference.Parse(name)
	if err != nil {
		return fmt.Errorf("%q: %w", scope, err)
	}
	if ref.Domain != host || rest == "" && strings.Contains(scope, "/") {
		full, err := reference.Parse(scope)
		if err != nil {
			return fmt.Errorf("%q: %w", scope, err)
		}
		return fmt.Errorf("%q: want the name in full, such as %q", scope, full.Repository())
	}
	if path, _, _ := strings.Cut(rest, "@"); rest != "" && ref.Path != strings.Split(path, ":")[0] {
		return fmt.Errorf("%q: want the name in full, such as %q", scope, ref.Repository())
	}
	return nil
}

func parseRule(scope string, v any, keys map[string]*Key) (Rule, error) {
	r := Rule{Scope: scope}
	switch v {
	case "accept":
		r.Action = Accept
		return r, nil
	case "reject":
		return r, nil
	}
	if s, ok := v.(string); ok {
		return r, fmt.Errorf("%s: %q: want accept, reject or an object with signedBy", scope, s)
	}
	m, err := object(scope, v, "signedBy", "as")
	if err != nil {
		return r, err
	}
	r.Action = Signed
	names, ok := m["signedBy"].([]any)
	if !ok || len(names) == 0 {
		return r, fmt.Errorf("%s: signedBy: want a list of names of keys", scope)
	}
	for _, v := range names {
		name, _ := v.(string)
		k := keys[name]
		if k == nil {
			return r, fmt.Errorf("%s: signedBy: there is no key %q", scope, name)
		}
		r.Keys = append(r.Keys, k)
	}
	if as, ok := m["as"]; ok {
		if r.As, err = text(scope+": as", as); err != nil {
			return r, err
		}
		if ref, err := reference.Parse(r.As); err != nil || ref.Repository() != r.As {
			return r, fmt.Errorf("%s: as: want a repository with its host, and no tag", scope)
		}
	}
	return r, nil
}

// Rule returns the rule with the longest scope that the name is in. A scope ends
// where a part of the name ends: host, path component, repository, tag or digest.
// What has no name, or none that can be read, is in no scope.
func (p *Policy) Rule(name string) Rule {
	ref, err := reference.Parse(name)
	if name == "" || err != nil {
		return p.def
	}
	repo := ref.Repository()
	scopes := []string{}
	if ref.Digest != "" {
		scopes = append(scopes, repo+"@"+string(ref.Digest))
	}
	if ref.Tag != "" {
		scopes = append(scopes, repo+":"+ref.Tag)
	}
	for at := repo; ; {
		scopes = append(scopes, at)
		i := strings.LastIndexByte(at, '/')
		if i < 0 {
			break
		}
		at = at[:i]
	}
	for _, s := range scopes {
		if r, ok := p.rule[s]; ok {
			return r
		}
	}
	return p.def
}
