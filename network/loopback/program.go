package loopback

import "golang.org/x/sys/unix"

// key and value of the map of what leads where. Addresses are those of IPv6;
// IPv4 ones are mapped (::ffff:192.0.2.1), as sockets of both families see them.
// Ports are in network byte order.
type (
	key struct {
		addr  [16]byte // the address, or ::ffff:0.0.0.0 or :: for every loopback address
		port  [4]byte  // two bytes, and two of zero
		proto uint32
	}
	value struct {
		addr  [16]byte
		port  [4]byte
		owner uint32
	}
)

// A socket remembers so many places that it was led to: where it was led, address
// and port, and what it had asked for, the same. One that talks to more of them
// without being connected hears the last from where they are.
const (
	slots    = 4
	slotSize = 40
)

const (
	maxEntries = 1 << 15
	mapped     = -0x10000 // the word ff:ff:00:00 of a mapped address, as the processor has it
	localhost4 = 0x0100007f
	localhost6 = 0x01000000
)

// Offsets in struct bpf_sock_addr.
const (
	ctxIP4      = 4
	ctxIP6      = 8
	ctxPort     = 24
	ctxProtocol = 36
	ctxSocket   = 64
)

// Registers.
const (
	r0, r1, r2, r3, r4 = 0, 1, 2, 3, 4
	r6, r7, r8, r9, fp = 6, 7, 8, 9, 10
)

// Helpers of the kernel.
const (
	mapLookupElem  = 1
	skStorageGet   = 107
	getNetnsCookie = 122
)

// hooks are the places where programs are attached, in this order: first those that
// every port needs, then those that only UDP does, which connects or does not. Of each
// kind those that lead come after those that tell where from, so that the last one
// stands for all of its kind.
func hooks() [8]hook {
	return [...]hook{
		{unix.BPF_CGROUP_INET4_GETPEERNAME, false, true},
		{unix.BPF_CGROUP_INET6_GETPEERNAME, true, true},
		{unix.BPF_CGROUP_INET4_CONNECT, false, false},
		{unix.BPF_CGROUP_INET6_CONNECT, true, false},
		{unix.BPF_CGROUP_UDP4_RECVMSG, false, true},
		{unix.BPF_CGROUP_UDP6_RECVMSG, true, true},
		{unix.BPF_CGROUP_UDP4_SENDMSG, false, false},
		{unix.BPF_CGROUP_UDP6_SENDMSG, true, false},
	}
}

// common is how many of the hooks every port needs. Loading a program takes the kernel
// 0.2 ms.
const common = 4

type hook struct {
	attach uint32
	six    bool
	back   bool // tells where something came from
}

func (h *hook) program(cookie uint64, entries, memory int) []uint64 {
	if h.back {
		return backward(h.six, memory)
	}
	return forward(h.six, cookie, entries, memory)
}

// forward leads what is for a loopback address elsewhere, if the map says so.
func forward(six bool, cookie uint64, entries, memory int) []uint64 {
	a := &assembler{}
	const k = -24 // the key, on the stack
	a.mov(r6, r1)
	if six {
		a.load(r1, r6, ctxIP6)
		a.jumpNotEqual(r1, 0, "out")
		a.load(r1, r6, ctxIP6+4)
		a.jumpNotEqual(r1, 0, "out")
		a.load(r8, r6, ctxIP6+8)
		a.load(r7, r6, ctxIP6+12)
		a.jumpEqual(r8, mapped, "mapped")
		a.jumpNotEqual(r8, 0, "out")
		a.jumpEqual(r7, localhost6, "address")
		a.jumpNotEqual(r7, 0, "out")
		a.set(r7, localhost6) // :: is this host
		a.jump("address")
		a.label("mapped")
	} else {
		a.load(r7, r6, ctxIP4)
		a.set(r8, mapped)
	}
	a.jumpNotEqual(r7, 0, "some")
	a.set(r7, localhost4) // 0.0.0.0 is this host
	a.label("some")
	a.mov(r1, r7)
	a.and(r1, 0xff)
	a.jumpNotEqual(r1, 127, "out")
	a.label("address")
	a.storeImm(fp, k, 0)
	a.storeImm(fp, k+4, 0)
	a.store(fp, k+8, r8)
	a.store(fp, k+12, r7)
	a.load(r1, r6, ctxPort)
	a.store(fp, k+16, r1)
	a.load(r1, r6, ctxProtocol)
	a.store(fp, k+20, r1)

	// Other network namespaces have loopbacks of their own.
	a.mov(r1, r6)
	a.call(getNetnsCookie)
	a.set64(r1, cookie)
	a.jumpNotEqualReg(r0, r1, "out")

	find := func() {
		a.setMap(r1, entries)
		a.mov(r2, fp)
		a.add(r2, k)
		a.call(mapLookupElem)
	}
	find()
	a.jumpNotEqual64(r0, 0, "found")
	a.storeImm(fp, k+12, 0) // any address of the family
	find()
	a.jumpEqual64(r0, 0, "out")
	a.label("found")
	a.mov(r9, r0)

	// The socket remembers, in the slot that has the same place or the first free one.
	a.setMap(r1, memory)
	a.load64(r2, r6, ctxSocket)
	a.set(r3, 0)
	a.set(r4, unix.BPF_SK_STORAGE_GET_F_CREATE)
	a.call(skStorageGet)
	a.jumpEqual64(r0, 0, "rewrite") // no memory: what it asked for is lost, no more
	for i := range slots {
		here := labelOf("next", i)
		if i < slots-1 {
			a.load(r1, r0, 16)
			a.jumpEqual(r1, 0, "slot")
			for w := int16(0); w < 20; w += 4 {
				a.load(r1, r0, w)
				a.load(r2, r9, w)
				a.jumpNotEqualReg(r1, r2, here)
			}
			a.jump("slot")
			a.label(here)
			a.add(r0, slotSize)
		}
	}
	a.label("slot")
	for w := int16(0); w < 20; w += 4 {
		a.load(r1, r9, w)
		a.store(r0, w, r1)
	}
	a.storeImm(r0, 20, 0)
	a.storeImm(r0, 24, 0)
	a.store(r0, 28, r8)
	a.store(r0, 32, r7)
	a.load(r1, fp, k+16)
	a.store(r0, 36, r1)

	a.label("rewrite")
	if six {
		for w := int16(0); w < 16; w += 4 {
			a.load(r1, r9, w)
			a.store(r6, ctxIP6+w, r1)
		}
	} else {
		a.load(r1, r9, 12)
		a.store(r6, ctxIP4, r1)
	}
	a.load(r1, r9, 16)
	a.store(r6, ctxPort, r1)
	a.label("out")
	a.set(r0, 1)
	a.exit()
	return a.code
}

// backward tells a socket that it hears from whom it had asked, if that was led
// elsewhere.
func backward(six bool, memory int) []uint64 {
	a := &assembler{}
	a.mov(r6, r1)
	a.setMap(r1, memory)
	a.load64(r2, r6, ctxSocket)
	a.set(r3, 0)
	a.set(r4, 0)
	a.call(skStorageGet)
	a.jumpEqual64(r0, 0, "out")
	for i := range slots {
		here := labelOf("next", i)
		a.load(r1, r0, 16)
		a.jumpEqual(r1, 0, "out")
		a.load(r2, r6, ctxPort)
		a.jumpNotEqualReg(r1, r2, here)
		if six {
			for w := int16(0); w < 16; w += 4 {
				a.load(r1, r0, w)
				a.load(r2, r6, ctxIP6+w)
				a.jumpNotEqualReg(r1, r2, here)
			}
		} else {
			a.load(r1, r0, 8)
			a.jumpNotEqual(r1, mapped, here)
			a.load(r1, r0, 12)
			a.load(r2, r6, ctxIP4)
			a.jumpNotEqualReg(r1, r2, here)
		}
		a.jump("found")
		a.label(here)
		if i < slots-1 {
			a.add(r0, slotSize)
		}
	}
	a.jump("out")
	a.label("found")
	if six {
		for w := int16(0); w < 16; w += 4 {
			a.load(r1, r0, 20+w)
			a.store(r6, ctxIP6+w, r1)
		}
	} else {
		a.load(r1, r0, 32)
		a.store(r6, ctxIP4, r1)
	}
	a.load(r1, r0, 36)
	a.store(r6, ctxPort, r1)
	a.label("out")
	a.set(r0, 1)
	a.exit()
	return a.code
}

func labelOf(name string, i int) string { return name + string(rune('0'+i)) }
