// Package reference reads the names of images and of content. It is apart from
// imagestore because finding an image is part of starting a container, and
// hashing and decoding JSON by reflection, which imagestore links, are not.
package reference

import (
	"fmt"
	"strings"
)

// Reference is a parsed, normalised image name.
type Reference struct {
	Domain string // registry host with port, "docker.io" when none was given
	Path   string // repository below it, "library/alpine"
	Tag    string // "latest" when neither tag nor digest was given
	Digest Digest // empty without "@digest"
}

// Error reports a name that is not a valid reference.
type Error struct{ Name, Reason string }

func (e *Error) Error() string {
	return fmt.Sprintf("image reference %q: %s", Clip(e.Name), e.Reason)
}

// Clip shortens text from outside for an error.
func Clip(s string) string {
	if len(s) > 300 {
		return s[:300] + "..."
	}
	return s
}

// maxRepository is the longest repository path docker accepts, in bytes.
const maxRepository = 255

// Parse reads a name as docker does: "alpine" is
// docker.io/library/alpine:latest, "minirun/demo" is
// docker.io/minirun/demo:latest, and a first component that contains a dot, a
// colon or an upper-case letter, or is "localhost", is a registry host. Of a
// name with tag and digest both are kept.
//
// One difference from github.com/distribution/reference: a digest must be a
// sha256 or sha512 in lower case, because it is going to be looked up.
func Parse(s string) (Reference, error) {
	bad := func(reason string) (Reference, error) { return Reference{}, &Error{Name: s, Reason: reason} }
	if s == "" {
		return bad("it is empty")
	}
	if len(s) == 64 && IsLowerHex(s) {
		return bad("64 hexadecimal digits are an image ID and no name")
	}
	var r Reference
	name := s
	if at := strings.IndexByte(name, '@'); at >= 0 {
		if !ValidDigest(name[at+1:]) {
			return bad("what follows @ is no sha256 or sha512 digest")
		}
		r.Digest = Digest(name[at+1:])
		name = name[:at]
	}
	r.Domain, name = splitDomain(name)
	if colon := strings.IndexByte(name, ':'); colon >= 0 {
		r.Tag = name[colon+1:]
		name = name[:colon]
		if !validTag(r.Tag) {
			return bad("a tag is up to 128 letters, digits, '_', '.' and '-' and starts with none of the last two")
		}
	}
	r.Path = name
	switch {
	case !validDomain(r.Domain):
		return bad("invalid registry host " + fmt.Sprintf("%q", Clip(r.Domain)))
	case strings.ToLower(r.Path) != r.Path:
		return bad("the repository name must be lower case")
	case !validPath(r.Path):
		return bad("invalid repository name")
	case len(r.Path) > maxRepository:
		return bad("the repository name is longer than 255 bytes")
	}
	if r.Tag == "" && r.Digest == "" {
		r.Tag = "latest"
	}
	return r, nil
}

// Normalize returns the full form of name, the key under which index.json has it.
func Normalize(name string) (string, error) {
	r, err := Parse(name)
	if err != nil {
		return "", err
	}
	return r.String(), nil
}

// Repository is the name without tag and digest.
func (r Reference) Repository() string { return r.Domain + "/" + r.Path }

// String is the full form; parsing it again gives the same Reference.
func (r Reference) String() string {
	s := r.Repository()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + string(r.Digest)
	}
	return s
}

// Familiar is the short form that people type and are shown: "alpine:latest".
func (r Reference) Familiar() string {
	full := r.String()
	if r.Domain != "docker.io" {
		return full
	}
	s := full[len("docker.io/"):]
	if rest, ok := strings.CutPrefix(r.Path, "library/"); ok && !strings.Contains(rest, "/") {
		return s[len("library/"):]
	}
	return s
}

// Familiar shortens a normalised name and returns any other text as it is.
func Familiar(name string) string {
	r, err := Parse(name)
	if err != nil || r.String() != name {
		return name
	}
	return r.Familiar()
}

// splitDomain separates the registry host from the rest of the name.
func splitDomain(name string) (domain, rest string) {
	first, after, ok := strings.Cut(name, "/")
	switch {
	case !ok:
		return "docker.io", "library/" + name
	case first == "index.docker.io": // the name that registries of 2013 used
		domain, rest = "docker.io", after
	case first == "localhost", strings.ContainsAny(first, ".:"), strings.ToLower(first) != first:
		domain, rest = first, after
	default:
		domain, rest = "docker.io", name
	}
	if domain == "docker.io" && !strings.Contains(rest, "/") {
		rest = "library/" + rest
	}
	return domain, rest
}

func validTag(t string) bool {
	if t == "" || len(t) > 128 {
		return false
	}
	for i := 0; i < len(t); i++ {
		c := t[i]
		if !isAlnum(c) && c != '_' && (i == 0 || c != '.' && c != '-') {
			return false
		}
	}
	return true
}

// validDomain accepts dot-separated labels or a bracketed IPv6 address, with an
// optional port.
func validDomain(d string) bool {
	if strings.HasPrefix(d, "[") {
		end := strings.IndexByte(d, ']')
		if end < 2 {
			return false
		}
		for i := 1; i < end; i++ {
			if c := d[i]; !isHexDigit(c) && c != ':' {
				return false
			}
		}
		return end+1 == len(d) || validPort(d[end+1:])
	}
	host := d
	if colon := strings.IndexByte(d, ':'); colon >= 0 {
		if !validPort(d[colon:]) {
			return false
		}
		host = d[:colon]
	}
	for {
		label, rest, more := strings.Cut(host, ".")
		if label == "" || !isAlnum(label[0]) || !isAlnum(label[len(label)-1]) {
			return false
		}
		for i := 0; i < len(label); i++ {
			if !isAlnum(label[i]) && label[i] != '-' {
				return false
			}
		}
		if !more {
			return true
		}
		host = rest
	}
}

// validPort accepts a colon and at least one digit.
func validPort(p string) bool {
	if len(p) < 2 || p[0] != ':' {
		return false
	}
	for i := 1; i < len(p); i++ {
		if p[i] < '0' || p[i] > '9' {
			return false
		}
	}
	return true
}

// validPath accepts components of lower-case letters and digits, within which
// ".", "_", "__" and any number of "-" separate.
func validPath(p string) bool {
	for {
		c, rest, more := strings.Cut(p, "/")
		if !validComponent(c) {
			return false
		}
		if !more {
			return true
		}
		p = rest
	}
}

func validComponent(c string) bool {
	if c == "" || !isLowerAlnum(c[0]) || !isLowerAlnum(c[len(c)-1]) {
		return false
	}
	for i := 0; i < len(c); {
		if isLowerAlnum(c[i]) {
			i++
			continue
		}
		start := i
		for i < len(c) && c[i] == c[start] {
			i++
		}
		switch n := i - start; {
		case c[start] == '.' && n == 1, c[start] == '_' && n <= 2, c[start] == '-':
		default:
			return false
		}
		if !isLowerAlnum(c[i]) { // i < len(c): the last byte is a letter or digit
			return false
		}
	}
	return true
}

func isLowerAlnum(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }
func isAlnum(c byte) bool      { return isLowerAlnum(c) || c >= 'A' && c <= 'Z' }
func isHexDigit(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}
