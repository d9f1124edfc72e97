package integration

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Many containers on one bridge, all at the same time, a tenth of them with a
// published port: up, down, and nothing left. 24, or as many as
// MINIRUN_TEST_HAMMER_NETWORK says.
func TestRootNetworkHammer(t *testing.T) {
	n := 24
	if text := os.Getenv("MINIRUN_TEST_HAMMER_NETWORK"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 2 || n > 1000 {
			t.Fatalf("MINIRUN_TEST_HAMMER_NETWORK=%q: want 2 to 1000 containers", text)
		}
	}
	h := netSetup(t)
	h.must("network", "create", "--subnet", "10.77.0.0/20", "web")
	ids := make([]string, n)
	for i := range ids {
		ids[i] = h.id()
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, id := range ids {
				h.do("delete", "--force", id)
			}
		}
	})
	timed := func(args ...string) time.Duration {
		start := time.Now()
		h.must(args...)
		return time.Since(start)
	}
	var up, down []time.Duration
	for i, id := range ids {
		args := []string{"run", "--detach", "--image", "base", "--network", "web"}
		if i%10 == 0 {
			args = append(args, "-p", strconv.Itoa(20000+i)+":80")
		}
		up = append(up, timed(append(args, id, "sleep", "100000")...))
	}
	if got := strings.Count(h.ip("-o", "link"), ": mv"); got != n {
		t.Errorf("%d interfaces, want %d", got, n)
	}
	first, last := ids[0], ids[n-1]
	address := strings.Fields(h.must("exec", last, "ip", "-o", "-4", "address", "show", "eth0"))[3]
	address, _, _ = strings.Cut(address, "/")
	h.must("exec", first, "ping", "-c", "1", address) // across the bridge
	if leases := h.entries("networks/networks/web/leases"); len(leases) != n {
		t.Errorf("%d leases, want %d", len(leases), n)
	}
	for _, id := range ids {
		down = append(down, timed("delete", "--force", id))
	}
	h.noNetwork("at the end")
	k := min(50, n/2)
	middle := func(list []time.Duration) time.Duration {
		list = slices.Sorted(slices.Values(list))
		return list[len(list)/2].Round(100 * time.Microsecond)
	}
	t.Logf("%d containers; median of run: first %d %v, last %d %v; of delete: first %v, last %v", n, k, middle(up[:k]), k, middle(up[n-k:]), middle(down[:k]), middle(down[n-k:]))
}
