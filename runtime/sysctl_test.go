package runtime

import (
	"strings"
	"testing"

	"github.com/minirun/minirun/namespaces"
	"golang.org/x/sys/unix"
)

func TestPlanSysctls(t *testing.T) {
	all := uint64(unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWUSER)
	for _, tt := range []struct {
		key  string
		set  namespaces.Set
		want string // path, or what an error contains
	}{
		{"net.ipv4.ip_forward", namespaces.Set{New: all}, "sys/net/ipv4/ip_forward"},
		{"net/ipv4/ip_forward", namespaces.Set{New: all}, "sys/net/ipv4/ip_forward"},
		{"net.ipv4.conf.eth0/1.forwarding", namespaces.Set{New: all}, "sys/net/ipv4/conf/eth0.1/forwarding"},
		{"net/ipv4/conf/eth0.1/forwarding", namespaces.Set{New: all}, "sys/net/ipv4/conf/eth0.1/forwarding"},
		{"kernel.shmmax", namespaces.Set{New: all}, "sys/kernel/shmmax"},
		{"fs.mqueue.msg_max", namespaces.Set{New: unix.CLONE_NEWIPC}, "sys/fs/mqueue/msg_max"},
		{"kernel.domainname", namespaces.Set{New: unix.CLONE_NEWUTS}, "sys/kernel/domainname"},
		{"user.max_net_namespaces", namespaces.Set{New: unix.CLONE_NEWUSER}, "sys/user/max_net_namespaces"},
		{"net.core.somaxconn", namespaces.Set{New: unix.CLONE_NEWIPC}, "needs a namespace of its own"},
		{"net.core.somaxconn", namespaces.Set{Join: []namespaces.Join{{Type: "network", Flag: unix.CLONE_NEWNET, Path: "/proc/self/ns/net"}}}, "needs a namespace of its own"},
		{"net.core.somaxconn", namespaces.Set{Join: []namespaces.Join{{Type: "network", Flag: unix.CLONE_NEWNET, Path: "/proc/self/ns/mnt"}}}, "sys/net/core/somaxconn"},
		{"net.core.somaxconn", namespaces.Set{Join: []namespaces.Join{{Type: "network", Flag: unix.CLONE_NEWNET, Path: "/no/such/file"}}}, "needs a namespace of its own"},
		{"kernel.hostname", namespaces.Set{New: all}, "use hostname"},
		{"kernel.core_pattern", namespaces.Set{New: all}, "is not of a namespace"},
		{"kernel/core_pattern", namespaces.Set{New: all}, "is not of a namespace"},
		{"kernel.shmmax+kernel.core_pattern", namespaces.Set{New: all}, "is not of a namespace"},
		{"vm.overcommit_memory", namespaces.Set{New: all}, "is not of a namespace"},
		{"net", namespaces.Set{New: all}, "is not of a namespace"},
		{"net/../kernel/sysrq", namespaces.Set{New: all}, "is not the name"},
		{"net.//.kernel", namespaces.Set{New: all}, "is not the name"},
		{"/net/core/somaxconn", namespaces.Set{New: all}, "is not the name"},
		{".net.core", namespaces.Set{New: all}, "is not the name"},
		{"net..core", namespaces.Set{New: all}, "is not the name"},
		{"", namespaces.Set{New: all}, "is not the name"},
	} {
		s, err := planSysctls(&tt.set, map[string]string{tt.key: "1"})
		got := ""
		if err != nil {
			got = err.Error()
			if e, ok := err.(interface{ Unwrap() []error }); ok {
				if h, ok := e.Unwrap()[0].(*SysctlError); ok {
					got += " " + h.Hint()
				}
			}
		} else {
			got = s.paths[0]
		}
		if err == nil && got != tt.want || err != nil && !strings.Contains(got, tt.want) {
			t.Errorf("%q: %s, want %s", tt.key, got, tt.want)
		}
	}
	set := namespaces.Set{New: all}
	if s, err := planSysctls(&set, nil); s != nil || err != nil {
		t.Errorf("nothing to set: %v, %v", s, err)
	}
	if _, err := planSysctls(&set, map[string]string{"net.core.somaxconn": "1", "net/core/somaxconn": "2"}); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("one parameter in two notations: %v", err)
	}
}
