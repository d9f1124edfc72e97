package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
)

func TestRootImageEnvironment(t *testing.T) {
	h := imageSetup(t)
	h.must("image", "import", "--quiet", "--change", `ENV FROM=image BOTH=image`, "--change", `WORKDIR /srv/deep`, "--change", `USER user`, testenv.Rootfs(t), "base")
	t.Setenv("MINE", "of the caller")
	t.Setenv("OTHER", "secret")
	for _, tt := range []struct {
		script string
		flags  []string
		want   string
	}{
		{
			"echo $FROM $BOTH $HOME $PATH $TERM; pwd; stat -c %U:%G:%a .", nil,
			"image image /home/user /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n/srv/deep\nroot:root:755\n",
		},
		{"echo $FROM $BOTH $X; env | grep -c MINE", []string{"-e", "BOTH=user", "--env", "X=a=b c"}, "image user a=b c\n0\n"},
		{"env | grep -e MINE -e OTHER -e UNSET", []string{"-e", "MINE", "-e", "UNSET"}, "MINE=of the caller\n"},
		{"echo $HOME; echo $HOSTNAME $(hostname)", []string{"-u", "root", "--hostname", "box"}, "/root\nbox box\n"},
		{"pwd", []string{"-w", "/tmp"}, "/tmp\n"},
		{"pwd", []string{"--workdir=home/user/../../etc"}, "/etc\n"},
		{"id -u; id -g; id -G", nil, "1000\n1000\n1000 29\n"},
		{"id -u; id -g; id -G", []string{"-u", "nobody"}, "65534\n65534\n65534\n"},
		{"id -u; id -g; id -G", []string{"-u0"}, "0\n0\n0\n"},
		{"id -u; id -g; id -G", []string{"--user", "4321"}, "4321\n0\n0\n"},
		{"id -u; id -g; id -G", []string{"-u", "user:audio"}, "1000\n29\n29\n"},
		{"id -u; id -g; id -G", []string{"-u", "7:8"}, "7\n8\n8\n"},
	} {
		// grep -c of nothing is a failure.
		r := h.sh(tt.script+"; true", tt.flags...)
		if r.Code != 0 || r.Stdout != tt.want || r.Stderr != "" {
			t.Errorf("%q with %q: %+v, want %q", tt.script, tt.flags, r, tt.want)
		}
	}
	for _, tt := range []struct {
		want  string
		flags []string
	}{
		{"invalid id", []string{"-u", "-1"}},
		{"invalid id", []string{"-u", "0x10"}},
		{"invalid id", []string{"-u", "4294967296"}},
		{"want USER or USER:GROUP", []string{"-u", "1000:"}},
		{"want USER or USER:GROUP", []string{"-u", ":"}},
		{"unable to find user somebody", []string{"-u", "somebody"}},
		{"unable to find group clan", []string{"-u", "user:clan"}},
		{"at most 64 bytes", []string{"--hostname", strings.Repeat("h", 65)}},
		{"/etc/passwd", []string{"-w", "/etc/passwd"}},
		{"want NAME=VALUE", []string{"-e", "=x"}},
	} {
		h.refused(tt.want, append(append([]string{"run", "--rm", "--image", "base"}, tt.flags...), h.id(), "true")...)
	}
}

func TestRootImageVolumes(t *testing.T) {
	h := imageSetup(t).base()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "file"), "of the host")
	if got := h.out("cat /v/file; echo more > /v/new; mount | grep -c ' /v '", "-v", dir+":/v"); got != "of the host1\n" {
		t.Errorf("read and write: %q", got)
	}
	if got := readFile(t, filepath.Join(dir, "new")); got != "more\n" {
		t.Errorf("the host sees %q", got)
	}
	if r := h.sh("cat /a/b/c/file; echo more > /a/b/c/ro", "-v", dir+":/a/b/c:ro"); r.Code == 0 || r.Stdout != "of the host" || !strings.Contains(r.Stderr, "Read-only") {
		t.Errorf("read-only: %+v", r)
	}
	if got := h.out("cat /etc/thing", "--volume", filepath.Join(dir, "file")+":/etc/thing:ro"); got != "of the host" {
		t.Errorf("a file: %q", got)
	}
	if got := h.out("cat /v/file /w/file", "-v", dir+":/v", "-v", dir+":/w", "--read-only"); got != "of the hostof the host" {
		t.Errorf("on a read-only root: %q", got)
	}
	// Where the path leads in the container, it leads nowhere on the host.
	if got := h.out("cat /etc/thing/file; ls -d /escape", "-v", dir+":/../../etc/thing", "-v", dir+":/escape"); got != "of the host/escape\n" {
		t.Errorf("a path with ..: %q", got)
	}
	if _, err := os.Lstat("/etc/thing"); err == nil {
		t.Error("the host has /etc/thing")
	}
	missing := filepath.Join(dir, "missing")
	for _, tt := range []struct{ want, volume string }{
		{"missing", missing + ":/v"}, {"name of a volume", "./name:/v"}, {"must be absolute", "name:v"}, {"cannot be /", dir + ":/"}, {"unknown option", dir + ":/v:rx"},
	} {
		h.refused(tt.want, "run", "--image", "base", "-v", tt.volume, h.id(), "true")
	}
	if _, err := os.Lstat(missing); err == nil {
		t.Error("a missing source has been made")
	}

	if got := h.out("stat -f -c %T /t /u; mount | grep -o 'on /t .*size=[0-9]*k'; stat -c %a /u; cp /bin/busybox /u; /u/busybox echo runs; cp /bin/busybox /t; /t/busybox true 2>/dev/null || echo noexec",
		"--tmpfs", "/t:size=8m", "--tmpfs", "/u:exec,mode=700"); !strings.HasPrefix(got, "tmpfs\ntmpfs\non /t type tmpfs") ||
		!strings.HasSuffix(got, "size=8192k\n700\nruns\nnoexec\n") {
		t.Errorf("tmpfs: %q", got)
	}
	if r := h.sh("dd if=/dev/zero of=/t/x bs=1M count=9", "--tmpfs", "/t:size=8m"); r.Code == 0 || !strings.Contains(r.Stderr, "No space") {
		t.Errorf("tmpfs over its size: %+v", r)
	}
	h.refused("unknown option", "run", "--image", "base", "--tmpfs", "/t:bind", h.id(), "true")

	if r := h.sh("touch /tmp/x /run/x; touch /x; mkdir /etc/y", "--read-only", "--tmpfs", "/run"); r.Code == 0 || strings.Count(r.Stderr, "Read-only file system") != 3 {
		t.Errorf("--read-only: %+v", r)
	}
	h.out("touch /tmp/x /x && mkdir /etc/y && rm /bin/yes")
	if got := h.out("ls /x /bin/yes 2>/dev/null; true"); got != "/bin/yes\n" {
		t.Errorf("a container sees what another one did: %q", got)
	}
}

// Standard input is passed on when asked for, and else empty.
func TestRootImageStreams(t *testing.T) {
	h := imageSetup(t).base()
	for _, flag := range []string{"-i", "--interactive", ""} {
		args := []string{"run", "--rm", "--image", "base"}
		if flag != "" {
			args = append(args, flag)
		}
		cmd := testenv.Command(t, h.command(append(args, h.id(), "sh", "-c", "cat; echo err >&2; exit 5")...)...)
		cmd.Stdin = strings.NewReader("typed\n")
		want := "typed\n"
		if flag == "" {
			want = ""
		}
		if r := testenv.RunCmd(t, cmd); r.Code != 5 || r.Stdout != want || r.Stderr != "err\n" {
			t.Errorf("flag %q: %+v", flag, r)
		}
	}
	if got := h.out("readlink /proc/self/fd/0; ls /proc/self/fd | wc -w"); got != "/dev/null\n4\n" {
		t.Errorf("descriptors: %q", got)
	}
}

func TestRootImageTerminal(t *testing.T) {
	h := imageSetup(t).base()
	for _, flags := range [][]string{{"-it"}, {"-i", "-t"}, {"--interactive", "--tty"}} {
		x := onTerminal(t, 33, 77, h.command(append(append([]string{"run", "--rm", "--image", "base"}, flags...), h.id(), "sh", "-c", session)...)...)
		x.expect("tty /dev/pts/0 size 33 77 sane")
		x.send("hello\r")
		x.expect("<hello>\r\n")
		x.send("quit\r")
		if code := x.exit(); code != 6 {
			t.Errorf("%v: exit status %d, want 6; %q", flags, code, x.text)
		}
	}
	x := onTerminal(t, 24, 80, h.command("run", "--rm", "--image", "base", "-t", h.id(), "sh", "-c", "echo TERM $TERM; tty")...)
	x.expect("TERM xterm\r\n/dev/pts/0")
	if code := x.exit(); code != 0 {
		t.Errorf("exit status %d", code)
	}
	// Without a terminal of our own.
	r := h.do("run", "--rm", "--image", "base", "-t", h.id(), "sh", "-c", "tty; exit 4")
	if r.Code != 4 || !strings.Contains(r.Stdout, "/dev/pts/0") {
		t.Errorf("-t without a terminal: %+v", r)
	}
	h.refused("console", "create", "--image", "base", "-t", h.id())
}

func TestRootImagePrivileges(t *testing.T) {
	h := imageSetup(t).base()
	const caps = "grep -e CapBnd -e CapEff -e CapPrm -e CapInh -e CapAmb -e NoNewPrivs -e Seccomp: /proc/self/status | cut -f2 | tr '\\n' ' '"
	const zero, base, all = "0000000000000000", "00000000a80425fb", "000001ffffffffff"
	host := readFile(t, "/proc/self/status")
	if !strings.Contains(host, "CapBnd:\t"+all) {
		// Nobody can give more than they have.
		i := strings.Index(host, "CapBnd:\t") + len("CapBnd:\t")
		t.Logf("the host's own bounding set is %s", host[i:i+16])
	}
	for _, tt := range []struct {
		flags []string
		want  string // CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp
	}{
		{nil, zero + " " + base + " " + base + " " + base + " " + zero + " 0 2 "}, // docker's 14
		{[]string{"-u", "user"}, zero + " " + zero + " " + zero + " " + base + " " + zero + " 0 2 "},
		{[]string{"--cap-drop", "ALL"}, zero + " " + zero + " " + zero + " " + zero + " " + zero + " 0 2 "},
		{[]string{"--cap-drop", "all", "--cap-add", "kill"}, zero + " 0000000000000020 0000000000000020 0000000000000020 " + zero + " 0 2 "},
		{[]string{"--cap-add=NET_ADMIN"}, zero + " 00000000a80435fb 00000000a80435fb 00000000a80435fb " + zero + " 0 2 "},
		{[]string{"--cap-drop=CAP_MKNOD", "--security-opt", "no-new-privileges"}, zero + " 00000000a00425fb 00000000a00425fb 00000000a00425fb " + zero + " 1 2 "},
		{[]string{"--security-opt", "no-new-privileges:true"}, zero + " " + base + " " + base + " " + base + " " + zero + " 1 2 "},
		{[]string{"--security-opt", "no-new-privileges", "--security-opt", "no-new-privileges=false"}, zero + " " + base + " " + base + " " + base + " " + zero + " 0 2 "},
		{[]string{"--security-opt", "seccomp=unconfined"}, zero + " " + base + " " + base + " " + base + " " + zero + " 0 0 "},
	} {
		if got := h.out(caps, tt.flags...); got != tt.want {
			t.Errorf("%q:\ngot  %q\nwant %q", tt.flags, got, tt.want)
		}
	}
	h.refused(`unknown capability "CAP_NOSUCH"`, "run", "--image", "base", "--cap-add", "NOSUCH", h.id(), "true")
	h.refused("want seccomp=FILE", "run", "--image", "base", "--security-opt", "apparmor=x", h.id(), "true")

	// In force, not only written down.
	h.out("chroot / true")
	if r := h.sh("chroot / true", "--cap-drop", "SYS_CHROOT"); r.Code == 0 {
		t.Errorf("chroot without CAP_SYS_CHROOT: %+v", r)
	}
}

func TestRootImagePrivileged(t *testing.T) {
	h := imageSetup(t).base()
	r := h.sh("grep Seccomp: /proc/self/status | cut -f2; touch /proc/sys/kernel/hostname && echo sys; mkdir /mnt && mount -t tmpfs none /mnt && echo mount; "+
		"ls /dev | wc -l; mount | grep -c ' /sys .*[(]ro'; true", "--privileged")
	got := lines(r.Stdout)
	if r.Code != 0 || len(got) != 5 || got[0] != "0" || got[1] != "sys" || got[2] != "mount" || got[4] != "0" {
		t.Errorf("--privileged: %+v", r)
	}
	r = h.sh("touch /proc/sys/kernel/hostname || mount -t tmpfs none /tmp || cat /proc/kcore || ls /proc/keys; ls /dev/mem /dev/kmsg /dev/loop0")
	if r.Code == 0 || !strings.Contains(r.Stderr, "Read-only") || !strings.Contains(r.Stderr, "ermission denied") && !strings.Contains(r.Stderr, "not permitted") || strings.Contains(r.Stdout, "/dev/") {
		t.Errorf("not privileged: %+v", r)
	}
	if r := h.sh("mknod /tmp/mem c 1 1 && head -c1 /tmp/mem"); r.Code == 0 || !strings.Contains(r.Stderr, "not permitted") {
		t.Errorf("a device that was made: %+v", r)
	}
}

// The default filter denies what docker's denies, and a profile of the user's
// takes its place.
func TestRootImageSeccomp(t *testing.T) {
	h := imageSetup(t)
	rootfs := testenv.Rootfs(t)
	atInstall(t, rootfs, "afalg")
	h.must("image", "import", "--quiet", rootfs, "base")
	for _, tt := range []struct {
		script string
		flags  []string
		ok     bool
	}{
		{"unshare -U true", nil, false},
		{"unshare -U true", []string{"--security-opt", "seccomp=unconfined"}, true},
		{"unshare -m true", nil, false},
		{"unshare -m true", []string{"--cap-add", "SYS_ADMIN"}, true}, // which opens it in the filter too
		{"attack-afalg | grep -q '64 alg .*operation not permitted'", nil, true},
		{"attack-afalg | grep -q '64 unix <nil>'", nil, true},
		{"attack-afalg | grep -q '64 alg .*operation not permitted'", []string{"--security-opt", "seccomp=unconfined"}, false},
		{"date -s 2020-01-01 2>&1 | grep -q 'not permitted'", nil, true},
	} {
		if r := h.sh(tt.script, tt.flags...); (r.Code == 0) != tt.ok {
			t.Errorf("%q with %q: %+v", tt.script, tt.flags, r)
		}
	}
	dir := t.TempDir()
	oci, docker, bad := filepath.Join(dir, "oci.json"), filepath.Join(dir, "docker.json"), filepath.Join(dir, "bad.json")
	writeFile(t, oci, `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":30}]}`)
	writeFile(t, docker, `{"defaultAction":"SCMP_ACT_ALLOW","archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]},
		{"architecture":"SCMP_ARCH_AARCH64","subArchitectures":["SCMP_ARCH_ARM"]}],"syscalls":[
		{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":30,"excludes":{"caps":["CAP_NET_ADMIN"]}},
		{"names":["rmdir","unlinkat","unlink"],"action":"SCMP_ACT_ERRNO","errnoRet":30,"includes":{"minKernel":"99.0"}}]}`)
	writeFile(t, bad, `{"defaultAction":"SCMP_ACT_ALLOW","sycalls":[]}`)
	const script = "mkdir /tmp/d; touch /tmp/f; rm /tmp/f && echo removed"
	for _, tt := range []struct {
		flags []string
		made  bool
	}{
		{[]string{"--security-opt", "seccomp=" + oci}, false},
		{[]string{"--security-opt=seccomp=" + docker}, false},
		{[]string{"--security-opt", "seccomp=" + docker, "--cap-add", "NET_ADMIN"}, true},
		{[]string{"--security-opt", "seccomp=" + oci, "--privileged"}, false},
	} {
		r := h.sh(script, tt.flags...)
		if r.Code != 0 || r.Stdout != "removed\n" || strings.Contains(r.Stderr, "Read-only file system") == tt.made {
			t.Errorf("%q: %+v", tt.flags, r)
		}
	}
	h.refused(`unknown field "sycalls"`, "run", "--image", "base", "--security-opt", "seccomp="+bad, h.id(), "true")
	h.refused("missing.json", "run", "--image", "base", "--security-opt", "seccomp="+dir+"/missing.json", h.id(), "true")
}

func TestRootImageNetwork(t *testing.T) {
	h := imageSetup(t).base()
	for _, flags := range [][]string{nil, {"--network", "none"}, {"--network=none"}} {
		if got := h.out("ls /sys/class/net; cat /sys/class/net/lo/operstate; ping -c1 -w2 127.0.0.1 > /dev/null && echo lo works", flags...); got != "lo\nunknown\nlo works\n" {
			t.Errorf("%q: %q", flags, got)
		}
	}
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	name, _ := os.Hostname()
	hosts := readFile(t, "/etc/hosts")
	if got, want := h.out("readlink /proc/self/ns/net; hostname; cat /etc/hosts", "--network", "host"), own+"\n"+name+"\n"+hosts; got != want {
		t.Errorf("host: %q, want %q", got, want)
	}
	if r := h.sh("echo x >> /etc/hosts", "--network", "host"); r.Code == 0 || readFile(t, "/etc/hosts") != hosts {
		t.Errorf("the host's /etc/hosts can be written: %+v", r)
	}
	h.refused("want NAME, cni:NAME, none, host", "run", "--image", "base", "--network", "bridge:x", h.id(), "true")
}

// Limits are in force or refused, never left out.
func TestRootImageLimits(t *testing.T) {
	h := imageSetup(t).base()
	controllers := ""
	for _, m := range cgroupMounts() {
		controllers = " " + strings.TrimSpace(readFile(t, filepath.Join(m, "cgroup.controllers"))) + " "
	}
	for _, tt := range []struct{ controller, flag, value, file, want string }{
		{"memory", "--memory", "64m", "memory.max", "67108864"},
		{"memory", "-m", "1g", "memory.max", "1073741824"},
		{"cpu", "--cpus", "0.5", "cpu.max", "50000 100000"},
		{"pids", "--pids-limit", "20", "pids.max", "20"},
	} {
		if !strings.Contains(controllers, " "+tt.controller+" ") {
			h.refused(tt.controller, "run", "--rm", "--image", "base", tt.flag, tt.value, h.id(), "true")
			h.refused(tt.controller, "create", "--image", "base", tt.flag, tt.value, h.id(), "true")
			continue
		}
		if got := h.out("cat /sys/fs/cgroup/"+tt.file, tt.flag, tt.value); got != tt.want+"\n" {
			t.Errorf("%s %s: %q", tt.flag, tt.value, got)
		}
	}
	h.out("true", "--pids-limit", "-1")
	h.out("true", "--pids-limit", "0")
	for _, bad := range [][2]string{{"--memory", "lots"}, {"--memory", "-5"}, {"--memory", "0"}, {"--memory", "1.5g"}, {"--memory", "9999999t"}, {"--cpus", "0"}, {"--cpus", "NaN"}, {"--cpus", "x"}, {"--pids-limit", "-2"}, {"--pids-limit", ""}} {
		h.refused("invalid value", "run", "--image", "base", bad[0], bad[1], h.id(), "true")
	}
}

func TestRootImageCommand(t *testing.T) {
	h := imageSetup(t)
	rootfs := testenv.Rootfs(t)
	h.must("image", "import", "--quiet", "--change", `ENTRYPOINT ["echo","entry"]`, "--change", `CMD ["cmd"]`, rootfs, "both")
	h.must("image", "import", "--quiet", rootfs, "neither")
	for _, tt := range []struct {
		flags, command []string
		want           string
	}{
		{nil, nil, "entry cmd\n"},
		{nil, []string{"a", "b c", "--rm", "-x"}, "entry a b c --rm -x\n"},
		{[]string{"--entrypoint", "echo"}, nil, "\n"},
		{[]string{"--entrypoint", "echo"}, []string{"a"}, "a\n"},
		{[]string{"--entrypoint="}, []string{"echo", "direct"}, "direct\n"},
	} {
		args := append(append([]string{"run", "--rm", "--image", "both"}, tt.flags...), h.id())
		if got := h.must(append(args, tt.command...)...); got != tt.want {
			t.Errorf("%q %q: %q, want %q", tt.flags, tt.command, got, tt.want)
		}
	}
	for _, name := range []string{"neither", "both"} {
		r := h.do("run", "--image", name, "--entrypoint", "", h.id())
		if r.Code != 1 || !strings.Contains(r.Stderr, "has no command of its own") || !strings.Contains(r.Stderr, "hint: give one") {
			t.Errorf("%s without a command: %+v", name, r)
		}
	}
	h.clean("no command")
	r := h.do("run", "--image", "neither", h.id(), "no-such-program")
	if r.Code != 127 && r.Code != 1 || !strings.Contains(r.Stderr, "no-such-program") {
		t.Errorf("no program: %+v", r)
	}
	h.clean("no program")

	// "--" in place of an ID is a random one.
	for range 2 {
		if got := h.must("run", "--rm", "--image", "neither", "--", "hostname"); len(got) != 13 || strings.Trim(got, "0123456789abcdef\n") != "" {
			t.Errorf("random ID: %q", got)
		}
	}
	// Exit statuses pass through, and a container without --rm stays.
	id := h.id()
	if r := h.do("run", "--image", "neither", id, "sh", "-c", "exit 42"); r.Code != 42 || r.Stderr != "" {
		t.Errorf("exit status: %+v", r)
	}
	if s := h.status(id); s != "stopped" {
		t.Errorf("status %q after run without --rm", s)
	}
	if r := h.do("run", "--image", "neither", id, "true"); r.Code != 1 || !strings.Contains(r.Stderr, "already exists") {
		t.Errorf("the ID twice: %+v", r)
	}
	h.clean("with a stopped container")
	h.must("delete", id)
	h.clean("deleted")
}

func TestRootImageUsage(t *testing.T) {
	h := imageSetup(t).base()
	for _, tt := range []struct {
		want string
		args []string
	}{
		{"--bundle and --image exclude each other", []string{"run", "--bundle", t.TempDir(), "--image", "base", h.id()}},
		{"want a container ID, or --", []string{"run", "--image", "base"}},
		{"invalid container ID", []string{"run", "--image", "base", "a/b", "true"}},
		{"invalid container ID", []string{"create", "--image", "base", "../x", "true"}},
		{"want a container ID", []string{"run", "--image", "base", "", "true"}},
		{"flag --env needs --image", []string{"run", "-e", "A=b", h.id()}},
		{"flag --volume needs --image", []string{"create", "-v", "/a:/b", h.id()}},
		{"flag --rm needs --image", []string{"run", "--rm", h.id()}},
		{"flag --privileged needs --image", []string{"run", "--privileged", "--bundle", t.TempDir(), h.id()}},
		{"flag --memory needs --image", []string{"explain", "--memory", "1g"}},
		{"unknown flag --nosuch", []string{"run", "--image", "base", "--nosuch", h.id()}},
		{"unknown flag", []string{"run", "--image", "base", "-ix", h.id()}},
		{`flag --image: invalid value "": the name is empty`, []string{"run", "--rm", "--image", "", h.id()}},
		{"the name is empty", []string{"explain", "--image="}},
		{"hint: minirun pull fetches it; minirun image list shows", []string{"run", "--pull", "never", "--image", "no-such-image", h.id()}},
		{"hint: minirun image list shows", []string{"run", "--pull", "never", "--image", "sha256:" + strings.Repeat("0", 64), h.id()}},
		{"hint: minirun pull fetches it; minirun image list shows", []string{"create", "--pull", "never", "--image", "registry.invalid/a/b:1", h.id()}},
		{"hint: minirun pull fetches it", []string{"explain", "--image", "no-such-image"}},
		{"", []string{"run", "--image", "Bad Name", h.id()}},
		{"", []string{"run", "--image", "../../etc/passwd", h.id()}},
		{"/nonexistent", []string{"run", "--image", "base", "--pid-file", "/nonexistent/missing.pid", h.id(), "true"}},
		{"preserve", []string{"run", "--image", "base", "--preserve-fds", "3", h.id(), "true"}},
	} {
		h.refused(tt.want, tt.args...)
	}
	// PATH is in no config.json that the user has.
	running := h.background("true")
	for _, args := range [][]string{{"run", "--image", "base", "--rm", h.id(), "no-such-program"}, {"exec", running, "no-such-program"}} {
		if r := h.do(args...); r.Code == 0 || !strings.Contains(r.Stderr, "hint: PATH is that of the container: of Env in the image") {
			t.Errorf("%q: %+v", args, r)
		}
	}
	h.must("delete", "--force", running)
	// Flags before an argument that is none, and a store that is named by a
	// relative path: the container is deleted from anywhere.
	id := h.id()
	cmd := testenv.Command(t, "--root", h.root, "--store", "./"+filepath.Base(h.store), "create", "--image", "base", id)
	cmd.Dir = filepath.Dir(h.store)
	if r := testenv.RunCmd(t, cmd); r.Code != 0 || r.Stderr != "" {
		t.Fatalf("a relative store: %+v", r)
	}
	h.clean("relative store")
	if r := testenv.Run(t, "--root", h.root, "delete", "--force", id); r.Code != 0 || r.Stderr != "" {
		t.Errorf("delete, no store named: %+v", r)
	}
	h.clean("relative store, deleted")
	// The environment names the store, too.
	t.Setenv("MINIRUN_STORE", h.store)
	if r := testenv.Run(t, "--root", h.root, "run", "--rm", "--image", "base", h.id(), "echo", "x"); r.Code != 0 || r.Stdout != "x\n" {
		t.Errorf("MINIRUN_STORE: %+v", r)
	}
}
