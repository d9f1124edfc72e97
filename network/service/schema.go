package service

import (
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// family is what differs between IPv4 and IPv6.
type family struct {
	suffix       string
	proto        byte
	words        int // 32-bit words of an address
	saddr, daddr uint32
	addr         nftables.SetDatatype
	any          netip.Addr
}

func families() [2]family {
	return [2]family{
		{"4", unix.NFPROTO_IPV4, 1, 12, 16, nftables.TypeIPAddr, netip.IPv4Unspecified()},
		{"6", unix.NFPROTO_IPV6, 4, 8, 24, nftables.TypeIP6Addr, netip.IPv6Unspecified()},
	}
}

func familyOf(a netip.Addr) family { return families()[familyIndex(a)] }

// Names of sets. Those with slots and those for affinity have their number of
// slots, or their timeout, behind.
const (
	setAddresses = "addresses" // virtual addresses
	setClosed    = "closed"    // shared frontends without endpoints
	setHairpin   = "hairpin"   // endpoint . the same endpoint
	setLive      = "live"      // frontend . number of endpoint : endpoint, of services with affinity
	setNodePorts = "nodeports" // proto . port
	setSlots     = "slots"     // frontend . slot : endpoint
	setNumbers   = "numbers"   // frontend . slot : port . number of endpoint, of services with affinity
	setSticky    = "sticky"    // frontends with affinity
	setClients   = "clients"   // client . frontend : port . number of endpoint, filled by the kernel
)

// maxClients bounds the memory that strangers can fill. Clients beyond it are
// served without affinity.
const maxClients = 1 << 16

func (f family) set(name string) string { return name + f.suffix }
func (f family) slotSet(n int) string   { return setSlots + f.suffix + "_" + strconv.Itoa(n) }

func (f family) numberSet(n int) string          { return setNumbers + f.suffix + "_" + strconv.Itoa(n) }
func (f family) timed(name string, s int) string { return name + f.suffix + "_" + strconv.Itoa(s) }
func seconds(d time.Duration) int                { return int(d / time.Second) }
func concat(t ...nftables.SetDatatype) (c nftables.SetDatatype) {
	return nftables.MustConcatSetType(t...)
}

// chain is one with its rules.
type chain struct {
	*nftables.Chain
	rules []rule
}

// rule is a list of expressions with what they mean.
type rule struct {
	text  string
	exprs []expr.Any
}

// schema is the table without the elements of its sets. It depends on which
// affinity timeouts are in use, and on nothing else: a service is elements only.
type schema struct {
	table  *nftables.Table
	sets   map[string]*nftables.Set
	names  []string // of sets, in the order of their creation
	chains []chain

	timeouts []int
}

// Priorities: just before dstnat and srcnat, so that services come before
// published ports; refusals after the translation and before filters.
const (
	prioNAT    = -105
	prioRefuse = -90
	prioSource = 95
)

// newSchema makes the table's schema for services with these affinity timeouts in seconds.
func newSchema(table string, timeouts []int) *schema {
	s := &schema{table: &nftables.Table{Name: table, Family: nftables.TableFamilyINet}, sets: map[string]*nftables.Set{}, timeouts: timeouts}
	for _, f := range families() {
		s.addSets(f, timeouts)
	}
	s.addSet(nftables.Set{Name: setNodePorts, KeyType: concat(nftables.TypeInetProto, nftables.TypeInetService)})

	jump := rule{"jump services", []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: "services"}}}
	s.base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, prioNAT, jump)
	s.base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, prioNAT, jump)
	refuse := refusals()
	s.base("refuse-prerouting", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, prioRefuse, refuse...)
	s.base("refuse-output", nftables.ChainTypeFilter, nftables.ChainHookOutput, prioRefuse, refuse...)
	var hairpins []rule
	for _, f := range families() {
		hairpins = append(hairpins, hairpin(f))
	}
	s.base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, prioSource, hairpins...)

	s.regular("refuse", refuseChain()...)
	for _, node := range []bool{false, true} {
		for _, f := range families() {
			for _, t := range timeouts {
				s.regular(stickyChain(f, t, node), stickyRules(f, t, node)...)
			}
		}
	}
	var services, nodes []rule
	for _, f := range families() {
		services = append(services, pick(f, timeouts, false)...)
		nodes = append(nodes, pick(f, timeouts, true)...)
	}
	services = append(services, toNodePorts())
	s.regular("nodeports", nodes...)
	s.regular("services", services...)
	return s
}

func (s *schema) addSet(set nftables.Set) {
	set.Table = s.table
	set.Concatenation = len(nftables.ConcatSetTypeElements(set.KeyType)) > 1
	set.KeyByteOrder = binaryutil.BigEndian
	s.sets[set.Name] = &set
	s.names = append(s.names, set.Name)
}

func (s *schema) addSets(f family, timeouts []int) {
	proto, port := nftables.TypeInetProto, nftables.TypeInetService
	endpoint := concat(f.addr, port)
	frontend := concat(f.addr, proto, port)
	s.addSet(nftables.Set{Name: f.set(setAddresses), KeyType: f.addr})
	s.addSet(nftables.Set{Name: f.set(setClosed), KeyType: frontend})
	s.addSet(nftables.Set{Name: f.set(setHairpin), KeyType: concat(f.addr, f.addr)})
	number := concat(port, nftables.TypeMark)
	numbered := concat(f.addr, proto, port, nftables.TypeMark)
	s.addSet(nftables.Set{Name: f.set(setLive), KeyType: numbered, DataType: endpoint, IsMap: true})
	for _, n := range sizes {
		key := frontend
		if n > 1 {
			key = numbered
		}
		s.addSet(nftables.Set{Name: f.slotSet(n), KeyType: key, DataType: endpoint, IsMap: true})
		s.addSet(nftables.Set{Name: f.numberSet(n), KeyType: key, DataType: number, IsMap: true})
	}
	for _, t := range timeouts {
		s.addSet(nftables.Set{Name: f.timed(setSticky, t), KeyType: frontend})
		s.addSet(nftables.Set{
			Name: f.timed(setClients, t), KeyType: concat(f.addr, f.addr, proto, port), DataType: number,
			IsMap: true, Dynamic: true, HasTimeout: true, Timeout: time.Duration(t) * time.Second, Size: maxClients,
		})
	}
}

func (s *schema) base(name string, typ nftables.ChainType, hook *nftables.ChainHook, prio nftables.ChainPriority, rules ...rule) {
	accept := nftables.ChainPolicyAccept
	c := &nftables.Chain{Name: name, Table: s.table, Type: typ, Hooknum: hook, Priority: &prio, Policy: &accept}
	s.chains = append(s.chains, chain{c, rules})
}

func (s *schema) regular(name string, rules ...rule) {
	s.chains = append(s.chains, chain{&nftables.Chain{Name: name, Table: s.table}, rules})
}

func (r rule) nft(c *nftables.Chain) *nftables.Rule {
	return &nftables.Rule{Table: c.Table, Chain: c, Exprs: r.exprs, UserData: userdata.AppendString(nil, userdata.TypeComment, r.text)}
}

// reg is the n-th 32-bit register. Keys of several fields are loaded into
// registers that follow each other; fields shorter than a register are padded.
func reg(n int) uint32 { return unix.NFT_REG32_00 + uint32(n) }

func isFamily(f family) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg(0)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg(0), Data: []byte{f.proto}},
	}
}

func (f family) source(at int) expr.Any { return f.payload(f.saddr, at) }
func (f family) dest(at int) expr.Any   { return f.payload(f.daddr, at) }

func (f family) payload(offset uint32, at int) expr.Any {
	return &expr.Payload{DestRegister: reg(at), Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(4 * f.words)}
}

// protoPort loads the protocol and the destination port. A packet without ports
// (a later fragment; conntrack puts them together before) ends the rule.
func protoPort(at int) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg(at)},
		destPort(at + 1),
	}
}

func destPort(at int) expr.Any {
	return &expr.Payload{DestRegister: reg(at), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
}

// frontend loads the frontend that a packet is for into w+2 registers: its
// destination, or for node ports the unspecified address.
func (f family) frontend(at int, node bool) []expr.Any {
	var address expr.Any = f.dest(at)
	if node {
		address = &expr.Immediate{Register: reg(at), Data: make([]byte, 4*f.words)}
	}
	return append([]expr.Any{address}, protoPort(at+f.words)...)
}

func in(set string, at int) expr.Any { return &expr.Lookup{SourceRegister: reg(at), SetName: set} }

func get(set string, at, to int) expr.Any {
	return &expr.Lookup{SourceRegister: reg(at), DestRegister: reg(to), IsDestRegSet: true, SetName: set}
}

func (f family) dnat(at int) expr.Any {
	return &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.proto), RegAddrMin: reg(at), RegProtoMin: reg(at + f.words)}
}

// draw loads what set has for a random slot of the frontend at register at.
func (f family) draw(set string, at, n, to int) []expr.Any {
	if n == 1 {
		return []expr.Any{get(set, at, to)}
	}
	return []expr.Any{
		&expr.Numgen{Register: reg(at + f.words + 2), Modulus: uint32(n), Type: unix.NFT_NG_RANDOM},
		get(set, at, to),
	}
}

func what(node bool) string {
	if node {
		return "node port"
	}
	return "address"
}

// pick chooses an endpoint and translates. Services with affinity have a chain
// for each timeout, and no slots in the maps that the rules after it look into.
func pick(f family, timeouts []int, node bool) []rule {
	var rules []rule
	for _, t := range timeouts {
		e := append(isFamily(f), f.frontend(0, node)...)
		e = append(e, in(f.timed(setSticky, t), 0), &expr.Verdict{Kind: expr.VerdictJump, Chain: stickyChain(f, t, node)})
		rules = append(rules, rule{fmt.Sprintf("ipv%s %s with affinity %ds", f.suffix, what(node), t), e})
	}
	for _, n := range sizes {
		e := append(isFamily(f), f.frontend(0, node)...)
		e = append(e, f.draw(f.slotSet(n), 0, n, f.words+2)...)
		e = append(e, f.dnat(f.words+2))
		rules = append(rules, rule{fmt.Sprintf("ipv%s %s: dnat to one of %d slots", f.suffix, what(node), n), e})
	}
	return rules
}

func stickyChain(f family, t int, node bool) string {
	name := setSticky
	if node {
		name += "-node"
	}
	return f.timed(name, t)
}

// stickyRules: a client that is known goes to its endpoint if that is alive; the
// check is here and not in the table of clients, which nobody can clean up in the
// same transaction. Others draw one, and are known from then on. If the table is
// full, they draw each time.
//
// Endpoints have numbers here, and maps give them as "port . number" into the
// register of the port, which is loaded again afterwards. That is for nft 1.0.6
// (Debian 12), which aborts while it lists rules that store or look up what came out
// of a map. So it takes the number for what was in that register before, and
// prints that.
func stickyRules(f family, t int, node bool) []rule {
	w := f.words
	number := 2*w + 2 // registers: client w, frontend w+2, number 1, endpoint w+1: all 16 with IPv6
	endpoint := number + 1
	clients := f.timed(setClients, t)
	load := func() []expr.Any {
		e := append(append(isFamily(f), f.source(0)), f.frontend(w, node)...)
		return append(e, &expr.Immediate{Register: reg(number), Data: make([]byte, 4)})
	}
	again := destPort(number - 1)
	find := get(f.set(setLive), w, endpoint)
	remember := &expr.Dynset{
		SrcRegKey: reg(0), SrcRegData: reg(number - 1), SetName: clients,
		Operation: uint32(unix.NFT_DYNSET_OP_UPDATE), Timeout: time.Duration(t) * time.Second,
	}
	// For a client that is there, remember only prolongs the time.
	known := append(load(), get(clients, 0, number-1), again, find, remember, f.dnat(endpoint))
	rules := []rule{{fmt.Sprintf("ipv%s known client", f.suffix), known}}
	for _, full := range []bool{false, true} {
		for _, n := range sizes {
			e := append(load(), f.draw(f.numberSet(n), w, n, number-1)...)
			e = append(e, again)
			text := fmt.Sprintf("ipv%s new client: one of %d slots", f.suffix, n)
			if full {
				text = fmt.Sprintf("ipv%s table of clients is full: one of %d slots", f.suffix, n)
			} else {
				e = append(e, remember)
			}
			rules = append(rules, rule{text, append(e, find, f.dnat(endpoint))})
		}
	}
	return rules
}

// local matches packets to addresses of the host but loopback: from there the
// kernel does not route (and route_localnet would open what listens there).
func local() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg(0), FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg(0), Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// notLoopback ends the rule for destinations that loopback owns.
func notLoopback(f family) []expr.Any {
	e := append(isFamily(f), f.dest(0))
	if f.words == 1 {
		return append(e,
			&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: 4, Mask: []byte{255, 0, 0, 0}, Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: reg(0), Data: []byte{127, 0, 0, 0}})
	}
	one := netip.IPv6Loopback().As16()
	return append(e, &expr.Cmp{Op: expr.CmpOpNeq, Register: reg(0), Data: one[:]})
}

func toNodePorts() rule {
	e := append(protoPort(0), in(setNodePorts, 0))
	e = append(e, local()...)
	return rule{"node ports at local addresses", append(e, &expr.Verdict{Kind: expr.VerdictJump, Chain: "nodeports"})}
}

// hairpin: an endpoint that reaches itself through its service would see its own
// address as the peer's and answer to itself. Nobody else's address is changed.
func hairpin(f family) rule {
	e := append(isFamily(f), f.source(0), f.dest(f.words), in(f.set(setHairpin), 0), &expr.Masq{FullyRandom: true})
	return rule{fmt.Sprintf("ipv%s endpoint to itself", f.suffix), e}
}

func ctState(bits uint32, verdict expr.VerdictKind) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: reg(0)},
		&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg(0), Data: make([]byte, 4)},
		&expr.Verdict{Kind: verdict},
	}
}

// refusals see packets after translation: what is still for a service's address
// has no endpoint, or is for a port that no service has.
func refusals() []rule {
	to := &expr.Verdict{Kind: expr.VerdictGoto, Chain: "refuse"}
	rules := []rule{{"known connections", ctState(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED, expr.VerdictAccept)}}
	for _, f := range families() {
		e := append(isFamily(f), f.dest(0), in(f.set(setAddresses), 0), to)
		rules = append(rules, rule{fmt.Sprintf("ipv%s virtual address left over", f.suffix), e})
		e = append(isFamily(f), f.frontend(0, false)...)
		rules = append(rules, rule{fmt.Sprintf("ipv%s shared address without endpoints", f.suffix), append(e, in(f.set(setClosed), 0), to)})
		e = append(isFamily(f), f.frontend(0, true)...)
		e = append(e, in(f.set(setClosed), 0))
		e = append(e, notLoopback(f)...)
		e = append(e, local()...)
		rules = append(rules, rule{fmt.Sprintf("ipv%s node port without endpoints", f.suffix), append(e, to)})
	}
	return rules
}

func refuseChain() []rule {
	return []rule{
		{"not for a reset: may belong to an open connection", ctState(expr.CtStateBitINVALID, expr.VerdictDrop)},
		{"tcp reset", []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg(0)},
			&expr.Cmp{Op: expr.CmpOpEq, Register: reg(0), Data: []byte{byte(TCP)}},
			&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
		}},
		{"port unreachable", []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}}},
	}
}
