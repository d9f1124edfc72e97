package runtime

import (
	"os"
	"strconv"
	"strings"

	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/linux"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ownUserNS says how far an ordinary user's process got with a user namespace of its
// own: "1" when it is root there, or the step that did not work.
const ownUserNS = "MINIRUN_OWN_USERNS"

// BecomeRoot executes path, this program, again as root of a user namespace of its own
// with the ids of an ordinary user: the user's own as 0, and from 1 on those that
// /etc/subuid and /etc/subgid grant. There it may unpack images, whose files have many
// owners, and mount them, in a mount namespace of its own. It returns with an error, and
// with nil only for who is root already.
//
// Nobody stays in between: a program that is one thread, as unshare(2) wants it, takes
// the place of this process, has newuidmap(1) and newgidmap(1) write the maps, and
// executes path.
func BecomeRoot(path string, argv []string) error {
	uid, gid := os.Geteuid(), os.Getegid()
	if uid == 0 {
		return nil
	}
	e := &OwnUserNSError{uid: uid, step: os.Getenv(ownUserNS)}
	if e.step != "" {
		return e
	}
	uids, gids := subordinate("/etc/subuid", uid), subordinate("/etc/subgid", uid)
	newuidmap, newgidmap := findHelper("newuidmap"), findHelper("newgidmap")
	switch {
	case len(uids) == 0:
		e.step = "/etc/subuid"
	case len(gids) == 0:
		e.step = "/etc/subgid"
	case newuidmap == "" || newgidmap == "":
		e.step = "uidmap"
	}
	if e.step != "" {
		return e
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], 0); err != nil { // without O_CLOEXEC: for the program
		return os.NewSyscallError("pipe", err)
	}
	defer linux.Close(pipe[0])
	defer linux.Close(pipe[1])
	pid := strconv.Itoa(os.Getpid())
	b := rootProgram(pipe, path, argv, os.Environ(),
		append([]string{newuidmap, pid}, mapArguments(uid, uids)...), append([]string{newgidmap, pid}, mapArguments(gid, gids)...))
	image, err := b.Link()
	if err != nil {
		return err
	}
	fd, err := image.Executable(fallbackDir())
	if err != nil {
		return err
	}
	err = unix.Exec("/proc/self/fd/"+strconv.Itoa(fd), []string{initprog.Name}, nil)
	linux.Close(fd)
	return &os.PathError{Op: "exec", Path: initprog.Name, Err: err}
}

// OrdinaryUser reports whether somebody else than root of the host has called: an
// ordinary user, or one who is root since BecomeRoot.
func OrdinaryUser() bool { return os.Geteuid() != 0 || becameRoot() }

// becameRoot reports whether BecomeRoot has made us root.
func becameRoot() bool {
	return os.Getenv(ownUserNS) != "" && os.Geteuid() == 0 && linux.InUserNS()
}

// OwnIDs are the ids of the user namespace that BecomeRoot has made, as maps of one
// below it in which every id is what it is above; nil in any other.
func OwnIDs() (uids, gids []specs.LinuxIDMapping) {
	if !becameRoot() {
		return nil, nil
	}
	same := func(file string) []specs.LinuxIDMapping {
		ms := mapsIn(file)
		for i := range ms {
			ms[i].HostID = ms[i].ContainerID
		}
		return ms
	}
	return same("/proc/self/uid_map"), same("/proc/self/gid_map")
}

// fallbackDir is where programs may be executed if memfds may not.
func fallbackDir() string {
	dir, err := UserRoot()
	if err != nil {
		return ""
	}
	return dir
}

// rootProgram builds what BecomeRoot executes. Where something fails, path says so: it
// is executed with the step in its environment.
func rootProgram(pipe [2]int, path string, argv, env, newuidmap, newgidmap []string) *initprog.Builder {
	b := initprog.NewBuilder(2)
	b.Phase("user namespace")
	child, no, failed := b.NewLabel(), b.NewLabel(), b.NewLabel()
	in, out := initprog.FD(pipe[0]), initprog.FD(pipe[1])
	args := b.Strings(argv)
	again := func(state string) {
		b.Execve(path, args, b.Strings(append(env[:len(env):len(env)], ownUserNS+"="+state)))
	}
	ended := func(pid initprog.Value, bad initprog.Label) {
		status := b.Slot(0) // the kernel writes the lower half
		b.Wait4(pid, initprog.AddressOf(status), 0, initprog.Const(0)).OnAny(bad).Retry(unix.EINTR)
		b.Set(b.Slot(0), status).OnNonzero(bad)
	}
	// The child has the maps written: it stays where it is, for the helpers have their
	// privilege from there. It begins when this process has unshared.
	maker := b.Clone(0, -1).OnZero(child).Result()
	b.Close(in)
	b.Unshare(unix.CLONE_NEWUSER | unix.CLONE_NEWNS).OnAny(no)
	b.Write(out, "x")
	b.Close(out)
	ended(maker, failed)
	again("1")
	b.Place(failed)
	again("newuidmap or newgidmap")
	b.Place(no)
	again("unshare")

	b.Place(child)
	b.Close(out)
	quit := b.NewLabel()
	b.Read(in, b.Words(0), 1).OnZero(quit) // nobody has unshared
	for _, helper := range [][]string{newuidmap, newgidmap} {
		run, on := b.NewLabel(), b.NewLabel()
		ended(b.Clone(0, -1).OnZero(run).Result(), quit)
		b.Jump(on)
		b.Place(run)
		// Nothing of our environment: the helpers are set-user-ID root.
		b.Execve(helper[0], b.Strings(helper), b.Strings([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"})).OnAny(quit)
		b.Place(on)
	}
	b.ExitGroup(0)
	b.Place(quit)
	b.ExitGroup(1)
	return b
}

// subordinate is what a file such as /etc/subuid grants the user; see subuid(5).
func subordinate(file string, uid int) (ranges []specs.LinuxIDMapping) {
	b, err := linux.ReadFile(file, 1<<20)
	if err != nil {
		return nil
	}
	number := strconv.Itoa(uid)
	name := userName(number)
	next := uint64(1)
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 || f[0] != number && (name == "" || f[0] != name) {
			continue
		}
		first, err1 := strconv.ParseUint(f[1], 10, 32)
		count, err2 := strconv.ParseUint(f[2], 10, 32)
		if err1 != nil || err2 != nil || count == 0 || next+count > 1<<32-1 {
			continue
		}
		ranges = append(ranges, specs.LinuxIDMapping{ContainerID: uint32(next), HostID: uint32(first), Size: uint32(count)})
		next += count
	}
	return ranges
}

// mapArguments are those of newuidmap(1) behind the pid: own as 0, and the ranges.
func mapArguments(own int, ranges []specs.LinuxIDMapping) []string {
	args := []string{"0", strconv.Itoa(own), "1"}
	for _, m := range ranges {
		args = append(args, strconv.FormatUint(uint64(m.ContainerID), 10), strconv.FormatUint(uint64(m.HostID), 10), strconv.FormatUint(uint64(m.Size), 10))
	}
	return args
}

// OwnUserNSError reports that an ordinary user could not have the ids of an image.
type OwnUserNSError struct {
	uid  int
	step string
}

func (e *OwnUserNSError) Error() string {
	const what = "images have files of many users: "
	switch e.step {
	case "/etc/subuid", "/etc/subgid":
		return what + e.step + " grants user " + e.name() + " no ids"
	case "uidmap":
		return what + "newuidmap and newgidmap are not installed"
	case "unshare":
		return what + "make a user namespace: operation not permitted"
	}
	return what + e.step + " did not write the maps of a user namespace"
}

func (e *OwnUserNSError) name() string {
	number := strconv.Itoa(e.uid)
	if name := userName(number); name != "" {
		return strconv.Quote(name)
	}
	return number
}

// Hint says what to do about it.
func (e *OwnUserNSError) Hint() string {
	switch e.step {
	case "/etc/subuid", "/etc/subgid":
		return "as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 " + strings.Trim(e.name(), "\"") + ", with ids that nobody else has"
	case "uidmap":
		return "install the package that has them (uidmap or shadow-utils)"
	case "unshare":
		return "unprivileged user namespaces must be allowed (user.max_user_namespaces, and kernel.apparmor_restrict_unprivileged_userns where there is that); or be root"
	}
	return "they must be set-user-ID root or have the capability for it, on a mount that is not nosuid; what they said is above"
}
