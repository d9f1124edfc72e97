package systemd

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/minirun/minirun/internal/dbus"
	"github.com/minirun/minirun/internal/linux"
)

const (
	service   = "org.freedesktop.systemd1"
	object    = "/org/freedesktop/systemd1"
	iface     = "org.freedesktop.systemd1.Manager"
	busName   = "org.freedesktop.DBus"
	busObject = "/org/freedesktop/DBus"
)

// How long systemd may take for an answer, and for a job.
const (
	callTimeout = 25 * time.Second
	jobTimeout  = 60 * time.Second
)

// Manager is a connection to systemd.
type Manager struct{ c *dbus.Conn }

// ConnectError reports that there is no systemd to talk to.
type ConnectError struct {
	User bool
	Err  error
}

func (e *ConnectError) Error() string {
	who := "systemd"
	if e.User {
		who = "the user's systemd"
	}
	return "systemd cgroup driver: connect to " + who + ": " + e.Err.Error()
}

func (e *ConnectError) Unwrap() error { return e.Err }

// Hint says what to do about it.
func (e *ConnectError) Hint() string {
	if e.User {
		return "a login session has one, found by XDG_RUNTIME_DIR or DBUS_SESSION_BUS_ADDRESS (loginctl enable-linger keeps it); or leave out --systemd-cgroup"
	}
	return "leave out --systemd-cgroup where systemd is not the init system"
}

// Connect connects to the host's systemd or, with user, to that of the user: to
// its own socket or, where that cannot be had, through the message bus.
func Connect(user bool) (*Manager, error) {
	own, bus := addresses(user)
	return connect(user, own, bus)
}

// addresses says where systemd's own socket is, and the message bus.
func addresses(user bool) (own, bus string) {
	own, bus = "/run/systemd/private", os.Getenv("DBUS_SYSTEM_BUS_ADDRESS")
	if bus == "" {
		bus = "/run/dbus/system_bus_socket"
	}
	if user {
		dir := os.Getenv("XDG_RUNTIME_DIR")
		own, bus = "", os.Getenv("DBUS_SESSION_BUS_ADDRESS")
		if strings.HasPrefix(dir, "/") {
			own = dir + "/systemd/private"
			if bus == "" {
				bus = dir + "/bus"
			}
		}
	}
	return own, bus
}

func connect(user bool, own, bus string) (*Manager, error) {
	uid := hostUID()
	var errs []error
	if own != "" {
		c, err := dbus.Dial(own, uid, callTimeout)
		if err == nil {
			return &Manager{c}, nil
		}
		errs = append(errs, err)
	}
	if bus != "" {
		c, err := dbus.Dial(bus, uid, callTimeout)
		if err == nil {
			m := &Manager{c}
			if err = m.join(); err == nil {
				return m, nil
			}
			c.Close()
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		errs = append(errs, errors.New("neither XDG_RUNTIME_DIR nor DBUS_SESSION_BUS_ADDRESS is set"))
	}
	return nil, &ConnectError{user, errors.Join(errs...)}
}

// Close ends the connection. A nil Manager has none.
func (m *Manager) Close() {
	if m != nil {
		m.c.Close()
	}
}

// hostUID is our uid as the other side sees it, outside of user namespaces.
func hostUID() int {
	uid := os.Geteuid()
	b, err := linux.ReadFile("/proc/self/uid_map", 64<<10)
	if err != nil {
		return uid
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		inside, err1 := strconv.Atoi(f[0])
		outside, err2 := strconv.Atoi(f[1])
		size, err3 := strconv.Atoi(f[2])
		if err1 == nil && err2 == nil && err3 == nil && uid >= inside && uid-inside < size {
			return outside + uid - inside
		}
	}
	return uid
}

// join makes a connection to a message bus one that hears of jobs.
func (m *Manager) join() error {
	call := func(destination, path, iface, member string, arg string) error {
		msg := &dbus.Message{Destination: destination, Path: path, Interface: iface, Member: member}
		if arg != "" {
			var e dbus.Encoder
			e.String(arg)
			msg.Signature, msg.Body = "s", e.Bytes()
		}
		_, err := m.c.Call(msg, callTimeout)
		return err
	}
	if err := call(busName, busObject, busName, "Hello", ""); err != nil {
		return err
	}
	if err := call(busName, busObject, busName, "AddMatch", "type='signal',interface='"+iface+"',member='JobRemoved'"); err != nil {
		return err
	}
	return call(service, object, iface, "Subscribe", "")
}

// call calls a method of the manager.
func (m *Manager) call(member, signature string, write func(*dbus.Encoder)) (*dbus.Message, error) {
	var e dbus.Encoder
	if write != nil {
		write(&e)
	}
	return m.c.Call(&dbus.Message{
		Destination: service, Path: object, Interface: iface, Member: member, Signature: signature, Body: e.Bytes(),
	}, callTimeout)
}

// property reads a text property of the manager.
func (m *Manager) property(name string) (string, error) {
	var e dbus.Encoder
	e.String(iface)
	e.String(name)
	r, err := m.c.Call(&dbus.Message{
		Destination: service, Path: object, Interface: "org.freedesktop.DBus.Properties", Member: "Get", Signature: "ss", Body: e.Bytes(),
	}, callTimeout)
	if err != nil {
		return "", err
	}
	d := r.Decode()
	s := d.Text()
	return s, d.Err()
}

// Root is the group of the manager: those of its units are below.
func (m *Manager) Root() (string, error) {
	root, err := m.property("ControlGroup")
	if err != nil {
		return "", errors.New("ask systemd for its cgroup: " + err.Error())
	}
	root = strings.TrimSuffix(root, "/")
	if root != "" && !strings.HasPrefix(root, "/") || strings.Contains(root, "..") {
		return "", errors.New("systemd says that its cgroup is " + strconv.Quote(root))
	}
	return root, nil
}

// Version is the major version of systemd, 0 if it does not tell.
func (m *Manager) Version() int {
	text, err := m.property("Version")
	if err != nil {
		return 0
	}
	n := 0
	for _, c := range []byte(strings.TrimPrefix(text, "v")) {
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + int(c-'0')
	}
	return n
}

// UnitError reports what systemd had to say about a unit.
type UnitError struct {
	Unit, Op string
	Result   string // of the job
	Err      error
}

func (e *UnitError) Error() string {
	s := "systemd: " + e.Op + " unit " + e.Unit
	if e.Err != nil {
		return s + ": " + e.Err.Error()
	}
	return s + ": the job's result is " + strconv.Quote(e.Result)
}

func (e *UnitError) Unwrap() error { return e.Err }

// Hint says where to look.
func (e *UnitError) Hint() string {
	if isError(e.Err, "org.freedesktop.systemd1.UnitExists") {
		return "a unit of that name exists: end it with systemctl stop " + e.Unit + ", or choose another linux.cgroupsPath"
	}
	return "journalctl -u " + e.Unit + " may say more"
}

// Exists reports whether the name of the unit was taken.
func (e *UnitError) Exists() bool { return isError(e.Err, "org.freedesktop.systemd1.UnitExists") }

func isError(err error, name string) bool {
	var e *dbus.Error
	return errors.As(err, &e) && e.Name == name
}

// job waits for the end of the job that a reply names.
func (m *Manager) job(r *dbus.Message) (string, error) {
	d := r.Decode()
	path := d.String()
	if err := d.Err(); err != nil {
		return "", err
	}
	result := ""
	err := m.c.Signal(iface, "JobRemoved", jobTimeout, func(d *dbus.Decoder) bool {
		_ = d.Uint32() // the number of the job
		job := d.String()
		_ = d.String() // the unit
		text := d.String()
		if d.Err() != nil || job != path {
			return false
		}
		result = text
		return true
	})
	return result, err
}

// Start makes the unit with the process in it.
func (m *Manager) Start(u *Unit, pid int, properties []Property) error {
	list := append([]Property{
		{"Description", "s", "minirun container " + u.Name},
		{"Slice", "s", u.Slice},
		{"Delegate", "b", true},
		{"PIDs", "au", []uint32{uint32(pid)}},
		{"MemoryAccounting", "b", true},
		{"CPUAccounting", "b", true},
		{"IOAccounting", "b", true},
		{"TasksAccounting", "b", true},
		{"DefaultDependencies", "b", false},
		{"CollectMode", "s", "inactive-or-failed"},
	}, properties...)
	start := func() (*dbus.Message, error) {
		return m.call("StartTransientUnit", "ssa(sv)a(sa(sv))", func(e *dbus.Encoder) {
			e.String(u.Name)
			e.String("replace")
			encode(e, list)
			e.Array(8, func() {})
		})
	}
	r, err := start()
	if isError(err, "org.freedesktop.systemd1.UnitExists") {
		// It may be one that has failed and is only remembered.
		m.reset(u)
		r, err = start()
	}
	if err != nil {
		return &UnitError{Unit: u.Name, Op: "start", Err: err}
	}
	result, err := m.job(r)
	if err == nil && result == "done" {
		return nil
	}
	m.reset(u)
	return &UnitError{Unit: u.Name, Op: "start", Result: result, Err: err}
}

func (m *Manager) reset(u *Unit) {
	_, _ = m.call("ResetFailedUnit", "s", func(e *dbus.Encoder) { e.String(u.Name) })
}

// Set changes properties until the end of the unit.
func (m *Manager) Set(u *Unit, properties []Property) error {
	_, err := m.call("SetUnitProperties", "sba(sv)", func(e *dbus.Encoder) {
		e.String(u.Name)
		e.Bool(true)
		encode(e, properties)
	})
	if err != nil {
		return &UnitError{Unit: u.Name, Op: "set properties of", Err: err}
	}
	return nil
}

// Attach puts a process into the group of the unit, or into the group sub below,
// "/x". A user's systemd asks the system's where it may not itself.
func (m *Manager) Attach(u *Unit, sub string, pid int) error {
	_, err := m.call("AttachProcessesToUnit", "ssau", func(e *dbus.Encoder) {
		e.String(u.Name)
		e.String(sub)
		e.Array(4, func() { e.Uint32(uint32(pid)) })
	})
	if err != nil {
		return &UnitError{Unit: u.Name, Op: "attach a process to", Err: err}
	}
	return nil
}

// Stop ends the unit and waits for it. One that is not there is stopped.
func (m *Manager) Stop(u *Unit) error {
	r, err := m.call("StopUnit", "ss", func(e *dbus.Encoder) {
		e.String(u.Name)
		e.String("replace")
	})
	if isError(err, "org.freedesktop.systemd1.NoSuchUnit") {
		return nil
	}
	if err == nil {
		_, err = m.job(r)
	}
	m.reset(u)
	if err != nil {
		return &UnitError{Unit: u.Name, Op: "stop", Err: err}
	}
	return nil
}
