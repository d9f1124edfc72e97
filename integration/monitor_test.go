package integration

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

// What docs/monitor.md says.
const (
	monitorName  = "minirun:monitor"
	monitorInput = 5 // its descriptor of the container's standard input
)

// monitorOf is the pid of a container's monitor.
func (h *imageHost) monitorOf(id string) int {
	h.t.Helper()
	raw := readFile(h.t, filepath.Join(h.root, id, "state.json"))
	_, rest, ok := strings.Cut(raw, `"monitor":`)
	digits, _, _ := strings.Cut(rest, ",")
	pid, err := strconv.Atoi(digits)
	if !ok || err != nil || pid <= 1 {
		h.t.Fatalf("no monitor in %s", raw)
	}
	return pid
}

// How a container has ended is known when nobody was there, and for as long as the
// container exists.
func TestRootMonitorExit(t *testing.T) {
	h := imageSetup(t).base()
	for _, tt := range []struct {
		script string
		flags  []string
		signal string
		want   string
	}{
		{script: "exit 0", want: "0"},
		{script: "exit 255", want: "255"},
		{script: "exit 3", flags: []string{"--userns", "auto"}, want: "3"},
		{script: "exit 4", flags: []string{"-t"}, want: "4"},
		{script: "while :; do sleep 1000; done", signal: "KILL", want: "137"},
		{script: "trap 'exit 7' TERM; echo ready; while :; do sleep 1000 & wait $!; done", signal: "TERM", want: "7"},
	} {
		id := h.id()
		h.must(append(append([]string{"run", "-d"}, tt.flags...), "--image", "base", id, "sh", "-c", tt.script)...)
		if tt.signal != "" {
			if strings.Contains(tt.script, "ready") {
				eventually(t, "it is ready", func() bool { return strings.Contains(h.must("logs", id), "ready") })
			}
			h.must("kill", id, tt.signal)
		}
		for range 2 { // the second time long after
			if got := h.must("wait", id); got != tt.want+"\n" {
				t.Errorf("%q: wait says %q, want %s", tt.script, got, tt.want)
			}
		}
		if s := h.status(id); s != "stopped" {
			t.Errorf("%q: status %q", tt.script, s)
		}
		h.must("delete", id)
	}
	h.clean("at the end")
}

// A monitor is small, is nobody's business, and holds nothing that it need not.
func TestRootMonitorProcess(t *testing.T) {
	h := imageSetup(t).base()
	id := h.id()
	// A descriptor that minirun has inherited and not closed.
	r, w := pipe(t)
	argv := h.command("run", "-d", "--image", "base", id, "sleep", "1000")
	cmd := testenv.Command(t, argv...)
	cmd.ExtraFiles = []*os.File{w}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w.Close()
	if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("the monitor or the container holds a descriptor of the caller's")
	}
	pid := h.monitorOf(id)
	proc := "/proc/" + strconv.Itoa(pid)
	if comm := readFile(t, proc+"/comm"); comm != monitorName+"\n" {
		t.Errorf("its name is %q", comm)
	}
	if exe, _ := os.Readlink(proc + "/exe"); !strings.HasPrefix(exe, "/memfd:minirun:init") {
		t.Errorf("its executable is %q", exe)
	}
	if cwd, _ := os.Readlink(proc + "/cwd"); cwd != "/" {
		t.Errorf("its working directory is %q", cwd)
	}
	kb := 0
	for line := range strings.Lines(readFile(t, proc+"/smaps_rollup")) {
		if f := strings.Fields(line); len(f) == 3 && strings.HasPrefix(f[0], "Private_") {
			n, _ := strconv.Atoi(f[1])
			kb += n
		}
	}
	if kb == 0 || kb > 64 {
		t.Errorf("%d KB of private memory, want at most 64", kb)
	}
	stat := readFile(t, proc+"/status")
	if !strings.Contains(stat, "SigBlk:\tfffffffffffbfeff\n") {
		t.Errorf("signals are not blocked:\n%s", stat)
	}
	if got := strings.TrimSpace(readFile(t, proc+"/task/"+strconv.Itoa(pid)+"/children")); got != strconv.Itoa(h.pid(id)) {
		t.Errorf("its children are %q, want the init %d", got, h.pid(id))
	}
	h.must("delete", "--force", id)
	eventually(t, "the monitor has ended", func() bool {
		s, err := os.ReadFile(proc + "/stat")
		return err != nil || strings.Contains(string(s), ") Z ")
	})
	h.clean("deleted")
}

// Each stream is kept apart, with times, and can be asked for in part.
func TestRootMonitorLog(t *testing.T) {
	h := imageSetup(t).base()
	id := h.id()
	before := time.Now().Add(-time.Second)
	h.must("run", "-d", "-i", "--image", "base", id, "sh", "-c", "echo one; echo two >&2; while read x; do echo $x; done; printf end")
	eventually(t, "both are there", func() bool {
		r := h.do("logs", id)
		return r.Stdout == "one\n" && r.Stderr == "two\n"
	})
	middle := time.Now()
	in, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/%d", h.monitorOf(id), monitorInput), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.WriteString("three\nfour\n"); err != nil {
		t.Fatal(err)
	}
	in.Close()
	eventually(t, "what was written arrives", func() bool { return h.do("logs", id).Stdout == "one\nthree\nfour\n" })
	h.must("kill", id, "KILL")
	h.must("wait", id)

	for _, tt := range []struct {
		flags  []string
		out, e string
	}{
		{nil, "one\nthree\nfour\n", "two\n"},
		{[]string{"--tail", "0"}, "", ""},
		{[]string{"-n", "1"}, "four\n", ""},
		{[]string{"--tail", "2"}, "three\nfour\n", ""},
		{[]string{"--tail", "all", "-f"}, "one\nthree\nfour\n", "two\n"},
		{[]string{"--since", middle.Format(time.RFC3339Nano)}, "three\nfour\n", ""},
		{[]string{"--until", middle.UTC().Format(time.RFC3339Nano)}, "one\n", "two\n"},
		{[]string{"--since", before.Format(time.RFC3339Nano), "--until", before.Format(time.RFC3339Nano)}, "", ""},
		{[]string{"--since", "1h"}, "one\nthree\nfour\n", "two\n"},
		{[]string{"--since", strconv.FormatInt(middle.Unix()+1000, 10)}, "", ""},
	} {
		r := h.do(append(append([]string{"logs"}, tt.flags...), id)...)
		if r.Code != 0 || r.Stdout != tt.out || r.Stderr != tt.e {
			t.Errorf("logs %q: %+v, want %q and %q", tt.flags, r, tt.out, tt.e)
		}
	}
	lines := strings.Split(strings.TrimSpace(h.do("logs", "--timestamps", id).Stdout), "\n")
	last := before
	for i, want := range []string{"one", "three", "four"} {
		stamp, text, _ := strings.Cut(lines[min(i, len(lines)-1)], " ")
		at, err := time.Parse(time.RFC3339Nano, stamp)
		if err != nil || text != want || at.Before(last) || at.After(time.Now()) {
			t.Errorf("line %d: %q, %v", i, lines, err)
		}
		last = at
	}
	h.refused("want a number of lines", "logs", "--tail", "x", id)
	h.refused("want a time such as", "logs", "--since", "yesterday", id)
	h.refused("--log-opt needs --detach", "run", "--log-opt", "max-size=1m", "--image", "base", h.id(), "true")
	h.refused("at least 64k", "run", "-d", "--log-opt", "max-size=1k", "--image", "base", h.id(), "true")
	h.refused("max-file", "run", "-d", "--log-opt", "max-file=0", "--image", "base", h.id(), "true")
	h.refused("want max-size=BYTES or max-file=N", "run", "-d", "--log-opt", "tag=x", "--image", "base", h.id(), "true")
}

// The log has an end: the oldest goes, what is left is whole lines in order, and
// who follows all the time misses nothing.
func TestRootMonitorRotation(t *testing.T) {
	h := imageSetup(t).base()
	id := h.id()
	const lines = 30000
	h.must("run", "-d", "-i", "--log-opt", "max-size=64k", "--log-opt", "max-file=3", "--image", "base", id, "sh", "-c",
		fmt.Sprintf("read x; i=0; while [ $i -lt %d ]; do i=$((i+1)); echo line $i; done", lines))
	in, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/%d", h.monitorOf(id), monitorInput), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = in.WriteString("go\n")
	in.Close()
	if err != nil {
		t.Fatal(err)
	}
	h.must("wait", id)
	var names []string
	for _, e := range h.dir(id) {
		if strings.Contains(e, "log") {
			names = append(names, e)
			st, err := os.Stat(filepath.Join(h.root, id, e))
			if err != nil || st.Size() > 64<<10+2*(16<<10) {
				t.Errorf("%s: %v, %v", e, st.Size(), err)
			}
		}
	}
	if got := strings.Join(names, " "); got != "output.log output.log.1 output.log.2" {
		t.Errorf("log files %q", got)
	}
	got := strings.Split(strings.TrimSpace(h.must("logs", id)), "\n")
	first := 0
	if _, err := fmt.Sscanf(got[1], "line %d", &first); err != nil { // got[0] may be a part
		t.Fatalf("the second line is %q", got[1])
	}
	for i, l := range got[1:] {
		if l != "line "+strconv.Itoa(first+i) {
			t.Fatalf("line %q after %q", l, got[i])
		}
	}
	if last := got[len(got)-1]; last != "line "+strconv.Itoa(lines) {
		t.Errorf("the last line is %q", last)
	}
	h.must("delete", id)
	h.clean("deleted")
}

func (h *imageHost) dir(id string) (names []string) {
	h.t.Helper()
	list, err := os.ReadDir(filepath.Join(h.root, id))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// A disk that is full does not stop the container, and when there is room again
// the log goes on. What was cut short does not hide what follows.
func TestRootMonitorFullDisk(t *testing.T) {
	h := imageSetup(t).base()
	imageDisk(t, h.root, "size=1m,mode=0700")
	id := h.id()
	h.must("run", "-d", "-i", "--image", "base", id, "sh", "-c", "while read x; do echo $x; done")
	in, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/%d", h.monitorOf(id), monitorInput), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	say := func(s string) {
		if _, err := in.WriteString(s + "\n"); err != nil {
			t.Fatal(err)
		}
	}
	say("before")
	eventually(t, "it is in the log", func() bool { return h.must("logs", id) == "before\n" })
	filler := filepath.Join(h.root, "filler")
	if err := os.WriteFile(filler, make([]byte, 2<<20), 0o600); err == nil {
		t.Fatal("the disk is larger than it should be")
	}
	// The container writes until nothing more fits into the last page of the log.
	long := strings.Repeat("x", 3000)
	for range 4 {
		say(long)
	}
	eventually(t, "the container has read everything", func() bool {
		n, err := unix.IoctlGetInt(int(in.Fd()), unix.TIOCINQ)
		return err == nil && n == 0
	})
	if s := h.status(id); s != "running" {
		t.Errorf("status %q", s)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the log goes on", func() bool {
		say("after")
		got := h.do("logs", id).Stdout // it warns, too
		return strings.HasPrefix(got, "before\n") && strings.HasSuffix(got, "after\n")
	})
	h.must("kill", id, "KILL")
	if got := h.must("wait", id); got != "137\n" {
		t.Errorf("wait: %q", got)
	}
	h.must("delete", id)
}

// How a container ends is recorded on a full disk too, and who reads the log is told
// that it is not all of it.
func TestRootMonitorFullDisk_End(t *testing.T) {
	h := imageSetup(t).base()
	imageDisk(t, h.root, "size=1m,mode=0700")
	whole, cut := h.id(), h.id()
	h.must("run", "-d", "--image", "base", whole, "sh", "-c", "echo whole; exit 6")
	h.must("wait", whole)
	h.must("run", "-d", "-i", "--image", "base", cut, "sh", "-c", "echo begins; read x; head -c 20000 /dev/zero; exit 7")
	eventually(t, "it writes", func() bool { return h.must("logs", cut) == "begins\n" })
	if err := os.WriteFile(filepath.Join(h.root, "filler"), make([]byte, 2<<20), 0o600); err == nil {
		t.Fatal("the disk is larger than it should be")
	}
	in, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/%d", h.monitorOf(cut), monitorInput), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = in.WriteString("go\n")
	in.Close()
	if err != nil {
		t.Fatal(err)
	}
	if got := h.must("wait", cut); got != "7\n" {
		t.Errorf("wait: %q", got)
	}
	const warning = "minirun: warning: some output is missing"
	if r := h.do("logs", cut); !strings.HasPrefix(r.Stdout, "begins\n") || !strings.Contains(r.Stderr, warning) || len(r.Stdout) > 10000 {
		t.Errorf("logs of what was cut: %d bytes, %q", len(r.Stdout), r.Stderr)
	}
	if r := h.do("logs", whole); r.Stdout != "whole\n" || r.Stderr != "" {
		t.Errorf("logs of what was not: %q, %q", r.Stdout, r.Stderr)
	}
	h.must("delete", cut)
	h.must("delete", whole)
}

// With --rm a detached container goes by itself, whatever ends it.
func TestRootMonitorRemove(t *testing.T) {
	h := imageSetup(t).base()
	for _, kill := range []bool{false, true} {
		id := h.id()
		script := "echo data > /data/file; exit 3"
		if kill {
			script = "while :; do sleep 1000; done"
		}
		h.must("run", "-d", "--rm", "-v", "/data", "--image", "base", id, "sh", "-c", script)
		if kill {
			h.must("kill", id, "KILL")
		}
		eventually(t, "it is gone", func() bool { return h.do("state", id).Code != 0 })
		eventually(t, "its directory is gone", func() bool {
			_, err := os.Stat(filepath.Join(h.root, id))
			return os.IsNotExist(err)
		})
		h.clean("removed")
		eventually(t, "its volume is gone", func() bool { return len(h.entries("volumes")) == 0 })
	}
	// Deleting one that is about to go by itself is not an error that leaves something.
	for range 5 {
		id := h.id()
		h.must("run", "-d", "--rm", "--image", "base", id, "sleep", "1000")
		h.must("delete", "--force", id)
		eventually(t, "it is gone", func() bool { return h.do("state", id).Code != 0 })
	}
	eventually(t, "nothing is left", func() bool { return len(h.entries("overlay/snapshots")) == 0 })
	h.clean("at the end")
}

// Monitor and init are killed at every one of their operations: run says so or has
// done it, and delete --force leaves nothing.
func TestRootMonitorCrash(t *testing.T) {
	h := imageSetup(t).base()
	id := h.id()
	points := 0
	for n := 1; ; n += 5 {
		code, reached := tracedRun(t, containerInit, n, nil, h.command("run", "-d", "--image", "base", id, "sleep", "1000")...)
		h.converge("killed at operation "+strconv.Itoa(n), id)
		if !reached && code != 0 || code < 0 {
			t.Errorf("killed at operation %d: %v, exit status %d", n, reached, code)
		}
		if t.Failed() || !reached {
			break
		}
		points++
	}
	t.Logf("%d crash points", points)
	if points < 10 {
		t.Errorf("only %d crash points", points)
	}
}

// minirun is killed between the opening of the gate and its word to the monitor: the
// container runs, and does not wait for ever for somebody who reads its output.
func TestRootMonitorOrphan(t *testing.T) {
	h := imageSetup(t).base()
	for _, flags := range [][]string{nil, {"--userns", "auto"}} {
		id, dir := h.id(), t.TempDir()
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		const lines = 20000 // more than the pipe takes
		args := append([]string{"run", "-d", "-v", dir + ":/marks", "--image", "base"}, flags...)
		args = append(args, id, "sh", "-c", "seq "+strconv.Itoa(lines)+"; echo > /marks/over; exec sleep 1000")
		if _, reached := tracedRun(t, minirunItself, 1, []uint64{unix.SYS_SENDMSG}, h.command(args...)...); !reached {
			t.Fatal("it was not killed")
		}
		eventually(t, "its output is taken", func() bool { _, err := os.Stat(dir + "/over"); return err == nil })
		if s := h.status(id); s != "running" {
			t.Errorf("it is %s", s)
		}
		eventually(t, "its output is in the log", func() bool { return strings.Count(h.must("logs", id), "\n") == lines })
		monitor := h.monitorOf(id)
		h.converge("killed before its word to the monitor", id)
		eventually(t, "the monitor has ended", func() bool { return !alive(monitor) })
	}
}

// Without its monitor a container goes on, can be used and deleted; that nobody
// knows its status is said.
func TestRootMonitorKilled(t *testing.T) {
	h := imageSetup(t).base()
	id := h.id()
	h.must("run", "-d", "--image", "base", id, "sh", "-c", "trap '' PIPE; echo hello; while :; do sleep 1000; done")
	eventually(t, "it runs", func() bool { return h.must("logs", id) == "hello\n" })
	pid := h.monitorOf(id)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the monitor is dead", func() bool {
		s, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		return err != nil || strings.Contains(string(s), ") Z ")
	})
	if got := h.must("exec", id, "echo", "alive"); got != "alive\n" {
		t.Errorf("exec: %q", got)
	}
	if got := h.must("logs", "-f", id); got != "hello\n" { // does not wait for what cannot come
		t.Errorf("logs: %q", got)
	}
	h.must("kill", id, "KILL")
	h.waitStatus(id, "stopped")
	// Its status is known as long as nobody has reaped it.
	if r := h.do("wait", id); r.Code != 0 && !strings.Contains(r.Stderr, "not known any more") || r.Code == 0 && r.Stdout != "137\n" {
		t.Errorf("wait: %+v", r)
	}
	h.must("delete", id)
	h.clean("deleted")
}

// A monitor that is killed while its container is started: either nothing has run,
// and that is an error, or the container runs without a monitor.
func TestRootMonitorKilledEarly(t *testing.T) {
	h := imageSetup(t).base()
	dir := t.TempDir()
	told := false
	for n := 1; ; n++ {
		id := h.id()
		mark := filepath.Join(dir, strconv.Itoa(n))
		code, stderr, reached := failedRun(t, unix.EPIPE, n, func(_ int, nr uint64, _ [7]uint64) bool { return nr == unix.SYS_SENDMSG },
			h.command("run", "-d", "-v", dir+":/marks", "--image", "base", id, "sh", "-c", "echo > /marks/"+filepath.Base(mark)+"; exec sleep 1000")...)
		ran := func() bool { _, err := os.Stat(mark); return err == nil }
		if code == 0 {
			told = told || reached
			eventually(t, "it runs", func() bool { return ran() && h.status(id) == "running" })
			h.must("delete", "--force", id)
		} else if h.do("state", id).Code == 0 || ran() {
			t.Errorf("call %d: run says %d %q, and there is a container, or it ran: %v", n, code, stderr, ran())
		}
		if !reached {
			break
		}
	}
	if !told {
		t.Error("no call told the monitor")
	}
	h.clean("deleted")
}

// Who follows the log gets everything and does not poll.
func TestRootMonitorFollow(t *testing.T) {
	h := imageSetup(t).base()
	id := h.id()
	h.must("run", "-d", "-i", "--log-opt", "max-size=64k", "--log-opt", "max-file=100", "--image", "base", id, "sh", "-c",
		"read x; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo line $i; done")
	follower := testenv.Command(t, h.command("logs", "-f", id)...)
	var out bytes.Buffer
	follower.Stdout = &out
	if err := follower.Start(); err != nil {
		t.Fatal(err)
	}
	in, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/%d", h.monitorOf(id), monitorInput), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.WriteString("go\n"); err != nil {
		t.Fatal(err)
	}
	in.Close()
	if err := follower.Wait(); err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	for i := 1; i <= 20000; i++ {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	if !bytes.Equal(out.Bytes(), want.Bytes()) {
		t.Errorf("%d bytes followed, want %d", out.Len(), want.Len())
	}
	// It also ends when the container is deleted.
	id = h.id()
	h.must("run", "-d", "--image", "base", id, "sh", "-c", "echo x; sleep 1000")
	eventually(t, "it runs", func() bool { return h.must("logs", id) == "x\n" })
	second := testenv.Command(t, h.command("logs", "-f", id)...)
	if err := second.Start(); err != nil {
		t.Fatal(err)
	}
	h.must("delete", "--force", id)
	if err := second.Wait(); err != nil {
		t.Errorf("logs -f of a container that was deleted: %v", err)
	}
}
