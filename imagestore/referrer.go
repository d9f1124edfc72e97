package imagestore

import "encoding/json"

// Signatures, bills of materials and the like are manifests with a subject, the
// image that they are about (image-spec, manifest.md). index.json lists them
// without a name. They are kept, listed and saved with their subject and go when
// its last name does; so are signatures that have no subject and that were found
// by their tag, [AnnotationSubject]. One with a name of its own, such as cosign's
// "repository:sha256-<hex>.sig", is an entry like any other.

// subjectOf is the subject of a manifest or an index; empty without.
func subjectOf(read blobReader, d Descriptor) Digest {
	if subject, ok := d.Annotations[AnnotationSubject]; ok && validDigest(subject) {
		return Digest(subject)
	}
	b, err := read("manifest", d, MaxMetadata)
	if err != nil {
		return ""
	}
	var body struct {
		Subject *Descriptor `json:"subject"`
	}
	if json.Unmarshal(b, &body) != nil || body.Subject == nil || body.Subject.check() != nil || body.Subject.Digest == d.Digest {
		return ""
	}
	return body.Subject.Digest
}

// referrers marks the entries without a name whose subject is marked, and what
// they lead to, and returns them.
func (x *Index) referrers(read blobReader, m *marker) []Descriptor {
	var found []Descriptor
	taken := map[Digest]bool{}
	for again := true; again; { // a signature may be about a bill of materials
		again = false
		for _, d := range x.Manifests {
			if entryName(&d) != "" || taken[d.Digest] {
				continue
			}
			if subject := subjectOf(read, d); subject == "" || !m.marked[subject] {
				continue
			}
			taken[d.Digest] = true
			if m.mark(d) == nil {
				found = append(found, d)
				again = true
			}
		}
	}
	return found
}

// dropReferrers takes the entries out of x that are about something of before
// that nothing leads to any more. What is damaged leads to nothing here.
func (x *Index) dropReferrers(read blobReader, before *Index) {
	old := newMarker(read)
	waiting := 0
	for _, d := range before.Manifests {
		if entryName(&d) == "" && subjectOf(read, d) != "" {
			waiting++
			continue
		}
		_ = old.mark(d)
	}
	if waiting == 0 {
		return
	}
	before.referrers(read, old)
	now := newMarker(read)
	for _, d := range x.Manifests {
		if entryName(&d) != "" || subjectOf(read, d) == "" {
			_ = now.mark(d)
		}
	}
	x.referrers(read, now)
	kept := x.Manifests[:0]
	for _, d := range x.Manifests {
		if s := subjectOf(read, d); entryName(&d) != "" || s == "" || now.marked[s] || !old.marked[s] {
			kept = append(kept, d)
		}
	}
	x.Manifests = kept
}
