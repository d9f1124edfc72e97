package imagestore

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
)

// Digest is the checked text form of a content digest, "sha256:" followed by 64
// lower-case hexadecimal digits or "sha512:" followed by 128 (image-spec,
// descriptor.md). Text from outside becomes a Digest through [ParseDigest] only.
type Digest string

// ParseDigest checks s. It must be called before a digest that was read from a
// file or the network becomes part of a path (CVE-2014-9358, CVE-2024-3727).
func ParseDigest(s string) (Digest, error) {
	if validDigest(s) {
		return Digest(s), nil
	}
	if len(s) > 160 {
		s = s[:160] + "..."
	}
	return "", fmt.Errorf("digest %q is not sha256: or sha512: followed by lower-case hexadecimal digits", s)
}

func validDigest(s string) bool {
	algorithm, digits, ok := strings.Cut(s, ":")
	if !ok || len(digits) != hexLen(algorithm) {
		return false
	}
	return isLowerHex(digits)
}

// hexLen is the number of digits of an algorithm; -1 for one that is not supported.
func hexLen(algorithm string) int {
	switch algorithm {
	case "sha256":
		return 2 * sha256.Size
	case "sha512":
		return 2 * sha512.Size
	}
	return -1
}

func isLowerHex(s string) bool {
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

func (d Digest) check() error {
	_, err := ParseDigest(string(d))
	return err
}

// FromBytes is the sha256 digest of b.
func FromBytes(b []byte) Digest {
	sum := sha256.Sum256(b)
	return Digest("sha256:" + hex.EncodeToString(sum[:]))
}

// digestOf hashes b with the algorithm of like.
func digestOf(like Digest, b []byte) Digest {
	if like.Algorithm() == "sha512" {
		sum := sha512.Sum512(b)
		return Digest("sha512:" + hex.EncodeToString(sum[:]))
	}
	return FromBytes(b)
}

// newHash returns the hash of a supported algorithm.
func newHash(algorithm string) (hash.Hash, error) {
	switch algorithm {
	case "sha256":
		return sha256.New(), nil
	case "sha512":
		return sha512.New(), nil
	}
	return nil, fmt.Errorf("digest algorithm %q is not supported", algorithm)
}

func sumDigest(algorithm string, h hash.Hash) Digest {
	return Digest(algorithm + ":" + hex.EncodeToString(h.Sum(nil)))
}
