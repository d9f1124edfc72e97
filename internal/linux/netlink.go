package linux

import (
	"encoding/binary"
	"os"

	"golang.org/x/sys/unix"
)

// Netlink opens a socket of a protocol, NETLINK_ROUTE for instance, in the network
// namespace of the calling thread. See netlink(7).
func Netlink(protocol int) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	return fd, os.NewSyscallError("socket", err)
}

// NetlinkMessages calls f for each message in what a netlink socket has given, until it
// is done or fails.
func NetlinkMessages(b []byte, f func(seq uint32, typ uint16, body []byte) (done bool, err error)) (done bool, err error) {
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return false, unix.EBADMSG
		}
		done, err := f(binary.NativeEndian.Uint32(b[8:]), binary.NativeEndian.Uint16(b[4:]), b[unix.SizeofNlMsghdr:size])
		if done || err != nil {
			return done, err
		}
		b = b[aligned(size, len(b)):]
	}
	return false, nil
}

// NetlinkErrno is the error in the body of an NLMSG_ERROR; nil for an acknowledgement.
func NetlinkErrno(body []byte) error {
	if len(body) < 4 {
		return unix.EBADMSG
	}
	if errno := -int32(binary.NativeEndian.Uint32(body)); errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}

// AppendNetlinkAttribute appends a struct rtattr or nlattr with its value, padded.
func AppendNetlinkAttribute(b []byte, typ uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.NLA_HDRLEN+len(value)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// NetlinkAttributes calls f for each attribute in b: its type without flags, its value,
// and all of it.
func NetlinkAttributes(b []byte, f func(typ uint16, value, whole []byte)) {
	const typeMask = 1<<14 - 1 // NLA_TYPE_MASK
	for len(b) >= unix.NLA_HDRLEN {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.NLA_HDRLEN || n > len(b) {
			return
		}
		whole := aligned(n, len(b))
		f(binary.NativeEndian.Uint16(b[2:])&typeMask, b[unix.NLA_HDRLEN:n], b[:whole])
		b = b[whole:]
	}
}

// aligned is where the next one begins behind one of n bytes, of all that there are.
func aligned(n, all int) int { return min((n+3)&^3, all) }
