// Package unpacked records, for every image that has been unpacked, what a
// container needs to know of it, so that starting one neither hashes nor decodes
// JSON by reflection: linking the packages that do costs every command of
// minirun more than they ever take to run.
//
//	<store>/unpacked/<algorithm>-<hex>   of the descriptor that index.json has
//	                 new                 a record that is being written, under flock(2) of the directory
//
// A record is written by whoever unpacks the image ([Write]), when manifest and
// config have been checked against their digests and all layers are there. It is
// named by the content that it was made of, so it never becomes wrong; it becomes
// useless when the image goes ([Sweep]). One that is missing, or damaged, or of
// another version or another kind of host, only means that the image has to be
// unpacked again, which costs a look when the layers are there.
//
// index.json stays the only place where names are: [Find] reads it each time.
package unpacked
