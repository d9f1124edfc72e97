package imagestore

import (
	"strings"
)

// Signatures as cosign makes them: a manifest whose layers are payloads, each with
// its signature in an annotation. It is found by the tag "sha256-<hex>.sig" in the
// image's repository, or as a referrer. The store keeps one found by its tag
// without a name; what it is about stands in an annotation in index.json.
const (
	MediaTypeSimpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"
	AnnotationSignature    = "dev.cosignproject.cosign/signature"
	AnnotationSubject      = "io.minirun.subject" // of an entry of index.json

	maxSignatures = 256
	maxPayload    = 64 << 10
)

// Signature is one of an image's signatures, not checked in any way.
type Signature struct {
	Payload []byte
	Base64  string
}

// SignatureTag is the tag under which an image's signatures are.
func SignatureTag(of Digest) string { return of.Algorithm() + "-" + of.Hex() + ".sig" }

// SignatureLayers returns the layers of a manifest that are signatures; nothing
// for a manifest that has others too, too many, or such as no signature has.
func SignatureLayers(m *Manifest) []Descriptor {
	if len(m.Layers) > maxSignatures || m.Config.Size > MaxMetadata {
		return nil
	}
	for _, l := range m.Layers {
		if l.MediaType != MediaTypeSimpleSigning || l.Size > maxPayload || l.Annotations[AnnotationSignature] == "" {
			return nil
		}
	}
	return m.Layers
}

// IsImage tells the manifest of an image from that of another artifact. Those of
// signatures have the config of an image, made up.
func (m *Manifest) IsImage() bool {
	return IsImageConfigType(m.Config.MediaType) && len(SignatureLayers(m)) == 0
}

// SignaturesIn reads the signatures of a manifest.
func SignaturesIn(read func(what string, d Descriptor, limit int) ([]byte, error), m *Manifest) ([]Signature, error) {
	var found []Signature
	for _, l := range SignatureLayers(m) {
		b, err := read("signature", l, maxPayload)
		if err != nil {
			return found, err
		}
		found = append(found, Signature{b, l.Annotations[AnnotationSignature]})
	}
	return found, nil
}

// Signatures returns what the store has of signatures of the digests. What is
// damaged is left out: it signs nothing.
func (s *Store) Signatures(of ...Digest) ([]Signature, error) {
	x, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	var found []Signature
	seen := map[Digest]bool{}
	for _, d := range x.Manifests {
		if !isManifestType(d.MediaType) || seen[d.Digest] || len(found) > maxSignatures {
			continue
		}
		about := false
		for _, subject := range of {
			about = about || strings.HasSuffix(entryName(&d), ":"+SignatureTag(subject)) || entryName(&d) == "" && subjectOf(s.ReadBlob, d) == subject
		}
		if !about {
			continue
		}
		seen[d.Digest] = true
		b, err := s.ReadBlob("manifest", d, MaxMetadata)
		if err != nil {
			continue
		}
		m, err := ParseManifest(b, d.MediaType)
		if err != nil {
			continue
		}
		list, _ := SignaturesIn(s.ReadBlob, m)
		found = append(found, list...)
	}
	return found, nil
}
