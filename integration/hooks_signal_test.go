package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// hanging is a hook that leaves something in the background and hangs, the first
// time. The files have the two pids.
const hanging = `[ -e here ] && exit 0; sleep 1234 & echo $! > rest; echo $$ > here; wait`

// hookPids waits until a hanging hook of the host runs.
func (b *ociBox) hookPids(kind string) (hook, rest int) {
	b.t.Helper()
	var pids [2]int
	for i, name := range []string{"here", "rest"} {
		path := filepath.Join(b.bundle, name)
		if kind == "startContainer" {
			path = b.rootfs(name)
		}
		eventually(b.t, kind+": the hook runs", func() bool { raw, _ := os.ReadFile(path); return strings.HasSuffix(string(raw), "\n") })
		var err error
		if pids[i], err = strconv.Atoi(strings.TrimSpace(readFile(b.t, path))); err != nil {
			b.t.Fatal(err)
		}
	}
	return pids[0], pids[1]
}

// A signal that is meant to end minirun ends a hook that hangs, with all that the
// hook has started, and then what a failed hook always ends.
func TestRootHooksInterrupted(t *testing.T) {
	setup(t)
	signals := []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT}
	for i, kind := range hookKinds {
		for _, verb := range []string{verbOf(kind), "run"} {
			sig := signals[i%len(signals)]
			what := kind + ": " + verb + ": " + unix.SignalName(sig)
			end := script("exit 0")
			if kind == "poststart" {
				end = forever
			}
			b := newBox(t, end, hooked(kind, hanging), hooked("poststop", "echo poststop"), writable)
			if verb != "run" {
				b.until(verb)
			}
			cmd := b.verb(verb)
			var stderr strings.Builder
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			hook, rest := b.hookPids(kind)
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			code, text := 128+int(sig), kind+` hook #0 "/bin/sh": killed: interrupted by `+unix.SignalName(sig)
			if kind == "poststop" {
				code = 0
			}
			if got := cmd.ProcessState.ExitCode(); got != code || !strings.Contains(stderr.String(), text) {
				t.Errorf("%s: exit status %d, want %d and %q in %q", what, got, code, text, stderr.String())
			}
			if kind != "createContainer" && kind != "startContainer" { // their pids are the container's
				for _, pid := range []int{hook, rest} {
					eventually(t, what+": the hook and its child end", func() bool { return !alive(pid) })
				}
			}
			if verb == "start" {
				b.wantStatus("stopped")
				b.must("delete")
			}
			if log := b.hookLog(); log != "poststop\n" {
				t.Errorf("%s: hooks say %q", what, log)
			}
			if !b.gone() {
				t.Error(what)
			}
		}
	}
}

// What a hook of the host has started dies with it when minirun is killed, and
// lives on when the hook has done its work.
func TestRootHooksKilledRuntimeBackground(t *testing.T) {
	setup(t)
	for _, kind := range hookKinds {
		if kind == "createContainer" || kind == "startContainer" {
			continue // killed with the container's processes
		}
		b := newBox(t, forever, hooked(kind, hanging))
		b.until(verbOf(kind))
		cmd := b.verb(verbOf(kind))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		hook, rest := b.hookPids(kind)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		for _, pid := range []int{hook, rest} {
			eventually(t, kind+": the hook and its child end with minirun", func() bool { return !alive(pid) })
		}
		b.converge(kind)
	}
}
