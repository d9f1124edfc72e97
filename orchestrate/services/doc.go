// Package services decides what Services get and what their endpoints are:
// cluster addresses, node ports, EndpointSlices and Endpoints. It is pure, like
// package rollout: objects come in, and objects come out.
//
// Nothing remembers which address is taken but the Services themselves. Whoever
// stores one calls Assign with all others while nobody else writes, and so a
// restart cannot hand an address out twice.
//
// Fields, names and labels are those of Kubernetes 1.34.
package services
