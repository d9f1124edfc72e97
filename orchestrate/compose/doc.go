// Package compose makes Kubernetes objects of a Compose file: a way in, not a
// second language. What it does not know it refuses, with line and column; what
// has no counterpart it says.
package compose
