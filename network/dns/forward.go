package dns

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// How long one resolver, and all of them, may take.
const (
	perServer = 2 * time.Second
	perAsk    = 5 * time.Second
)

// forwarder asks the host's resolvers.
type forwarder struct {
	opts Options
	room chan struct{}

	mu      sync.Mutex
	servers []string
	read    os.FileInfo
	looked  time.Time
	ours    []netip.Addr
	asking  map[dns.Question]int
	looped  map[dns.Question]bool // of those; nobody is asked for them any more
	warned  time.Time
}

func newForwarder(opts Options) *forwarder {
	return &forwarder{opts: opts, room: make(chan struct{}, maxForward), asking: map[dns.Question]int{}, looped: map[dns.Question]bool{}}
}

// avoid names the addresses at which we answer ourselves.
func (f *forwarder) avoid(ours []netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ours, f.looked = ours, time.Time{}
	f.read = nil
}

// resolvers are those of resolv.conf, which is read again when it is another file
// or has another time or size; that is looked at once a second.
func (f *forwarder) resolvers() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.looked) < time.Second {
		return f.servers
	}
	f.looked = time.Now()
	fi, err := os.Stat(f.opts.Resolv)
	if err != nil {
		f.opts.Log.Warn("resolvers of the host", "error", err)
		return f.servers
	}
	if f.read != nil && os.SameFile(f.read, fi) && f.read.ModTime().Equal(fi.ModTime()) && f.read.Size() == fi.Size() {
		return f.servers
	}
	b, err := os.ReadFile(f.opts.Resolv)
	if err != nil {
		f.opts.Log.Warn("resolvers of the host", "error", err)
		return f.servers
	}
	f.servers, f.read = parseResolv(string(b), f.ours), fi
	return f.servers
}

// parseResolv reads the name servers of a resolv.conf, as addresses to dial.
func parseResolv(text string, ours []netip.Addr) []string {
	var servers []string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil && !slices.Contains(ours, a.WithZone("")) {
			servers = append(servers, net.JoinHostPort(a.String(), "53"))
		}
	}
	return servers
}

// maxSame is how many times the host itself may ask us for what we ask the host's
// resolvers for: more is our own question that comes back.
const maxSame = 16

// enter counts a question that is asked. It reports a loop: a resolver of the
// host's that asks us for what we ask it. from is who asks.
func (f *forwarder) enter(q dns.Question, from netip.Addr) (loop bool) {
	q.Name = strings.ToLower(q.Name)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.looped[q] || f.asking[q] > maxSame && slices.Contains(f.ours, from) {
		f.looped[q] = true
		if time.Since(f.warned) > time.Minute {
			f.warned = time.Now()
			f.opts.Log.Error("a resolver of this host asks us for what we ask it", "question", q.String(), "resolvers", f.servers)
		}
		return true
	}
	f.asking[q]++
	return false
}

func (f *forwarder) leave(q dns.Question) {
	q.Name = strings.ToLower(q.Name)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asking[q]--; f.asking[q] <= 0 {
		delete(f.asking, q)
		delete(f.looped, q)
	}
}

// inLoop says whether a question that is asked was found to come back.
func (f *forwarder) inLoop(q dns.Question) bool {
	q.Name = strings.ToLower(q.Name)
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.looped[q]
}

// without takes our own addresses out of a list to dial.
func (f *forwarder) without(servers []string) (list []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range servers {
		if a, err := netip.ParseAddrPort(s); err != nil || !slices.Contains(f.ours, a.Addr()) {
			list = append(list, s)
		}
	}
	return list
}

// ask puts q's question to one resolver after the other; without any given these
// are the host's. Whatever happens, there is a reply: clients wait for seconds if
// there is none.
func (f *forwarder) ask(q *dns.Msg, from netip.Addr, servers []string) *dns.Msg {
	fail := new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
	fail.RecursionAvailable = true
	if !q.RecursionDesired {
		fail.Rcode = dns.RcodeRefused
		return fail
	}
	if f.enter(q.Question[0], from) {
		return fail
	}
	defer f.leave(q.Question[0])
	select {
	case f.room <- struct{}{}:
		defer func() { <-f.room }()
	default:
		return fail
	}
	ctx, cancel := context.WithTimeout(context.Background(), perAsk)
	defer cancel()
	if len(servers) > 0 {
		servers = f.without(servers)
	} else {
		servers = f.resolvers()
	}
	for range 2 {
		for _, server := range servers {
			r, err := f.try(ctx, server, q)
			if err == nil && r.Rcode != dns.RcodeServerFailure && r.Rcode != dns.RcodeRefused && r.Rcode != dns.RcodeNotImplemented {
				return r
			}
			if err == nil {
				fail.Rcode = r.Rcode
			}
			if ctx.Err() != nil || f.inLoop(q.Question[0]) {
				return fail
			}
		}
		if fail.Rcode != dns.RcodeServerFailure {
			break
		}
	}
	return fail
}

// try asks one resolver, by TCP if the answer does not fit into UDP.
func (f *forwarder) try(ctx context.Context, server string, q *dns.Msg) (*dns.Msg, error) {
	r, err := f.exchange(ctx, "udp", server, q)
	if err == nil && r.Truncated {
		if whole, err := f.exchange(ctx, "tcp", server, q); err == nil {
			return whole, nil
		}
	}
	return r, err
}

func (f *forwarder) exchange(ctx context.Context, kind, server string, q *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, perServer)
	defer cancel()
	// A socket for each question: the kernel gives it a random port, and passes on
	// nothing that others than the server send there.
	conn, err := f.opts.Dial(ctx, kind, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	ask := question(q)
	c := &dns.Conn{Conn: conn, UDPSize: dns.MaxMsgSize}
	if err := c.WriteMsg(ask); err != nil {
		return nil, err
	}
	for {
		r, err := c.ReadMsg()
		var netErr net.Error
		switch {
		case err != nil && (kind == "tcp" || errors.As(err, &netErr) || errors.Is(err, io.EOF)):
			return nil, err
		case err == nil && fits(ask, r):
			return reply(q, r), nil
		}
		// Not an answer to this: someone guesses. The right one may still come.
	}
}

// question is q as we ask it: the same question with a number of our own.
func question(q *dns.Msg) *dns.Msg {
	ask := new(dns.Msg)
	ask.Id = randomID()
	ask.RecursionDesired, ask.CheckingDisabled, ask.AuthenticatedData = true, q.CheckingDisabled, q.AuthenticatedData
	ask.Question = []dns.Question{q.Question[0]}
	do := false
	if opt := q.IsEdns0(); opt != nil {
		do = opt.Do()
	}
	return ask.SetEdns0(maxUDP, do)
}

func randomID() uint16 {
	var b [2]byte
	rand.Read(b[:])
	return binary.NativeEndian.Uint16(b[:])
}

// fits says whether r answers ask.
func fits(ask, r *dns.Msg) bool {
	return r.Response && r.Id == ask.Id && r.Opcode == dns.OpcodeQuery && len(r.Question) == 1 &&
		r.Question[0].Qtype == ask.Question[0].Qtype && r.Question[0].Qclass == ask.Question[0].Qclass &&
		strings.EqualFold(r.Question[0].Name, ask.Question[0].Name)
}

// reply is r as the reply to q, without options, which are between two parties.
func reply(q, r *dns.Msg) *dns.Msg {
	out := new(dns.Msg).SetReply(q)
	out.Rcode, out.RecursionAvailable, out.AuthenticatedData = r.Rcode&0xf, true, r.AuthenticatedData
	out.Truncated = r.Truncated
	out.Answer, out.Ns = r.Answer, r.Ns
	for _, rr := range r.Extra {
		if rr.Header().Rrtype != dns.TypeOPT && rr.Header().Rrtype != dns.TypeTSIG {
			out.Extra = append(out.Extra, rr)
		}
	}
	return out
}
