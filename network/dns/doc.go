// Package dns answers the names of containers and services, for each network by
// itself, and passes other questions on to the resolvers of the host.
//
// A network has sockets, at the addresses of its bridge, and records. Records are
// a table that is built once and never changed: [Server.Set] swaps a pointer.
// Sockets are opened with the network and closed with it; nothing that happens to
// records touches them, so no question is lost while containers come and go.
//
// A name that a network knows is never asked of others, whatever type is wanted: a
// container with no IPv6 address has an empty answer to AAAA, and not "no such
// name", which some resolvers (musl's) take for the answer to A as well. Names
// below the domain of services and addresses of the network's own subnets are
// ours alone.
//
// Only clients within the network's prefixes are answered, so that nobody can
// have large answers sent to others; answers over UDP are bounded, type ANY gets
// one small record. Questions to the host's resolvers are bounded in number, each
// has a random port and number, and an answer must fit its question.
package dns
