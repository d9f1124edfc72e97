// Package store keeps the records of networks and of what containers have of
// them. Everything is a small file below one directory:
//
//	networks/NAME/network.json    the network; outlives a boot
//	networks/NAME/leases/ADDRESS  a symbolic link: its target is who has the address
//	ports/PROTOCOL,FIRST,LAST,IP  the same for published ports
//	containers/KEY/record.json    all that one container has, and of which boot
//	containers/KEY/...            files that are mounted into it
//
// A lease is a symbolic link because symlink(2) takes a name and says whose it
// is in one step: there is no moment at which an address is taken by nobody, or
// by two. Whoever finds a lease looks for the record with its key; a record comes
// before the first lease and goes after the last, so a lease without one belongs
// to nobody. Records name the boot: none of them means anything after the next.
//
// Changes happen under an exclusive lock on the directory, [Store.Lock].
package store
