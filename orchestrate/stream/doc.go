// Package stream carries the streams of a program, and connections to a pod, over
// HTTP as Kubernetes does: over WebSocket (RFC 6455), where the first byte of each
// message is its channel, and over SPDY/3.1, which has streams of its own and which
// port-forward tunnels through a WebSocket since 1.31. Both ends are here, and as
// much of either protocol as that needs.
package stream
