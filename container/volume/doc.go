// Package volume keeps directories that outlive containers.
//
//	<store>/volumes/NAME/_data      what containers see
//	                    /meta.json  when it was made, labels
//	                    /anonymous  there if nobody chose the name
//	                    /fresh      there until the first use: _data is empty and may be filled
//	                    /users/KEY  a container's snapshot that uses it
//	               /.new-*, .trash-*  being made, being deleted
//
// # Invariants
//
//   - A volume is made under another name and renamed: what has its name is whole.
//   - It is filled in a directory beside _data, which then takes the place of the
//     empty one; fresh goes after that. Whoever is killed in between leaves a volume
//     that the next user fills from the beginning, and none that is half full.
//   - A user is a file named like a snapshot, and counts as long as that snapshot is
//     there: a container that is deleted needs to clean up nothing, and none that
//     crashed keeps a volume.
//   - Using volumes takes the shared lock of the directory volumes, removing them the
//     exclusive one.
//
// Owners and modes in a volume are what containers made them, so everything above
// _data is 0700: no local user reaches a set-user-ID file in it.
//
// It is linked into minirun: a container that uses a volume costs a dozen system
// calls more.
package volume
