// Package api knows the kinds of objects: their types, which are those of
// k8s.io/api, their defaults, what is valid, how they are read from YAML and
// JSON, and how errors look on the wire. Package rest serves them.
//
// Reading is strict: a field that the type does not have is an error with its
// path, line and column, and the name that was probably meant. Whether a field
// that Kubernetes has means something here is another question; that list does
// not exist yet.
package api
