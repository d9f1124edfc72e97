package vm

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
)

// TestVMEnvironment checks that the guest has what the other TestVM tests rely on.
func TestVMEnvironment(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	t.Run("controllers are there and delegated", controllersDelegated)
	t.Run("memory limit kills", memoryLimitKills)
	t.Run("overlay", overlayMounts)
	t.Run("bridge and veth", linksCanBeMade)
	t.Run("nftables", nftTable)
	t.Run("root is writable and not the host's", func(t *testing.T) {
		var st unix.Statfs_t
		if err := unix.Statfs("/", &st); err != nil {
			t.Fatal(err)
		}
		if st.Type != unix.OVERLAYFS_SUPER_MAGIC {
			t.Errorf("/ is of type %#x, want an overlay", st.Type)
		}
	})
}

const cgroupRoot = "/sys/fs/cgroup"

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func write(t *testing.T, path, data string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0); err != nil {
		t.Fatal(err)
	}
}

// newCgroup makes a cgroup that is removed at the end.
func newCgroup(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(cgroupRoot, testenv.UniqueID(t))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func controllersDelegated(t *testing.T) {
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &st); err != nil {
		t.Fatal(err)
	}
	if st.Type != unix.CGROUP2_SUPER_MAGIC {
		t.Fatalf("%s is of type %#x, want cgroup2", cgroupRoot, st.Type)
	}
	dir := newCgroup(t)
	have := strings.Fields(read(t, dir+"/cgroup.controllers"))
	for _, want := range []string{"cpuset", "cpu", "io", "memory", "hugetlb", "pids"} {
		found := false
		for _, c := range have {
			found = found || c == want
		}
		if !found {
			t.Errorf("controllers of a child: %v, want %s among them", have, want)
		}
	}
	for file, value := range map[string]string{
		"memory.max": "67108864", "pids.max": "17", "cpu.max": "50000 100000", "cpuset.cpus": "0", "cpu.weight": "50",
	} {
		write(t, filepath.Join(dir, file), value)
		if got := read(t, filepath.Join(dir, file)); got != value {
			t.Errorf("%s is %q after writing %q", file, got, value)
		}
	}
	if got := read(t, "/proc/self/cgroup"); got == "0::/" {
		t.Error("the tests run in the root cgroup, want a leaf")
	}
}

func memoryLimitKills(t *testing.T) {
	dir := newCgroup(t)
	write(t, dir+"/memory.max", "16777216")
	cmd := testenv.RunCmd(t, shell(fmt.Sprintf("echo 0 >%s/cgroup.procs; exec tail -c 64m /dev/zero", dir)))
	if cmd.Code != 137 {
		t.Errorf("a process that takes four times its limit: status %d, want 137\n%s", cmd.Code, cmd.Stderr)
	}
	if events := read(t, dir+"/memory.events"); !strings.Contains(events, "oom_kill 1") {
		t.Errorf("memory.events %q, want one oom_kill", events)
	}
}

func overlayMounts(t *testing.T) {
	base := t.TempDir() // on /scratch, since the root itself is an overlay
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(base, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(base, "lower/file"), []byte("lower"), 0o644); err != nil {
		t.Fatal(err)
	}
	merged := filepath.Join(base, "merged")
	data := fmt.Sprintf("lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", base, base, base)
	if err := unix.Mount("overlay", merged, "overlay", 0, data); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(merged, 0); err != nil {
			t.Error(err)
		}
	}()
	write(t, merged+"/file", "upper")
	if got := read(t, base+"/lower/file"); got != "lower" {
		t.Errorf("the lower file is %q after a write above it", got)
	}
	if got := read(t, base+"/upper/file"); got != "upper" {
		t.Errorf("the upper file is %q, want the copy", got)
	}
}

func linksCanBeMade(t *testing.T) {
	// struct ifinfomsg, then IFLA_IFNAME and IFLA_LINKINFO { IFLA_INFO_KIND }
	newLink := func(name, kind string) {
		t.Helper()
		payload := append(make([]byte, unix.SizeofIfInfomsg), attr(unix.IFLA_IFNAME, []byte(name+"\x00"))...)
		payload = append(payload, attr(unix.IFLA_LINKINFO, attr(unix.IFLA_INFO_KIND, []byte(kind)))...)
		if err := netlink(unix.NETLINK_ROUTE, message(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, payload)); err != nil {
			t.Errorf("make %s %s: %v", kind, name, err)
		}
	}
	delLink := func(name string) {
		t.Helper()
		payload := append(make([]byte, unix.SizeofIfInfomsg), attr(unix.IFLA_IFNAME, []byte(name+"\x00"))...)
		if err := netlink(unix.NETLINK_ROUTE, message(unix.RTM_DELLINK, unix.NLM_F_ACK, payload)); err != nil {
			t.Errorf("delete %s: %v", name, err)
		}
	}
	newLink("mrtbr0", "bridge")
	defer delLink("mrtbr0")
	newLink("mrtve0", "veth") // the kernel names the peer, which goes with it
	defer delLink("mrtve0")
	for _, name := range []string{"lo", "mrtbr0", "mrtve0"} {
		link, err := net.InterfaceByName(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if name == "lo" && link.Flags&net.FlagUp == 0 {
			t.Error("lo is down")
		}
	}
}

func nftTable(t *testing.T) {
	// Changes of nftables come in a batch: begin, NEWTABLE, end; each message starts with struct nfgenmsg.
	nfgen := func(family, resID byte) []byte { return []byte{family, 0, 0, resID} }
	change := func(op uint16, flags uint16) error {
		table := append(nfgen(unix.NFPROTO_INET, 0), attr(unix.NFTA_TABLE_NAME, []byte("mrt-vm\x00"))...)
		return netlink(unix.NETLINK_NETFILTER,
			message(unix.NFNL_MSG_BATCH_BEGIN, 0, nfgen(0, unix.NFNL_SUBSYS_NFTABLES)),
			message(unix.NFNL_SUBSYS_NFTABLES<<8|op, flags|unix.NLM_F_ACK, table),
			message(unix.NFNL_MSG_BATCH_END, 0, nfgen(0, unix.NFNL_SUBSYS_NFTABLES)))
	}
	if err := change(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE|unix.NLM_F_EXCL); err != nil {
		t.Fatalf("make a table: %v", err)
	}
	if err := change(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE|unix.NLM_F_EXCL); err != unix.EEXIST {
		t.Errorf("make it again: %v, want %v", err, unix.EEXIST)
	}
	if err := change(unix.NFT_MSG_DELTABLE, 0); err != nil {
		t.Errorf("delete the table: %v", err)
	}
}

// attr is a netlink attribute, padded.
func attr(kind uint16, data []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(data)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, data...)
	return append(b, make([]byte, -len(b)&3)...)
}

// message is a netlink message, padded.
func message(kind uint16, flags uint16, payload []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(payload)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags|unix.NLM_F_REQUEST)
	b = append(b, make([]byte, 8)...) // sequence number and port: one exchange per socket needs none
	b = append(b, payload...)
	return append(b, make([]byte, -len(b)&3)...)
}

// netlink sends the messages in one packet and returns what the acknowledgement says.
func netlink(family int, messages ...[]byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, family)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var packet []byte
	for _, m := range messages {
		packet = append(packet, m...)
	}
	if err := unix.Sendto(fd, packet, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 8192)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(buf[4:]) != unix.NLMSG_ERROR {
		return fmt.Errorf("netlink answers with %d bytes and no acknowledgement", n)
	}
	if errno := int32(binary.NativeEndian.Uint32(buf[unix.SizeofNlMsghdr:])); errno != 0 {
		return unix.Errno(-errno)
	}
	return nil
}
