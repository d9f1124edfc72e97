package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/minirun/minirun/internal/testenv"
)

// sbDifferences are the differences from runc that are meant to be. Each has
// a section in docs/sandbox.md; one that is not met any more fails the test.
func sbDifferences() []sbDifference {
	const null = `devtmpfs \S+ \| .*\bro\b.* \| .* \| private`
	return []sbDifference{
		{
			cases: ".*", key: "mount (/proc|/sys|/etc|/home)/.*", runc: `tmpfs tmpfs \| relatime,ro \| (gid=\d+,)?ro(,uid=\d+)? \| private`,
			minirun: `tmpfs tmpfs \| relatime,ro \| .*nr_inodes=1,rw,size=4k.* \| private`,
			reason:  "masked directories: one file system of one inode for all of them",
		},
		{
			cases: ".*", key: "mount (/proc|/sys|/etc|/home)/.*", runc: `(dev)?tmpfs \S+ \| .*\brw\b.* \| .*mode=755,.*size=.* \| private`, minirun: null,
			reason: "masked files: the host's null device, read-only, not the container's (CVE-2025-31133)",
		},
		{
			cases: "default-run|exec-process", key: "fd [012]", runc: "pipe", minirun: `/dev/null|/memfd:output \(deleted\)`,
			reason: "run and exec in the foreground hand the streams on; runc copies through pipes",
		},
		{
			cases: "(exec-)?(confined|groups)|exec-process", key: "groups", runc: "29 44|9 10", minirun: "29 44 1000|8 9 10",
			reason: "the primary group is a supplementary one too (CVE-2022-36109)",
		},
		{
			cases: "exec-(process|confined)", key: "status Umask", runc: "0022", minirun: "0077|0027",
			reason: "exec sets process.user.umask, which runc 1.1 leaves out",
		},
		{
			cases: "exec-process", key: "oom_score_adj", runc: "0", minirun: "200",
			reason: "exec sets process.oomScoreAdj, which runc 1.1 leaves out",
		},
		{
			cases: "exec-(process|confined)", key: "rlimit open_files", runc: "512 512 files|64 64 files", minirun: "256 512 files|32 64 files",
			racy: true, reason: "the soft limit of process.rlimits; the Go runtime in runc's init raises its own after it was set",
		},
		{
			cases: "(exec-)?userns.*", key: "dev /dev/mqueue", runc: `d 1777 0:65534`, minirun: "d 1777 0:0",
			reason: "mounted by the container's root with all its ids, not by a process that has still the host's group",
		},
		{
			cases: "mounts", key: "mount /run", runc: `tmpfs run \| noatime,noexec,ro \| rw \| private`, minirun: `tmpfs run \| noatime,noexec,ro \| mode=755,ro \| private`,
			reason: "mode and ro are given to the file system when it is made, not changed later",
		},
	}
}

// TestRootSandbox runs the same bundles under runc and under minirun and
// compares what a process sees, line by line: mounts, devices, capabilities,
// limits, descriptors, environment, ids, masked and read-only paths.
func TestRootSandbox(t *testing.T) {
	setup(t)
	allowed := sbDifferences()
	for _, c := range sbCases() {
		t.Run(c.name, func(t *testing.T) {
			runtimes := sbRuntimes(t)
			bundle := testenv.Bundle(t, nil)
			rootfs := filepath.Join(bundle, "rootfs")
			sbInstallProbe(t, rootfs)
			spec := testenv.DefaultSpec()
			spec.Linux.CgroupsPath = "/" + testenv.UniqueID(t)
			if c.mutate != nil {
				c.mutate(t, spec, rootfs)
			}
			var facts [2]sbFacts
			for i := range runtimes {
				facts[i] = c.probe(t, &runtimes[i], bundle, spec)
			}
			sbCompare(t, c.name, facts[0], facts[1], allowed)
		})
	}
	for _, d := range allowed {
		if !d.used && !d.racy {
			t.Errorf("no case shows the difference of %q in %q any more (%s): take it out of the list and of docs/sandbox.md", d.key, d.cases, d.reason)
		}
	}
}

// sbCase is one sandbox to compare.
type sbCase struct {
	name   string
	mutate func(t *testing.T, s *specs.Spec, rootfs string)
	how    func(c *sbCase, t *testing.T, r *sbRuntime, bundle, id string) string // nil: sbCreateStart
	exec   []string                                                              // flags of exec
	init   []string                                                              // the container's process; nil: the probe
}

// probe runs the case under one runtime.
func (c *sbCase) probe(t *testing.T, r *sbRuntime, bundle string, spec *specs.Spec) sbFacts {
	t.Helper()
	spec.Process.Args = []string{sbProbe}
	if c.init != nil {
		spec.Process.Args = c.init
	}
	sbWriteConfig(t, bundle, spec)
	how := c.how
	if how == nil {
		how = (*sbCase).createStart
	}
	id := "sb-" + filepath.Base(spec.Linux.CgroupsPath)
	defer r.delete(t, id)
	return sbParse(t, how(c, t, r, bundle, id))
}

// createStart hands the descriptors of create on to the container.
func (c *sbCase) createStart(t *testing.T, r *sbRuntime, bundle, id string) string {
	t.Helper()
	pidFile := filepath.Join(bundle, "pid")
	create := r.command("create", "--bundle", bundle, "--pid-file", pidFile, id)
	read := sbStdio(t, create, filepath.Join(bundle, "out"))
	if result := testenv.RunCmd(t, create); result.Code != 0 {
		t.Fatalf("%s create: status %d\n%s", r.name, result.Code, read())
	}
	r.run(t, r.command("start", id))
	sbWait(t, pidFile)
	return read()
}

// run stays in the foreground.
func (c *sbCase) run(t *testing.T, r *sbRuntime, bundle, id string) string {
	t.Helper()
	return r.run(t, r.command("run", "--bundle", bundle, id)).Stdout
}

// terminal is run with a terminal.
func (c *sbCase) terminal(t *testing.T, r *sbRuntime, bundle, id string) string {
	t.Helper()
	return sbTerminal(t, r.command("run", "--bundle", bundle, id))
}

// execDetached probes with exec, which hands its descriptors on.
func (c *sbCase) execDetached(t *testing.T, r *sbRuntime, bundle, id string) string {
	t.Helper()
	c.sleeper(t, r, bundle, id)
	pidFile := filepath.Join(bundle, "pid")
	args := append([]string{"exec", "--detach", "--pid-file", pidFile}, c.exec...)
	cmd := r.command(append(args, id, sbProbe)...)
	read := sbStdio(t, cmd, filepath.Join(bundle, "out"))
	if result := testenv.RunCmd(t, cmd); result.Code != 0 {
		t.Fatalf("%s exec: status %d\n%s", r.name, result.Code, read())
	}
	sbWait(t, pidFile)
	return read()
}

// execTerminal probes with exec --tty.
func (c *sbCase) execTerminal(t *testing.T, r *sbRuntime, bundle, id string) string {
	t.Helper()
	c.sleeper(t, r, bundle, id)
	args := append([]string{"exec", "--tty"}, c.exec...)
	return sbTerminal(t, r.command(append(args, id, sbProbe)...))
}

// execProcess probes with exec --process.
func (c *sbCase) execProcess(t *testing.T, r *sbRuntime, bundle, id string) string {
	t.Helper()
	c.sleeper(t, r, bundle, id)
	umask := uint32(0o077)
	score := 200
	p := testenv.DefaultSpec().Process
	p.Args, p.Cwd, p.Env = []string{sbProbe}, "/tmp", []string{"PATH=/bin", "ONLY=this"}
	p.User = specs.User{UID: 7, GID: 8, AdditionalGids: []uint32{9, 10}, Umask: &umask}
	p.OOMScoreAdj = &score
	p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Hard: 4096, Soft: 0}, {Type: "RLIMIT_NOFILE", Hard: 64, Soft: 32}}
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(bundle, "process.json")
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return r.run(t, r.command("exec", "--process", file, id)).Stdout
}

func (c *sbCase) sleeper(t *testing.T, r *sbRuntime, bundle, id string) {
	t.Helper()
	cmd := r.command("run", "--detach", "--bundle", bundle, id)
	read := sbStdio(t, cmd, filepath.Join(bundle, "log"))
	if result := testenv.RunCmd(t, cmd); result.Code != 0 {
		t.Fatalf("%s run --detach: status %d\n%s", r.name, result.Code, read())
	}
}

// sbCases are the sandboxes that are compared.
func sbCases() []sbCase {
	sleep := []string{"/bin/sleep", "1000"}
	return []sbCase{
		{name: "default"},
		{name: "default-run", how: (*sbCase).run},
		{name: "default-terminal", how: (*sbCase).terminal, mutate: func(_ *testing.T, s *specs.Spec, _ string) {
			s.Process.Terminal = true
			s.Process.ConsoleSize = &specs.Box{Height: 40, Width: 100}
		}},
		{name: "runc-spec", mutate: sbRuncSpec},
		{name: "confined", mutate: sbConfined},
		{name: "userns", mutate: sbUserns},
		{name: "userns-terminal", how: (*sbCase).terminal, mutate: func(t *testing.T, s *specs.Spec, rootfs string) {
			sbUserns(t, s, rootfs)
			s.Process.Terminal = true
		}},
		{name: "privileged", mutate: sbPrivileged},
		{name: "mounts", mutate: sbMounts},
		{name: "few-namespaces", mutate: sbFewNamespaces},
		{name: "exec", how: (*sbCase).execDetached, init: sleep},
		{name: "exec-user", how: (*sbCase).execDetached, init: sleep, exec: []string{"--user", "1000:1000", "--cwd", "/tmp", "--env", "A=B"}},
		{name: "exec-cap", how: (*sbCase).execDetached, init: sleep, exec: []string{"--cap", "CAP_SYS_ADMIN", "--cap", "CAP_NET_ADMIN"}},
		{name: "exec-groups", how: (*sbCase).execDetached, init: sleep, exec: []string{"--user", "1000:1000", "--additional-gids", "29", "--additional-gids", "44"}},
		{name: "exec-terminal", how: (*sbCase).execTerminal, init: sleep},
		{name: "exec-process", how: (*sbCase).execProcess, init: sleep},
		{name: "exec-confined", how: (*sbCase).execDetached, init: sleep, mutate: sbConfined},
		{name: "exec-userns", how: (*sbCase).execDetached, init: sleep, mutate: sbUserns},
		{name: "exec-privileged", how: (*sbCase).execDetached, init: sleep, mutate: sbPrivileged},
	}
}

// sbRuncSpec is what `runc spec` writes, to the letter.
func sbRuncSpec(t *testing.T, s *specs.Spec, _ string) {
	dir := t.TempDir()
	cmd := exec.Command(sbRuntimes(t)[0].path, "spec", "--bundle", dir)
	if r := testenv.RunCmd(t, cmd); r.Code != 0 {
		t.Fatal(r.Stderr)
	}
	b, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	cgroup := s.Linux.CgroupsPath
	*s = specs.Spec{}
	if err := json.Unmarshal(b, s); err != nil {
		t.Fatal(err)
	}
	s.Process.Terminal = false
	s.Linux.CgroupsPath = cgroup
}

// sbConfined is an unprivileged user with everything that confines set.
func sbConfined(t *testing.T, s *specs.Spec, rootfs string) {
	umask, score := uint32(0o027), 300
	p := s.Process
	p.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{29, 44}, Umask: &umask}
	p.Cwd = "/home/user"
	p.OOMScoreAdj = &score
	p.Env = append(p.Env, "HOME=/somewhere", "EMPTY=", "TWICE=1", "TWICE=2", "SPACES=a b  c")
	p.Capabilities = &specs.LinuxCapabilities{
		Bounding:    []string{"CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_CHOWN"},
		Permitted:   []string{"CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW"},
		Effective:   []string{"CAP_KILL", "CAP_NET_BIND_SERVICE"},
		Inheritable: []string{"CAP_NET_BIND_SERVICE", "CAP_NET_RAW"},
		Ambient:     []string{"CAP_NET_BIND_SERVICE"},
	}
	p.Rlimits = []specs.POSIXRlimit{
		{Type: "RLIMIT_NOFILE", Hard: 512, Soft: 256},
		{Type: "RLIMIT_CORE", Hard: 0, Soft: 0},
		{Type: "RLIMIT_NPROC", Hard: 4096, Soft: 100},
		{Type: "RLIMIT_STACK", Hard: 1 << 26, Soft: 1 << 22},
		{Type: "RLIMIT_CPU", Hard: 500, Soft: 400},
		{Type: "RLIMIT_FSIZE", Hard: 1 << 40, Soft: 1 << 39},
		{Type: "RLIMIT_MEMLOCK", Hard: 1 << 16, Soft: 1 << 15},
		{Type: "RLIMIT_RTPRIO", Hard: 0, Soft: 0},
	}
	s.Hostname = "confined"
	s.Linux.Seccomp = sbDockerSeccomp(t)
	s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/proc/interrupts", "/sys/devices/virtual/powercap", "/etc/group", "/home/user", "/nowhere")
	s.Linux.ReadonlyPaths = append(s.Linux.ReadonlyPaths, "/dev/shm", "/nowhere", "/proc/sys/kernel/hostname")
}

// sbDockerSeccomp is Docker's default profile for a container without further capabilities.
func sbDockerSeccomp(t testing.TB) *specs.LinuxSeccomp {
	t.Helper()
	b, err := os.ReadFile("../internal/seccomp/testdata/docker-amd64.json")
	if err != nil {
		t.Fatal(err)
	}
	profile := new(specs.LinuxSeccomp)
	if err := json.Unmarshal(b, profile); err != nil {
		t.Fatal(err)
	}
	return profile
}

func sbUserns(t *testing.T, s *specs.Spec, rootfs string) {
	// The mapped root has to pass through; t.TempDir is below a directory of mode 0700.
	if err := os.Chmod(filepath.Dir(filepath.Dir(rootfs)), 0o711); err != nil {
		t.Fatal(err)
	}
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 1000}, {ContainerID: 1000, HostID: 300000, Size: 10}}
	s.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
}

// sbOwnCaps are the capabilities of this process, which a container cannot exceed.
func sbOwnCaps(t testing.TB) []string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "CapPrm:")
	hex, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
	return sbCapNames(t, hex)
}

// sbPrivileged is what `docker run --privileged` makes.
func sbPrivileged(t *testing.T, s *specs.Spec, _ string) {
	caps := sbOwnCaps(t)
	s.Process.NoNewPrivileges = false
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	s.Process.Rlimits = nil
	s.Root.Readonly = false
	s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
	s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	for i := range s.Mounts {
		for j, o := range s.Mounts[i].Options {
			if o == "ro" {
				s.Mounts[i].Options[j] = "rw"
			}
		}
	}
	mode := os.FileMode(0o660)
	uid, gid := uint32(3), uint32(5)
	s.Linux.Devices = []specs.LinuxDevice{
		{Path: "/dev/loop-control", Type: "c", Major: 10, Minor: 237, FileMode: &mode},
		{Path: "/dev/block", Type: "b", Major: 7, Minor: 0, FileMode: &mode, UID: &uid, GID: &gid},
		{Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200},
		{Path: "/dev/fifo", Type: "p", FileMode: &mode},
	}
}

// sbMounts has a mount of every kind and with every sort of option.
func sbMounts(t *testing.T, s *specs.Spec, rootfs string) {
	dir := t.TempDir()
	for _, d := range []string{"a", "a/sub", "b"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.Mounts = append(s.Mounts,
		specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1777", "size=1m", "nr_inodes=100"}},
		specs.Mount{Destination: "/run", Type: "tmpfs", Source: "run", Options: []string{"ro", "noatime", "noexec"}},
		specs.Mount{Destination: "/var", Type: "bind", Source: dir + "/a", Options: []string{"rbind", "ro", "nosuid", "nodev", "noexec"}},
		specs.Mount{Destination: "/home", Type: "bind", Source: dir + "/b", Options: []string{"bind", "rw", "rslave", "noatime"}},
		specs.Mount{Destination: "/root", Type: "none", Source: dir + "/b", Options: []string{"rbind", "rshared"}},
		specs.Mount{Destination: "/etc/group", Type: "bind", Source: file, Options: []string{"bind", "ro"}},
		specs.Mount{Destination: "/tmp/new/dir", Type: "bind", Source: dir, Options: []string{"bind", "unbindable"}},
		specs.Mount{Destination: "/tmp/new/file", Type: "bind", Source: file, Options: []string{"bind", "private"}},
		specs.Mount{Destination: "/tmp/ram", Type: "ramfs", Source: "ram", Options: []string{"nodev", "mode=700"}},
	)
	s.Linux.RootfsPropagation = "slave"
	s.Root.Readonly = true
}

// sbFewNamespaces shares all but the mounts and the pids with the host.
func sbFewNamespaces(_ *testing.T, s *specs.Spec, _ string) {
	s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}}
	s.Hostname = ""
	s.Process.NoNewPrivileges = false
	s.Process.User.AdditionalGids = []uint32{0, 10, 20}
}
