package imagestore

import (
	"fmt"
	"strings"
)

// ParsePlatform reads os/architecture or os/architecture/variant, spelled as
// docker or as uname(1) does: linux/amd64, linux/x86_64, linux/arm/v7.
func ParsePlatform(s string) (Platform, error) {
	bad := fmt.Errorf("platform %q is not OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT", clip(s))
	part := strings.Split(s, "/")
	if len(part) < 2 || len(part) > 3 {
		return Platform{}, bad
	}
	for _, p := range part {
		if p == "" || len(p) > 64 {
			return Platform{}, bad
		}
		for i := 0; i < len(p); i++ {
			c := p[i]
			if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' && c != '.' {
				return Platform{}, bad
			}
		}
	}
	p := Platform{OS: part[0], Architecture: part[1]}
	if len(part) == 3 {
		p.Variant = part[2]
	}
	return p.normalized(), nil
}

// Runs tells whether an image for q is one for p, or runs where p does.
func (p Platform) Runs(q Platform) bool { return rank(p, q, cpuLevel) > 0 }

// Select returns the manifest of the index target, and of the indexes in it,
// that fits the platform best. read is asked for content by its descriptor: it
// may fetch what is not there. An index that holds no image for the platform is a
// [*PlatformError] that lists what it has.
func Select(read func(what string, d Descriptor, limit int) ([]byte, error), target Descriptor, platform Platform) (Descriptor, error) {
	return pick(read, target, platform, true)
}

// IsIndexType tells the media type of an index from those of manifests.
func IsIndexType(mediaType string) bool { return isIndexType(mediaType) }

// IsManifestType tells the media types of image manifests.
func IsManifestType(mediaType string) bool { return isManifestType(mediaType) }

// DigestLike hashes b with the algorithm of like, sha256 if that is empty.
func DigestLike(like Digest, b []byte) Digest { return digestOf(like, b) }

// Target returns what the normalised name stands for.
func (s *Store) Target(name string) (Descriptor, bool) {
	x, err := s.readIndex()
	if err != nil {
		return Descriptor{}, false
	}
	for _, d := range x.Manifests {
		if entryName(&d) == name {
			return d, true
		}
	}
	return Descriptor{}, false
}

// Has tells whether the Ingest or the store has the blob d, and keeps it from
// being removed.
func (g *Ingest) Has(d Descriptor) bool { return d.check() == nil && g.has("blob", d) }
