package service

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The kernel answers within this time or something is broken.
const answerTime = 30 * time.Second

// perMessage elements fit into one netlink attribute, whose length has 16 bits.
const perMessage = 400

// kernel is the connection to nftables in one network namespace.
type kernel struct {
	netns int
	conn  *nftables.Conn
	sock  *netlink.Conn

	mu    sync.Mutex
	ports map[uint32]bool // of our sockets: tells our own changes from those of others
}

// ours says whether a message about a change comes from one of our sockets.
func (k *kernel) ours(port uint32) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ports[port]
}

func (k *kernel) open() error {
	if k.conn != nil {
		return nil
	}
	options := func(c *netlink.Conn) error {
		k.sock = c
		// Both are limits, not allocations. A whole table goes through in one batch,
		// and each of its messages is acknowledged.
		c.SetWriteBuffer(256 << 20)
		c.SetReadBuffer(64 << 20)
		return nil
	}
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(k.netns), nftables.WithSockOptions(options))
	if err != nil {
		return explain("open a netlink socket to nftables", err)
	}
	k.conn = conn
	port, err := portOf(k.sock)
	if err != nil {
		return errors.Join(fmt.Errorf("netlink socket: %w", err), k.close())
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ports == nil {
		k.ports = map[uint32]bool{}
	}
	k.ports[port] = true
	return nil
}

func (k *kernel) close() error {
	if k.conn == nil {
		return nil
	}
	err := k.conn.CloseLasting()
	k.conn = nil
	return err
}

func portOf(c *netlink.Conn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var port uint32
	var name error
	err = raw.Control(func(fd uintptr) {
		sa, e := unix.Getsockname(int(fd))
		if nl, ok := sa.(*unix.SockaddrNetlink); ok {
			port = nl.Pid
		}
		name = e
	})
	return port, errors.Join(err, name)
}

// transaction sends what fill puts into the connection as one batch: the kernel
// does all of it or nothing. After an error the connection is a new one, since
// answers may still be on their way.
func (k *kernel) transaction(fill func(c *nftables.Conn) error) error {
	if err := k.open(); err != nil {
		return err
	}
	k.sock.SetDeadline(time.Now().Add(answerTime))
	if err := fill(k.conn); err != nil {
		k.close()
		return err
	}
	if err := k.conn.Flush(); err != nil {
		k.close()
		return err
	}
	return nil
}

// state is what the kernel has of our table.
type state struct {
	exists    bool
	structure string              // chains, rules and definitions of sets, as text
	elements  map[string]contents // of those sets that we fill
}

type contents map[string]string

// read dumps the table.
func (k *kernel) read(name string) (state, error) {
	var s state
	if err := k.open(); err != nil {
		return s, err
	}
	k.sock.SetDeadline(time.Now().Add(answerTime))
	s, err := k.dump(name)
	if err != nil {
		k.close()
		// It may have been taken away while we looked.
		if errors.Is(err, syscall.ENOENT) || strings.Contains(err.Error(), "no such file") {
			return state{}, nil
		}
		return s, explain(fmt.Sprintf("read nftables table %q", name), err)
	}
	return s, nil
}

func (k *kernel) dump(name string) (state, error) {
	s := state{elements: map[string]contents{}}
	tables, err := k.conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return s, err
	}
	i := slices.IndexFunc(tables, func(t *nftables.Table) bool { return t.Name == name })
	if i < 0 {
		return s, nil
	}
	s.exists = true
	var lines []string
	if tables[i].Flags != 0 {
		lines = append(lines, fmt.Sprintf("table flags %d", tables[i].Flags)) // dormant, say
	}
	chains, err := k.conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return s, err
	}
	for _, c := range chains {
		if c.Table.Name != name {
			continue
		}
		rules, err := k.conn.GetRules(tables[i], c)
		if err != nil {
			return s, err
		}
		lines = append(lines, chainText(c, rules)...)
	}
	sets, err := k.conn.GetSets(tables[i])
	if err != nil {
		return s, err
	}
	for _, set := range sets {
		lines = append(lines, setText(set))
		if set.Dynamic {
			continue
		}
		es, err := k.conn.GetSetElements(set)
		if err != nil {
			return s, err
		}
		m := make(contents, len(es))
		for _, e := range es {
			m[string(e.Key)] = string(e.Val)
		}
		s.elements[set.Name] = m
	}
	slices.Sort(lines)
	s.structure = strings.Join(lines, "\n")
	return s, nil
}

// text is the structure that the kernel has to report for the schema.
func (s *schema) text() string {
	var lines []string
	for _, c := range s.chains {
		var rules []*nftables.Rule
		for _, r := range c.rules {
			rules = append(rules, r.nft(c.Chain))
		}
		lines = append(lines, chainText(c.Chain, rules)...)
	}
	for _, set := range s.sets {
		lines = append(lines, setText(set))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func chainText(c *nftables.Chain, rules []*nftables.Rule) []string {
	head := "chain " + c.Name
	if c.Hooknum != nil && c.Priority != nil {
		head += fmt.Sprintf(" %s hook %d priority %d", c.Type, *c.Hooknum, *c.Priority)
		if c.Policy != nil {
			head += fmt.Sprintf(" policy %d", *c.Policy)
		}
	}
	lines := []string{head}
	for i, r := range rules {
		comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
		line := fmt.Sprintf("%s %03d %q", c.Name, i, comment)
		for _, e := range r.Exprs {
			line += " " + exprText(e)
		}
		lines = append(lines, line)
	}
	return lines
}

// exprText prints an expression without what the kernel numbers itself. It names
// the four single registers as the kernel does, which are words 0, 4, 8 and 12.
func exprText(e expr.Any) string {
	switch e := e.(type) {
	case *expr.Lookup:
		l := *e
		l.SetID = 0
		l.SourceRegister, l.DestRegister = word(l.SourceRegister), word(l.DestRegister)
		return fmt.Sprintf("lookup%+v", l)
	case *expr.Dynset:
		return fmt.Sprintf("dynset %s %d %d %d %s", e.SetName, e.Operation, word(e.SrcRegKey), word(e.SrcRegData), e.Timeout)
	case *expr.NAT:
		return fmt.Sprintf("nat %d %d %d %d", e.Type, e.Family, word(e.RegAddrMin), word(e.RegProtoMin))
	case *expr.Payload:
		return fmt.Sprintf("payload %d %d %d %d", word(e.DestRegister), e.Base, e.Offset, e.Len)
	case *expr.Meta:
		return fmt.Sprintf("meta %d %d", e.Key, word(e.Register))
	case *expr.Cmp:
		return fmt.Sprintf("cmp %d %d %x", e.Op, word(e.Register), e.Data)
	case *expr.Immediate:
		return fmt.Sprintf("immediate %d %x", word(e.Register), e.Data)
	case *expr.Numgen:
		return fmt.Sprintf("numgen %d mod %d %d", word(e.Register), e.Modulus, e.Type)
	case *expr.Fib:
		return fmt.Sprintf("fib %d %v %v", word(e.Register), e.FlagDADDR, e.ResultADDRTYPE)
	case *expr.Ct:
		return fmt.Sprintf("ct %d %d", e.Key, word(e.Register))
	case *expr.Bitwise:
		return fmt.Sprintf("bitwise %d %d %x %x", word(e.SourceRegister), word(e.DestRegister), e.Mask, e.Xor)
	case *expr.Verdict:
		return fmt.Sprintf("verdict %d %s", e.Kind, e.Chain)
	case *expr.Masq:
		return fmt.Sprintf("masquerade %v", e.FullyRandom)
	case *expr.Reject:
		return fmt.Sprintf("reject %d %d", e.Type, e.Code)
	}
	return fmt.Sprintf("%T", e)
}

func word(register uint32) uint32 {
	if register >= unix.NFT_REG_1 && register <= unix.NFT_REG_4 {
		return unix.NFT_REG32_00 + 4*(register-unix.NFT_REG_1)
	}
	return register
}

func setText(s *nftables.Set) string {
	line := fmt.Sprintf("set %s key %s %d", s.Name, s.KeyType.Name, s.KeyType.Bytes)
	if s.IsMap {
		line += fmt.Sprintf(" data %s %d", s.DataType.Name, s.DataType.Bytes)
	}
	if s.Dynamic {
		line += fmt.Sprintf(" dynamic %s %d", s.Timeout, s.Size)
	}
	return line
}

// structureChanges brings the table from the structure of old, which may be nil for
// a table that is not there, to that of s. Elements of sets in both stay.
func (s *schema) structureChanges(c *nftables.Conn, old *schema) error {
	c.AddTable(s.table)
	for _, name := range s.names {
		if old != nil && old.sets[name] != nil {
			s.sets[name].ID = old.sets[name].ID
			continue
		}
		if err := c.AddSet(s.sets[name], nil); err != nil {
			return err
		}
	}
	if old != nil {
		for _, ch := range old.chains {
			c.FlushChain(ch.Chain)
		}
	}
	keep := map[string]bool{}
	for _, ch := range s.chains {
		keep[ch.Name] = true
		c.AddChain(ch.Chain)
	}
	for _, ch := range s.chains {
		for _, r := range ch.rules {
			c.AddRule(r.nft(ch.Chain))
		}
	}
	if old == nil {
		return nil
	}
	for _, ch := range old.chains {
		if !keep[ch.Name] {
			c.DelChain(ch.Chain)
		}
	}
	for _, name := range old.names {
		if s.sets[name] == nil {
			c.DelSet(old.sets[name])
		}
	}
	return nil
}

// elementChanges puts ch into the batch: deletions first, so that a slot can be
// given to another endpoint. Sets that s does not have go as a whole.
func (s *schema) elementChanges(c *nftables.Conn, ch change) error {
	send := func(m map[string][]element, f func(*nftables.Set, []nftables.SetElement) error) error {
		for _, name := range slices.Sorted(maps.Keys(m)) {
			set := s.sets[name]
			if set == nil {
				continue
			}
			for part := range slices.Chunk(m[name], perMessage) {
				es := make([]nftables.SetElement, len(part))
				for i, e := range part {
					es[i] = nftables.SetElement{Key: []byte(e.key), Val: []byte(e.val)}
				}
				if err := f(set, es); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := send(ch.del, c.SetDeleteElements); err != nil {
		return err
	}
	return send(ch.add, c.SetAddElements)
}

// forgetClients deletes from a table of clients those that s calls stale.
func (k *kernel) forgetClients(set *nftables.Set, s stale) error {
	if err := k.open(); err != nil {
		return err
	}
	k.sock.SetDeadline(time.Now().Add(answerTime))
	es, err := k.conn.GetSetElements(set)
	if err != nil {
		k.close()
		return err
	}
	var gone []nftables.SetElement
	for _, e := range es {
		fe := clientFrontend(e.Key)
		if f := s.fronts[fe]; f != nil && len(e.Val) == 8 && !f.numbers[binary.NativeEndian.Uint32(e.Val[4:])] {
			gone = append(gone, nftables.SetElement{Key: e.Key, Val: e.Val})
		}
	}
	for part := range slices.Chunk(gone, perMessage) {
		err := k.transaction(func(c *nftables.Conn) error { return c.SetDeleteElements(set, part) })
		// One may have expired meanwhile, which stops the others of its batch.
		if errors.Is(err, syscall.ENOENT) {
			for _, e := range part {
				err = k.transaction(func(c *nftables.Conn) error { return c.SetDeleteElements(set, []nftables.SetElement{e}) })
				if err != nil && !errors.Is(err, syscall.ENOENT) {
					return err
				}
			}
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// clientFrontend takes the frontend out of a key of a table of clients.
func clientFrontend(key []byte) frontend {
	w := (len(key) - 8) / 2
	if len(key) < 16 {
		return frontend{}
	}
	a, _ := netip.AddrFromSlice(key[w : 2*w])
	p := key[2*w:]
	return frontend{a, uint16(p[4])<<8 | uint16(p[5]), Protocol(p[0])}
}
