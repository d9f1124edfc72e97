// Package trust decides whether an image may be used: a policy says which names
// need a signature by which key, and signatures are checked as cosign makes them
// with a key of one's own.
//
// What is signed is a small JSON document, the payload, which names the digest of
// a manifest or an index and the repository that it is for. A signature is only
// read after it was found to be by one of the keys; of what nobody trusted has
// signed nothing is parsed.
//
// Everything here fails closed: a policy that cannot be read, that others can
// write to, or that has a member which is not known, is an error for every image.
package trust
