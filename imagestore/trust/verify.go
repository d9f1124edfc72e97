package trust

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/minirun/minirun/imagestore/reference"
)

// Limits of a signature. What is larger is none.
const (
	MaxPayload   = 64 << 10
	maxSignature = 1024
	MaxCount     = 256 // of signatures of one image
)

// Signature is one that was found for an image.
type Signature struct {
	Payload []byte
	Base64  string
}

// Error says why an image is not trusted.
type Error struct {
	Name  string
	Scope string // of the rule
	Why   string
}

func (e *Error) Error() string {
	return fmt.Sprintf("image %q is not trusted: %s (rule %q)", reference.Clip(e.Name), e.Why, e.Scope)
}

// Hint says what can be done.
func (e *Error) Hint() string {
	return "image verify --policy FILE tells what a policy says of an image; minirun pull fetches signatures"
}

// Check decides about the image with that name. digests are those of what the
// name stands for and of the manifest that is used of it: a signature of an index
// covers what is in it. by is nil for an image that needs no signature.
func (r *Rule) Check(name string, digests []reference.Digest, found []Signature) (by *Key, err error) {
	fail := func(format string, a ...any) error { return &Error{name, r.Scope, fmt.Sprintf(format, a...)} }
	switch r.Action {
	case Accept:
		return nil, nil
	case Signed:
	default:
		return nil, fail("the policy rejects it")
	}
	if len(found) == 0 {
		return nil, fail("it has no signature")
	}
	var names []string
	for _, k := range r.Keys {
		names = append(names, k.Name)
	}
	why, signed := "", false
	for i, s := range found {
		if i == MaxCount {
			break
		}
		k, err := signer(r.Keys, s)
		if err == nil {
			if err = r.claims(name, digests, s.Payload); err == nil {
				return k, nil
			}
			why, signed = fmt.Sprintf("a signature by %s is not for it: %v", k.Name, err), true // says more than one by somebody else
		} else if !signed {
			why = err.Error()
		}
	}
	return nil, fail("none of %d signatures is good, of the keys %s: %s", len(found), strings.Join(names, ", "), why)
}

func signer(keys []*Key, s Signature) (*Key, error) {
	if len(s.Payload) > MaxPayload || len(s.Base64) > maxSignature {
		return nil, errors.New("a signature is too large")
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(s.Base64)
	if err != nil {
		return nil, errors.New("a signature is not base64")
	}
	for _, k := range keys {
		if k.verify(s.Payload, raw) {
			return k, nil
		}
	}
	return nil, errors.New("a signature is by none of the keys, or its payload has changed")
}

// claims reads a payload that a trusted key has signed, in the form of "simple
// signing", and tells whether it is about this image.
func (r *Rule) claims(name string, digests []reference.Digest, payload []byte) error {
	v, err := decode(payload)
	if err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	m, err := object("payload", v, "critical", "optional")
	if err != nil {
		return err
	}
	critical, err := object("critical", m["critical"], "identity", "image", "type")
	if err != nil {
		return err
	}
	if critical["type"] != "cosign container image signature" {
		return fmt.Errorf("critical.type is %.100q", fmt.Sprint(critical["type"]))
	}
	image, err := object("critical.image", critical["image"], "docker-manifest-digest")
	if err != nil {
		return err
	}
	digest, err := text("critical.image.docker-manifest-digest", image["docker-manifest-digest"])
	if err != nil {
		return err
	}
	if !has(digests, digest) {
		return fmt.Errorf("it is of %s", reference.Clip(digest))
	}
	identity, err := object("critical.identity", critical["identity"], "docker-reference")
	if err != nil {
		return err
	}
	claimed, err := text("critical.identity.docker-reference", identity["docker-reference"])
	if err != nil {
		return err
	}
	return r.identity(name, claimed, digests)
}

func has(digests []reference.Digest, d string) bool {
	for _, have := range digests {
		if string(have) == d && reference.ValidDigest(d) {
			return true
		}
	}
	return false
}

// identity compares the name that was signed with the image's: the repository
// must be the same, and a tag or a digest if one was signed.
func (r *Rule) identity(name, claimed string, digests []reference.Digest) error {
	signed, err := reference.Parse(claimed)
	if err != nil {
		return fmt.Errorf("it is for %q, which is no name", reference.Clip(claimed))
	}
	ref, err := reference.Parse(name)
	if err != nil {
		return fmt.Errorf("the image has no name that could have been signed")
	}
	want := ref.Repository()
	if r.As != "" {
		want = r.As
	}
	if signed.Repository() != want {
		return fmt.Errorf("it is for %s", signed.Repository())
	}
	if signed.Digest != "" && !has(digests, string(signed.Digest)) {
		return fmt.Errorf("it is for %s", signed)
	}
	repo, _, _ := strings.Cut(claimed, "@")
	if tagged := strings.LastIndexByte(repo, ':') > strings.LastIndexByte(repo, '/'); tagged && ref.Tag != "" && signed.Tag != ref.Tag {
		return fmt.Errorf("it is for %s", signed)
	}
	return nil
}
