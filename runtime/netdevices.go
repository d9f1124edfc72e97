package runtime

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/rtnetlink"
	"github.com/minirun/minirun/namespaces"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// linux.netDevices: interfaces of the runtime's network namespace that go to the
// container's. The runtime moves them while the init waits, when everything is
// mounted and before hooks, kernel parameters and the user's process: the init
// has no way back to the namespace that they come from.

// NetDeviceError reports an interface that cannot be moved.
type NetDeviceError struct {
	Device, Op string
	Err        error
	hint       string
}

func (e *NetDeviceError) Error() string {
	t := "linux.netDevices[" + strconv.Quote(e.Device) + "]: " + e.Op
	if e.Err != nil {
		t += ": " + e.Err.Error()
	}
	return t
}

func (e *NetDeviceError) Unwrap() error { return e.Err }

// Hint says what would help.
func (e *NetDeviceError) Hint() string { return e.hint }

// netDevice is one interface on its way.
type netDevice struct {
	host, name string // what it is called outside and inside
	up         bool   // it was, outside
	index      int    // inside, once it is there
	addresses  []rtnetlink.Address
}

// planNetDevices checks that the interfaces are there.
func (p *Plan) planNetDevices(want map[string]specs.LinuxNetDevice) error {
	if len(want) == 0 {
		return nil
	}
	if p.caller.user {
		return errors.New("linux.netDevices: network devices are not supported for rootless containers: moving them takes CAP_NET_ADMIN on the host")
	}
	if j := p.Set.Joins(unix.CLONE_NEWNET); j != nil && isOwnNamespace(j.Path, "/proc/thread-self/ns/net") {
		return errors.New("linux.netDevices: the container has the network namespace of the host, where the devices are already: give it one of its own")
	}
	c, err := rtnetlink.Dial()
	if err != nil {
		return fmt.Errorf("linux.netDevices: %w", err)
	}
	defer c.Close()
	names := make([]string, 0, len(want))
	for name := range want {
		names = append(names, name)
	}
	slices.Sort(names)
	var errs []error
	for _, host := range names {
		d := &netDevice{host: host, name: want[host].Name}
		if d.name == "" {
			d.name = host
		}
		if _, err := c.LinkByName(host); errors.Is(err, unix.ENODEV) {
			errs = append(errs, &NetDeviceError{host, "there is no such interface in the network namespace of minirun", nil, "ip link lists those that are"})
		} else if err != nil {
			errs = append(errs, &NetDeviceError{host, "look it up", err, ""})
		}
		p.devices = append(p.devices, d)
	}
	return errors.Join(errs...)
}

// deviceGate is where the init waits for the interfaces.
type deviceGate struct{ devices []*netDevice }

func (s *deviceGate) Phase() string { return "network devices" }
func (s *deviceGate) String() string {
	t := "wait while the runtime moves"
	for i, d := range s.devices {
		if i > 0 {
			t += ","
		}
		t += " " + d.host
		if d.name != d.host {
			t += " as " + d.name
		}
	}
	return t + " into the network namespace"
}

func (s *deviceGate) Why() string {
	return "the namespace that they come from is out of the init's reach"
}

func (s *deviceGate) Emit(b *initprog.Builder) {
	b.Object("")
	namespaces.Handshake(b, namespaces.Hooks)
}

// deviceMove moves interfaces from one namespace to another and, when something
// fails, back.
type deviceMove struct {
	host, inside     *rtnetlink.Conn
	hostNS, insideNS int
	moved            []*netDevice
}

// moveDevices moves the interfaces while the init waits for it.
func (t *creation) moveDevices() error {
	if len(t.plan.devices) == 0 {
		return nil
	}
	if err := t.await(namespaces.Hooks); err != nil {
		return t.explain(err)
	}
	m, err := newDeviceMove(t.c.Pid)
	if err != nil {
		return t.explain(fmt.Errorf("linux.netDevices: %w", err))
	}
	t.devices = m
	for _, d := range t.plan.devices {
		if err := m.move(d); err != nil {
			return t.explain(err)
		}
	}
	t.o.Timing.Mark("network devices")
	if err := t.answer(); err != nil {
		return t.explain(err)
	}
	return nil
}

// newDeviceMove prepares to move interfaces to the network namespace of a
// process. It keeps that namespace even if the process ends: with it most kinds
// of interfaces would.
func newDeviceMove(pid int) (m *deviceMove, err error) {
	m = &deviceMove{hostNS: -1, insideNS: -1}
	if m.hostNS, err = linux.OpenAt(unix.AT_FDCWD, "/proc/thread-self/ns/net", unix.O_RDONLY, 0); err == nil {
		m.insideNS, err = linux.OpenAt(unix.AT_FDCWD, "/proc/"+strconv.Itoa(pid)+"/ns/net", unix.O_RDONLY, 0)
	}
	if err == nil {
		m.host, err = rtnetlink.Dial()
	}
	if err == nil {
		m.inside, err = rtnetlink.DialIn(m.insideNS)
	}
	if err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

func (m *deviceMove) close() {
	if m == nil {
		return
	}
	m.host.Close()
	m.inside.Close()
	linux.Close(m.hostNS)
	linux.Close(m.insideNS)
}

// move moves an interface, and gives it a name that nobody has until it is there:
// the kernel moves first and looks at names afterwards.
func (m *deviceMove) move(d *netDevice) error {
	fail := func(op string, err error, hint string) error { return &NetDeviceError{d.host, op, err, hint} }
	l, err := m.host.LinkByName(d.host)
	if err != nil {
		return fail("look it up", err, "")
	}
	d.up = l.Flags&unix.IFF_UP != 0
	if d.addresses, err = m.host.Addresses(l.Index); err != nil {
		return fail("read its addresses", err, "")
	}
	passing, err := passingName()
	if err != nil {
		return fail("choose a name", err, "")
	}
	if err = m.host.Move(l.Index, m.insideNS, passing); err != nil {
		hint := ""
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
			hint = "interfaces of this kind cannot leave their namespace, as lo and bridges cannot"
		}
		return fail("move it into the network namespace", err, hint)
	}
	inside, err := m.inside.LinkByName(passing)
	if err != nil {
		return fail("find it in the network namespace", err, "")
	}
	d.index = inside.Index
	m.moved = append(m.moved, d)
	if err = m.inside.Rename(d.index, d.name); err != nil {
		hint := ""
		if errors.Is(err, unix.EEXIST) {
			hint = "the network namespace has an interface of that name already; %d at the end of a name has the kernel choose a number"
		}
		return fail("call it "+strconv.Quote(d.name)+" in the container", err, hint)
	}
	if err := m.settle(m.inside, d.index, d, true); err != nil {
		return fail("in the container", err, "")
	}
	return nil
}

// settle gives an interface its addresses, those that are permanent and have a
// meaning elsewhere, and sets it up.
func (m *deviceMove) settle(c *rtnetlink.Conn, index int, d *netDevice, up bool) error {
	for i := range d.addresses {
		a := &d.addresses[i]
		if a.Scope != unix.RT_SCOPE_UNIVERSE || a.Flags&unix.IFA_F_PERMANENT == 0 {
			continue
		}
		if err := c.AddAddress(index, a); err != nil {
			return fmt.Errorf("add an address: %w", err)
		}
	}
	if !up {
		return nil
	}
	if err := c.Up(index); err != nil {
		return fmt.Errorf("set it up: %w", err)
	}
	return nil
}

// takeBack moves the interfaces back to where they came from.
func (m *deviceMove) takeBack() error {
	if m == nil {
		return nil
	}
	var errs []error
	for _, d := range slices.Backward(m.moved) {
		err := m.inside.Move(d.index, m.hostNS, d.host)
		var l *rtnetlink.Link
		if err == nil {
			l, err = m.host.LinkByName(d.host)
		}
		if err == nil {
			err = m.settle(m.host, l.Index, d, d.up)
		}
		if err != nil {
			errs = append(errs, &NetDeviceError{d.host, "take it back from the container", err, ""})
		}
	}
	m.moved = nil
	return errors.Join(errs...)
}

// passingName is a name that no interface has.
func passingName() (string, error) {
	var b [12]byte
	if _, err := unix.Getrandom(b[:], 0); err != nil {
		return "", err
	}
	for i, c := range b {
		b[i] = 'a' + c%16
	}
	return "mr" + string(b[:]), nil
}
