package nfnetlink

import (
	"os"

	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// A Batch is a list of changes that the kernel makes together.
type Batch struct {
	m    attrs
	seq  uint32
	what []string // of each message, for errors
	owns bool     // a table that goes with the socket
}

// NewBatch begins a list.
func NewBatch() *Batch {
	b := new(Batch)
	b.m.b = make([]byte, 0, 1024)
	at := b.m.header(unix.NFNL_MSG_BATCH_BEGIN, 0, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	b.m.end(at)
	return b
}

// Empty reports whether there is nothing to do.
func (b *Batch) Empty() bool { return len(b.what) == 0 }

// Size is how long the list is, in bytes.
func (b *Batch) Size() int { return len(b.m.b) }

func (b *Batch) message(typ, flags uint16, family byte, what string, f func()) {
	b.seq++
	b.what = append(b.what, what)
	at := b.m.header(unix.NFNL_SUBSYS_NFTABLES<<8|typ, flags, b.seq, family, 0)
	f()
	b.m.end(at)
}

// BatchError reports the change that the kernel refused.
type BatchError struct {
	What string
	Err  error
}

func (e *BatchError) Error() string { return "nftables: " + e.What + ": " + e.Err.Error() }
func (e *BatchError) Unwrap() error { return e.Err }

// Commit makes all the changes, or none.
func (c *Conn) Commit(b *Batch) error {
	if b.Empty() {
		return nil
	}
	c.owns = c.owns || b.owns
	// An answer to the last message says that there is one to all.
	at := b.m.header(unix.NFNL_MSG_BATCH_END, unix.NLM_F_ACK, b.seq+1, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	b.m.end(at)
	if len(b.m.b) > 100<<10 {
		// A message larger than the buffer of the socket is refused.
		if unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 2*len(b.m.b)+64<<10) != nil {
			_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 2*len(b.m.b)+64<<10)
		}
	}
	if _, err := linux.Write(c.fd, b.m.b); err != nil {
		return os.NewSyscallError("write to nftables", err)
	}
	// The kernel has done it all, and queued the answers, before write returns.
	var first error
	err := c.receive(0, b.seq+1, unix.MSG_DONTWAIT, func(seq uint32, typ uint16, body []byte) (bool, error) {
		if typ != unix.NLMSG_ERROR {
			return false, nil
		}
		if err := linux.NetlinkErrno(body); err != nil && first == nil {
			what := "begin"
			if seq > 0 && int(seq) <= len(b.what) {
				what = b.what[seq-1]
			}
			first = &BatchError{what, err}
		}
		return false, nil
	})
	if first != nil {
		return first
	}
	return err
}

// AddTable makes a table; one that is there is as good.
func (b *Batch) AddTable(family byte, name string, userdata []byte) {
	b.message(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, family, "add table "+name, func() {
		b.m.str(unix.NFTA_TABLE_NAME, name)
		b.m.num(unix.NFTA_TABLE_FLAGS, 0)
		if len(userdata) > 0 {
			b.m.attribute(nftaTableUserdata, userdata)
		}
	})
}

// AddOwnedTable makes a table that goes with the socket, and that nobody else can
// change or flush.
func (b *Batch) AddOwnedTable(family byte, name string) {
	b.message(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, family, "add table "+name, func() {
		b.m.str(unix.NFTA_TABLE_NAME, name)
		b.m.num(unix.NFTA_TABLE_FLAGS, nftTableOwner)
	})
	b.owns = true
}

// DelTable removes a table with everything in it.
func (b *Batch) DelTable(family byte, name string) {
	b.message(unix.NFT_MSG_DELTABLE, 0, family, "delete table "+name, func() { b.m.str(unix.NFTA_TABLE_NAME, name) })
}

// Table reads the user data of a table; unix.ENOENT if there is none of the name.
func (c *Conn) Table(family byte, name string) (userdata []byte, err error) {
	c.seq++
	m := new(attrs)
	at := m.header(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETTABLE, 0, c.seq, family, 0)
	m.str(unix.NFTA_TABLE_NAME, name)
	m.end(at)
	err = c.request(m, func(body []byte) {
		linux.NetlinkAttributes(body[min(len(body), 4):], func(typ uint16, v, _ []byte) {
			if typ == nftaTableUserdata {
				userdata = append([]byte(nil), v...)
			}
		})
	})
	return userdata, err
}

// A Hook is where the kernel enters a chain.
type Hook struct {
	Type     string // "filter" or "nat"
	Number   uint32 // unix.NF_INET_*
	Priority int32
}

// AddChain makes a chain; hook is nil for one that rules jump to.
func (b *Batch) AddChain(family byte, table, name string, hook *Hook) {
	b.message(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, family, "add chain "+name, func() {
		b.m.str(unix.NFTA_CHAIN_TABLE, table)
		b.m.str(unix.NFTA_CHAIN_NAME, name)
		if hook == nil {
			return
		}
		b.m.nest(unix.NFTA_CHAIN_HOOK, func() {
			b.m.num(unix.NFTA_HOOK_HOOKNUM, hook.Number)
			b.m.num(unix.NFTA_HOOK_PRIORITY, uint32(hook.Priority))
		})
		b.m.num(unix.NFTA_CHAIN_POLICY, nfAccept)
		b.m.str(unix.NFTA_CHAIN_TYPE, hook.Type)
	})
}

// A Field is a part of a key or of data.
type Field struct {
	Type      uint32 // number that nft(8) knows it by
	Len       uint32
	HostOrder bool // of its bytes
}

// A Set of the kernel, or a map if it has data.
type Set struct {
	Name     string
	Key      []Field
	Data     []Field
	Interval bool
}

func lengths(list []Field) (typ, n uint32) {
	for _, f := range list {
		typ = typ<<6 | f.Type
		n += (f.Len + 3) &^ 3
	}
	if len(list) == 1 {
		n = list[0].Len
	}
	return typ, n
}

// AddSet makes an empty set.
func (b *Batch) AddSet(family byte, table string, s *Set) {
	b.message(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, family, "add set "+s.Name, func() {
		var flags uint32
		if s.Interval {
			flags |= unix.NFT_SET_INTERVAL
		}
		if len(s.Data) > 0 {
			flags |= unix.NFT_SET_MAP
		}
		concat := len(s.Key) > 1
		if concat {
			flags |= nftSetConcat
		}
		b.m.str(unix.NFTA_SET_TABLE, table)
		b.m.str(unix.NFTA_SET_NAME, s.Name)
		b.m.num(unix.NFTA_SET_FLAGS, flags)
		typ, n := lengths(s.Key)
		b.m.num(unix.NFTA_SET_KEY_TYPE, typ)
		b.m.num(unix.NFTA_SET_KEY_LEN, n)
		if len(s.Data) > 0 {
			typ, n := lengths(s.Data)
			b.m.num(unix.NFTA_SET_DATA_TYPE, typ)
			b.m.num(unix.NFTA_SET_DATA_LEN, n)
		}
		b.m.num(unix.NFTA_SET_ID, b.seq)
		if !concat && s.Key[0].HostOrder {
			// Only nft(8) wants to know it: type 0, KEYBYTEORDER; value 1, of the host.
			b.m.attribute(unix.NFTA_SET_USERDATA, []byte{0, 4, 1, 0, 0, 0})
		}
		if concat {
			b.m.nest(unix.NFTA_SET_DESC, func() {
				b.m.nest(nftaSetDescConcat, func() {
					for _, f := range s.Key {
						b.m.nest(unix.NFTA_LIST_ELEM, func() { b.m.num(nftaSetFieldLen, f.Len) })
					}
				})
			})
		}
	})
}

// An Element of a set. End is the end of an interval, inclusive, of a set with
// several fields; of one with a single field the first value behind it, which is an
// element of its own with Last.
type Element struct {
	Key, End, Data []byte
	Last           bool
}

// AddElements puts elements into a set. One that is there with the same data is
// as good.
func (b *Batch) AddElements(family byte, table, set string, list ...Element) {
	b.elements(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, "add to ", family, table, set, list)
}

// DelElements takes elements out of a set; unix.ENOENT if one is not in it.
func (b *Batch) DelElements(family byte, table, set string, list ...Element) {
	b.elements(unix.NFT_MSG_DELSETELEM, 0, "delete from ", family, table, set, list)
}

func (b *Batch) elements(typ, flags uint16, op string, family byte, table, set string, list []Element) {
	for len(list) > 0 {
		n := min(len(list), 256) // an attribute has less than 64 KiB
		part := list[:n]
		list = list[n:]
		b.message(typ, flags, family, op+set, func() {
			b.m.str(unix.NFTA_SET_ELEM_LIST_TABLE, table)
			b.m.str(unix.NFTA_SET_ELEM_LIST_SET, set)
			b.m.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func() {
				for i := range part {
					e := &part[i]
					b.m.nest(unix.NFTA_LIST_ELEM, func() {
						b.m.nest(unix.NFTA_SET_ELEM_KEY, func() { b.m.attribute(unix.NFTA_DATA_VALUE, e.Key) })
						if e.End != nil {
							b.m.nest(nftaSetElemKeyEnd, func() { b.m.attribute(unix.NFTA_DATA_VALUE, e.End) })
						}
						if e.Last {
							b.m.num(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
						}
						if e.Data != nil && typ == unix.NFT_MSG_NEWSETELEM {
							b.m.nest(unix.NFTA_SET_ELEM_DATA, func() { b.m.attribute(unix.NFTA_DATA_VALUE, e.Data) })
						}
					})
				}
			})
		})
	}
}

// Of linux/netfilter/nf_tables.h, and not in package unix.
const (
	nftaTableUserdata = 6
	nftTableOwner     = 2
	nftSetConcat      = 0x80
	nftaSetDescConcat = 2
	nftaSetFieldLen   = 1
	nftaSetElemKeyEnd = 10
)

// Verdicts of linux/netfilter.h.
const (
	nfDrop   = 0
	nfAccept = 1
)
