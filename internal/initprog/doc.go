// Package initprog makes container inits that are lists of system calls.
//
// Between clone(2) and the user's program something has to run inside the new
// namespaces: mount file systems, change the root, drop privileges. Here that
// is not this program in another role but a program of its own: a [Builder]
// collects ops, [Builder.Link] lays them out as a static ELF executable of some
// ten KB that consists of a hundred lines of assembly (the interpreter,
// interp_*.s), the ops and their data, and [Image.Start] writes it to a sealed
// memfd and runs it.
//
// The process has no heap, no stack to speak of, no threads and no libc. It
// fits under the smallest memory limit, it may setns(2) into everything since
// it is single-threaded, and its executable holds nothing worth stealing.
//
// # Ops
//
// An op is one system call with six arguments, each a constant or the content
// of a slot; a slot for the result; and four places to go on: on zero, on a
// positive result, and on each of up to three errors. An error that the op does
// not name ends the program: the interpreter writes {address of the op, errno}
// to the sync descriptor and exits with status 1. [Image.Failure] turns that
// into a [StepError] with words.
//
// Two pseudo calls never enter the kernel: one moves a value (and serves as
// jump and as deliberate failure), one counts down (and bounds retries).
//
// # Invariants
//
//   - Only this package knows system call numbers and structure layouts.
//   - A program takes no decision that the listing does not show. The listing is
//     read back from the image's bytes by [Disassemble].
//   - Control never runs past the last op: Link adds one that fails where it could.
//   - The sync descriptor is a slot. Storing another descriptor there, such as
//     the result of accept4, redirects later failures: that is how a failure
//     after "start" reaches the command that said start.
//   - Strings handed to the builder hold no NUL byte; callers validate.
package initprog
