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

// answer makes the reply to a question that the network, or one of the others that
// the client is in, can answer by itself; nil means that resolvers are to be asked.
// It does not block.
func (t *table) answer(q *dns.Msg, others ...*table) *dns.Msg {
	reply := new(dns.Msg).SetReply(q)
	reply.RecursionAvailable = true
	question := q.Question[0]
	if question.Qclass != dns.ClassINET && question.Qclass != dns.ClassANY {
		reply.Rcode = dns.RcodeRefused
		return reply
	}
	name := strings.ToLower(question.Name)
	if a := t.find(name, others); a != nil {
		reply.Authoritative = true
		t.addresses(reply, question, a)
		if len(reply.Answer) == 0 {
			reply.Ns = t.authority()
		}
		return reply
	}
	if name == "localhost." || strings.HasSuffix(name, ".localhost.") {
		t.addresses(reply, question, &answer{v4: []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}, v6: []netip.Addr{netip.IPv6Loopback()}, ttl: ttl})
		return reply
	}
	if addr, ok := fromReverse(name); ok {
		for _, o := range append([]*table{t}, others...) {
			if r := o.pointer(reply, question, addr); r != nil {
				return r
			}
		}
		if t.inside {
			reply.Rcode = dns.RcodeNameError
			return reply
		}
		return nil
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
	if t.inside {
		reply.Rcode = dns.RcodeNameError
		reply.Ns = t.authority()
		return reply
	}
	return nil
}

// find looks a name up, here and then in the others.
func (t *table) find(name string, others []*table) *answer {
	if a := t.names[name]; a != nil {
		return a
	}
	if a := t.pod(name); a != nil {
		return a
	}
	for _, o := range others {
		if a := o.names[name]; a != nil {
			return a
		}
	}
	return nil
}

// pod reads an address of our subnets out of 10-1-0-2.NAMESPACE.pod.DOMAIN, which
// Kubernetes has for all pods, with or without a service.
func (t *table) pod(name string) *answer {
	rest, ok := strings.CutSuffix(name, ".pod."+t.domain)
	label, namespace, two := strings.Cut(rest, ".")
	if !ok || !two || namespace == "" || strings.Contains(namespace, ".") {
		return nil
	}
	a, err := netip.ParseAddr(strings.ReplaceAll(label, "-", "."))
	if err != nil {
		a, err = netip.ParseAddr(strings.ReplaceAll(label, "-", ":"))
	}
	if err != nil || !slices.ContainsFunc(t.subnets, func(p netip.Prefix) bool { return p.Contains(a) }) {
		return nil
	}
	if a.Is4() {
		return &answer{v4: []netip.Addr{a}, ttl: ttl}
	}
	return &answer{v6: []netip.Addr{a}, ttl: ttl}
}

// alias is the name outside for which the reply's name stands, if that has to be
// looked up for the answer to be of use.
func alias(reply *dns.Msg) string {
	if len(reply.Answer) != 1 || reply.Question[0].Qtype == dns.TypeCNAME {
		return ""
	}
	if c, ok := reply.Answer[0].(*dns.CNAME); ok {
		return c.Target
	}
	return ""
}

func (t *table) addresses(reply *dns.Msg, q dns.Question, a *answer) {
	hdr := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: a.ttl}
	if a.alias != "" && q.Qtype != dns.TypeANY {
		hdr.Rrtype = dns.TypeCNAME
		reply.Answer = append(reply.Answer, &dns.CNAME{Hdr: hdr, Target: a.alias})
		return
	}
	switch q.Qtype {
	case dns.TypeSRV:
		for _, s := range a.srv {
			reply.Answer = append(reply.Answer, &dns.SRV{Hdr: hdr, Weight: 1, Port: s.port, Target: s.name})
			if to := t.names[s.name]; to != nil {
				for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
					var extra dns.Msg
					t.addresses(&extra, dns.Question{Name: s.name, Qtype: kind}, to)
					reply.Extra = append(reply.Extra, extra.Answer...)
				}
			}
		}
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
