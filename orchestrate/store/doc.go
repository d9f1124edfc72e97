// Package store keeps the objects of the supervisor: what is wanted, and what was
// observed of it. It is one bbolt file, of which everything is also in memory.
//
// Every write is a transaction that is on disk when the call returns, and gets
// the next number of one growing count, the revision; metadata.resourceVersion
// is the revision of an object's last write. Writes say which version they are
// based on, and fail with ConflictError if it is not the newest.
//
// Objects that come out of the store are shared and must not be changed: copy
// them first. What goes in is copied.
//
// The store knows metadata and nothing else: which kinds there are, their
// defaults and what is valid is the caller's business. "spec" is whatever is
// neither metadata nor status; a change of it is a new generation.
//
// On disk each value carries a checksum, since bbolt has none for its pages, and
// kinds that are Secret are sealed with a key that lies in a file of its own. A
// file that is damaged is refused by Open with a CorruptError, whatever is wrong
// with it; Restore puts the newest good backup in its place.
package store
