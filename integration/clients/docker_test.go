package clients

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// dockerd is the daemon with the docker command of the same package.
type dockerd struct {
	*client
	stop func(syscall.Signal)
}

func newDocker(t *testing.T, runtime string) *dockerd {
	t.Helper()
	c := &dockerd{client: newClient(t, runtime)}
	// A runtime called runc cannot be registered: that name is dockerd's own, for the runc in its PATH, which is the wrapper.
	more := ""
	if runtime != "runc" {
		more = fmt.Sprintf(`"runtimes": {%q: {"path": %q}},`, runtime, c.wrapper)
	}
	c.write("daemon.json", fmt.Sprintf(`{%s "default-runtime": %q, "data-root": "%[3]s/docker", "exec-root": "/run/docker", "pidfile": "/run/docker.pid",
 "hosts": ["unix:///run/docker.sock"], "storage-driver": "overlay2", "exec-opts": ["native.cgroupdriver=cgroupfs"], "live-restore": true,
 "oom-score-adjust": 0, "userland-proxy": false, "ip6tables": false}`, more, runtime, c.dir), 0o644)
	c.env = append(c.env, "DOCKER_HOST=unix:///run/docker.sock")
	c.command = []string{"/usr/bin/docker"}
	c.start()
	c.ok("load", "-qi", c.image())
	return c
}

func (c *dockerd) start() {
	c.t.Helper()
	c.stop = c.serve("dockerd.log", func() bool { return c.do("version").Code == 0 }, "/usr/sbin/dockerd", "--config-file", filepath.Join(c.dir, "daemon.json"))
}

func TestRootClientsDocker(t *testing.T) {
	for _, runtime := range []string{"minirun", "runc"} {
		t.Run(runtime, func(t *testing.T) { dockerScript(newDocker(t, runtime)) })
	}
}

func dockerScript(c *dockerd) {
	t := c.t
	run := func(args ...string) []string { return append([]string{"run", "--rm", "--network=none"}, args...) }
	c.prints(c.runtime, "info", "--format", "{{.DefaultRuntime}}")
	c.prints("hello", run("img:1", "echo", "hello")...)
	c.exits(7, "", run("img:1", "sh", "-c", "exit 7")...)
	c.exits(127, "executable file not found in $PATH", run("img:1", "nosuchprogram")...)
	c.exits(127, "no such file or directory", run("img:1", "/no/such/program")...)
	c.exits(126, "permission denied", run("img:1", "/etc/passwd")...)
	c.write("share/file", "shared\n", 0o644)
	c.prints(strings.Join([]string{
		"1000:1000", "0000000000000000", "00000000000000c1", "1", "/tmp", "x y", "box", "shared", "ro: refused", "root: refused",
		"tmpfs rw", "volume rw", "8192", "EPERM", "7777",
	}, "\n"), run("--user", "user", "--cap-drop=all", "--cap-add=chown", "--cap-add=setgid", "--cap-add=setuid", "--security-opt", "no-new-privileges",
		"-w", "/tmp", "-e", "X=x y", "--hostname", "box", "--read-only", "--tmpfs", "/scratch:size=1m,mode=1777",
		"-v", c.dir+"/share:/share:ro", "--mount", "type=volume,src=vol,dst=/home/user", "--shm-size", "8m", "--sysctl", "kernel.msgmax=7777",
		"--security-opt", "seccomp="+c.write("seccomp.json", seccompProfile, 0o644),
		"img:1", "sh", "-c", `echo $(id -u):$(id -g); awk '/^CapEff/{print $2}/^CapBnd/{print $2}/^NoNewPrivs/{print $2}' /proc/self/status
pwd; echo "$X"; hostname; cat /share/file; echo x 2>/dev/null >/share/file || echo ro: refused; { echo x >/bin/file; } 2>/dev/null || echo root: refused
echo x >/scratch/file && echo tmpfs rw; echo x >/home/user/file && echo volume rw; df -k /dev/shm | awk 'NR>1{print $2}'
mkdir /scratch/dir 2>&1 | grep -q 'not permitted' && echo EPERM; cat /proc/sys/kernel/msgmax`)...)
	c.prints("x", run("-v", "vol:/vol", "img:1", "cat", "/vol/file")...)
	if r := c.typed("tty; echo $((6*7))\n", "42", run("-it", "img:1", "sh")...); r.Code != 5 || !strings.Contains(r.Stdout, "/dev/pts/0") || !strings.Contains(r.Stdout, "42") {
		t.Errorf("run -it: %+v", r)
	}
	if out := c.piped("from outside\n", run("-i", "img:1", "cat")...); out != "from outside\n" {
		t.Errorf("run -i: %q", out)
	}
	dockerNetwork(c)

	// From its start to its end, past the end of dockerd: live restore.
	c.ok("run", "-d", "--network=none", "--name", "one", "--stop-timeout", "60", "img:1", "sh", "-c", waits)
	eventually(t, "docker logs shows what the container says", func() bool { return c.ok("logs", "one") == "up\n" })
	c.prints("in", "exec", "one", "echo", "in")
	c.exits(4, "", "exec", "one", "sh", "-c", "exit 4")
	c.exits(137, "", "exec", "one", "sh", "-c", "kill -9 $$")
	c.exits(126, "executable file not found", "exec", "one", "nosuchprogram") // docker 20.10 has 126 for both
	c.exits(126, "permission denied", "exec", "one", "/etc/passwd")
	c.prints("1000\n/tmp\nx", "exec", "--user", "1000", "-w", "/tmp", "-e", "X=x", "one", "sh", "-c", "id -u; pwd; echo $X")
	if r := c.typed("tty; echo $((6*7))\n", "42", "exec", "-it", "one", "sh"); r.Code != 5 || !strings.Contains(r.Stdout, "/dev/pts/0") || !strings.Contains(r.Stdout, "42") {
		t.Errorf("exec -it: %+v", r)
	}
	eventually(t, "top shows the processes", func() bool { return strings.Contains(c.ok("top", "one", "-o", "pid,args"), "sleep 10000") })
	c.write("share/in", "copied\n", 0o644)
	c.ok("cp", c.dir+"/share/in", "one:/tmp/in")
	c.prints("copied", "exec", "one", "cat", "/tmp/in")
	c.ok("cp", "one:/tmp/in", c.dir+"/share/out")
	if b, err := os.ReadFile(c.dir + "/share/out"); string(b) != "copied\n" {
		t.Errorf("cp from the container: %q, %v", b, err)
	}
	c.ok("exec", "-d", "one", "sh", "-c", "echo detached >/tmp/detached")
	eventually(t, "exec -d has run", func() bool { return c.do("exec", "one", "cat", "/tmp/detached").Stdout == "detached\n" })
	c.ok("pause", "one")
	c.prints("paused", "inspect", "-f", "{{.State.Status}}", "one")
	c.exits(1, "paused", "exec", "one", "true")
	c.ok("unpause", "one")
	c.prints("sleep 10000", run("--pid=container:one", "img:1", "sh", "-c", "ps -o args | grep '^sleep 10000'")...)
	pid := c.ok("inspect", "-f", "{{.State.Pid}}", "one")
	for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGKILL} {
		c.stop(sig)
		c.start()
		c.prints("running "+strings.TrimSpace(pid), "inspect", "-f", "{{.State.Status}} {{.State.Pid}}", "one")
	}
	c.prints("again", "exec", "one", "echo", "again")
	c.ok("stop", "one")
	c.prints("3", "inspect", "-f", "{{.State.ExitCode}}", "one")
	c.prints("up\nterm", "logs", "one")
	c.ok("start", "one")
	eventually(t, "it runs again", func() bool { return strings.HasSuffix(c.ok("logs", "one"), "term\nup\n") })
	c.ok("restart", "-t", "60", "one")
	c.exits(1, "running", "rm", "one")
	c.ok("kill", "one")
	c.prints("137", "wait", "one")
	c.ok("rm", "one")
	c.ok("run", "-d", "--network=none", "--name", "two", "--restart=on-failure:1", "img:1", "sh", "-c", "echo run; exit 1")
	eventually(t, "the container has been started again", func() bool { return c.ok("logs", "two") == "run\nrun\n" })
	c.ok("rm", "-f", "two")
	if out := strings.TrimSpace(c.ok("ps", "-aq")); out != "" {
		t.Errorf("containers are left: %s", out)
	}
	c.stop(unix.SIGTERM)
	c.checkCalls("docker")
	c.nothingLeft("docker", "/run/docker/runtime-runc/moby")
}

// Docker attaches a container to its bridge by a prestart hook.
func dockerNetwork(c *dockerd) {
	t := c.t
	c.ok("run", "-d", "--name", "server", "img:1", "sh", "-c", "while :; do echo from the server | nc -l -p 8080; done")
	addr := strings.TrimSpace(c.ok("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "server"))
	if !strings.HasPrefix(addr, "172.") {
		t.Errorf("the server's address is %q", addr)
	}
	eventually(t, "a container reaches another through docker's bridge", func() bool {
		return c.do("run", "--rm", "img:1", "nc", addr, "8080").Stdout == "from the server\n"
	})
	ns := []string{"readlink", "/proc/self/ns/net"}
	c.prints(strings.TrimSpace(c.ok(append([]string{"exec", "server"}, ns...)...)), append([]string{"run", "--rm", "--network=container:server", "img:1"}, ns...)...)
	c.ok("rm", "-f", "server")
}
