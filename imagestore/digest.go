package imagestore

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"

	"github.com/minirun/minirun/imagestore/reference"
)

// Digest is the checked text form of a content digest.
type Digest = reference.Digest

// ParseDigest checks s, see [reference.ParseDigest].
func ParseDigest(s string) (Digest, error) { return reference.ParseDigest(s) }

// Names of images, as in package reference.
type (
	// Reference is a parsed, normalised image name.
	Reference = reference.Reference
	// ReferenceError reports a name that is not a valid reference.
	ReferenceError = reference.Error
)

// ParseReference reads a name as docker does, see [reference.Parse].
func ParseReference(s string) (Reference, error) { return reference.Parse(s) }

// Normalize returns the full form of name, the key under which index.json has it.
func Normalize(name string) (string, error) { return reference.Normalize(name) }

// Familiar shortens a normalised name and returns any other text as it is.
func Familiar(name string) string { return reference.Familiar(name) }

func validDigest(s string) bool { return reference.ValidDigest(s) }

func clip(s string) string { return reference.Clip(s) }

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
