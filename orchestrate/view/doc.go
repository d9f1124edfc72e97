// Package view shows objects to people: as rows of a table, as kubectl get prints
// them, and in full, as kubectl describe does. It is pure: objects and the time
// go in, text comes out.
package view
