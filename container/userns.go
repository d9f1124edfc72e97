package container

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/minirun/minirun/container/volume"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/runtime"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ParseIDMap reads ID:HOSTID:N, as podman's --uidmap has it.
func ParseIDMap(v string) (m specs.LinuxIDMapping, err error) {
	parts := strings.Split(v, ":")
	if len(parts) != 3 {
		return m, errors.New("want ID:HOSTID:N")
	}
	for i, p := range []*uint32{&m.ContainerID, &m.HostID, &m.Size} {
		n, err := strconv.ParseUint(parts[i], 10, 32)
		if err != nil {
			return m, errors.New("want three numbers, ID:HOSTID:N")
		}
		*p = uint32(n)
	}
	const last = 1<<32 - 2 // -1 is no id
	if m.Size == 0 || uint64(m.ContainerID)+uint64(m.Size)-1 > last || uint64(m.HostID)+uint64(m.Size)-1 > last {
		return m, errors.New("want a range of ids from 0 to 4294967294")
	}
	return m, nil
}

// CheckIDMaps completes and checks what was said about the user namespace.
func (o *Options) CheckIDMaps() error {
	switch {
	case len(o.UIDMap) == 0 && len(o.GIDMap) == 0:
	case o.AutoMap:
		return errors.New("--userns=auto chooses the ids: leave out --uidmap and --gidmap")
	case len(o.UIDMap) == 0:
		o.UIDMap = o.GIDMap
	case len(o.GIDMap) == 0:
		o.GIDMap = o.UIDMap
	}
	if len(o.UIDMap) > 0 && (!hasRoot(o.UIDMap) || !hasRoot(o.GIDMap)) {
		return errors.New("--uidmap and --gidmap must have the id 0: the container is set up as root of its user namespace")
	}
	if (o.AutoMap || len(o.UIDMap) > 0) && o.Privileged {
		return errors.New("--privileged is for a container without a user namespace")
	}
	return nil
}

func hasRoot(maps []specs.LinuxIDMapping) bool {
	for _, m := range maps {
		if m.ContainerID == 0 {
			return true
		}
	}
	return false
}

// Ids of --userns=auto: 65536 for each container, from a range that systemd
// leaves to nobody (systemd.io, "Users, Groups, UIDs and GIDs on systemd systems").
const (
	autoFirst = 1879048192
	autoSize  = 65536
	autoSlots = 4096 - 1
)

func autoRange(slot int) []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(autoFirst + slot*autoSize), Size: autoSize}}
}

// mapIDs chooses the ids of a container with --userns=auto. key is that of its
// snapshot, which is there: as long as it is, the ids are taken. Who has them is
// the content of a symbolic link, which is made in one step.
func (o *Options) mapIDs(store volume.Store, key string) (err error) {
	if !o.AutoMap {
		return nil
	}
	o.UIDMap, err = takeIDs(string(store), key)
	o.GIDMap = o.UIDMap
	return err
}

// TakeIDs chooses ids that no other user namespace of the store has, for as long as
// there is a directory, whose path is absolute; or tells those that were chosen
// for it.
func TakeIDs(store, dir string) ([]specs.LinuxIDMapping, error) { return takeIDs(store, dir) }

// holder is what has to be there for ids to be taken: a directory, or the snapshot
// of that name.
func holder(store, key string) string {
	if key[0] == '/' {
		return key
	}
	return store + "/overlay/snapshots/" + key
}

func takeIDs(store, key string) ([]specs.LinuxIDMapping, error) {
	dir := store + "/userns"
	if err := unix.Mkdir(dir, 0o700); err != nil && err != unix.EEXIST {
		return nil, &os.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	fd, err := linux.OpenAt(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer linux.Close(fd)
	for {
		if err = unix.Flock(fd, unix.LOCK_EX); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return nil, &os.PathError{Op: "flock", Path: dir, Err: err}
	}
	var buf [512]byte
	for slot := range autoSlots {
		name := strconv.Itoa(slot)
		n, err := unix.Readlinkat(fd, name, buf[:])
		if err == nil {
			have := string(buf[:n])
			if have == key {
				return autoRange(slot), nil
			}
			if have == "" || unix.Access(holder(store, have), unix.F_OK) != unix.ENOENT {
				continue
			}
			err = unix.Unlinkat(fd, name, 0) // of a container that is gone
		} else if err == unix.ENOENT {
			err = nil
		}
		if err == nil {
			err = unix.Symlinkat(key, fd, name)
		}
		if err != nil {
			return nil, fmt.Errorf("take user ids: %w", err)
		}
		return autoRange(slot), nil
	}
	return nil, fmt.Errorf("all %d ranges of user ids are taken", autoSlots)
}

// mountSnapshot mounts a container's root as its user namespace wants it.
func mountSnapshot(sn *overlay.Snapshot, o *Options) (int, error) {
	if len(o.UIDMap) == 0 {
		return sn.Mount()
	}
	userns, err := runtime.OpenUserNS(o.UIDMap, o.GIDMap)
	if err != nil {
		return -1, err
	}
	defer linux.Close(userns)
	return sn.MountMapped(userns, func(uid, gid uint32) (int, int) {
		return hostID(o.UIDMap, uid), hostID(o.GIDMap, gid)
	})
}

// hostID is what an id of the container is on the host, that of its root if it
// is nothing.
func hostID(maps []specs.LinuxIDMapping, id uint32) int {
	root := 0
	for _, m := range maps {
		if id-m.ContainerID < m.Size && id >= m.ContainerID {
			return int(m.HostID + id - m.ContainerID)
		}
		if m.ContainerID == 0 {
			root = int(m.HostID)
		}
	}
	return root
}
