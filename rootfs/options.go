package rootfs

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// mountOptions is what the options of one mount in config.json ask for.
type mountOptions struct {
	bind, recursive bool
	remount         bool
	set, clear      uint64   // MOUNT_ATTR_* of the mount itself
	setAll, clrAll  uint64   // the same for the mount and all below ("rro")
	propagation     uint64   // MS_PRIVATE, ...; 0: leave
	propagateAll    bool     // of all mounts below too
	superFlags      []string // flags of the superblock: "sync"
	data            []string // everything else: parameters of the file system
	copyUp          bool
	idmap, idmapAll bool   // "idmap", "ridmap"
	idmapText       string // what follows in "idmap=..."
	copyLink        bool   // "copy-symlink": a source that is a symbolic link is copied, not followed
	srcNoFollow     bool   // a source that is a symbolic link is what is bound
	destNoFollow    bool   // a destination that is a symbolic link is what is covered
}

const (
	attrAtime = unix.MOUNT_ATTR__ATIME
	// nosymfollow came with Linux 5.14.
	attrNoSymFollow = unix.MOUNT_ATTR_NOSYMFOLLOW
)

// attr returns the MOUNT_ATTR_* bits that a VFS option sets and clears; ok is
// false for an option that is none.
func attr(option string) (set, clear uint64, ok bool) {
	switch option {
	case "ro":
		return unix.MOUNT_ATTR_RDONLY, 0, true
	case "rw":
		return 0, unix.MOUNT_ATTR_RDONLY, true
	case "nosuid":
		return unix.MOUNT_ATTR_NOSUID, 0, true
	case "suid":
		return 0, unix.MOUNT_ATTR_NOSUID, true
	case "nodev":
		return unix.MOUNT_ATTR_NODEV, 0, true
	case "dev":
		return 0, unix.MOUNT_ATTR_NODEV, true
	case "noexec":
		return unix.MOUNT_ATTR_NOEXEC, 0, true
	case "exec":
		return 0, unix.MOUNT_ATTR_NOEXEC, true
	case "nodiratime":
		return unix.MOUNT_ATTR_NODIRATIME, 0, true
	case "diratime":
		return 0, unix.MOUNT_ATTR_NODIRATIME, true
	case "nosymfollow":
		return attrNoSymFollow, 0, true
	case "symfollow":
		return 0, attrNoSymFollow, true
	// The three ways to treat access times are one field: clear it to set it.
	case "noatime":
		return unix.MOUNT_ATTR_NOATIME, attrAtime, true
	case "relatime", "atime", "nostrictatime":
		return unix.MOUNT_ATTR_RELATIME, attrAtime, true
	case "strictatime", "norelatime":
		return unix.MOUNT_ATTR_STRICTATIME, attrAtime, true
	}
	return 0, 0, false
}

func propagation(option string) (flag uint64, recursive, ok bool) {
	name, recursive := strings.CutPrefix(option, "r")
	switch name {
	case "private":
		return unix.MS_PRIVATE, recursive, true
	case "slave":
		return unix.MS_SLAVE, recursive, true
	case "shared":
		return unix.MS_SHARED, recursive, true
	case "unbindable":
		return unix.MS_UNBINDABLE, recursive, true
	}
	return 0, false, false
}

// parseOptions sorts the options of a mount. What is no VFS option is a
// parameter of the file system, as mount(8) has it.
func parseOptions(options []string) (o mountOptions) {
	for _, opt := range options {
		if set, clear, ok := attr(opt); ok {
			o.set = o.set&^(set|clear) | set
			o.clear = o.clear&^set | clear
			continue
		}
		if p, rec, ok := propagation(opt); ok {
			o.propagation, o.propagateAll = p, rec
			continue
		}
		if name, ok := strings.CutPrefix(opt, "r"); ok && opt != "ro" && opt != "rw" {
			if set, clear, ok := attr(name); ok { // "rro", "rnosuid": Linux 5.12
				o.setAll = o.setAll&^(set|clear) | set
				o.clrAll = o.clrAll&^set | clear
				continue
			}
		}
		switch opt {
		case "bind":
			o.bind = true
		case "rbind":
			o.bind, o.recursive = true, true
		case "remount":
			o.remount = true
		case "tmpcopyup":
			o.copyUp = true
		case "idmap":
			o.idmap = true
		case "ridmap":
			o.idmap, o.idmapAll = true, true
		case "copy-symlink":
			o.copyLink = true
		case "src-nofollow":
			o.srcNoFollow = true
		case "dest-nofollow":
			o.destNoFollow = true
		case "", "defaults", "loud", "silent", "iversion", "noiversion":
			// nothing that a container can see
		case "sync", "async", "dirsync", "lazytime", "nolazytime", "mand", "nomand":
			o.superFlags = append(o.superFlags, opt)
		default:
			if text, ok := strings.CutPrefix(opt, "idmap="); ok {
				o.idmap, o.idmapText = true, text
			} else if text, ok := strings.CutPrefix(opt, "ridmap="); ok {
				o.idmap, o.idmapAll, o.idmapText = true, true, text
			} else {
				o.data = append(o.data, opt)
			}
		}
	}
	return o
}

// check refuses options that contradict the kind of mount.
func (o *mountOptions) check() error {
	if o.bind && len(o.data) > 0 {
		return fmt.Errorf("bind mounts cannot have any filesystem-specific options applied, got %q", o.data)
	}
	switch {
	case o.remount && (o.idmap || o.copyUp || o.copyLink || o.srcNoFollow):
		return errors.New("remount changes attributes such as ro and nosuid, and propagation, of a mount that is there; it cannot map ids, copy or follow")
	case o.remount && len(o.data) > 0:
		return fmt.Errorf("remount cannot change parameters of the filesystem, got %q", o.data)
	case o.copyUp && o.bind:
		return errors.New("tmpcopyup is for a tmpfs, not for a bind mount")
	case o.copyUp && (o.setAll|o.clrAll)&unix.MOUNT_ATTR_RDONLY != 0:
		return errors.New("tmpcopyup goes with ro, not with rro: there is nothing mounted below")
	case o.copyLink && o.srcNoFollow:
		return errors.New("copy-symlink and src-nofollow exclude each other: one copies the link, the other binds it")
	}
	for _, d := range o.data {
		if len(d) > 255 && !strings.Contains(d, "=") {
			return fmt.Errorf("option %.20q... is too long", d)
		}
	}
	return nil
}

// describe lists the attributes for people, in the words of config.json.
func describe(set uint64) string {
	var s []string
	for _, a := range [...]struct {
		bit  uint64
		name string
	}{
		{unix.MOUNT_ATTR_RDONLY, "ro"},
		{unix.MOUNT_ATTR_NOSUID, "nosuid"},
		{unix.MOUNT_ATTR_NODEV, "nodev"},
		{unix.MOUNT_ATTR_NOEXEC, "noexec"},
		{unix.MOUNT_ATTR_NOATIME, "noatime"},
		{unix.MOUNT_ATTR_STRICTATIME, "strictatime"},
		{unix.MOUNT_ATTR_NODIRATIME, "nodiratime"},
		{attrNoSymFollow, "nosymfollow"},
	} {
		if set&a.bit != 0 {
			s = append(s, a.name)
		}
	}
	return strings.Join(s, ",")
}
