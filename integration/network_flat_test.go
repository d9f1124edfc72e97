package integration

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

// What minirun asks of the kernel for one container in a network does not grow with
// the containers that are there: it makes as many system calls among 2,500 leases as
// among 100. (Up to 64 containers have each other in /etc/hosts, which takes some.)
func TestRootNetwork_Flat(t *testing.T) {
	h := netSetup(t)
	h.must("network", "create", "--subnet", "10.77.0.0/20", "web")
	h.must("run", "--rm", "--image", "base", "--network", "web", h.id(), "true") // makes the bridge
	// Of containers that somebody else knows of; nobody looks while there are addresses.
	lease := func(from, to int) {
		for i := from; i < to; i++ {
			path := fmt.Sprintf("%s/networks/networks/web/leases/10.77.%d.%d", h.store, 4+i/250, i%250)
			if err := os.Symlink(fmt.Sprintf("other%d.0", i), path); err != nil {
				t.Fatal(err)
			}
		}
	}
	grows := []uint64{
		unix.SYS_OPENAT, unix.SYS_GETDENTS64, unix.SYS_READ, unix.SYS_PREAD64, unix.SYS_READLINKAT, unix.SYS_SYMLINKAT, unix.SYS_NEWFSTATAT,
		unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_SENDTO, unix.SYS_RECVFROM, unix.SYS_UNLINKAT,
	}
	count := func() (calls int) {
		t.Helper()
		var stderr string
		only := func(_ int, nr uint64, _ [7]uint64) bool { return slices.Contains(grows, nr) }
		args := h.command("run", "--rm", "--image", "base", "--network", "web", h.id(), "true")
		// Here and not in another goroutine: this thread is the one in the namespace.
		code, _, err := tracer{target: minirunItself, stderr: &stderr, fail: unix.EIO, only: only, seen: &calls}.run(testenv.Command(t, args...).Args)
		if err != nil || code != 0 {
			t.Fatalf("trace %q: status %d, %v\n%s", args, code, err, stderr)
		}
		return calls
	}
	lease(0, 100)
	// A busy machine has minirun try some things again.
	least := func() int { t.Helper(); return min(count(), count(), count()) }
	few := least()
	lease(100, 2500)
	many := least()
	if err := os.RemoveAll(h.store + "/networks/networks/web/leases"); err != nil {
		t.Error(err)
	}
	t.Logf("%d system calls among 100 leases, %d among 2,500", few, many)
	if few < 50 || many > few+8 {
		t.Errorf("%d system calls among 100 leases, %d among 2,500", few, many)
	}
}
