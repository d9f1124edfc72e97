package clients

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const ctrImage = "docker.io/library/img:1"

// containerd is its daemon, with ctr as its client.
type containerd struct {
	*client
	stop func(syscall.Signal)
}

func newContainerd(t *testing.T, runtime string) *containerd {
	t.Helper()
	c := &containerd{client: newClient(t, runtime)}
	// The last plugin makes directories in /opt.
	c.write("containerd.toml", fmt.Sprintf(`version = 2
root = "%s/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt"]
[grpc]
address = "/run/containerd/containerd.sock"
`, c.dir), 0o644)
	c.command = []string{"/usr/bin/ctr"}
	c.start()
	c.ok("image", "import", c.image())
	return c
}

func (c *containerd) start() {
	c.t.Helper()
	c.stop = c.serve("containerd.log", func() bool { return c.do("version").Code == 0 }, "/usr/bin/containerd", "--config", filepath.Join(c.dir, "containerd.toml"))
}

// args are a command of ctr that makes a container: ctr run, flags, image, name, program.
func (c *containerd) args(flags []string, name string, program ...string) []string {
	a := append([]string{"run", "--runtime", "io.containerd.runc.v2", "--runc-binary", c.wrapper}, flags...)
	return append(append(a, ctrImage, name), program...)
}

// runc fails on a machine without a cpu controller, because containerd asks for cpu.shares; TestVMClientsContainerd has it.
func TestRootClientsContainerd(t *testing.T) {
	t.Run("minirun", func(t *testing.T) { containerdScript(newContainerd(t, "minirun")) })
}

func containerdScript(c *containerd) {
	t := c.t
	rm := []string{"--rm"}
	c.prints("hello", c.args(rm, "one", "echo", "hello")...)
	c.exits(7, "", c.args(rm, "one", "sh", "-c", "exit 7")...)
	c.exits(137, "", c.args(rm, "one", "sh", "-c", "exec sh -c 'kill -9 $$; exit 137'")...)
	c.exits(1, `exec: "nosuchprogram": executable file not found in $PATH`, c.args(rm, "one", "nosuchprogram")...)
	c.exits(1, `stat /no/such: no such file or directory`, c.args(rm, "one", "/no/such")...)
	c.exits(1, `exec: "/etc/passwd": permission denied`, c.args(rm, "one", "/etc/passwd")...)
	if out := c.ok("container", "ls", "-q"); out != "" {
		t.Errorf("containers are left: %s", out)
	}
	c.write("share/file", "shared\n", 0o644)
	c.prints("1\n/tmp\nx y\nshared\nro: refused\nroot: refused\nEPERM\n00000000aa0425db", c.args([]string{
		"--rm", "--cap-drop", "CAP_KILL", "--cap-add", "CAP_SYS_TIME", "--cwd", "/tmp", "--env", "X=x y", "--read-only",
		"--mount", "type=bind,src=" + c.dir + "/share,dst=/share,options=rbind:ro", "--mount", "type=tmpfs,dst=/scratch,options=mode=1777:size=1m",
		"--seccomp", "--seccomp-profile=" + c.write("seccomp.json", seccompProfile, 0o644),
	}, "one", "sh", "-c", `awk '/^NoNewPrivs/{print $2}' /proc/self/status; pwd; echo "$X"; cat /share/file; echo x 2>/dev/null >/share/file || echo ro: refused
{ echo x >/bin/file; } 2>/dev/null || echo root: refused; mkdir /scratch/dir 2>&1 | grep -q 'not permitted' && echo EPERM
awk '/^CapBnd/{print $2}' /proc/self/status`)...)
	c.prints("ok", c.args([]string{"--rm", "--privileged"}, "one", "sh", "-c", "mkdir /tmp/m && mount -t tmpfs tmpfs /tmp/m && echo ok")...)
	if r := c.typed("tty; echo $((6*7))\n", "42", c.args([]string{"--rm", "-t"}, "one", "sh")...); r.Code != 5 || !strings.Contains(r.Stdout, "/dev/pts/0") || !strings.Contains(r.Stdout, "42") {
		t.Errorf("run -t: %+v", r)
	}

	// From its start to its end, past the end of containerd: the shim keeps it.
	c.ok(c.args([]string{"-d"}, "two", "sh", "-c", waits)...)
	c.prints("in", "task", "exec", "--exec-id", "e1", "two", "echo", "in")
	c.exits(4, "", "task", "exec", "--exec-id", "e2", "two", "sh", "-c", "exit 4")
	c.exits(1, "executable file not found", "task", "exec", "--exec-id", "e3", "two", "nosuchprogram")
	if r := c.typed("tty; echo $((6*7))\n", "42", "task", "exec", "-t", "--exec-id", "e4", "two", "sh"); r.Code != 5 || !strings.Contains(r.Stdout, "42") {
		t.Errorf("exec -t: %+v", r)
	}
	eventually(t, "ps shows a title, the shell and its sleep", func() bool { return strings.Count(c.ok("task", "ps", "two"), "\n") == 3 })
	pid := strings.Fields(c.ok("task", "ls"))[4] // below TASK, PID, STATUS: two, its pid
	c.prints("sleep 10000", c.args([]string{"--rm", "--with-ns", "pid:/proc/" + pid + "/ns/pid"}, "joined", "sh", "-c", "ps -o args | grep '^sleep 10000'")...)
	status := func(want string) {
		t.Helper()
		if out := c.ok("task", "ls"); !strings.Contains(out, want) {
			t.Errorf("task ls: %swant %s", out, want)
		}
	}
	c.ok("task", "pause", "two")
	status("PAUSED")
	c.exits(1, "paused", "task", "exec", "--exec-id", "e5", "two", "true")
	c.ok("task", "resume", "two")
	status("RUNNING")
	for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGKILL} {
		c.stop(sig)
		c.start()
		status("RUNNING")
	}
	c.prints("again", "task", "exec", "--exec-id", "e6", "two", "echo", "again")
	c.exits(1, "", "task", "rm", "two")
	c.ok("task", "kill", "-s", "TERM", "two")
	eventually(t, "the container has stopped", func() bool { return strings.Contains(c.ok("task", "ls"), "STOPPED") })
	c.exits(0, "exit code 3", "task", "rm", "two")
	c.ok("container", "rm", "two")

	// A container without an init in between, killed with all that it has.
	c.ok(c.args([]string{"-d"}, "three", "sh", "-c", "sleep 10000 & sleep 10000 & wait")...)
	c.ok("task", "kill", "-a", "-s", "KILL", "three")
	eventually(t, "the container has stopped", func() bool { return strings.Contains(c.ok("task", "ls"), "STOPPED") })
	c.ok("task", "rm", "three")
	c.ok("container", "rm", "three")
	c.stop(unix.SIGTERM)
	c.checkCalls("containerd", "one", "two", "three", "joined", "lim", "oom")
	c.nothingLeft("default", "/run/containerd/runc/default")
}
