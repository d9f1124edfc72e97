// Package network gives containers addresses, a way out, and ports that can be
// reached from outside.
//
// A network is a bridge. A container has one end of a pair of interfaces, the
// bridge has the other one. What containers say to each other is routed by the
// host like everything else: the only neighbour that a container knows is the
// gateway. So every packet passes the rules of the host, replies find their way back through address
// translation, and the other side sees who has called, without a proxy.
//
// All rules are in one table of nftables, inet minirun. It is a function of the
// records in network/store: [Host.Reload] makes it anew in one transaction, and
// attaching a container adds elements to its maps. Rules do not grow with
// containers or ports.
//
// The order is: record, leases, kernel; and back: kernel, leases, record. What is
// in the kernel without a record goes with the container's network namespace; what
// is in the records without a container is found by [Host.Prune], and by whoever
// wants the address next.
package network
