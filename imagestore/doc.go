// Package imagestore keeps images by content: the store directory is an OCI
// image layout (image-spec, image-layout.md), so every tool that reads layouts
// reads it.
//
//	oci-layout               {"imageLayoutVersion":"1.0.0"}
//	index.json               what the store holds: one descriptor per name; the
//	                         normalised name is the annotation
//	                         org.opencontainers.image.ref.name
//	blobs/<algorithm>/<hex>  content, named by its digest
//	index.reserve            blocks for the next index.json
//	ingest/<random>/         work in progress, each directory locked by its process
//	lock                     flock(2): exclusive while index.json or blobs change
//
// # Invariants
//
// index.json is only ever replaced by rename, and only when everything that it
// newly refers to is on disk under its digest. A reader therefore needs no
// lock: it sees the old store or the new one.
//
// Nothing enters blobs/ that was not hashed in the stream that wrote it.
// Content is first written to a directory below ingest/, which its process
// holds under flock; [Ingest.Publish] moves the blobs and replaces index.json in
// one locked step. A process that dies leaves a directory whose lock is free;
// whoever comes next removes it, together with blobs that nothing refers to.
// There are no time-outs and no leases to renew: the lock is the life of the
// process.
//
// Existing content that work in progress relies on is hard-linked into the
// ingest directory ([Ingest.Keep]), so a removal that happens meanwhile takes
// the name and not the bytes. The sweep needs to know nothing about it.
//
// Digests are parsed ([ParseDigest]) before they become part of a path.
// Manifests, indexes and configs are at most 4 MiB; a body that can be read as
// manifest and as index is refused (CVE-2021-41190).
//
// # Names
//
// References follow docker's rules, see [ParseReference]. The reader of names,
// in package reference, and the types are written out here and do not come from
// github.com/distribution/reference and github.com/opencontainers/go-digest
// because those compile regular expressions when the program starts, which
// costs 1.8 ms of a 5 ms command; tests hold both against each other.
package imagestore
