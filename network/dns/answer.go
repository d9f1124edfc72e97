package dns

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// Sizes of answers. 1232 bytes fit into a packet of IPv6 everywhere, and are what
// others agreed on for answers that nobody fragments.
const (
	minUDP     = 512
	maxUDP     = 1232
	maxAnswers = 2000 // of TCP: below 64 KiB
)

// answer makes the reply to a question that the network can answer by itself; nil
// means that the host's resolvers are to be asked. It does not block.
func (t *table) answer(q *dns.Msg) *dns.Msg {
	reply := new(dns.Msg).SetReply(q)
	reply.RecursionAvailable = true
	question := q.Question[0]
	if question.Qclass != dns.ClassINET && question.Qclass != dns.ClassANY {
		reply.Rcode = dns.RcodeRefused
		return reply
	}
	name := strings.ToLower(question.Name)
	if a := t.names[name]; a != nil {
		reply.Authoritative = true
		t.addresses(reply, question, a)
		if len(reply.Answer) == 0 {
			reply.Ns = t.authority()
		}
		return reply
	}
	if name == "localhost." || strings.HasSuffix(name, ".localhost.") {
		t.addresses(reply, question, &answer{[]netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}, []netip.Addr{netip.IPv6Loopback()}, ttl})
		return reply
	}
	if addr, ok := fromReverse(name); ok {
		return t.pointer(reply, question, addr)
	}
	if name == t.domain || strings.HasSuffix(name, "."+t.domain) {
		reply.Authoritative = true
		// A name with others below it exists, though it has no records (RFC 8020).
		if !t.parents[name] {
			reply.Rcode = dns.RcodeNameError
		}
		reply.Ns = t.authority()
		return reply
	}
	return nil
}

func (t *table) addresses(reply *dns.Msg, q dns.Question, a *answer) {
	hdr := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: a.ttl}
	switch q.Qtype {
	case dns.TypeA:
		for _, ip := range shuffled(a.v4) {
			reply.Answer = append(reply.Answer, &dns.A{Hdr: hdr, A: ip.AsSlice()})
		}
	case dns.TypeAAAA:
		for _, ip := range shuffled(a.v6) {
			reply.Answer = append(reply.Answer, &dns.AAAA{Hdr: hdr, AAAA: ip.AsSlice()})
		}
	case dns.TypeANY:
		// One small record in place of all (RFC 8482).
		hdr.Rrtype = dns.TypeHINFO
		reply.Answer = append(reply.Answer, &dns.HINFO{Hdr: hdr, Cpu: "RFC8482"})
	}
}

// shuffled gives each client another first address, which is the one that most take.
func shuffled(addrs []netip.Addr) []netip.Addr {
	if len(addrs) < 2 {
		return addrs
	}
	s := slices.Clone(addrs)
	rand.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
	return s[:min(len(s), maxAnswers)]
}

func (t *table) pointer(reply *dns.Msg, q dns.Question, addr netip.Addr) *dns.Msg {
	name := t.reverse[addr]
	ours := slices.ContainsFunc(t.subnets, func(p netip.Prefix) bool { return p.Contains(addr) })
	switch {
	case name == "" && !ours:
		return nil
	case name == "":
		reply.Rcode = dns.RcodeNameError
	case q.Qtype == dns.TypePTR:
		hdr := dns.RR_Header{Name: q.Name, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: ttl}
		reply.Answer = append(reply.Answer, &dns.PTR{Hdr: hdr, Ptr: name})
	}
	reply.Authoritative = true
	return reply
}

// authority tells how long it may be remembered that there is nothing.
func (t *table) authority() []dns.RR {
	return []dns.RR{&dns.SOA{
		Hdr: dns.RR_Header{Name: t.domain, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttlNegative},
		Ns:  "ns." + t.domain, Mbox: "hostmaster." + t.domain,
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ttlNegative,
	}}
}

// fromReverse reads the address out of a name below in-addr.arpa or ip6.arpa.
func fromReverse(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		parts := strings.Split(rest, ".")
		slices.Reverse(parts)
		a, err := netip.ParseAddr(strings.Join(parts, "."))
		return a, err == nil && a.Is4()
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa.")
	if !ok || len(rest) != 63 {
		return netip.Addr{}, false
	}
	var b strings.Builder
	for i := 62; i >= 0; i-- {
		if (i%2 == 1) != (rest[i] == '.') {
			return netip.Addr{}, false
		}
		if i%2 == 0 {
			b.WriteByte(rest[i])
			if b.Len()%5 == 4 && i > 0 {
				b.WriteByte(':')
			}
		}
	}
	a, err := netip.ParseAddr(b.String())
	return a, err == nil
}

// fit makes the reply small enough for its client and adds the options that a
// client with options expects.
func fit(q, reply *dns.Msg, tcp bool) {
	size := minUDP
	opt := q.IsEdns0()
	if opt != nil {
		size = min(max(int(opt.UDPSize()), minUDP), maxUDP)
		if opt.Version() != 0 {
			reply.Answer, reply.Ns, reply.Extra = nil, nil, nil
			reply.Rcode = dns.RcodeBadVers
		}
		reply.SetEdns0(maxUDP, opt.Do())
	}
	if tcp {
		size = dns.MaxMsgSize
	}
	reply.Compress = true
	reply.Truncate(size)
}
