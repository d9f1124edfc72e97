// Package usernet connects the containers of ordinary users, who can make no
// interfaces on the host: by pasta or slirp4netns, programs that pass on what a tap
// device in the container's network namespace sends, by sockets of their own.
//
// A program lives as long as the container. Between the two stands a keeper, a program
// of system calls (see initprog): parent of the one, and with a pidfd of the other. When
// the container's init has ended it kills its child; when it is killed itself, its
// child is too (PR_SET_PDEATHSIG). It holds a FIFO in the directory of the container
// open, so whoever deletes the container can wait until both have gone.
//
// Start reading at [Helper.Start].
package usernet
