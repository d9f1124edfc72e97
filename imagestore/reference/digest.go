package reference

import (
	"fmt"
	"strings"
)

// Digest is the checked text form of a content digest, "sha256:" followed by 64
// lower-case hexadecimal digits or "sha512:" followed by 128 (image-spec,
// descriptor.md). Text from outside becomes a Digest through [ParseDigest] only.
type Digest string

// ParseDigest checks s. It must be called before a digest that was read from a
// file or the network becomes part of a path (CVE-2014-9358, CVE-2024-3727).
func ParseDigest(s string) (Digest, error) {
	if ValidDigest(s) {
		return Digest(s), nil
	}
	if len(s) > 160 {
		s = s[:160] + "..."
	}
	return "", fmt.Errorf("digest %q is not sha256: or sha512: followed by lower-case hexadecimal digits", s)
}

// ValidDigest reports whether s is the text of a digest.
func ValidDigest(s string) bool {
	algorithm, digits, ok := strings.Cut(s, ":")
	if !ok || len(digits) != hexLen(algorithm) {
		return false
	}
	return IsLowerHex(digits)
}

// hexLen is the number of digits of an algorithm; -1 for one that is not supported.
func hexLen(algorithm string) int {
	switch algorithm {
	case "sha256":
		return 64
	case "sha512":
		return 128
	}
	return -1
}

// IsLowerHex reports whether s consists of lower-case hexadecimal digits.
func IsLowerHex(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Algorithm is the part before the colon.
func (d Digest) Algorithm() string {
	a, _, _ := strings.Cut(string(d), ":")
	return a
}

// Hex is the part after the colon.
func (d Digest) Hex() string {
	_, h, _ := strings.Cut(string(d), ":")
	return h
}

// Short is the form that people are shown: twelve hexadecimal digits.
func (d Digest) Short() string {
	h := d.Hex()
	if len(h) > 12 {
		h = h[:12]
	}
	return h
}

// Check is [ParseDigest] for a digest that was decoded.
func (d Digest) Check() error {
	_, err := ParseDigest(string(d))
	return err
}

// IsID reports whether ref is a digest, or the 64 hexadecimal digits of one. Such a word
// stands for what has the digest, whatever else has it for a name.
func IsID(ref string) bool { return ValidDigest(ref) || len(ref) == 64 && IsLowerHex(ref) }

// Fits reports whether what has the digest d can be called name: if there is a digest in
// the name, it is d. A name that is no reference fits all.
func Fits(name string, d Digest) bool {
	r, err := Parse(name)
	return err != nil || r.Digest == "" || r.Digest == d
}

// Check tells why what has the digest d cannot be called name: as an [*Error].
func (r Reference) Check(name string, d Digest) error {
	switch {
	case r.Digest != "" && r.Digest != d:
		return &Error{Name: name, Reason: fmt.Sprintf("the image is %s, and not what the name says; give it another name", d)}
	case r.Domain == "docker.io" && (r.Path == "library/sha256" || r.Path == "library/sha512"):
		return &Error{Name: name, Reason: "it would be taken for the ID of an image; give the image another name"}
	}
	return nil
}

// LooksLikeID reports whether ref is a digest, or the beginning of one that is
// long enough to stand for an image.
func LooksLikeID(ref string) bool {
	if ValidDigest(ref) {
		return true
	}
	ref = strings.TrimPrefix(ref, "sha256:")
	return len(ref) >= 4 && len(ref) <= 64 && IsLowerHex(ref)
}
