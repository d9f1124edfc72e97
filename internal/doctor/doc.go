// Package doctor looks at the host and says what minirun can do on it, what it
// cannot, why, and what would help: the command minirun doctor.
//
// Everything is a Check: a name, a state, and what is lost. Facts come from
// files (read below a root directory, which tests replace) and from the probes
// of package kfeature. Nothing on the host is changed.
//
// The output has two forms. Text is for people, grouped and aligned. JSON is
// one array of checks with a fixed set of members; the names of checks are part
// of that interface, their details are not.
package doctor
