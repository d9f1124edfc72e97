package runtime

import (
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/namespaces"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// writeMaps gives the user namespace of the process pid, our child, its
// mappings. Root writes them; an ordinary user may write one that maps a single
// id to its own, and for others asks newuidmap(1) and newgidmap(1), which look
// into /etc/subuid and /etc/subgid. See user_namespaces(7).
func writeMaps(pid int, uids, gids []specs.LinuxIDMapping) error {
	proc := "/proc/" + strconv.Itoa(pid)
	uid, gid := os.Geteuid(), os.Getegid()
	if uid == 0 || ownID(uids, uid) {
		if err := writeHost(proc+"/uid_map", namespaces.IDMap(uids)); err != nil {
			return err
		}
	} else if err := mapByHelper("newuidmap", "linux.uidMappings", "/etc/subuid", pid, uid, uids); err != nil {
		return err
	}
	if uid != 0 && !ownID(gids, gid) {
		return mapByHelper("newgidmap", "linux.gidMappings", "/etc/subgid", pid, gid, gids)
	}
	if uid != 0 { // without that the kernel refuses the map (CVE-2014-8989)
		if err := writeHost(proc+"/setgroups", "deny"); err != nil {
			return err
		}
	}
	return writeHost(proc+"/gid_map", namespaces.IDMap(gids))
}

// ownID reports whether the mappings are one id, to the host's id.
func ownID(ms []specs.LinuxIDMapping, id int) bool {
	return len(ms) == 1 && ms[0].Size == 1 && int(ms[0].HostID) == id
}

// mapByHelper runs newuidmap or newgidmap.
func mapByHelper(name, field, file string, pid, own int, ms []specs.LinuxIDMapping) error {
	e := &MapError{Helper: name, Field: field, File: file, own: uint32(own), maps: ms}
	path := findHelper(name)
	if path == "" {
		e.Reason = "not found"
		return e
	}
	args := append(make([]string, 0, 2+3*len(ms)), path, strconv.Itoa(pid))
	for _, m := range ms {
		args = append(args, strconv.FormatUint(uint64(m.ContainerID), 10), strconv.FormatUint(uint64(m.HostID), 10), strconv.FormatUint(uint64(m.Size), 10))
	}
	out, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	defer linux.Close(out)
	// Nothing of our environment: the helper is set-user-ID root.
	child, err := syscall.ForkExec(path, args, &syscall.ProcAttr{
		Dir: "/", Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, Files: []uintptr{uintptr(out), uintptr(out), uintptr(out)},
	})
	if err != nil {
		e.Reason = err.Error()
		return e
	}
	ws, err := reap(child)
	if err != nil {
		return os.NewSyscallError("wait4", err)
	}
	if ws.Exited() && ws.ExitStatus() == 0 {
		return nil
	}
	var buf [512]byte
	n, _ := unix.Pread(out, buf[:], 0)
	e.Reason = strings.TrimSpace(string(buf[:max(n, 0)]))
	if e.Reason == "" {
		e.Reason = "ended with status " + strconv.Itoa(ExitCode(ws))
	}
	return e
}

// findHelper returns the path of a helper that nobody but root can have put
// there, "" if there is none. PATH is not asked: it is not the administrator's.
func findHelper(name string) string {
	for _, dir := range [...]string{"/usr/bin/", "/bin/", "/usr/sbin/", "/usr/local/bin/"} {
		if rootsAlone(dir, unix.S_IFDIR) && rootsAlone(dir+name, unix.S_IFREG) {
			return dir + name
		}
	}
	return ""
}

func rootsAlone(path string, kind uint32) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == kind && st.Uid == 0 && st.Mode&0o022 == 0
}

// MapError reports that a helper did not write the id map of a container.
type MapError struct {
	Helper, Field, File, Reason string

	own  uint32
	maps []specs.LinuxIDMapping
}

func (e *MapError) Error() string { return e.Field + ": " + e.Helper + ": " + e.Reason }

// Hint says which line is missing.
func (e *MapError) Hint() string {
	single := "; or map one id to your own, {\"hostID\": " + strconv.FormatUint(uint64(e.own), 10) + ", \"size\": 1}, which needs no helper"
	if e.Reason == "not found" {
		return "install the package that has " + e.Helper + " (uidmap or shadow-utils)" + single
	}
	user := strconv.Itoa(os.Geteuid())
	names := []string{user}
	if name := userName(user); name != "" {
		user, names = name, []string{name, user}
	}
	b, err := linux.ReadFile(e.File, 1<<20)
	if err != nil {
		return e.File + " cannot be read, so nobody has ids to map" + single
	}
	for _, m := range e.maps {
		if m.Size == 1 && m.HostID == e.own || granted(string(b), names, uint64(m.HostID), uint64(m.Size)) {
			continue
		}
		return "ids " + strconv.FormatUint(uint64(m.HostID), 10) + " to " + strconv.FormatUint(uint64(m.HostID)+uint64(m.Size)-1, 10) +
			" are not this user's: as root, add the line " + user + ":" + strconv.FormatUint(uint64(m.HostID), 10) + ":" +
			strconv.FormatUint(uint64(m.Size), 10) + " to " + e.File + ", or map others" + single
	}
	return "every id is granted in " + e.File + "; " + e.Helper + " must be set-user-ID root or have the capability for it, and the mount it is on must not be nosuid"
}

// granted reports whether one line of /etc/subuid gives the names all ids from
// first on; see subuid(5).
func granted(text string, names []string, first, size uint64) bool {
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 {
			continue
		}
		start, err1 := strconv.ParseUint(f[1], 10, 32)
		count, err2 := strconv.ParseUint(f[2], 10, 32)
		for _, n := range names {
			if f[0] == n && err1 == nil && err2 == nil && start <= first && first+size <= start+count {
				return true
			}
		}
	}
	return false
}

// userName is the host's name for a uid, "" if /etc/passwd has none.
func userName(uid string) string {
	b, err := linux.ReadFile("/etc/passwd", 1<<20)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.SplitN(line, ":", 4); len(f) == 4 && f[2] == uid {
			return f[0]
		}
	}
	return ""
}
