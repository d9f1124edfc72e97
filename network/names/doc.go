// Package names answers the names of containers while a process of the host runs
// it: it follows the records of networks and keeps network/dns equal to them.
//
// Nothing is asked again and again. The kernel tells what changes in the
// directories of records (inotify); once a minute, and when it has told too much
// at a time, all of them are compared. Sockets are bound to a network's gateway
// from the first moment that the network is recorded, whether its bridge is there
// or not, and stay when the bridge goes.
//
// A network is answered when its sockets are open: a lock says so to whoever
// starts containers, and the files of those that run are switched. When [Names.Run]
// returns they are switched back. When the process is killed they are not, and the
// next one, or minirun network reload, finds them; containers have their peers in
// /etc/hosts meanwhile.
package names
