// Package linux is the one door to the kernel: thin wrappers with the names of
// the man pages for system calls that golang.org/x/sys/unix lacks or wraps in a
// way that costs time in a short-lived process.
//
// The file helpers exist because os.Open and os.ReadFile set up the runtime
// poller (epoll, eventfd) on first use, which a command that lives for three
// milliseconds can do without. They take and return plain descriptors, always
// close-on-exec.
package linux
