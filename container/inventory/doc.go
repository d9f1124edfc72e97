// Package inventory answers what a store holds, why, and how much disk it takes:
// blobs and names of imagestore, layers and snapshots of overlay, and the rest
// of work that was interrupted. It is also what removes what nothing needs.
//
// Disk use is what the file system says, blocks and not lengths, every file
// once however many names it has. All of a store is counted under some heading,
// so that the sum is what du(1) says of the directory.
package inventory
