package integration

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
)

// devHost gives the test a network namespace in place of the host's, with an
// interface eth9 and its peer. Commands that the test starts are in it; it ends
// with the thread.
func devHost(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // and never back
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	devIP(t, "link", "add", "eth9", "mtu", "1400", "address", "02:00:00:00:00:09", "type", "veth", "peer", "name", "peer9")
	for _, a := range []string{"192.0.2.9/24", "198.51.100.9/32", "2001:db8::9/64"} {
		devIP(t, "address", "add", a, "dev", "eth9")
	}
	devIP(t, "address", "add", "169.254.7.7/16", "scope", "link", "dev", "eth9")
	devIP(t, "address", "add", "203.0.113.9/24", "valid_lft", "5000", "preferred_lft", "5000", "dev", "eth9")
}

func devIP(t *testing.T, args ...string) string {
	t.Helper()
	r := testenv.RunCmd(t, exec.Command("ip", args...))
	if r.Code != 0 {
		t.Fatalf("ip %s: %+v", strings.Join(args, " "), r)
	}
	return r.Stdout
}

func devHas(t *testing.T, name string) bool {
	t.Helper()
	return testenv.RunCmd(t, exec.Command("ip", "link", "show", name)).Code == 0
}

func devices(d map[string]specs.LinuxNetDevice) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Linux.NetDevices = d }
}

// An interface goes into the container with its permanent, global addresses,
// whatever it is called there, and is up before the process, hooks and kernel
// parameters look at it.
func TestRootNetDevices(t *testing.T) {
	setup(t)
	devHost(t)
	const show = "ip -o address show dev %s; cat /sys/class/net/*/address /proc/sys/net/ipv4/conf/%s/forwarding; ip link show dev %s"
	hook := filepath.Join(t.TempDir(), "hook")
	for _, tt := range []struct {
		name   string // in the container, as wanted
		found  string
		mutate func(*specs.Spec)
	}{
		{"", "eth9", func(*specs.Spec) {}},
		{"inside0", "inside0", func(*specs.Spec) {}},
		{"net%d", "net0", func(*specs.Spec) {}},
		{"hooked", "hooked", func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "ip link show hooked >" + hook}, Env: []string{"PATH=/usr/sbin:/sbin:/usr/bin:/bin"}}}}
		}},
		{"user0", "user0", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
			ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
			s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
			s.Process.Capabilities = &specs.LinuxCapabilities{}
		}},
	} {
		b := newBox(t, forever, devices(map[string]specs.LinuxNetDevice{"eth9": {Name: tt.name}}), tt.mutate, func(s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{"net/ipv4/conf/" + tt.found + "/forwarding": "1"}
			if strings.Contains(tt.name, "%") {
				s.Linux.Sysctl = nil
			}
		})
		b.up()
		if devHas(t, "eth9") {
			t.Errorf("%q: eth9 is on the host still", tt.name)
		}
		got := b.execOut("sh", "-c", strings.ReplaceAll(show, "%s", tt.found))
		for _, want := range []string{"inet 192.0.2.9/24", "inet 198.51.100.9/32", "inet6 2001:db8::9/64", "02:00:00:00:00:09", "mtu 1400", ",UP"} {
			if !strings.Contains(got, want) {
				t.Errorf("%q: no %q in\n%s", tt.name, want, got)
			}
		}
		for _, not := range []string{"169.254.7.7", "203.0.113.9"} {
			if strings.Contains(got, not) {
				t.Errorf("%q: %q, which is of the host alone, is in\n%s", tt.name, not, got)
			}
		}
		if !strings.Contains(tt.name, "%") && !regexp.MustCompile(`(?m)^1$`).MatchString(got) {
			t.Errorf("%q: the kernel parameter of the interface is not set:\n%s", tt.name, got)
		}
		b.must("delete", "--force")
		if tt.name == "hooked" && !strings.Contains(readFile(t, hook), "hooked") {
			t.Errorf("the hook saw %q", readFile(t, hook))
		}
		// The kernel ends a veth with the namespace it is in: make it again.
		eventually(t, "the namespace of the container ends", func() bool { return !devHas(t, "peer9") })
		devIP(t, "link", "add", "eth9", "mtu", "1400", "address", "02:00:00:00:00:09", "type", "veth", "peer", "name", "peer9")
		for _, a := range []string{"192.0.2.9/24", "198.51.100.9/32", "2001:db8::9/64"} {
			devIP(t, "address", "add", a, "dev", "eth9")
		}
	}
}

// What cannot be moved is refused, and what was moved already is back as it was.
func TestRootNetDevicesRefused(t *testing.T) {
	setup(t)
	devHost(t)
	devIP(t, "link", "set", "eth9", "up")
	devIP(t, "link", "add", "abridge", "type", "bridge")
	before := devIP(t, "-o", "address", "show", "dev", "eth9", "scope", "global", "permanent")
	for _, tt := range []struct {
		name    string
		devices map[string]specs.LinuxNetDevice
		mutate  func(*specs.Spec)
		want    []string
	}{
		{"none", map[string]specs.LinuxNetDevice{"eth9": {}, "eth8": {}}, nil, []string{`linux.netDevices["eth8"]`, "no such interface"}},
		{"bad name", map[string]specs.LinuxNetDevice{"eth9": {Name: "a/b"}}, nil, []string{"linux.netDevices.eth9", "15 bytes"}},
		{"bad template", map[string]specs.LinuxNetDevice{"eth9": {Name: "a%s"}}, nil, []string{"linux.netDevices.eth9", "%d"}},
		{"taken", map[string]specs.LinuxNetDevice{"eth9": {Name: "lo"}}, nil, []string{`linux.netDevices["eth9"]`, `"lo"`, "file exists", "hint:"}},
		{"not of the kind", map[string]specs.LinuxNetDevice{"eth9": {}, "lo": {Name: "lo1"}}, nil, []string{`linux.netDevices["lo"]`, "invalid argument", "hint:"}},
		{"the host's namespace", map[string]specs.LinuxNetDevice{"eth9": {}}, func(s *specs.Spec) {
			for i := range s.Linux.Namespaces {
				if s.Linux.Namespaces[i].Type == specs.NetworkNamespace {
					s.Linux.Namespaces[i].Path = "/proc/self/ns/net"
				}
			}
		}, []string{"linux.netDevices", "network namespace of the host"}},
		{"no namespace", map[string]specs.LinuxNetDevice{"eth9": {}}, func(s *specs.Spec) {
			for i := range s.Linux.Namespaces {
				if s.Linux.Namespaces[i].Type == specs.NetworkNamespace {
					s.Linux.Namespaces = append(s.Linux.Namespaces[:i], s.Linux.Namespaces[i+1:]...)
					break
				}
			}
		}, []string{"linux.netDevices", "without a private NET namespace"}},
		{"a program that is not there", map[string]specs.LinuxNetDevice{"eth9": {Name: "other"}}, func(s *specs.Spec) { s.Process.Args = []string{"nosuchprogram"} }, []string{"executable file not found"}},
		{"a hook that fails", map[string]specs.LinuxNetDevice{"eth9": {Name: "other"}}, func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/false"}}}
		}, []string{"createRuntime hook"}},
	} {
		mutate := tt.mutate
		if mutate == nil {
			mutate = func(*specs.Spec) {}
		}
		b := newBox(t, devices(tt.devices), mutate)
		r := b.do("create", b.at(nil)...)
		for _, want := range tt.want {
			if r.Code == 0 || !strings.Contains(r.Stderr, want) {
				t.Errorf("%s: %+v, want %q", tt.name, r, want)
			}
		}
		if !b.gone() {
			t.Errorf("%s: something is left", tt.name)
		}
		if after := devIP(t, "-o", "address", "show", "dev", "eth9", "scope", "global", "permanent"); devAddresses(after) != devAddresses(before) {
			t.Errorf("%s: eth9 is\n%s\nand was\n%s", tt.name, after, before)
		}
		if !strings.Contains(devIP(t, "link", "show", "dev", "eth9"), ",UP") {
			t.Errorf("%s: eth9 is down", tt.name)
		}
	}
}

var devAddress = regexp.MustCompile(`inet6? \S+`)

// devAddresses are the addresses in what ip says, without its numbers of
// interfaces and of seconds.
func devAddresses(text string) string { return strings.Join(devAddress.FindAllString(text, -1), " ") }

// Two at once, into a namespace that is somebody else's: they stay there.
func TestRootNetDevicesJoined(t *testing.T) {
	setup(t)
	devHost(t)
	pod := newBox(t, forever).up()
	b := newBox(t, forever, devices(map[string]specs.LinuxNetDevice{"eth9": {Name: "one%d"}, "peer9": {Name: "one%d"}}), func(s *specs.Spec) {
		for i := range s.Linux.Namespaces {
			if s.Linux.Namespaces[i].Type == specs.NetworkNamespace {
				s.Linux.Namespaces[i].Path = "/proc/" + strconv.Itoa(pod.pid()) + "/ns/net"
			}
		}
	}).up()
	for _, box := range []*ociBox{b, pod} {
		if got := box.execOut("sh", "-c", "ls /sys/class/net"); !strings.Contains(got, "one0") || !strings.Contains(got, "one1") {
			t.Errorf("%q", got)
		}
	}
	b.must("delete", "--force")
	if got := pod.execOut("ls", "/sys/class/net"); !strings.Contains(got, "one0") {
		t.Errorf("after delete: %q", got)
	}
}

// Killed right after the move: the namespace ends with the init, which nothing
// holds, and delete converges.
func TestRootNetDevicesKilled(t *testing.T) {
	setup(t)
	devHost(t)
	b := newBox(t, devices(map[string]specs.LinuxNetDevice{"eth9": {}}), func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "kill -KILL $PPID"}}}}
	})
	if r := b.do("create", b.at(nil)...); r.Code == 0 {
		t.Fatalf("%+v", r)
	}
	eventually(t, "the namespace of the container ends", func() bool { return !devHas(t, "peer9") })
	b.must("delete", "--force")
	if !b.gone() {
		t.Error("something is left")
	}
}
