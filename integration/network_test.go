package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

// lanAddress is the address of the host in the network namespace of a test.
const lanAddress = "192.0.2.1"

// netSetup is imageSetup with the image "base" in a network namespace of the
// test's own: it is that of the test's goroutine and of what it starts.
func netSetup(t *testing.T) *imageHost {
	t.Helper()
	h := imageSetup(t).base()
	runtime.LockOSThread() // for good: the thread ends with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	h.ip("link", "set", "lo", "up")
	h.ip("address", "add", lanAddress+"/32", "dev", "lo")
	return h
}

func (h *imageHost) tool(name string, args ...string) string {
	h.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func (h *imageHost) ip(args ...string) string { h.t.Helper(); return h.tool("ip", args...) }

// noNetwork fails the test if a container has left something of a network: in the
// kernel or in the records.
func (h *imageHost) noNetwork(what string) {
	h.t.Helper()
	eventually(h.t, what+": no interface is left", func() bool { // they go with the container's namespace
		return !strings.Contains(h.ip("-o", "link"), ": mv")
	})
	for _, dir := range []string{"networks/containers", "networks/ports"} {
		if left := h.entries(dir); len(left) > 0 {
			h.t.Errorf("%s: %s has %q", what, dir, left)
		}
	}
	leases, _ := filepath.Glob(h.store + "/networks/networks/*/leases/*")
	if len(leases) > 0 {
		h.t.Errorf("%s: leases %q", what, leases)
	}
	if n := ledPrograms(h.t); n > 0 {
		h.t.Errorf("%s: %d programs of BPF are attached to the root of the cgroups", what, n)
	}
	if out, err := exec.Command("nft", "list", "table", "inet", "minirun").CombinedOutput(); err == nil {
		for _, set := range []string{"publish4", "publish6", "ranges4", "ranges6", "hairpin4", "hairpin6"} {
			_, text, _ := strings.Cut(string(out), " "+set+" {")
			text, _, _ = strings.Cut(text, "}")
			if strings.Contains(text, "elements") {
				h.t.Errorf("%s: %s still has elements:%s", what, set, text)
			}
		}
	}
}

// answer connects to an address in the test's network namespace and reads.
func answer(t *testing.T, address string) string {
	t.Helper()
	text := ""
	eventually(t, address+" answers", func() bool {
		c, err := net.DialTimeout("tcp", address, testenv.Timeout(5*time.Second))
		if err != nil {
			return false
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(testenv.Timeout(10 * time.Second)))
		b, err := io.ReadAll(c)
		text = string(b)
		return err == nil && text != ""
	})
	return text
}

// server is a container that answers with a word on port 80.
func (h *imageHost) server(word string, flags ...string) string {
	h.t.Helper()
	id := h.id()
	args := append([]string{"run", "--detach", "--image", "base"}, flags...)
	h.must(append(args, id, "sh", "-c", "while :; do echo "+word+" | nc -l -p 80; done")...)
	return id
}

func TestRootNetwork(t *testing.T) {
	h := netSetup(t)
	if got := h.must("network", "create", "--subnet", "10.77.0.0/24", "--subnet", "fd00:77::/64", "--label", "a=b", "--mtu", "1400", "web"); got != "web\n" {
		t.Errorf("create prints %q", got)
	}
	server := h.server("hello", "--network", "web", "--ip", "10.77.0.9", "--ip", "fd00:77::9", "--mac-address", "02:00:00:00:00:09", "--network-alias", "www",
		"--hostname", "box", "-p", "8080:80", "-p", "9000-9010:9000-9010/udp", "-p", lanAddress+":8443:80")
	if got := answer(t, lanAddress+":8080") + answer(t, lanAddress+":8443") + answer(t, "10.77.0.9:80") + answer(t, "[fd00:77::9]:80"); got != strings.Repeat("hello\n", 4) {
		t.Errorf("the server answers %q", got)
	}
	if got := answer(t, "127.0.0.1:8080") + answer(t, "[::1]:8080"); got != "hello\nhello\n" || ledPrograms(t) != 8 {
		t.Errorf("by loopback the server answers %q, with %d programs, want 8", got, ledPrograms(t))
	}
	// Inside: addresses, routes, names.
	got := h.must("exec", server, "sh", "-c", "ip a; ip r; ip -6 r; hostname; cat /etc/hostname /etc/hosts")
	for _, want := range []string{
		"10.77.0.9/24", "fd00:77::9/64", "02:00:00:00:00:09", "mtu 1400", "default via 10.77.0.1 dev eth0", "default via fd00:77::1 dev eth0", "\nbox\nbox\n",
		"10.77.0.9\tbox " + server + " www\n", "fd00:77::9\tbox",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in the container:\n%s", want, got)
		}
	}
	// Names of others, in both directions, as long as they exist.
	client := h.background("", "--network", "web", "--hostname", "client", "--add-host", "gw:host-gateway", "--add-host", "x:1.2.3.4", "--dns", "9.9.9.9", "--dns-search", "example.org", "--dns-option", "ndots:2")
	if got := h.must("exec", client, "nc", "www", "80"); got != "hello\n" {
		t.Errorf("by name: %q", got)
	}
	if got := h.must("exec", client, "cat", "/etc/hosts", "/etc/resolv.conf"); !strings.Contains(got, "10.77.0.1\tgw\n1.2.3.4\tx\n") || !strings.Contains(got, "nameserver 9.9.9.9\nsearch example.org\noptions ndots:2\n") {
		t.Errorf("files: %q", got)
	}
	if got := h.must("exec", server, "cat", "/etc/hosts"); !strings.Contains(got, "\tclient "+client+"\n") {
		t.Errorf("the client is not in %q", got)
	}
	if r := h.do("exec", client, "sh", "-c", "echo x >> /etc/hosts"); r.Code == 0 {
		t.Error("a container wrote to a file of the host")
	}
	if got := h.must("run", "--rm", "--image", "base", "--network", "container:"+server, h.id(), "sh", "-c", "ip a; cat /etc/hosts"); !strings.Contains(got, "10.77.0.9/24") || !strings.Contains(got, " www\n") {
		t.Errorf("in the network of another container: %q", got)
	}
	// What minirun says of it.
	if got := h.must("port", server); !strings.HasPrefix(got, "80/tcp -> 0.0.0.0:8080\n9000/udp -> 0.0.0.0:9000\n") || !strings.HasSuffix(got, "80/tcp -> "+lanAddress+":8443\n") {
		t.Errorf("port prints %q", got)
	}
	if got := h.must("port", server, "9003/udp"); got != "0.0.0.0:9003\n" {
		t.Errorf("port 9003/udp prints %q", got)
	}
	h.refused("port 81/tcp is not published", "port", server, "81")
	if got := h.must("state", server); !strings.Contains(got, `"io.minirun.network": "web 10.77.0.9 fd00:77::9\nport 8080:80/tcp\n`) {
		t.Errorf("state prints %s", got)
	}
	var list []struct {
		Name       string
		Subnets    []struct{ Subnet, Gateway string }
		Labels     map[string]string
		Containers []struct {
			ID        string
			Addresses []string
			Ports     []string
		}
	}
	if err := json.Unmarshal([]byte(h.must("network", "inspect", "web")), &list); err != nil || len(list) != 1 || len(list[0].Containers) != 2 || list[0].Labels["a"] != "b" || list[0].Subnets[1].Gateway != "fd00:77::1" {
		t.Errorf("inspect: %+v, %v", list, err)
	}
	if got := h.must("network", "list"); !strings.Contains(got, "10.77.0.0/24, fd00:77::/64") {
		t.Errorf("list prints %q", got)
	}
	if got := h.must("network", "stats", "web"); !strings.Contains(got, server) || !strings.Contains(got, client) {
		t.Errorf("stats prints %q", got)
	}
	h.refused("in use by", "network", "rm", "web")
	// Somebody flushes all rules.
	h.tool("nft", "flush", "ruleset")
	h.must("network", "reload")
	if got := answer(t, lanAddress+":8080"); got != "hello\n" {
		t.Errorf("after a flush and reload: %q", got)
	}
	h.tool("nft", "flush", "ruleset")
	other := h.server("other", "-p", "8081:80") // which restores them
	if got := answer(t, lanAddress+":8080") + answer(t, lanAddress+":8081"); got != "hello\nother\n" {
		t.Errorf("after a flush and another container: %q", got)
	}
	h.must("delete", "--force", other)
	h.must("delete", "--force", client)
	if got := h.must("exec", server, "cat", "/etc/hosts"); strings.Contains(got, "client") {
		t.Errorf("a container that is gone is still in %q", got)
	}
	h.must("delete", "--force", server)
	h.noNetwork("at the end")
	if got := h.must("network", "prune"); got != "bridge\nweb\n" {
		t.Errorf("prune prints %q", got)
	}
	if links := h.ip("-o", "link"); strings.Contains(links, "mr-") {
		t.Errorf("a bridge is left:\n%s", links)
	}
}

// Every mistake is refused before the container exists, with a way out.
func TestRootNetwork_Refused(t *testing.T) {
	h := netSetup(t)
	h.must("network", "create", "--subnet", "10.77.0.0/29", "web")
	h.must("network", "create", "--internal", "inside")
	h.ip("link", "add", "dummy0", "type", "bridge")
	h.ip("address", "add", "10.88.5.1/24", "dev", "dummy0")
	h.ip("link", "set", "dummy0", "up")
	l, err := net.Listen("tcp", "0.0.0.0:7070")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	u, err := net.ListenPacket("udp", lanAddress+":7071")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	for _, tt := range []struct {
		flags, want string
	}{
		{"--network nothing", `network "nothing" does not exist`},
		{"--network web --network web", "named twice"},
		{"--network web --network host", "stand alone"},
		{"--network ../x", "network name"},
		{"--network container:nobody", "nobody"},
		{"--network ns:relative", "absolute path"},
		{"--network none -p 80:80", "needs a network"},
		{"--network host --ip 10.0.0.1", "needs a network"},
		{"--network host --dns 1.1.1.1", "--add-host and --dns"},
		{"--network web --ip 10.78.0.5", "is not one that a container in network"},
		{"--network web --ip 10.77.0.1", "is not one that a container in network"},
		{"--network web --ip 10.77.0.7", "is not one that a container in network"},
		{"--network web --ip 10.77.0.2 --ip 10.77.0.3", "one of each family"},
		{"--network web --ip ten", "want an IP address"},
		{"--network web --mac-address 01:00:00:00:00:01", "hardware address"},
		{"--network web --network-alias a/b", "no name of a host"},
		{"--network web --add-host x", "want NAME:IP"},
		{"--network web -p 0:80", "no port"},
		{"--network web -p 80-81:80", "as many ports"},
		{"--network web -p 80:80/icmp", "unknown protocol"},
		{"--network web -p 65536:80", "no port"},
		{"--network web -p 90:80 -p 90:81", "is taken"},
		{"--network web -p 7070:80", "address already in use"},
		{"--network web -p 7060-7080:7060-7080", "7070"},
		{"--network web -p " + lanAddress + ":7071:80/udp", "address already in use"},
		{"--network web -p 198.51.100.7:80:80", "cannot assign requested address"},
		{"--network web -p [2001:db8::1]:80:80", "no address of that family"},
		{"--network web -p 127.0.0.1:80:80/sctp", "no port of SCTP at loopback addresses"},
		{"--network inside -p 80:80", "is internal"},
	} {
		args := append([]string{"run", "--rm", "--image", "base"}, strings.Fields(tt.flags)...)
		h.refused(tt.want, append(args, h.id(), "true")...)
		h.noNetwork(tt.flags)
	}
	for _, tt := range []struct {
		args, want string
	}{
		{"web", "exists already"},
		{"none", "meaning of its own"},
		{"a/b", "network name"},
		{"--subnet 10.77.0.0/16 x", "overlaps 10.77.0.0/29 of network web"},
		{"--subnet 10.88.0.0/16 x", "overlaps the host's route to 10.88.5.0/24"},
		{"--subnet 10.90.0.1/24 x", "bits of the host"},
		{"--subnet 10.90.0.0/24 --subnet 10.91.0.0/24 x", "second one of its family"},
		{"--subnet 10.90.0.0/24 --gateway 10.91.0.1 x", "is no address of a host"},
		{"--mtu 50 x", "MTU 50"},
		{"--isolate maybe x", "unknown isolation"},
		{"--driver macvlan x", "there is only bridge"},
	} {
		h.refused(tt.want, append([]string{"network", "create"}, strings.Fields(tt.args)...)...)
	}
	// A pool of five addresses; one that is given back is free for the next.
	var ids []string
	for range 5 {
		ids = append(ids, h.background("", "--network", "web"))
	}
	h.refused("has no free address", "run", "--rm", "--image", "base", "--network", "web", h.id(), "true")
	h.must("delete", "--force", ids[2])
	h.must("run", "--rm", "--image", "base", "--network", "web", h.id(), "true")
	// The interface of a network is somebody else's.
	var list []struct{ Interface string }
	if err := json.Unmarshal([]byte(h.must("network", "inspect", "inside")), &list); err != nil {
		t.Fatal(err)
	}
	h.ip("link", "add", list[0].Interface, "type", "veth", "peer", "name", "peer0")
	h.refused("is no bridge", "run", "--rm", "--image", "base", "--network", "inside", h.id(), "true")
	// The table is that of another store.
	other := &imageHost{t: t, root: filepath.Join(t.TempDir(), "root"), store: filepath.Join(t.TempDir(), "other")}
	other.base()
	if err := os.Mkdir(other.root, 0o700); err != nil {
		t.Fatal(err)
	}
	if r := other.do("run", "--rm", "--image", "base", "--network", "bridge", h.id(), "true"); r.Code == 0 || !strings.Contains(r.Stderr, "one directory of networks at a time") {
		t.Errorf("with the table of another store: %+v", r)
	}
}

// What an image has in /etc cannot lead the files of the network anywhere else.
func TestRootNetwork_ImageLinks(t *testing.T) {
	h := netSetup(t)
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("mine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 20)
	for name, entries := range map[string][]imageEntry{
		"file": {{name: "etc/hosts", link: up + victim[1:]}, {name: "etc/resolv.conf", link: victim}, {name: "etc/hostname", link: "/proc/1/root" + victim}},
		"none": {},
	} {
		tarball := filepath.Join(t.TempDir(), name+".tar")
		if err := os.WriteFile(tarball, imageRootfs(t, entries...), 0o644); err != nil {
			t.Fatal(err)
		}
		h.must("image", "import", "--quiet", tarball, name)
		r := h.do("run", "--rm", "--image", name, "--network", "bridge", "--add-host", "inside:10.9.8.7", h.id(), "sh", "-c", "cat /etc/hosts")
		if name == "none" && (r.Code != 0 || !strings.Contains(r.Stdout, "10.9.8.7\tinside")) {
			t.Errorf("%s: %+v", name, r)
		}
		if b, err := os.ReadFile(victim); string(b) != "mine\n" || err != nil {
			t.Errorf("%s: a file of the host now has %q (%v)", name, b, err)
		}
	}
	h.noNetwork("at the end")
}

// -P publishes what the image names.
func TestRootNetwork_PublishAll(t *testing.T) {
	h := netSetup(t)
	h.must("image", "import", "--quiet", "--change", "EXPOSE 80 53/udp", testenv.Rootfs(t), "exposing")
	id := h.id()
	h.must("run", "--detach", "--image", "exposing", "-P", id, "sh", "-c", "while :; do echo hello | nc -l -p 80; done")
	address := strings.TrimSpace(h.must("port", id, "80"))
	_, port, _ := strings.Cut(address, ":")
	if n, err := strconv.Atoi(port); err != nil || n < 49152 || strings.Count(h.must("port", id), "\n") != 2 {
		t.Errorf("port prints %q and %q", address, h.must("port", id))
	}
	if got := answer(t, lanAddress+":"+port); got != "hello\n" {
		t.Errorf("the server answers %q", got)
	}
	h.must("delete", "--force", id)
	h.noNetwork("at the end")
}

// With id maps, with several networks, and with the interfaces in another order.
func TestRootNetwork_Several(t *testing.T) {
	h := netSetup(t)
	h.must("network", "create", "--internal", "--ipv6", "inside")
	h.must("network", "create", "front")
	got := h.out("ip a; ip r; ip -6 r", "--network", "inside", "--network", "front", "--userns", "auto")
	if !strings.Contains(got, "eth0") || !strings.Contains(got, "eth1") || strings.Count(got, "default via") != 1 || !strings.Contains(got, "dev eth1") {
		t.Errorf("got %s", got)
	}
	h.noNetwork("at the end")
}

// minirun is killed at the system calls of create and delete that have to do with
// networks. What is left is removed by delete --force, and the address and the
// port can be had again.
func TestRootNetwork_Crash(t *testing.T) {
	h := netSetup(t)
	h.must("network", "create", "--subnet", "10.77.0.0/29", "web")
	h.must("run", "--rm", "--image", "base", "--network", "web", h.id(), "true") // makes the bridge
	path, err := exec.LookPath("nsenter")                                        // the tracer is another thread, in another namespace
	if err != nil {
		t.Fatal(err)
	}
	enter := []string{path, fmt.Sprintf("--net=/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())}
	create := func(id string) []string {
		return []string{"create", "--image", "base", "--network", "web", "--ip", "10.77.0.3", "-p", "8080:80", "-p", "7000-7009:7000-7009/udp", id, "sleep", "1000"}
	}
	traced := func(n int, args ...string) (int, bool) {
		argv := append(slices.Clone(enter), testenv.Binary(t))
		return tracedCommand(t, minirunItself, n, []uint64{unix.SYS_FLOCK}, append(argv, h.command(args...)...))
	}
	for _, verb := range []string{"create", "delete"} {
		points := 0
		for n := 1; ; n += 7 {
			id := h.id()
			what := verb + " killed at call " + strconv.Itoa(n)
			var code int
			var reached bool
			if verb == "create" {
				code, reached = traced(n, create(id)...)
			} else {
				h.must(create(id)...)
				code, reached = traced(n, "delete", "--force", id)
			}
			if !reached && code != 0 {
				t.Fatalf("%s: exit status %d under trace", what, code)
			}
			stop := reapContainers(t)
			if r := h.do("delete", "--force", id); r.Code != 0 || r.Stderr != "" {
				t.Errorf("%s: delete --force: %+v", what, r)
			}
			stop()
			h.noNetwork(what)
			if t.Failed() || !reached {
				break
			}
			points++
		}
		t.Logf("%s: %d crash points", verb, points)
		if points < 5 {
			t.Errorf("%s: only %d crash points", verb, points)
		}
	}
	id := h.id()
	h.must(create(id)...)
	h.must("delete", "--force", id)
	h.must("image", "gc") // what killed processes have left of snapshots
}
