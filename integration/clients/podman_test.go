package clients

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// newPodman configures podman: the cgroupfs driver, storage of its own, no
// network, and no rlimits or pids limit, which not every machine lets it set.
func newPodman(t *testing.T, runtime string) *client {
	t.Helper()
	c := newClient(t, runtime)
	for _, d := range []string{"hooks", "networks"} {
		if err := os.Mkdir(filepath.Join(c.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	conf := c.write("containers.conf", fmt.Sprintf(`[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
netns = "none"
pids_limit = 0
[network]
network_backend = "netavark"
network_config_dir = "%[1]s/networks"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "%[2]s"
runtime_supports_json = ["minirun", "runc", "crun"]
hooks_dir = ["%[1]s/hooks"]
tmp_dir = "/run/libpod"
volume_path = "%[1]s/volumes"
[engine.runtimes]
%[2]s = ["%[3]s"]
`, c.dir, runtime, c.wrapper), 0o644)
	storage := c.write("storage.conf", fmt.Sprintf("[storage]\ndriver = \"overlay\"\ngraphroot = \"%s/graph\"\nrunroot = \"/run/containers/storage\"\n", c.dir), 0o644)
	c.env = append(c.env, "CONTAINERS_CONF="+conf, "CONTAINERS_STORAGE_CONF="+storage)
	c.command = []string{"/usr/bin/podman"}
	c.ok("load", "-qi", c.image())
	return c
}

func TestRootClientsPodman(t *testing.T) {
	for _, runtime := range []string{"minirun", "runc"} {
		t.Run(runtime, func(t *testing.T) { podmanScript(newPodman(t, runtime)) })
	}
}

func podmanScript(c *client) {
	t := c.t
	run := func(args ...string) []string { return append([]string{"run", "--rm"}, args...) }
	c.prints(c.runtime, "info", "--format", "{{.Host.OCIRuntime.Name}}")

	// What a process sees, in as few containers as possible.
	c.prints("hello", run("img:1", "echo", "hello")...)
	c.exits(7, "", run("img:1", "sh", "-c", "exit 7")...)
	c.exits(127, "executable file not found in $PATH", run("img:1", "nosuchprogram")...)
	c.exits(127, "no such file or directory", run("img:1", "/no/such/program")...)
	c.exits(126, "permission denied", run("img:1", "/etc/passwd")...)
	if err := os.MkdirAll(filepath.Join(c.dir, "share"), 0o755); err != nil {
		t.Fatal(err)
	}
	c.write("share/file", "shared\n", 0o644)
	c.prints(strings.Join([]string{
		"1000:1000", "audio user", "00000000000000c1", "00000000000000c1", "1", "0027", "/tmp", "x y", "box",
		"shared", "ro: refused", "root: refused", "tmpfs rw", "volume rw", "nodev 1", "EPERM",
	}, "\n"), run("--user", "user", "--cap-drop=all", "--cap-add=chown,setgid,setuid", "--security-opt", "no-new-privileges",
		"--umask", "027", "-w", "/tmp", "-e", "X=x y", "--hostname", "box", "--read-only", "--tmpfs", "/scratch:size=1m,nodev",
		"-v", c.dir+"/share:/share:ro", "-v", "vol:/vol:U",
		"--security-opt", "seccomp="+c.write("seccomp.json", seccompProfile, 0o644),
		"img:1", "sh", "-c", `echo $(id -u):$(id -g); id -Gn | tr ' ' '\n' | sort | xargs
awk '/^CapEff/{print $2}/^CapBnd/{print $2}/^NoNewPrivs/{print $2}' /proc/self/status; umask; pwd; echo "$X"; hostname
cat /share/file; echo x 2>/dev/null >/share/file || echo ro: refused; { echo x >/bin/file; } 2>/dev/null || echo root: refused
echo x >/scratch/file && echo tmpfs rw; echo x >/vol/file && echo volume rw
echo nodev $(grep -c ' /scratch .*nodev.*size=1024k' /proc/self/mountinfo)
mkdir /scratch/dir 2>&1 | grep -q 'not permitted' && echo EPERM`)...)
	c.prints("x", run("-v", "vol:/vol", "img:1", "cat", "/vol/file")...)
	c.prints("ok", run("--privileged", "img:1", "sh", "-c", "mkdir /tmp/m && mount -t tmpfs tmpfs /tmp/m && echo ok")...)
	c.prints("passed", run("--init=false", "--preserve-fds=0", "--tmpfs", "/etc", "img:1", "sh", "-c",
		"grep -q '^user:' /etc/passwd && echo passed")...) // /etc keeps its files: tmpcopyup

	// Terminals and standard input.
	if r := c.typed("tty; stty size; echo $((6*7))\n", "42", run("-it", "img:1", "sh")...); r.Code != 5 || !strings.Contains(r.Stdout, "/dev/pts/0") || !strings.Contains(r.Stdout, "42") {
		t.Errorf("run -it: %+v", r)
	}
	if out := c.piped("from outside\n", run("-i", "img:1", "cat")...); out != "from outside\n" {
		t.Errorf("run -i: %q", out)
	}

	// One container from its start to its end.
	c.ok("run", "-d", "--name", "one", "--stop-timeout", "60", "img:1", "sh", "-c", waits)
	eventually(t, "podman logs shows what the container says", func() bool { return strings.TrimSpace(c.ok("logs", "one")) == "up" })
	c.prints("in\nbox2", "exec", "-e", "V=box2", "one", "sh", "-c", "echo in; echo $V")
	c.exits(4, "", "exec", "one", "sh", "-c", "exit 4")
	c.exits(137, "", "exec", "one", "sh", "-c", "kill -9 $$")
	c.exits(127, "executable file not found", "exec", "one", "nosuchprogram")
	c.exits(126, "permission denied", "exec", "one", "/etc/passwd")
	c.prints("1000\n/tmp", "exec", "--user", "1000", "-w", "/tmp", "one", "sh", "-c", "id -u; pwd")
	c.prints("/dev/pts/0", "exec", "-t", "one", "tty")
	if r := c.typed("echo $((6*7))\n", "42", "exec", "-it", "one", "sh"); r.Code != 5 || !strings.Contains(r.Stdout, "42") {
		t.Errorf("exec -it: %+v", r)
	}
	eventually(t, "top shows the processes", func() bool { return strings.Contains(c.ok("top", "one", "args"), "sleep 10000") })
	c.ok("exec", "-d", "one", "sh", "-c", "echo detached >/tmp/detached")
	eventually(t, "exec -d has run", func() bool { return c.do("exec", "one", "cat", "/tmp/detached").Stdout == "detached\n" })
	c.write("share/in", "copied\n", 0o644)
	c.ok("cp", c.dir+"/share/in", "one:/tmp/in")
	c.prints("copied", "exec", "one", "cat", "/tmp/in")
	c.ok("cp", "one:/tmp/in", c.dir+"/share/out")
	if b, err := os.ReadFile(c.dir + "/share/out"); string(b) != "copied\n" {
		t.Errorf("cp from the container: %q, %v", b, err)
	}
	c.ok("pause", "one")
	c.prints("paused", "inspect", "-f", "{{.State.Status}}", "one")
	c.exits(255, "", "exec", "one", "true")
	c.ok("unpause", "one")
	c.prints("running", "inspect", "-f", "{{.State.Status}}", "one")

	// Another one in its namespaces.
	c.prints("1\nsleep 10000", run("--pid=container:one", "img:1", "sh", "-c", "echo $(($$ > 2)); ps -o args | grep '^sleep 10000'")...)
	c.ok("stop", "one")
	c.prints("3", "inspect", "-f", "{{.State.ExitCode}}", "one")
	c.prints("up\nterm", "logs", "one")
	c.exits(255, "", "exec", "one", "true")

	// Once more, restarted while it runs, and killed.
	c.ok("start", "one")
	eventually(t, "it runs again", func() bool { return strings.HasSuffix(c.ok("logs", "one"), "term\nup\n") })
	c.ok("restart", "one")
	c.ok("kill", "-s", "KILL", "one")
	c.prints("137", "wait", "one")
	c.exits(125, "no such container", "kill", "nosuch")
	c.ok("rm", "one")
	c.ok("run", "-d", "--name", "two", "img:1", "sleep", "10000")
	c.exits(2, "running", "rm", "two")
	c.ok("rm", "-f", "-t", "0", "two")

	podmanPod(c)
	podmanOutlives(c)

	if out := strings.TrimSpace(c.ok("ps", "-aq")); out != "" {
		t.Errorf("containers are left: %s", out)
	}
	c.checkCalls("podman")
	c.nothingLeft("libpod_parent", "/run/"+c.runtime)
}

// Containers of a pod share namespaces that belong to none of them.
func podmanPod(c *client) {
	t := c.t
	c.ok("pod", "create", "--name", "pod", "--infra-image", "img:1", "--infra-command", "/bin/sleep 10000", "--share", "net,uts,ipc", "--share-parent=false", "--hostname", "podhost")
	c.ok("run", "-d", "--pod", "pod", "--name", "server", "img:1", "sleep", "10000")
	namespaces := []string{"sh", "-c", "hostname; for n in net uts ipc; do readlink /proc/self/ns/$n; done"}
	shared := c.ok(append([]string{"exec", "server"}, namespaces...)...)
	if !strings.HasPrefix(shared, "podhost\n") || strings.Count(shared, ":[") != 3 {
		t.Errorf("namespaces in the pod: %s", shared)
	}
	c.prints(strings.TrimSpace(shared), append([]string{"run", "--rm", "--pod", "pod", "img:1"}, namespaces...)...)
	if mnt := []string{"readlink", "/proc/self/ns/mnt"}; c.ok(append([]string{"exec", "server"}, mnt...)...) == c.ok(append([]string{"run", "--rm", "--pod", "pod", "img:1"}, mnt...)...) {
		t.Error("two containers of a pod have one mount namespace")
	}
	c.prints("Running", "pod", "inspect", "-f", "{{.State}}", "pod")
	c.ok("pod", "pause", "pod")
	c.prints("paused", "inspect", "-f", "{{.State.Status}}", "server")
	c.ok("pod", "unpause", "pod")
	c.ok("pod", "rm", "-f", "-t", "0", "pod")
}

// podman is no daemon: conmon keeps the container. When that is killed too, the
// container goes on, and podman can still kill and remove it.
func podmanOutlives(c *client) {
	t := c.t
	c.ok("run", "-d", "--name", "orphan", "img:1", "sh", "-c", waits)
	conmon := strings.TrimSpace(c.ok("inspect", "-f", "{{.State.ConmonPid}}", "orphan"))
	id := strings.TrimSpace(c.ok("inspect", "-f", "{{.Id}}", "orphan"))
	pid := strings.TrimSpace(c.ok("inspect", "-f", "{{.State.Pid}}", "orphan"))
	if r := c.run("kill", "-9", conmon); r.Code != 0 {
		t.Fatalf("kill conmon: %+v", r)
	}
	eventually(t, "conmon has ended", func() bool { return c.run("kill", "-0", conmon).Code != 0 })
	if r := c.run("kill", "-0", pid); r.Code != 0 {
		t.Errorf("the container ended with conmon: %+v", r)
	}
	c.ok("rm", "-f", "-t", "0", "orphan")
	eventually(t, "the container has ended", func() bool { return c.run("kill", "-0", pid).Code != 0 })
	// Without conmon podman 4.3 does not come to the runtime's delete.
	if r := c.run(c.wrapper, "delete", "--force", id); r.Code != 0 {
		t.Errorf("delete --force: %+v", r)
	}
}
