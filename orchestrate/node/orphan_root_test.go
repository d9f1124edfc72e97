package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Whoever cannot be removed at once is tried again, also when nobody but the
// directories knows of the pod any more.
func TestRootOrphan_Stuck(t *testing.T) {
	b := newBench(t)
	b.runPod("p", `
  containers:
  - {name: c, image: "base:1", command: [sleep, "1000"]}
`)
	p := b.until("p", "it runs", running)
	found, err := filepath.Glob(filepath.Join(b.c.Dir, "node/containers", string(p.UID)+"_c_0"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%q, %v", found, err)
	}
	stuck := filepath.Join(found[0], "stuck")
	write(t, stuck, "")
	f, err := os.Open(stuck)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const immutable = 0x10 // FS_IMMUTABLE_FL
	set := func(flags int) error { return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags) }
	if err := set(immutable); err != nil {
		t.Fatalf("make a file immutable: %v", err)
	}
	t.Cleanup(func() { _ = set(0) })
	b.delete("p", 0)
	b.gone("p")
	b.eventually("it is tried again, and said what is in the way", func() bool {
		raw, err := os.ReadFile(b.log.Name())
		again := 0
		for line := range strings.Lines(string(raw)) {
			if strings.Contains(line, "remove its directory") && strings.Contains(line, "again=") {
				again++
			}
		}
		return err == nil && again > 1
	})
	if _, err := os.Stat(filepath.Join(b.c.Dir, "node/pods", string(p.UID), recordFile)); err != nil {
		t.Errorf("the pod's record, without which nobody would come back: %v", err)
	}
	if err := set(0); err != nil {
		t.Fatal(err)
	}
	b.eventually("nothing is left", func() bool {
		_, err := os.Stat(found[0])
		_, err2 := os.Stat(filepath.Join(b.c.Dir, "node/pods", string(p.UID)))
		return os.IsNotExist(err) && os.IsNotExist(err2)
	})
	b.nothingLeft()
}
