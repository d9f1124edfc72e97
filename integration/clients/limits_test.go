package clients

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What a container says about its own limits, and then stays.
const tellsLimits = `cd /sys/fs/cgroup; cat memory.max pids.max cpu.max; sleep 10000 & wait`

func TestVMClientsPodman(t *testing.T) {
	for _, runtime := range []string{"minirun", "runc"} {
		t.Run(runtime, func(t *testing.T) {
			c := newPodman(t, runtime)
			c.enableControllers()
			podmanLimits(c)
		})
	}
}

func podmanLimits(c *client) {
	t := c.t
	c.ok("run", "-d", "--name", "lim", "--memory", "64m", "--pids-limit", "30", "--cpus", "0.5", "img:1", "sh", "-c", tellsLimits)
	eventually(t, "the container has printed its limits", func() bool { return c.ok("logs", "lim") == "67108864\n30\n50000 100000\n" })
	c.ok("update", "--memory", "96m", "--cpus", "0.75", "lim")
	c.prints("100663296\n30\n75000 100000", "exec", "lim", "cat", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/cpu.max")
	c.prints("2", "stats", "--no-stream", "--format", "{{.PIDs}}", "lim")
	// The 30th process is refused; the shell says so and goes on.
	c.exits(0, "fork", "exec", "lim", "sh", "-c", "( for i in $(seq 40); do sleep 10000 & done ) 2>&1; true")
	c.ok("rm", "-f", "-t", "0", "lim")
	c.exits(137, "", "run", "--rm", "--memory", "16m", "img:1", "tail", "-c", "64m", "/dev/zero")
	c.checkUpdate("update --resources=FILE ID")
	c.nothingLeft("libpod_parent", "/run/"+c.runtime)
}

func TestVMClientsContainerd(t *testing.T) {
	for _, runtime := range []string{"minirun", "runc"} {
		t.Run(runtime, func(t *testing.T) {
			c := newContainerd(t, runtime)
			c.enableControllers()
			containerdLimits(c)
			containerdScript(c)
		})
	}
}

func containerdLimits(c *containerd) {
	t := c.t
	c.ok(c.args([]string{"-d", "--memory-limit", "67108864", "--cpu-quota", "50000", "--cpu-period", "100000"}, "lim", "sleep", "10000")...)
	files := func(want string) {
		t.Helper()
		var have []string
		for _, f := range []string{"memory.max", "cpu.max"} {
			b, err := os.ReadFile(filepath.Join(c.group, "default/lim", f))
			if err != nil {
				t.Fatal(err)
			}
			have = append(have, strings.TrimSpace(string(b)))
		}
		if got := strings.Join(have, ", "); got != want {
			t.Errorf("limits are %s, want %s", got, want)
		}
	}
	files("67108864, 50000 100000")
	out := c.ok("task", "metrics", "lim")
	for _, want := range []string{"pids.current 1", "memory.usage_limit 67108864"} {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), want) {
			t.Errorf("task metrics: want %s in\n%s", want, out)
		}
	}
	c.ok("task", "kill", "-s", "KILL", "lim")
	eventually(t, "the container has stopped", func() bool { return strings.Contains(c.ok("task", "ls"), "STOPPED") })
	c.ok("container", "rm", "lim")
	c.exits(137, "", c.args([]string{"--rm", "--memory-limit", "16777216"}, "oom", "tail", "-c", "64m", "/dev/zero")...)
}

func TestVMClientsDocker(t *testing.T) {
	for _, runtime := range []string{"minirun", "runc"} {
		t.Run(runtime, func(t *testing.T) {
			c := newDocker(t, runtime)
			c.enableControllers()
			dockerLimits(c)
		})
	}
}

func dockerLimits(c *dockerd) {
	t := c.t
	c.ok("run", "-d", "--network=none", "--name", "lim", "--memory", "64m", "--pids-limit", "30", "--cpus", "0.5", "img:1", "sh", "-c", tellsLimits)
	eventually(t, "the container has printed its limits", func() bool { return c.ok("logs", "lim") == "67108864\n30\n50000 100000\n" })
	c.ok("update", "--memory", "96m", "--memory-swap", "96m", "lim")
	// What update does not name stays.
	c.prints("100663296\n30\n50000 100000", "exec", "lim", "cat", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/cpu.max")
	c.prints("2", "stats", "--no-stream", "--format", "{{.PIDs}}", "lim")
	c.ok("rm", "-f", "lim")
	c.exits(137, "", "run", "--rm", "--network=none", "--memory", "16m", "img:1", "tail", "-c", "64m", "/dev/zero")
	c.stop(unix.SIGTERM)
	c.checkUpdate("--root ROOT --log LOG --log-format json update --resources - ID")
	c.nothingLeft("docker", "/run/docker/runtime-runc/moby")
}

// checkUpdate checks that the engine has called update, in one form.
func (c *client) checkUpdate(want string) {
	c.t.Helper()
	if have := c.calls(); !slices.Contains(have, want) {
		c.t.Errorf("no call %s in\n%s", want, strings.Join(have, "\n"))
	}
}
