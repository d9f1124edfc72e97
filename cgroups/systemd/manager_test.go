package systemd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// fakeBus is a message bus with a systemd behind it, as far as the driver can
// tell. It reads the name of each method from the bytes of the call and answers
// with what the test says.
type fakeBus struct {
	t      *testing.T
	answer func(member string, n int) (kind byte, text, result string)
	mu     sync.Mutex
	calls  []string
}

func startBus(t *testing.T, answer func(member string, n int) (byte, string, string)) *fakeBus {
	t.Helper()
	b := &fakeBus{t: t, answer: answer}
	name := filepath.Join(t.TempDir(), "bus")
	l, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path="+name)
	t.Setenv("XDG_RUNTIME_DIR", "")
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b.serve(c)
	}()
	return b
}

func (b *fakeBus) serve(c net.Conn) {
	buf := make([]byte, 1)
	line := ""
	for !strings.HasSuffix(line, "BEGIN\r\n") {
		if _, err := c.Read(buf); err != nil {
			return
		}
		if line += string(buf); strings.HasSuffix(line, "\r\n") && strings.Contains(line, "AUTH EXTERNAL ") && !strings.Contains(line, "BEGIN") {
			_, _ = c.Write([]byte("OK 0123\r\n"))
		}
	}
	for n := 0; ; n++ {
		head := make([]byte, 16)
		if _, err := io.ReadFull(c, head); err != nil {
			return
		}
		fields := (int(binary.LittleEndian.Uint32(head[12:])) + 7) &^ 7
		rest := make([]byte, fields+int(binary.LittleEndian.Uint32(head[4:])))
		if _, err := io.ReadFull(c, rest); err != nil {
			return
		}
		member := ""
		if i := bytes.Index(rest, []byte("\x03\x01s\x00")); i >= 0 {
			size := int(binary.LittleEndian.Uint32(rest[i+4:]))
			member = string(rest[i+8 : i+8+size])
		}
		b.mu.Lock()
		b.calls = append(b.calls, member)
		b.mu.Unlock()
		kind, text, result := b.answer(member, n)
		serial := binary.LittleEndian.Uint32(head[8:])
		if result != "" { // the job may be over before the call has returned
			_, _ = c.Write(wire(4, 0, "JobRemoved", "uoss", 1, "/job/other", "x.scope", "failed"))
			_, _ = c.Write(wire(4, 0, "JobRemoved", "uoss", 2, text, "x.scope", result))
		}
		switch {
		case kind == 3:
			_, _ = c.Write(wire(3, serial, text, "s", "as told by the test"))
		case member == "Get":
			_, _ = c.Write(wire(2, serial, "", "v", variant(text)))
		default:
			_, _ = c.Write(wire(2, serial, "", "s", text))
		}
	}
}

type variant string

// wire writes a message by hand: the driver's own encoder is what is tested.
func wire(kind byte, reply uint32, name, signature string, body ...any) []byte {
	align := func(b []byte, n int) []byte {
		for len(b)%n != 0 {
			b = append(b, 0)
		}
		return b
	}
	str := func(b []byte, s string) []byte {
		b = binary.LittleEndian.AppendUint32(align(b, 4), uint32(len(s)))
		return append(append(b, s...), 0)
	}
	var data []byte
	for _, v := range body {
		switch v := v.(type) {
		case int:
			data = binary.LittleEndian.AppendUint32(align(data, 4), uint32(v))
		case string:
			data = str(data, v)
		case variant:
			data = str(append(data, 1, 's', 0), string(v))
		}
	}
	head := []byte{'l', kind, 0, 1}
	head = binary.LittleEndian.AppendUint32(head, uint32(len(data)))
	head = binary.LittleEndian.AppendUint32(head, 50)
	fields := make([]byte, 0, 100)
	text := func(field, typ byte, s string) { fields = str(append(align(fields, 8), field, 1, typ, 0), s) }
	switch kind {
	case 3:
		text(4, 's', name)
	case 4:
		text(2, 's', iface)
		text(3, 's', name)
	}
	if reply != 0 {
		fields = binary.LittleEndian.AppendUint32(append(align(fields, 8), 5, 1, 'u', 0), reply)
	}
	fields = append(append(append(align(fields, 8), 8, 1, 'g', 0, byte(len(signature))), signature...), 0)
	head = binary.LittleEndian.AppendUint32(head, uint32(len(fields)))
	return append(align(append(head, fields...), 8), data...)
}

func (b *fakeBus) sent() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.calls, " ")
}

const prefix = "Hello AddMatch Subscribe "

func TestManager(t *testing.T) {
	const exists, none = "org.freedesktop.systemd1.UnitExists", "org.freedesktop.systemd1.NoSuchUnit"
	start := func(m *Manager) error {
		return m.Start(&Unit{Name: "a.scope", Slice: "user.slice", User: true}, 1, []Property{
			{"After", "as", []string{"x.service"}}, {"AllowedCPUs", "ay", []byte{1}}, {"MemoryMax", "t", uint64(5)},
		})
	}
	stop := func(m *Manager) error { return m.Stop(&Unit{Name: "a.scope"}) }
	for name, tt := range map[string]struct {
		answer func(member string, n int) (byte, string, string)
		do     func(m *Manager) error
		calls  string
		err    string
	}{
		"done": {func(member string, n int) (byte, string, string) {
			if member == "StartTransientUnit" {
				return 2, "/job/1", "done"
			}
			return 2, "", ""
		}, start, "StartTransientUnit", ""},
		"failed": {func(member string, n int) (byte, string, string) {
			if member == "StartTransientUnit" {
				return 2, "/job/1", "failed"
			}
			return 2, "", ""
		}, start, "StartTransientUnit ResetFailedUnit", `systemd: start unit a.scope: the job's result is "failed"`},
		"left over": {func(member string, n int) (byte, string, string) {
			switch {
			case member == "StartTransientUnit" && n == 3:
				return 3, exists, ""
			case member == "StartTransientUnit":
				return 2, "/job/1", "done"
			}
			return 2, "", ""
		}, start, "StartTransientUnit ResetFailedUnit StartTransientUnit", ""},
		"taken": {func(member string, n int) (byte, string, string) {
			if member == "StartTransientUnit" {
				return 3, exists, ""
			}
			return 2, "", ""
		}, start, "StartTransientUnit ResetFailedUnit StartTransientUnit", "(" + exists + ")"},
		"stop": {func(member string, n int) (byte, string, string) {
			if member == "StopUnit" {
				return 2, "/job/1", "done"
			}
			return 2, "", ""
		}, stop, "StopUnit ResetFailedUnit", ""},
		"stop nothing": {func(member string, n int) (byte, string, string) {
			if member == "StopUnit" {
				return 3, none, ""
			}
			return 2, "", ""
		}, stop, "StopUnit", ""},
		"set": {func(member string, n int) (byte, string, string) {
			if member == "SetUnitProperties" {
				return 3, "org.freedesktop.DBus.Error.InvalidArgs", ""
			}
			return 2, "", ""
		}, func(m *Manager) error { return m.Set(&Unit{Name: "a.scope"}, []Property{{"TasksMax", "t", uint64(1)}}) }, "SetUnitProperties", "set properties of unit a.scope: as told by the test"},
		"attach": {func(member string, n int) (byte, string, string) { return 2, "", "" }, func(m *Manager) error {
			return m.Attach(&Unit{Name: "a.scope", User: true}, "/sub", 5)
		}, "AttachProcessesToUnit", ""},
		"attach refused": {func(member string, n int) (byte, string, string) {
			return map[bool]byte{true: 3, false: 2}[member == "AttachProcessesToUnit"], "org.freedesktop.DBus.Error.AccessDenied", ""
		}, func(m *Manager) error { return m.Attach(&Unit{Name: "a.scope", User: true}, "", 5) }, "AttachProcessesToUnit", "attach a process to unit a.scope: as told by the test"},
		"root": {func(member string, n int) (byte, string, string) { return 2, "/user.slice/", "" }, func(m *Manager) error {
			root, err := m.Root()
			if err == nil && root != "/user.slice" {
				err = errors.New("root is " + root)
			}
			return err
		}, "Get", ""},
		"bad root": {func(member string, n int) (byte, string, string) { return 2, "/../x", "" }, func(m *Manager) error { _, err := m.Root(); return err }, "Get", "systemd says that its cgroup is"},
		"version": {func(member string, n int) (byte, string, string) { return 2, "v252.38-1~deb12u1", "" }, func(m *Manager) error {
			if v := m.Version(); v != 252 {
				return errors.New("wrong version")
			}
			return nil
		}, "Get", ""},
	} {
		t.Run(name, func(t *testing.T) {
			bus := startBus(t, tt.answer)
			m, err := Connect(true)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			err = tt.do(m)
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("got %v, want %q", err, tt.err)
			}
			if got := bus.sent(); got != prefix+tt.calls {
				t.Errorf("calls %q, want %q", got, prefix+tt.calls)
			}
		})
	}
}

func TestConnect_Nobody(t *testing.T) {
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "")
	t.Setenv("XDG_RUNTIME_DIR", "")
	_, err := Connect(true)
	var none *ConnectError
	if !errors.As(err, &none) || !strings.Contains(none.Hint(), "DBUS_SESSION_BUS_ADDRESS") {
		t.Errorf("got %v", err)
	}
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	if _, err = Connect(true); !errors.As(err, &none) || !strings.Contains(err.Error(), "systemd/private") || !strings.Contains(err.Error(), "/bus") {
		t.Errorf("got %v", err)
	}
}

// Where systemd's own socket is missing, or left over from one that has ended, the
// message bus is what remains.
func TestConnect_Bus(t *testing.T) {
	for _, user := range []bool{false, true} {
		for _, left := range []bool{false, true} {
			bus := startBus(t, func(string, int) (byte, string, string) { return 2, "v252", "" })
			if !user {
				t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", os.Getenv("DBUS_SESSION_BUS_ADDRESS"))
				t.Setenv("DBUS_SESSION_BUS_ADDRESS", "")
			}
			own, address := addresses(user)
			if !user && own != "/run/systemd/private" || user && own != "" {
				t.Errorf("user %v: systemd's own socket is looked for at %q", user, own)
			}
			own = filepath.Join(t.TempDir(), "private")
			if left {
				l, err := net.ListenUnix("unix", &net.UnixAddr{Name: own, Net: "unix"})
				if err != nil {
					t.Fatal(err)
				}
				l.SetUnlinkOnClose(false)
				l.Close()
			}
			m, err := connect(user, own, address)
			if err != nil {
				t.Fatalf("user %v, left over %v: %v", user, left, err)
			}
			if v := m.Version(); v != 252 {
				t.Errorf("user %v, left over %v: version %d", user, left, v)
			}
			m.Close()
			if got := bus.sent(); got != prefix+"Get" {
				t.Errorf("user %v, left over %v: calls %q", user, left, got)
			}
		}
	}
}
