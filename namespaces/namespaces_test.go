package namespaces

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/initprog"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// parse reads "pid net=/p user" into a list of namespaces.
func parse(s string) []specs.LinuxNamespace {
	var list []specs.LinuxNamespace
	for w := range strings.FieldsSeq(s) {
		typ, path, _ := strings.Cut(w, "=")
		if typ == "net" {
			typ = "network"
		}
		list = append(list, specs.LinuxNamespace{Type: specs.LinuxNamespaceType(typ), Path: path})
	}
	return list
}

func TestFromSpec(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", "new [] join [] staged false clone 0"},
		{"pid net mount ipc uts cgroup", "new [pid network mount ipc uts cgroup] join [] staged false clone 6e020000"},
		{"pid=/a net mount", "new [network mount] join [pid] staged true clone 0"},
		{"user pid mount", "new [user pid mount] join [] staged true clone 0"},
		{"user=/u mount", "new [mount] join [user] staged true clone 0"},
		{"time mount", "new [mount time] join [] staged true clone 0"},
		{"time=/t mount", "new [mount] join [time] staged false clone 20000"},
	}
	for _, tt := range tests {
		s, err := FromSpec(parse(tt.in))
		if err != nil {
			t.Errorf("%q: %v", tt.in, err)
			continue
		}
		var join []string
		for _, j := range s.Join {
			join = append(join, string(j.Type))
		}
		got := fmt.Sprintf("new %v join %v staged %v clone %x", Names(s.New), join, s.Staged(), s.CloneFlags())
		if got != tt.want {
			t.Errorf("%q: got %s, want %s", tt.in, got, tt.want)
		}
	}
	for _, bad := range []string{"pid pid", "pid pid=/x", "net=/a net", "bogus", "mnt"} {
		if _, err := FromSpec(parse(bad)); err == nil || !strings.Contains(err.Error(), "linux.namespaces[") {
			t.Errorf("%q: got %v, want an error with the path", bad, err)
		}
	}
}

// TestPlan_Order pins which namespaces are entered in which order: as root the
// ones that belong to our own user namespace before it is left.
func TestPlan_Order(t *testing.T) {
	tests := []struct {
		in   string
		root bool
		want string
	}{
		{"pid net mount", true, ""},
		{"net=/n ipc=/i mount", true, "join the network namespace /n; join the ipc namespace /i"},
		{"net=/n pid=/p mount", true, "join the network namespace /n; join the pid namespace /p; start"},
		{"net=/n user=/u mount pid=/p", true, "join the network namespace /n; join the pid namespace /p; join the user namespace /u; become root; start"},
		{"net=/n user=/u mount", false, "join the user namespace /u; become root; join the network namespace /n; start"},
		{"user mount pid", true, "make the namespaces user; start"},
		{"user time mount", true, "make the namespaces user time; start"},
		{"time mount", true, "make the namespaces time; start"},
	}
	for _, tt := range tests {
		s, err := FromSpec(parse(tt.in))
		if err != nil {
			t.Fatal(err)
		}
		fds := make([]initprog.Value, len(s.Join))
		for i := range fds {
			fds[i] = initprog.FD(10 + i)
		}
		var got []string
		for _, st := range s.Plan(fds, tt.root) {
			text := st.String()
			for _, short := range []string{" and let the runtime", " of the joined", " the container's init"} {
				text, _, _ = strings.Cut(text, short)
			}
			got = append(got, text)
		}
		if g := strings.Join(got, "; "); g != tt.want {
			t.Errorf("%q root=%v: got %s, want %s", tt.in, tt.root, g, tt.want)
		}
	}
}

func TestIDMap(t *testing.T) {
	maps := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 10}, {ContainerID: 1000, HostID: 7, Size: 1}, {ContainerID: 4294967290, HostID: 50, Size: 5}}
	if got, want := IDMap(maps), "0 100000 10\n1000 7 1\n4294967290 50 5\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for id, want := range map[uint32]int64{0: 100000, 9: 100009, 10: -1, 999: -1, 1000: 7, 1001: -1, 4294967290: 50, 4294967294: 54, 4294967295: -1} {
		got, ok := ToHost(maps, id)
		if ok != (want >= 0) || ok && int64(got) != want || Mapped(maps, id) != ok {
			t.Errorf("%d: got %d %v, want %d", id, got, ok, want)
		}
	}
}

// FuzzIDMap: the kernel's format reads back as what went in.
func FuzzIDMap(f *testing.F) {
	f.Add(uint32(0), uint32(100000), uint32(65536))
	f.Fuzz(func(t *testing.T, c, h, n uint32) {
		want := specs.LinuxIDMapping{ContainerID: c, HostID: h, Size: n}
		text := IDMap([]specs.LinuxIDMapping{want})
		var got specs.LinuxIDMapping
		for i, w := range strings.Fields(text) {
			v, err := strconv.ParseUint(w, 10, 32)
			if err != nil {
				t.Fatal(err)
			}
			*[]*uint32{&got.ContainerID, &got.HostID, &got.Size}[i] = uint32(v)
		}
		if got != want {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	})
}

func TestTimeOffsets(t *testing.T) {
	got := TimeOffsets(map[string]specs.LinuxTimeOffset{"boottime": {Secs: -3, Nanosecs: 5}, "monotonic": {Secs: 10}})
	if want := "monotonic 10 0\nboottime -3 5\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
