// Package rest serves the objects of a store as the REST API of Kubernetes, in
// JSON: discovery, get, list, watch, create, update, patch and delete, and the
// subresources status and scale.
//
// Not there yet: strategic merge patches and server-side apply, tables, OpenAPI,
// logs, exec and the like, deletion of collections. A request for one of these is
// refused with a Status that says so.
package rest
