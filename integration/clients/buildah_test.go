package clients

import (
	"fmt"
	"testing"
)

// newBuildah configures buildah like podman; the runtime is named by a flag.
func newBuildah(t *testing.T, runtime string) *client {
	t.Helper()
	c := newClient(t, runtime)
	conf := c.write("containers.conf", "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\nnetns = \"none\"\n[engine]\ncgroup_manager = \"cgroupfs\"\n", 0o644)
	storage := c.write("storage.conf", fmt.Sprintf("[storage]\ndriver = \"overlay\"\ngraphroot = \"%s/graph\"\nrunroot = \"/run/containers/storage\"\n", c.dir), 0o644)
	c.env = append(c.env, "CONTAINERS_CONF="+conf, "CONTAINERS_STORAGE_CONF="+storage, "BUILDAH_ISOLATION=oci")
	c.command = []string{"/usr/bin/buildah"}
	return c
}

func TestRootClientsBuildah(t *testing.T) {
	for _, runtime := range []string{"minirun", "runc"} {
		t.Run(runtime, func(t *testing.T) { buildahScript(newBuildah(t, runtime)) })
	}
}

func buildahScript(c *client) {
	c.ok("pull", "-q", "docker-archive:"+c.image())
	c.ok("from", "--pull-never", "--name", "work", "docker.io/library/img:1")
	run := func(args ...string) []string {
		return append([]string{"run", "--runtime", c.wrapper, "--network=none"}, args...)
	}
	c.prints("1000\n/tmp\nx y\nshared", run("--user", "1000", "--workingdir", "/tmp", "-e", "X=x y", "-v", c.write("share/file", "shared\n", 0o644)+":/file:ro", "work", "--",
		"sh", "-c", `id -u; pwd; echo "$X"; cat /file`)...)
	c.prints("0000000000000000", run("--cap-drop=all", "work", "--", "awk", "/^CapBnd/{print $2}", "/proc/self/status")...)
	c.exits(7, "", run("work", "--", "sh", "-c", "exit 7")...)
	c.exits(1, "executable file not found in $PATH", run("work", "--", "nosuchprogram")...) // buildah has one status for all of these
	if r := c.typed("tty; echo $((6*7))\n", "42", run("--tty", "work", "--", "sh")...); r.Code != 5 {
		c.t.Errorf("run --tty: %+v", r)
	}
	c.ok("rm", "work")

	// A build with steps that run.
	c.write("context/Containerfile", `FROM docker.io/library/img:1
RUN echo built >/etc/built && chown 1000 /etc/built
USER 1000
RUN id -u >/tmp/user && test $(stat -c %u /etc/built) = 1000
RUN --mount=type=tmpfs,target=/scratch touch /scratch/x && mkdir /tmp/dir
CMD ["cat", "/etc/built"]
`, 0o644)
	c.ok("build", "--runtime", c.wrapper, "--network=none", "--pull-never", "-t", "built", c.dir+"/context")
	c.ok("from", "--pull-never", "--name", "again", "localhost/built")
	c.prints("built\n1000", run("again", "--", "cat", "/etc/built", "/tmp/user")...)
	c.exits(1, "not permitted", "build", "--runtime", c.wrapper, "--network=none", "--pull-never", "--security-opt", "seccomp="+c.write("seccomp.json", seccompProfile, 0o644),
		"-f", c.write("refused", "FROM docker.io/library/img:1\nRUN mkdir /tmp/dir\n", 0o644), c.dir+"/context")
	c.exits(9, "", "build", "--runtime", c.wrapper, "--network=none", "--pull-never", "-f", c.write("failing", "FROM docker.io/library/img:1\nRUN exit 9\n", 0o644), c.dir+"/context")
	c.checkCalls("buildah")
	c.nothingLeft("", "/run/"+c.runtime)
}
