// Package rest serves the objects of a store as the REST API of Kubernetes, in
// JSON: discovery, get, list, watch, create, update, patch and delete, and the
// subresources status and scale. What a Node knows, it serves too: logs, programs
// in containers, and what pods use. Bodies may be protobuf; answers are JSON. OpenAPI
// is version 3, made from the types.
//
// Not there: SPDY, port-forward.
package rest
