package testenv

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// mounts returns the mounts of the test process's mount namespace, identified by
// mount ID and place (IDs are used again).
func mounts() map[string]object {
	m := make(map[string]object)
	for _, f := range mountinfo() {
		m[f[0]+" "+f[4]] = object{text: strings.Join(f[3:], " ")}
	}
	return m
}

// mountinfo returns the fields of each line of proc_pid_mountinfo(5).
func mountinfo() [][]string {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var out [][]string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 9 {
			out = append(out, f)
		}
	}
	return out
}

// cgroupRoots returns where cgroup v2 is mounted: one place, except for bind mounts.
func cgroupRoots() []string {
	var out []string
	for _, f := range mountinfo() {
		for i := 6; i < len(f)-1; i++ {
			if f[i] == "-" && f[i+1] == "cgroup2" && f[3] == "/" {
				out = append(out, f[4])
			}
		}
	}
	return out
}

// testCgroups returns the v2 cgroups that tests and minirun make, down to the
// depth where a bundle below a systemd slice would put them.
func testCgroups() map[string]object {
	m := make(map[string]object)
	for _, root := range cgroupRoots() {
		filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil
			}
			rel := strings.TrimPrefix(path, root)
			if strings.Contains(rel, "minirun") || strings.Contains(rel, "mrt") {
				m[path] = object{text: path}
			}
			if strings.Count(rel, "/") > 6 {
				return fs.SkipDir
			}
			return nil
		})
	}
	return m
}

// processes returns the children of the test process, the processes in a cgroup
// of this test process, and those that carry its mark in their environment.
func processes() map[string]object {
	m := make(map[string]object)
	self := os.Getpid()
	mark := []string{leakMark + "=" + strconv.Itoa(self) + ":"}
	group := []string{processName()}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return m
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == self {
			continue
		}
		dir := "/proc/" + e.Name()
		name, state, parent, start, ok := processStat(dir)
		if !ok {
			continue
		}
		own := parent == self
		if !own {
			cgroup, _ := os.ReadFile(dir + "/cgroup")
			environ, _ := os.ReadFile(dir + "/environ")
			own = containsAny(string(cgroup), group) || containsAny("\x00"+string(environ), mark)
		}
		if own {
			m[e.Name()+" "+start] = object{text: fmt.Sprintf("%d %q (state %s, parent %d)", pid, name, state, parent), own: true}
		}
	}
	return m
}

// processStat reads the fields of proc_pid_stat(5) that identify a process.
func processStat(dir string) (name, state string, parent int, start string, ok bool) {
	b, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return "", "", 0, "", false
	}
	s := string(b)
	open, end := strings.IndexByte(s, '('), strings.LastIndexByte(s, ')') // the name may contain both
	if open < 0 || end < open {
		return "", "", 0, "", false
	}
	f := strings.Fields(s[end+1:])
	if len(f) < 20 {
		return "", "", 0, "", false
	}
	parent, err = strconv.Atoi(f[1])
	return s[open+1 : end], f[0], parent, f[19], err == nil
}

// links returns the links of the test process's network namespace.
func links() map[string]object {
	m := make(map[string]object)
	list, err := net.Interfaces()
	if err != nil {
		return m
	}
	for _, l := range list {
		m[strconv.Itoa(l.Index)+" "+l.Name] = object{text: l.Name}
	}
	return m
}

// namedNetns returns the network namespaces that ip-netns(8) would list.
func namedNetns() map[string]object {
	m := make(map[string]object)
	entries, err := os.ReadDir("/run/netns")
	if err != nil {
		return m
	}
	for _, e := range entries {
		m[e.Name()] = object{text: "/run/netns/" + e.Name()}
	}
	return m
}

// descriptors returns the open descriptors of the test process and what they refer to.
func descriptors() map[string]object {
	m := make(map[string]object)
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return m
	}
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil { // the descriptor of ReadDir itself, closed by now
			continue
		}
		m[e.Name()+" "+target] = object{text: e.Name() + " -> " + target, own: true}
	}
	return m
}
