package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
)

// Several containers want the same port at the same time, at addresses that overlap: one
// gets it, and the others leave nothing.
func TestRootNetworkRace(t *testing.T) {
	h := netSetup(t)
	h.must("network", "create", "--subnet", "10.77.0.0/24", "web")
	ports := []string{"8080:80", "8080:81", lanAddress + ":8080:80", "8079-8081:80-82", "8080:80/udp"}
	type result struct {
		id string
		testenv.Result
	}
	results := make(chan result, len(ports))
	for _, p := range ports {
		id := h.id()
		cmd := testenv.Command(t, h.command("run", "--detach", "--image", "base", "--network", "web", "-p", p, id, "sleep", "1000")...)
		path := filepath.Join(t.TempDir(), "stderr")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = f
		if err := cmd.Start(); err != nil { // from this thread, which is in the test's namespace
			t.Fatal(err)
		}
		go func() {
			_ = cmd.Wait()
			f.Close()
			text, _ := os.ReadFile(path)
			results <- result{id, testenv.Result{Code: cmd.ProcessState.ExitCode(), Stderr: string(text)}}
		}()
	}
	var won []string
	for range ports {
		r := <-results
		switch {
		case r.Code == 0:
			won = append(won, r.id)
		case !strings.Contains(r.Stderr, "/tcp is taken by container") || !strings.Contains(r.Stderr, "hint: choose another one"):
			t.Errorf("who came too late got %+v", r.Result)
		}
		if state := h.do("state", r.id); (state.Code == 0) != (r.Code == 0) {
			t.Errorf("status %d, and then state says %+v", r.Code, state)
		}
	}
	if len(won) != 2 { // one of TCP, and that of UDP
		t.Errorf("%d of the containers run, want 2", len(won))
	}
	if left := h.entries("networks/containers"); len(left) != len(won) {
		t.Errorf("records %q", left)
	}
	for _, id := range won {
		h.must("delete", "--force", id)
	}
	h.noNetwork("afterwards")
}
