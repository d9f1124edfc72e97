package nfnetlink

import (
	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// release closes a socket without waiting for what the kernel does when it goes.
//
// What a batch has removed is freed after a grace period of RCU, by a worker. But who
// closes a socket of nf_tables, by whatever process the batch was, has to wait for
// that worker (nft_rcv_nl_event in net/netfilter/nf_tables_api.c), 4 to 15 ms, and so
// does a process that ends with one open. So the last reference is left to the kernel:
// the socket is put into the queue of a socket that is in its own queue and nowhere
// else. These are what the garbage collector of unix(7) frees, and it does so from a
// worker since Linux 6.9. Older ones have it do it here, and we wait as anybody would.
func release(fd int) {
	defer linux.Close(fd)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	// Where this is refused there is nothing in the queue.
	_ = unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(fd, pair[1]), nil, unix.MSG_DONTWAIT)
	linux.Close(pair[1])
	linux.Close(pair[0]) // it is the end of this one that starts the collector
}
