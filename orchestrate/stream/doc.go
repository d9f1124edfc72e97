// Package stream carries the streams of a program over HTTP as Kubernetes does
// since 1.30: WebSocket (RFC 6455), subprotocol v5.channel.k8s.io. The first byte
// of each message is its channel. Both ends are here; the WebSocket is as much of
// one as this protocol needs.
package stream
