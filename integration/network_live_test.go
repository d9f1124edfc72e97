package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

// inside is what a container sees of its networks.
func (h *imageHost) inside(id string) string {
	h.t.Helper()
	return h.must("exec", id, "sh", "-c", "ip -o a; ip r; ip -6 r; cat /etc/hosts")
}

func (h *imageHost) has(what, text string, wants ...string) {
	h.t.Helper()
	for _, want := range wants {
		no := strings.HasPrefix(want, "!")
		if strings.Contains(text, strings.TrimPrefix(want, "!")) == no {
			h.t.Errorf("%s: %q in\n%s", what, want, text)
		}
	}
}

func TestRootNetworkConnect(t *testing.T) {
	h := netSetup(t)
	h.must("network", "create", "--subnet", "10.77.0.0/24", "web")
	h.must("network", "create", "--subnet", "10.78.0.0/24", "--subnet", "fd00:78::/64", "back")
	h.must("network", "create", "--subnet", "10.79.0.0/24", "--internal", "inside")
	id := h.server("hello", "--network", "web", "--ip", "10.77.0.9", "-p", "8080:80", "--network-alias", "www")
	peer := h.background("", "--network", "back", "--hostname", "peer")
	h.must("network", "connect", "--ip", "10.78.0.9", "--ip6", "fd00:78::9", "--alias", "db", "back", id)
	h.has("connected", h.inside(id), "10.78.0.9/24", "fd00:78::9/64", "default via 10.77.0.1 dev eth0", "10.78.0.0/24 via 10.78.0.1 dev eth1", "default via fd00:78::1 dev eth1", "10.78.0.9\t"+id+" www db\n", "\tpeer "+peer+"\n")
	h.has("the other one", h.inside(peer), "10.78.0.9\t"+id+" www db\n", "!10.77.0.9")
	if got := h.must("exec", peer, "nc", "db", "80"); got != "hello\n" {
		t.Errorf("by its name there: %q", got)
	}
	h.refused("is in network \"back\" already", "network", "connect", "back", id)
	h.has("inspect", h.must("network", "inspect", "back"), id, `"interface": "eth1"`)
	h.refused("in use by", "network", "rm", "back")
	h.must("network", "connect", "inside", id)
	// The first network goes: the way out and the published port go over to the next.
	h.must("network", "disconnect", "web", id)
	h.has("disconnected", h.inside(id), "!10.77.", "!eth0", "default via 10.78.0.1 dev eth1", "!default via 10.79", "\tpeer "+peer+"\n")
	if got := answer(t, lanAddress+":8080"); got != "hello\n" {
		t.Errorf("published by the second network: %q", got)
	}
	h.refused("is not in network \"web\"", "network", "disconnect", "web", id)
	h.must("network", "disconnect", "--force", "web", id)
	h.must("network", "disconnect", "--force", "web", "nobody")
	// Out of all networks, and back.
	h.must("network", "disconnect", "inside", id)
	h.must("network", "disconnect", "back", id)
	h.has("in none", h.inside(id), "!eth", "!default", "!10.78.")
	h.has("the other one", h.inside(peer), "!"+id)
	h.refused("is taken", "run", "--rm", "--image", "base", "-p", "8080:80", h.id(), "true") // it is still its port
	h.must("network", "connect", "web", id)
	h.has("back", h.inside(id), "dev eth0", "default via 10.77.0.1")
	if got := answer(t, lanAddress+":8080"); got != "hello\n" {
		t.Errorf("published again: %q", got)
	}
	// Paused, not started yet, and without a network from the beginning.
	h.must("pause", id)
	h.must("network", "connect", "inside", id)
	h.must("resume", id)
	h.has("paused", h.inside(id), "10.79.0.")
	waiting := h.id()
	h.must("create", "--image", "base", "--network", "web", waiting, "sh", "-c", "ip a; sleep 1000")
	h.must("network", "connect", "back", waiting)
	h.must("start", waiting)
	h.has("created", h.inside(waiting), "eth1", "10.78.0.")
	alone := h.background("")
	h.must("network", "connect", "web", alone)
	h.has("without networks", h.must("exec", alone, "ip", "a"), "10.77.0.")
	if got := h.must("exec", alone, "nc", "10.77.0.1", "8080"); got != "hello\n" {
		t.Errorf("without networks: %q", got)
	}
	// What cannot be connected.
	host := h.background("", "--network", "host")
	joined := h.background("", "--network", "container:"+alone)
	ended := h.id()
	h.must("run", "--image", "base", "--network", "web", ended, "true")
	for _, tt := range []struct{ want, args string }{
		{"no network namespace of its own", "web " + host},
		{"no network namespace of its own", "web " + joined},
		{"is stopped", "back " + ended},
		{"does not exist", "nothing " + id},
		{"does not exist", "web nobody"},
		{"is not one that a container", "--ip 10.99.0.1 back " + id},
		{"is taken by", "--ip 10.78.0.2 back " + alone},
		{"other family", "--ip fd00::1 back " + alone},
		{"want an IP address", "--ip x back " + alone},
		{"is no name of a host", "--alias a/b back " + alone},
	} {
		h.refused(tt.want, append([]string{"network", "connect"}, strings.Fields(tt.args)...)...)
	}
	h.has("after what was refused", h.must("network", "inspect", "back"), "!"+alone, "!"+ended)
	h.must("network", "disconnect", "web", ended) // gives back what it still had
	h.has("after its end", h.must("network", "inspect", "web"), "!"+ended)
	for _, id := range []string{id, peer, waiting, joined, alone, host, ended} {
		h.must("delete", "--force", id)
	}
	h.noNetwork("at the end")
}

// minirun is killed while it connects and disconnects. The same command completes
// what was begun, disconnect undoes it, and delete takes everything back.
func TestRootNetworkConnect_Crash(t *testing.T) {
	h := netSetup(t)
	h.must("network", "create", "--subnet", "10.77.0.0/29", "one")
	h.must("network", "create", "--subnet", "10.78.0.0/29", "two")
	path, err := exec.LookPath("nsenter")
	if err != nil {
		t.Fatal(err)
	}
	traced := func(n int, args ...string) bool {
		t.Helper()
		argv := []string{path, fmt.Sprintf("--net=/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid()), testenv.Binary(t)}
		code, reached := tracedCommand(t, minirunItself, n, []uint64{unix.SYS_FLOCK}, append(argv, h.command(args...)...))
		if !reached && code != 0 {
			t.Fatalf("%q: exit status %d under trace", args, code)
		}
		return reached
	}
	peer := h.background("", "--network", "one", "--ip", "10.77.0.6", "--hostname", "peer")
	h.must("network", "connect", "--ip", "10.78.0.6", "two", peer)
	start := func() string {
		return h.server("hello", "--network", "one", "--ip", "10.77.0.3", "-p", "8080:80")
	}
	leases := func(network string) int {
		list, _ := filepath.Glob(h.store + "/networks/networks/" + network + "/leases/*")
		return len(list)
	}
	points := 0
	id := start()
	for n := 1; ; n += 6 {
		what := "connect killed at call " + strconv.Itoa(n)
		connect := []string{"network", "connect", "--ip", "10.78.0.3", "--alias", "db", "two", id}
		reached := traced(n, connect...)
		switch {
		case reached && n%4 == 1:
			h.must("delete", "--force", id)
			id = start()
		case reached && n%4 == 3:
			if r := h.do(connect...); r.Code != 0 && !strings.Contains(r.Stderr, "already") {
				t.Fatalf("%s: once more: %+v", what, r)
			}
			fallthrough
		default:
			if !reached || n%4 == 3 {
				got := h.inside(id)
				h.has(what, got, "10.78.0.3/29", "10.78.0.3\t"+id+" db\n", "10.78.0.6\tpeer", "default via 10.77.0.1")
				if strings.Count(got, "10.78.0.3/29") != 1 {
					t.Errorf("%s: several addresses:\n%s", what, got)
				}
			}
			h.must("network", "disconnect", "--force", "two", id)
		}
		h.has(what+", undone", h.inside(id), "!10.78.0.3", "!eth1")
		h.has(what+", undone: the other one", h.inside(peer), "!10.78.0.3")
		if links := strings.Count(h.ip("-o", "link"), "master mr-"); links != 3 || leases("one") != 2 || leases("two") != 1 {
			t.Errorf("%s: %d interfaces in bridges, %d and %d leases", what, links, leases("one"), leases("two"))
		}
		if t.Failed() || !reached {
			break
		}
		points++
	}
	if points < 5 {
		t.Errorf("connect: only %d crash points", points)
	}
	first, second, points := "one", "two", 0
	for n := 1; !t.Failed(); n += 6 {
		what := "disconnect killed at call " + strconv.Itoa(n)
		h.must("network", "connect", second, id)
		reached := traced(n, "network", "disconnect", first, id)
		if reached && n%4 == 1 {
			h.must("delete", "--force", id)
			id = start()
			first, second = "one", "two"
		} else {
			h.must("network", "disconnect", "--force", first, id)
			got := h.inside(id)
			h.has(what, got, "default via 10.7")
			if strings.Count(got, "inet 10.") != 1 || strings.Count(got, "default") != 1 {
				t.Errorf("%s, completed:\n%s", what, got)
			}
			first, second = second, first
		}
		if got := answer(t, lanAddress+":8080"); got != "hello\n" {
			t.Errorf("%s: the published port answers %q", what, got)
		}
		if links := strings.Count(h.ip("-o", "link"), "master mr-"); links != 3 || leases("one")+leases("two") != 3 {
			t.Errorf("%s: %d interfaces in bridges, %d and %d leases", what, links, leases("one"), leases("two"))
		}
		if !reached {
			break
		}
		points++
	}
	if points < 5 {
		t.Errorf("disconnect: only %d crash points", points)
	}
	h.must("delete", "--force", id)
	h.must("delete", "--force", peer)
	h.noNetwork("at the end")
}

// A container that is deleted while it is being connected leaves nothing.
func TestRootNetworkConnect_WhileDeleted(t *testing.T) {
	h := netSetup(t)
	h.must("network", "create", "web")
	path, err := exec.LookPath("nsenter")
	if err != nil {
		t.Fatal(err)
	}
	enter := []string{path, fmt.Sprintf("--net=/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid()), testenv.Binary(t)}
	for i := range 6 {
		id := h.background("")
		if i%2 == 1 {
			id = h.background("", "--network", "bridge")
		}
		stop := reapContainers(t)
		var done sync.WaitGroup
		for _, args := range [][]string{{"network", "connect", "web", id}, {"delete", "--force", id}} {
			argv := append(slices.Clone(enter), h.command(args...)...)
			done.Add(1)
			go func() {
				defer done.Done()
				out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
				if err != nil && args[0] == "delete" {
					t.Errorf("%q: %v: %s", args, err, out)
				}
			}()
		}
		done.Wait()
		stop()
		h.must("delete", "--force", id)
		h.noNetwork("deleted while it was connected")
	}
}
