package node

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/minirun/minirun/internal/monitor"
	"github.com/minirun/minirun/runtime"
)

// Logs of old runs are kept up to a number and a size, the newest ones.
func TestKeepLogs(t *testing.T) {
	root := t.TempDir()
	rt, err := runtime.OpenStore(filepath.Join(root, "containers"))
	if err != nil {
		t.Fatal(err)
	}
	w := &worker{n: &Node{runtime: rt, log: slog.New(slog.DiscardHandler)}, dir: filepath.Join(root, "pod")}
	end := func(name string, number int32, sizes ...int64) {
		t.Helper()
		id := fmt.Sprintf("uid_%s_%d", name, number)
		dir := filepath.Join(rt.Root(), id)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for i, size := range sizes {
			path := filepath.Join(dir, monitor.LogName(i))
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(path, size); err != nil {
				t.Fatal(err)
			}
		}
		w.keepLogs(name, number, id)
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			t.Errorf("what is left: %v, %v", entries, err)
		}
	}
	kept := func(name string) string {
		t.Helper()
		numbers, err := w.keptNumbers(name)
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		for _, n := range numbers {
			entries, err := os.ReadDir(w.oldLogs(name, n))
			if err != nil {
				t.Fatal(err)
			}
			text += fmt.Sprintf(" %d:%d", n, len(entries))
		}
		return text
	}
	for n := range int32(8) {
		end("c", n, 100)
	}
	end("c-2", 3, 100) // another container
	if got, want := kept("c"), " 7:1 6:1 5:1 4:1 3:1"; got != want {
		t.Errorf("kept%s, want%s", got, want)
	}
	if got, want := kept("c-2"), " 3:1"; got != want {
		t.Errorf("kept%s, want%s", got, want)
	}
	end("c", 8, 6<<20, 10<<20, 10<<20) // the oldest file is beyond the size, and all before it
	if got, want := kept("c"), " 8:2"; got != want {
		t.Errorf("kept%s, want%s", got, want)
	}
	end("c", 9, keptBytes+1)
	if got, want := kept("c"), ""; got != want {
		t.Errorf("kept%s, want%s", got, want)
	}
	end("c", 10) // it has none
	end("c", 11, 5)
	if got, want := kept("c"), " 11:1"; got != want {
		t.Errorf("kept%s, want%s", got, want)
	}
}
