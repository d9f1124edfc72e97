// Package daemon is the process of minirund: one store of wanted objects, the
// API over it on a unix socket, and the parts that keep the objects true.
//
// Nothing depends on a clean end. Containers, monitors, rules in the kernel and
// the store are right at any moment; a start takes over what it finds.
package daemon
