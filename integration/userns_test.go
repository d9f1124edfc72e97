package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func nsOf(t *testing.T, pid int, kind string) string {
	t.Helper()
	s, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/" + kind)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// nsFiles maps the types of the specification to names below /proc/PID/ns.
var nsFiles = []struct {
	kind specs.LinuxNamespaceType
	file string
}{
	{specs.PIDNamespace, "pid"},
	{specs.NetworkNamespace, "net"},
	{specs.IPCNamespace, "ipc"},
	{specs.UTSNamespace, "uts"},
	{specs.MountNamespace, "mnt"},
	{specs.CgroupNamespace, "cgroup"},
	{specs.UserNamespace, "user"},
	{specs.TimeNamespace, "time"},
}

// Every namespace is new when asked for and the host's when not, for the
// container's process and for what exec adds.
func TestRootNamespacesNew(t *testing.T) {
	setup(t)
	self := os.Getpid()
	for _, set := range [][]specs.LinuxNamespaceType{
		{specs.MountNamespace},
		{specs.MountNamespace, specs.PIDNamespace},
		{specs.MountNamespace, specs.NetworkNamespace, specs.CgroupNamespace},
		{specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace},
		{specs.MountNamespace, specs.TimeNamespace},
		{specs.MountNamespace, specs.TimeNamespace, specs.PIDNamespace},
		{specs.MountNamespace, specs.UserNamespace},
		{specs.MountNamespace, specs.UserNamespace, specs.PIDNamespace, specs.IPCNamespace},
		{specs.MountNamespace, specs.UserNamespace, specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace, specs.TimeNamespace},
	} {
		b := newBox(t, forever, func(s *specs.Spec) {
			s.Linux.Namespaces = nil
			for _, k := range set {
				s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: k})
			}
			if !slices.Contains(set, specs.UTSNamespace) {
				s.Hostname = ""
			}
			user := slices.Contains(set, specs.UserNamespace)
			if user {
				s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
				s.Linux.GIDMappings = s.Linux.UIDMappings
			}
			s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool {
				// A user namespace may only mount these with namespaces of its own.
				switch m.Type {
				case "mqueue":
					return user && !slices.Contains(set, specs.IPCNamespace)
				case "sysfs", "cgroup":
					return user && !(slices.Contains(set, specs.NetworkNamespace) && slices.Contains(set, specs.CgroupNamespace))
				case "proc":
					return user && !slices.Contains(set, specs.PIDNamespace)
				}
				return false
			})
		})
		if r := b.do("create", "--bundle", b.bundle); r.Code != 0 {
			t.Errorf("%v: %+v", set, r)
			continue
		}
		b.must("start")
		pid := b.pid()
		pidFile := filepath.Join(t.TempDir(), "pid")
		b.execOut("--detach", "--pid-file", pidFile, "--", "sleep", "1000")
		added, _ := strconv.Atoi(readFile(t, pidFile))
		for _, n := range nsFiles {
			host, init, exec := nsOf(t, self, n.file), nsOf(t, pid, n.file), nsOf(t, added, n.file)
			if (host != init) != slices.Contains(set, n.kind) {
				t.Errorf("%v: %s namespace of init is %s, the host's %s", set, n.file, init, host)
			}
			if exec != init {
				t.Errorf("%v: %s namespace of exec is %s, of init %s", set, n.file, exec, init)
			}
		}
		stop := reapContainers(t)
		b.must("delete", "--force")
		stop()
		b.gone()
	}
}

// A second container joins the namespaces of a first one by path, as in a pod.
func TestRootNamespacesJoin(t *testing.T) {
	setup(t)
	for _, user := range []bool{false, true} {
		first := newBox(t, forever)
		if user {
			first = newBox(t, forever, withUser)
		}
		first.up()
		pid := first.pid()
		for _, n := range nsFiles {
			if n.kind == specs.TimeNamespace || n.kind == specs.UserNamespace != user || user && n.kind != specs.UserNamespace {
				continue
			}
			joined := []specs.LinuxNamespaceType{n.kind}
			if user { // the others belong to it
				joined = append(joined, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace)
			}
			join(t, first, pid, joined)
		}
		if !user { // all that a pod shares
			join(t, first, pid, []specs.LinuxNamespaceType{specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace})
			join(t, first, pid, []specs.LinuxNamespaceType{specs.NetworkNamespace, specs.PIDNamespace})
		}
		if !alive(pid) {
			t.Error("the first container has ended")
		}
	}
}

func join(t *testing.T, first *ociBox, pid int, kinds []specs.LinuxNamespaceType) {
	t.Helper()
	b := newBox(t, forever, func(s *specs.Spec) {
		for i := range s.Linux.Namespaces {
			n := &s.Linux.Namespaces[i]
			for _, f := range nsFiles {
				if f.kind == n.Type && slices.Contains(kinds, n.Type) {
					n.Path = "/proc/" + strconv.Itoa(pid) + "/ns/" + f.file
				}
			}
		}
		if slices.Contains(kinds, specs.UserNamespace) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: "/proc/" + strconv.Itoa(pid) + "/ns/user"})
		}
		if slices.Contains(kinds, specs.UTSNamespace) {
			s.Hostname = ""
		}
		if slices.Contains(kinds, specs.MountNamespace) {
			s.Root.Path = "/"
			s.Mounts, s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil, nil
			s.Root.Readonly = false
		}
	})
	r := b.do("create", "--bundle", b.bundle)
	if r.Code != 0 {
		t.Errorf("join %v: %+v", kinds, r)
		return
	}
	b.must("start")
	pidFile := filepath.Join(t.TempDir(), "pid")
	b.execOut("--detach", "--pid-file", pidFile, "--", "sleep", "1000")
	added, _ := strconv.Atoi(readFile(t, pidFile))
	for _, f := range nsFiles {
		if f.kind == specs.UserNamespace || f.kind == specs.TimeNamespace {
			continue
		}
		same := nsOf(t, b.pid(), f.file) == nsOf(t, pid, f.file)
		if same != slices.Contains(kinds, f.kind) {
			t.Errorf("join %v: %s shared: %v", kinds, f.file, same)
		}
		if nsOf(t, added, f.file) != nsOf(t, b.pid(), f.file) {
			t.Errorf("join %v: exec is in another %s namespace than init", kinds, f.file)
		}
	}
	if slices.Contains(kinds, specs.UserNamespace) && nsOf(t, b.pid(), "user") != nsOf(t, pid, "user") {
		t.Errorf("join %v: the user namespace is not shared", kinds)
	}
	if slices.Contains(kinds, specs.UTSNamespace) {
		if got := b.execOut("hostname"); got != "minirun\n" {
			t.Errorf("hostname in a joined uts namespace: %q", got)
		}
	}
	stop := reapContainers(t)
	b.must("delete", "--force")
	stop()
	b.gone()
	first.wantStatus("running")
}

func TestRootUserNamespace(t *testing.T) {
	setup(t)
	b := newBox(t, forever, writable, func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 1000}, {ContainerID: 1000, HostID: 300000, Size: 10}}
		s.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 1000}, {ContainerID: 1000, HostID: 400000, Size: 10}}
		s.Process.User.AdditionalGids = []uint32{7}
	})
	if err := os.Chmod(b.rootfs("tmp"), 0o777); err != nil {
		t.Fatal(err)
	}
	b.up()
	pid := strconv.Itoa(b.pid())
	fields := func(name string) string { return strings.Join(strings.Fields(readFile(t, "/proc/"+pid+"/"+name)), " ") }
	if got := fields("uid_map"); got != "0 100000 1000 1000 300000 10" {
		t.Errorf("uid_map %q", got)
	}
	if got := fields("gid_map"); got != "0 200000 1000 1000 400000 10" {
		t.Errorf("gid_map %q", got)
	}
	if s := statusOf(readFile(t, "/proc/"+pid+"/status")); s["Uid"] != "100000 100000 100000 100000" || s["Gid"] != "200000 200000 200000 200000" || s["Groups"] != "200000 200007" && s["Groups"] != "200007 200000" {
		t.Errorf("init on the host: uid %s gid %s groups %s", s["Uid"], s["Gid"], s["Groups"])
	}
	if got := b.execOut("id", "-u"); got != "0\n" {
		t.Errorf("uid inside: %q", got)
	}
	b.execOut("-u", "1000:1000", "--", "touch", "/tmp/mine")
	var st unix.Stat_t
	if err := unix.Stat(b.rootfs("tmp/mine"), &st); err != nil || st.Uid != 300000 || st.Gid != 400000 {
		t.Errorf("a file of uid 1000: %d:%d, %v", st.Uid, st.Gid, err)
	}
	// Devices are the host's, bound.
	if got := b.execOut("sh", "-c", "echo x > /dev/null && head -c 3 /dev/zero | od -An -tx1 && stat -c %t:%T /dev/null"); got != " 00 00 00\n1:3\n" {
		t.Errorf("devices: %q", got)
	}
	// Nothing of the host is within reach.
	if r := b.exec("sh", "-c", "mount -o remount,rw /proc/sys || echo 1 > /proc/sys/kernel/panic"); r.Code == 0 {
		t.Error("/proc/sys can be written")
	}
	if r := b.exec("-u", "5000", "--", "true"); r.Code != 255 || !strings.Contains(r.Stderr, "invalid argument") {
		t.Errorf("exec as an id without a mapping: %+v", r)
	}
	b.wantStatus("running")
}

func TestRootTimeNamespace(t *testing.T) {
	setup(t)
	b := newBox(t, script("cut -d. -f1 /proc/uptime; cat /proc/self/timens_offsets"), func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1000000, Nanosecs: 5}, "monotonic": {Secs: 2000}}
	})
	got := lines(b.output())
	if up, _ := strconv.Atoi(got[0]); up < 1000000 {
		t.Errorf("uptime %q, want more than a million seconds", got[0])
	}
	offsets := strings.Join(strings.Fields(strings.Join(got[1:], " ")), " ")
	if offsets != "monotonic 2000 0 boottime 1000000 5" {
		t.Errorf("offsets %q", offsets)
	}
	bad := newBox(t, func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: -1 << 60}}
	})
	r := bad.run()
	if r.Code != 1 || !strings.Contains(r.Stderr, "timens_offsets") {
		t.Errorf("an offset out of range: %+v", r)
	}
	bad.gone()
}

// A time namespace that another container has made is joined by its path, by the
// process and by those of exec; offsets of one's own are refused there.
func TestRootTimeNamespaceJoin(t *testing.T) {
	setup(t)
	first := newBox(t, forever, func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1000000}}
	}).up()
	path := "/proc/" + strconv.Itoa(first.pid()) + "/ns/time"
	want, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	const look = "readlink /proc/self/ns/time; readlink /proc/self/ns/time_for_children; cut -d. -f1 /proc/uptime"
	check := func(what, out string) {
		t.Helper()
		got := lines(out)
		if len(got) != 3 || got[0] != want || got[1] != want {
			t.Fatalf("%s: namespaces %q, want %s", what, got, want)
		}
		if up, err := strconv.Atoi(got[2]); err != nil || up < 1000000 {
			t.Errorf("%s: uptime %s, want that of the first container", what, got[2])
		}
	}
	joined := func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace, Path: path})
	}
	check("run", newBox(t, script(look), joined).output())
	second := newBox(t, forever, joined).up()
	check("exec", second.execOut("sh", "-c", look))
	refused := newBox(t, joined, func(s *specs.Spec) {
		s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 5}}
	})
	if r := refused.run(); r.Code != 1 || !strings.Contains(r.Stderr, "linux.timeOffsets") {
		t.Errorf("offsets for a namespace that is joined: %+v", r)
	}
	refused.gone()
	wrong := newBox(t, func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace, Path: "/proc/self/ns/ipc"})
	})
	if r := wrong.run(); r.Code != 1 || !strings.Contains(r.Stderr, "time namespace /proc/self/ns/ipc: setns: invalid argument") {
		t.Errorf("a namespace of another type: %+v", r)
	}
	wrong.gone()
}

// A root with an id map of one id only has no right to setgroups(2): it must
// still work, see user_namespaces(7).
func TestRootUserNamespaceSingleID(t *testing.T) {
	setup(t)
	b := newBox(t, script("id -u; id -g"), func(s *specs.Spec) {
		withUser(s)
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 1}}
		s.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 1}}
	})
	if r := b.run(); r.Code != 0 || r.Stdout != "0\n0\n" {
		t.Errorf("got %+v", r)
	}
	for _, args := range [][]string{nil, {"--no-new-keyring"}} {
		if r := b.run(args...); r.Code != 0 {
			t.Errorf("%v: %+v", args, r)
		}
	}
}
