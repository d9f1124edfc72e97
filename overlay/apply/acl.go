package apply

import (
	"encoding/binary"
)

// What the kernel does to some attributes when they are set on a file is done
// here, before anybody sets them: a layer that is never made of files has them
// as one that is.

// checkCapability says whether a value of security.capability is one that the
// kernel takes: struct vfs_cap_data of linux/capability.h in one of its three
// revisions.
func checkCapability(value string) error {
	size := 0
	if len(value) >= 4 {
		switch binary.LittleEndian.Uint32([]byte(value)) & 0xff000000 {
		case 0x01000000:
			size = 12
		case 0x02000000:
			size = 20
		case 0x03000000:
			size = 24 // with the root user's ID
		}
	}
	if size == 0 || len(value) != size {
		return invalid("file capabilities of %d bytes in no known format", len(value))
	}
	return nil
}

// Tags of access control lists, linux/posix_acl.h.
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

// acl is an access control list as posix_acl_valid and posix_acl_equiv_mode of
// fs/posix_acl.c see it.
type acl struct {
	perms uint32 // what becomes the permission bits of a mode
	more  bool   // and it says more than a mode could
}

// parseACL reads the value of system.posix_acl_access or _default: version 2,
// then 8 bytes for each entry, in the order of their tags. ok is false for a list
// without entries, which stands for no list.
func parseACL(value string) (a acl, ok bool, err error) {
	b := []byte(value)
	le := binary.LittleEndian
	if len(b) == 0 || len(b) == 4 && le.Uint32(b) == 2 {
		return acl{}, false, nil
	}
	bad := invalid("access control list of %d bytes in no known format", len(b))
	if len(b) < 4 || le.Uint32(b) != 2 || (len(b)-4)%8 != 0 {
		return acl{}, false, bad
	}
	seen := uint16(0)
	named := false
	for b = b[4:]; len(b) > 0; b = b[8:] {
		tag, perm, id := le.Uint16(b), uint32(le.Uint16(b[2:])), le.Uint32(b[4:])
		if perm > 7 {
			return acl{}, false, bad
		}
		switch tag {
		case aclUser, aclGroup:
			if id == 1<<32-1 || tag == aclUser && seen&(aclGroupObj|aclGroup) != 0 || seen&aclUserObj == 0 || tag == aclGroup && seen&aclGroupObj == 0 || seen&(aclMask|aclOther) != 0 {
				return acl{}, false, bad
			}
			named = true
		case aclUserObj, aclGroupObj, aclMask, aclOther:
			// Each once, in order.
			if seen&(tag|tag<<1|tag<<2|tag<<3|tag<<4|tag<<5) != 0 || tag != aclUserObj && seen&aclUserObj == 0 || tag > aclGroupObj && seen&aclGroupObj == 0 {
				return acl{}, false, bad
			}
		default:
			return acl{}, false, bad
		}
		seen |= tag
		switch tag {
		case aclUserObj:
			a.perms |= perm << 6
		case aclGroupObj:
			a.perms |= perm << 3
		case aclMask:
			a.perms = a.perms&^0o70 | perm<<3
		case aclOther:
			a.perms |= perm
		}
	}
	const all = aclUserObj | aclGroupObj | aclOther
	if seen&all != all || named && seen&aclMask == 0 {
		return acl{}, false, bad
	}
	a.more = named || seen&aclMask != 0
	return a, true, nil
}

// settle does to the attributes what the kernel does when it sets them on a file
// or directory: an access control list decides the permission bits, and one that
// says nothing else is not kept. Values that the kernel refuses are errors.
func (f *front) settle(name string, a *attr, isDir bool) error {
	kept := a.xattrs[:0]
	for _, x := range a.xattrs {
		switch x.name {
		case "security.capability":
			if err := checkCapability(x.value); err != nil {
				return err
			}
		case "system.posix_acl_access":
			list, ok, err := parseACL(x.value)
			if err != nil {
				return err
			}
			if ok {
				a.mode = a.mode&^0o777 | list.perms
			}
			if !ok || !list.more {
				continue
			}
		case "system.posix_acl_default":
			_, ok, err := parseACL(x.value)
			if err != nil {
				return err
			}
			if !isDir && ok {
				f.warn("%q: default access control list left out, it is no directory", clip(name))
			}
			if !isDir || !ok {
				continue
			}
		}
		kept = append(kept, x)
	}
	a.xattrs = kept
	return nil
}
