// Package registry copies images between registries and an
// [imagestore.Store], by the OCI distribution specification 1.1 and what docker's
// registry does.
//
//	c := registry.New(registry.Options{
//		Credentials: registry.DefaultCredentials(""),
//		HostDirs:    registry.DefaultHostDirs,
//	})
//	ref, err := imagestore.ParseReference("alpine")
//	pulled, err := c.Pull(ctx, store, ref, registry.PullOptions{})
//
// # Trust
//
// A registry, a mirror and whatever lies between are hostile: nothing they send
// is used before its size and digest are right, except for what a tag stands
// for, which only they know. Manifests, tokens and error texts are bounded; a
// blob is read to its size and no further.
//
// Credentials go to the host that they are configured for and to the token
// service that this host names, over https; over http only if the host itself
// is spoken to by http, which is so for loopback addresses and on request. A
// redirect to another scheme, host or port gets neither them nor the headers and
// client certificates configured for the host (CVE-2020-15157, CVE-2019-10214),
// and https never becomes http.
//
// # Transfers
//
// HTTP/1.1 is spoken, one connection for each blob: a connection on which nothing
// arrives is given up, the next one asks for the rest (RFC 9110, 14.2). Blobs
// are written by [imagestore.Ingest.Partial], so that a later run or another
// process goes on where one ended, and the same blob is fetched once, however
// many processes want it.
//
// This is written on net/http and not on one of the client libraries because
// what they share is the small part: where a request goes (mirrors, per blob),
// when it is given up and how it goes on decide the rest. Libraries also differ
// from docker where it matters to people with a network of their own:
// oras-go refuses token services at private addresses.
package registry
