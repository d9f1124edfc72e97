package clients

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/minirun/minirun/internal/testenv"
)

// TestRootClientsConmon drives conmon as CRI-O does, which is no package of Debian's.
func TestRootClientsConmon(t *testing.T) {
	for _, runtime := range []string{"minirun", "runc"} {
		t.Run(runtime, func(t *testing.T) { conmonScript(newClient(t, runtime)) })
	}
}

func conmonScript(c *client) {
	t := c.t
	id := strings.Repeat("0123456789abcdef", 4)
	bundle := testenv.Bundle(t, func(s *specs.Spec) {
		s.Linux.CgroupsPath = "/conmon/" + id
		s.Process.Args = []string{"sh", "-c", waits}
		s.Process.Terminal = false
	})
	for _, d := range []string{"exits", "attach", "persist"} {
		if err := os.Mkdir(filepath.Join(c.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(c.dir, name) }
	root := "--root=/run/cri"
	// conmon reports through a pipe whose number is in _OCI_SYNCPIPE: the pid of the container, or an error of the runtime.
	// For exec a second report has the exit status.
	type report struct {
		Data    int    `json:"data"`
		Message string `json:"message"`
	}
	conmon := func(reports int, args ...string) (last report) {
		t.Helper()
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		cmd := c.sandbox.command(append([]string{
			"/usr/bin/conmon", "--api-version", "1", "-c", id, "-n", "name", "-u", id, "-r", c.wrapper, "--runtime-arg", root, "-b", bundle,
			"--exit-dir", at("exits"), "--socket-dir-path", at("attach"), "--persist-dir", at("persist"),
		}, args...)...)
		cmd.ExtraFiles = []*os.File{w}
		cmd.Env = append(cmd.Env, "_OCI_SYNCPIPE=3")
		res := testenv.RunCmdWithin(t, cmd, patience)
		w.Close()
		r.SetReadDeadline(time.Now().Add(testenv.Timeout(patience)))
		decoder := json.NewDecoder(r)
		for i := 0; i < reports && last.Data >= 0; i++ {
			if err := decoder.Decode(&last); err != nil {
				t.Fatalf("conmon's report: %v\n%+v", err, res)
			}
		}
		return last
	}
	runtime := func(args ...string) testenv.Result {
		return c.run(append([]string{c.wrapper, root}, args...)...)
	}
	must := func(args ...string) string {
		t.Helper()
		r := runtime(args...)
		if r.Code != 0 {
			t.Fatalf("%q: %+v", args, r)
		}
		return r.Stdout
	}
	status := func() string {
		t.Helper()
		var s struct{ Status string }
		if err := json.Unmarshal([]byte(must("state", id)), &s); err != nil {
			t.Fatal(err)
		}
		return s.Status
	}
	created := conmon(1, "-l", "k8s-file:"+at("log"), "-p", at("pid"), "-P", at("conmonpid"))
	if created.Data <= 0 || status() != "created" {
		t.Fatalf("create through conmon: %+v", created)
	}
	must("start", id)
	eventually(t, "the container's output is in conmon's log", func() bool { b, _ := os.ReadFile(at("log")); return strings.Contains(string(b), "stdout F up\n") })
	if b, err := os.ReadFile(at("pid")); string(b) != fmt.Sprint(created.Data) {
		t.Errorf("pid file %q, %v, conmon says %d", b, err, created.Data)
	}

	// exec in its two forms: one that ends by itself, on a terminal, and one that cannot start.
	process := func(args ...string) string {
		p := specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}, Terminal: args[0] == "tty"}
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		return c.write("process.json", string(b), 0o644)
	}
	exec := func(log string, args ...string) int {
		t.Helper()
		flags := []string{"-e", "-l", "k8s-file:" + at(log), "-p", at(log + ".pid"), "--exec-process-spec", process(args...)}
		if args[0] == "tty" {
			flags = append(flags, "-t")
		}
		r := conmon(2, append(flags, "--sync")...)
		return r.Data
	}
	if code := exec("exec", "sh", "-c", "echo in; exit 4"); code != 4 {
		t.Errorf("exec: conmon reports %d, want 4", code)
	}
	if b, _ := os.ReadFile(at("exec")); !strings.Contains(string(b), "stdout F in\n") {
		t.Errorf("exec: conmon's log is %q", b)
	}
	if code := exec("ttylog", "tty"); code != 0 {
		t.Errorf("exec with a terminal: conmon reports %d", code)
	}
	if b, _ := os.ReadFile(at("ttylog")); !strings.Contains(string(b), "/dev/pts/0") {
		t.Errorf("exec with a terminal: conmon's log is %q", b)
	}
	if code := exec("nolog", "nosuchprogram"); code != -1 {
		t.Errorf("exec of a program that is not there: conmon reports %d", code)
	}
	must("pause", id)
	if s := status(); s != "paused" {
		t.Errorf("status %s", s)
	}
	must("resume", id)
	must("kill", id, "15")
	eventually(t, "conmon writes the exit file", func() bool { b, _ := os.ReadFile(filepath.Join(at("exits"), id)); return string(b) == "3" })
	eventually(t, "the container is stopped", func() bool { return status() == "stopped" })
	// CRI-O and the shim's CRI kill what is already dead.
	if r := runtime("kill", "--all", id, "9"); r.Code != 0 {
		t.Errorf("kill --all of a stopped container: %+v", r)
	}
	must("delete", id)
	must("delete", "--force", id)

	// Killed by a signal; and one whose conmon is killed, which goes on without it.
	again := func() {
		t.Helper()
		os.Remove(filepath.Join(at("exits"), id))
		if r := conmon(1, "-l", "k8s-file:"+at("log"), "-p", at("pid"), "-P", at("conmonpid")); r.Data <= 0 {
			t.Fatalf("create through conmon: %+v", r)
		}
		must("start", id)
	}
	again()
	must("kill", id, "9")
	eventually(t, "conmon writes the exit file", func() bool { b, _ := os.ReadFile(filepath.Join(at("exits"), id)); return string(b) == "137" })
	must("delete", id)
	again()
	pid, err := os.ReadFile(at("conmonpid"))
	if err != nil {
		t.Fatal(err)
	}
	if r := c.run("kill", "-9", strings.TrimSpace(string(pid))); r.Code != 0 {
		t.Fatalf("kill conmon: %+v", r)
	}
	eventually(t, "conmon has ended", func() bool { return c.run("kill", "-0", strings.TrimSpace(string(pid))).Code != 0 })
	if s := status(); s != "running" {
		t.Errorf("without its conmon the container is %s", s)
	}
	must("delete", "--force", id)
	c.nothingLeft("conmon", "/run/cri")
}
