// Package archive brings images into an [imagestore.Store] from files: root file
// systems as a tar archive or a directory ([Import]), and images as docker
// archives or OCI layouts ([Load]).
//
// An archive may come through a pipe, so what it is can only be known at its
// end: every entry is written to the store's staging area as it arrives, hashed
// twice in passing (as it is, and decompressed), and the strays are dropped at
// the end. Names in an archive are keys of a map and never paths of this host.
//
// Whatever goes wrong, the store is as before: nothing is published until
// everything was checked.
package archive
