// Package container puts one whole container together: an image, a snapshot of
// it to write to, the bundle made from both, and the runtime. Both binaries use
// it; the packages it composes do not know each other.
package container
