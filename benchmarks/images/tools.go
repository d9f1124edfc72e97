package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// tool is one of those that are compared.
type tool struct {
	name, version string
	pull, rm      [][]string
	stores        []string // removed before a pull, with no daemon only
	group         *group
	daemon        *daemon
	skip          string // why it is not measured

	serve, probe []string // of the daemon
}

const image = "bench/mid:1"

// tools are all that may be measured. from is the registry's address.
func (b *bench) tools(from string) []*tool {
	at := func(name string) string { return filepath.Join(b.dir, name) }
	name := from + "/" + image
	minirun := func(kind string) *tool {
		global := []string{b.minirun, "--root", at("minirun.state"), "--store", at("minirun-" + kind)}
		return &tool{
			name: "minirun-" + kind, version: firstLine(b.minirun, "--version"),
			pull:   [][]string{append(global[:len(global):len(global)], "image", "pull", "--quiet", "--unpacker", kind, name)},
			rm:     [][]string{append(global[:len(global):len(global)], "image", "rm", name)},
			stores: []string{at("minirun-" + kind)},
		}
	}
	ctr := []string{"/usr/bin/ctr", "-a", at("containerd.sock")}
	podman := []string{"/usr/bin/podman", "--root", at("podman"), "--runroot", at("podman.run"), "--storage-driver", "overlay", "--cgroup-manager", "cgroupfs"}
	docker := []string{"/usr/bin/docker", "-H", "unix://" + at("docker.sock")}
	with := func(base []string, more ...string) []string { return append(base[:len(base):len(base)], more...) }
	return []*tool{
		minirun("index"), minirun("extract"),
		{
			name: "containerd", version: firstLine("/usr/bin/containerd", "--version"),
			serve: []string{"/usr/bin/containerd", "--config", at("containerd.toml")}, probe: with(ctr, "version"),
			pull: [][]string{with(ctr, "image", "pull", "--plain-http", name)},
			rm:   [][]string{with(ctr, "image", "rm", "--sync", name)},
		},
		{
			name: "podman", version: firstLine("/usr/bin/podman", "--version"),
			pull: [][]string{with(podman, "pull", "-q", "--tls-verify=false", name)},
			rm:   [][]string{with(podman, "rmi", name)}, stores: []string{at("podman"), at("podman.run")},
		},
		{
			name: "docker", version: firstLine("/usr/sbin/dockerd", "--version"),
			serve: []string{"/usr/sbin/dockerd", "--config-file", at("daemon.json")}, probe: with(docker, "version"),
			pull: [][]string{with(docker, "pull", "-q", name)},
			rm:   [][]string{with(docker, "rmi", name)},
		},
		{
			name: "skopeo+umoci", version: firstLine("/usr/bin/skopeo", "--version") + ", " + firstLine("/usr/bin/umoci", "--version"),
			pull: [][]string{
				{"/usr/bin/skopeo", "copy", "--quiet", "--insecure-policy", "--src-tls-verify=false", "docker://" + name, "oci:" + at("layout") + ":1"},
				{"/usr/bin/umoci", "unpack", "--image", at("layout") + ":1", at("bundle")},
			},
			rm: [][]string{{"/bin/rm", "-rf", at("layout"), at("bundle")}}, stores: []string{at("layout"), at("bundle")},
		},
	}
}

// prepare starts a tool's daemon, or finds out why the tool cannot be measured.
func (b *bench) prepare(t *tool) error {
	for _, c := range append(append([][]string{t.serve}, t.pull...), t.probe) {
		if len(c) > 0 {
			if _, err := exec.LookPath(c[0]); err != nil {
				t.skip = err.Error()
				return nil
			}
		}
	}
	var err error
	if t.group, err = newGroup(b.groups, t.name); err != nil {
		return err
	}
	if t.serve == nil {
		return nil
	}
	for _, f := range []struct{ name, text string }{
		{"containerd.toml", `version = 2
root = "%[1]s/containerd"
state = "%[1]s/containerd.state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt"]
[grpc]
address = "%[1]s/containerd.sock"
`},
		{"daemon.json", `{"data-root": "%[1]s/docker", "exec-root": "%[1]s/docker.run", "pidfile": "%[1]s/docker.pid", "hosts": ["unix://%[1]s/docker.sock"],
 "storage-driver": "overlay2", "exec-opts": ["native.cgroupdriver=cgroupfs"], "bridge": "none", "iptables": false, "ip6tables": false, "oom-score-adjust": 0}
`},
	} {
		if err := os.WriteFile(filepath.Join(b.dir, f.name), fmt.Appendf(nil, f.text, b.dir), 0o644); err != nil {
			return err
		}
	}
	if t.daemon, err = b.start(t.group, t.name, t.serve, t.probe); err != nil {
		t.skip = err.Error()
	}
	return nil
}

func firstLine(argv ...string) string {
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if err != nil {
		return err.Error()
	}
	return line
}
