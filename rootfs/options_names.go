package rootfs

import (
	"slices"
	"strings"
)

// MountOptions lists the options that are not passed to the file system, sorted.
func MountOptions() []string {
	const plain = "acl noacl async atime bind defaults dest-nofollow copy-symlink src-nofollow dev diratime dirsync exec idmap iversion lazytime loud mand " +
		"noatime nodev nodiratime noexec noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow " +
		"private rbind relatime remount ro rw shared silent slave strictatime suid symfollow sync tmpcopyup unbindable"
	var names []string
	for name := range strings.FieldsSeq(plain) {
		for _, n := range []string{name, "r" + name} {
			if !slices.Contains(names, n) && len(parseOptions([]string{n}).data) == 0 {
				names = append(names, n)
			}
		}
	}
	slices.Sort(names)
	return names
}
