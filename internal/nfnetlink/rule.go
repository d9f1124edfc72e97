package nfnetlink

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// A Rule is built of expressions, in the order in which the kernel evaluates
// them. Registers are numbered in words of four bytes from 0 on.
type Rule struct{ m attrs }

func (r *Rule) expr(name string, f func()) *Rule {
	r.m.nest(unix.NFTA_LIST_ELEM, func() {
		r.m.str(unix.NFTA_EXPR_NAME, name)
		r.m.nest(unix.NFTA_EXPR_DATA, f)
	})
	return r
}

func reg(n uint32) uint32 { return unix.NFT_REG32_00 + n }

// Meta loads what the kernel knows of the packet: unix.NFT_META_*.
func (r *Rule) Meta(key, to uint32) *Rule {
	return r.expr("meta", func() {
		r.m.num(unix.NFTA_META_KEY, key)
		r.m.num(unix.NFTA_META_DREG, reg(to))
	})
}

// Payload loads a part of a header: unix.NFT_PAYLOAD_*_HEADER.
func (r *Rule) Payload(base, offset, n, to uint32) *Rule {
	return r.expr("payload", func() {
		r.m.num(unix.NFTA_PAYLOAD_DREG, reg(to))
		r.m.num(unix.NFTA_PAYLOAD_BASE, base)
		r.m.num(unix.NFTA_PAYLOAD_OFFSET, offset)
		r.m.num(unix.NFTA_PAYLOAD_LEN, n)
	})
}

// CT loads what is known of the packet's connection: unix.NFT_CT_*.
func (r *Rule) CT(key, to uint32) *Rule {
	return r.expr("ct", func() {
		r.m.num(unix.NFTA_CT_KEY, key)
		r.m.num(unix.NFTA_CT_DREG, reg(to))
	})
}

// AnyOf goes on if one of the bits of the word is set.
func (r *Rule) AnyOf(bits, from uint32) *Rule {
	r.Mask(binary.NativeEndian.AppendUint32(nil, bits), from)
	return r.cmp(unix.NFT_CMP_NEQ, make([]byte, 4), from)
}

// Mask clears the bits of a register that are not in mask.
func (r *Rule) Mask(mask []byte, from uint32) *Rule {
	return r.expr("bitwise", func() {
		r.m.num(unix.NFTA_BITWISE_SREG, reg(from))
		r.m.num(unix.NFTA_BITWISE_DREG, reg(from))
		r.m.num(unix.NFTA_BITWISE_LEN, uint32(len(mask)))
		r.m.nest(unix.NFTA_BITWISE_MASK, func() { r.m.attribute(unix.NFTA_DATA_VALUE, mask) })
		r.m.nest(unix.NFTA_BITWISE_XOR, func() { r.m.attribute(unix.NFTA_DATA_VALUE, make([]byte, len(mask))) })
	})
}

// LocalDestination goes on if the packet is for an address of this host.
func (r *Rule) LocalDestination() *Rule { return r.local(unix.NFTA_FIB_F_DADDR) }

// InterfaceDestination goes on if it is for one of the interface that it came in by.
func (r *Rule) InterfaceDestination() *Rule {
	return r.local(unix.NFTA_FIB_F_DADDR | unix.NFTA_FIB_F_IIF)
}

func (r *Rule) local(flags uint32) *Rule {
	r.expr("fib", func() {
		r.m.num(unix.NFTA_FIB_DREG, reg(0))
		r.m.num(unix.NFTA_FIB_RESULT, unix.NFT_FIB_RESULT_ADDRTYPE)
		r.m.num(unix.NFTA_FIB_FLAGS, flags)
	})
	return r.cmp(unix.NFT_CMP_EQ, binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL), 0)
}

// Equal goes on if a register has the value.
func (r *Rule) Equal(value []byte, from uint32) *Rule { return r.cmp(unix.NFT_CMP_EQ, value, from) }

func (r *Rule) cmp(op uint32, value []byte, from uint32) *Rule {
	return r.expr("cmp", func() {
		r.m.num(unix.NFTA_CMP_SREG, reg(from))
		r.m.num(unix.NFTA_CMP_OP, op)
		r.m.nest(unix.NFTA_CMP_DATA, func() { r.m.attribute(unix.NFTA_DATA_VALUE, value) })
	})
}

// In goes on if the registers from the given one on are in the set.
func (r *Rule) In(set string, from uint32) *Rule { return r.lookup(set, from, false, 0) }

// NotIn goes on if they are not.
func (r *Rule) NotIn(set string, from uint32) *Rule {
	return r.lookup(set, from, false, unix.NFT_LOOKUP_F_INV)
}

// Map loads what the map has under the registers from the given one on into those
// from word 8 on, and goes on if it has something.
func (r *Rule) Map(set string, from uint32) *Rule { return r.lookup(set, from, true, 0) }

func (r *Rule) lookup(set string, from uint32, data bool, flags uint32) *Rule {
	return r.expr("lookup", func() {
		r.m.str(unix.NFTA_LOOKUP_SET, set)
		r.m.num(unix.NFTA_LOOKUP_SREG, reg(from))
		if data {
			r.m.num(unix.NFTA_LOOKUP_DREG, reg(8))
		}
		if flags != 0 {
			r.m.num(unix.NFTA_LOOKUP_FLAGS, flags)
		}
	})
}

// DNAT sends the packet to the address from word 8 on; with port, to the port in
// the word behind it too.
func (r *Rule) DNAT(family byte, port bool) *Rule {
	next := uint32(9)
	if family == unix.NFPROTO_IPV6 {
		next = 12
	}
	return r.expr("nat", func() {
		r.m.num(unix.NFTA_NAT_TYPE, unix.NFT_NAT_DNAT)
		r.m.num(unix.NFTA_NAT_FAMILY, uint32(family))
		r.m.num(unix.NFTA_NAT_REG_ADDR_MIN, reg(8))
		if port {
			r.m.num(unix.NFTA_NAT_REG_PROTO_MIN, reg(next))
		}
	})
}

// Masquerade gives the packet the address of the interface that it leaves by.
func (r *Rule) Masquerade() *Rule { return r.expr("masq", func() {}) }

// Accept, Drop and Jump are what becomes of the packet.
func (r *Rule) Accept() *Rule { return r.verdict(nfAccept, "") }

// Drop is the end of the packet.
func (r *Rule) Drop() *Rule { return r.verdict(nfDrop, "") }

// Return goes back to where the chain was jumped to from.
func (r *Rule) Return() *Rule { return r.verdict(unix.NFT_RETURN, "") }

// Jump goes on in another chain, and comes back.
func (r *Rule) Jump(chain string) *Rule { return r.verdict(unix.NFT_JUMP, chain) }

func (r *Rule) verdict(code int32, chain string) *Rule {
	return r.expr("immediate", func() {
		r.m.num(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
		r.m.nest(unix.NFTA_IMMEDIATE_DATA, func() {
			r.m.nest(unix.NFTA_DATA_VERDICT, func() {
				r.m.num(unix.NFTA_VERDICT_CODE, uint32(code))
				if chain != "" {
					r.m.str(unix.NFTA_VERDICT_CHAIN, chain)
				}
			})
		})
	})
}

// AddRule puts a rule at the end of a chain.
func (b *Batch) AddRule(family byte, table, chain string, r *Rule) {
	b.message(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, family, "add a rule to "+chain, func() {
		b.m.str(unix.NFTA_RULE_TABLE, table)
		b.m.str(unix.NFTA_RULE_CHAIN, chain)
		b.m.nest(unix.NFTA_RULE_EXPRESSIONS, func() { b.m.add(r.m.b...) })
	})
}
