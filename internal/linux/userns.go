package linux

import "golang.org/x/sys/unix"

// initUserNS is the inode number of the initial user namespace, which the kernel
// has promised since Linux 3.8 (PROC_USER_INIT_INO).
const initUserNS = 0xEFFFFFFD

// InUserNS reports whether this process is in another user namespace than the
// initial one, where root is not the host's: it can neither make device nodes nor
// load device filters, whatever the capabilities say. Where procfs hides the
// namespace, the id map decides.
func InUserNS() bool {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/user", &st); err == nil {
		return st.Ino != initUserNS
	}
	b, err := ReadFile("/proc/self/uid_map", 4096)
	return err == nil && !wholeMap(string(b))
}

// wholeMap reports whether an id map is that of the initial user namespace: all
// ids to themselves.
func wholeMap(text string) bool {
	n := [3]uint64{}
	i, digits := 0, false
	for _, c := range []byte(text) {
		switch {
		case c >= '0' && c <= '9':
			if i > 2 {
				return false
			}
			n[i] = n[i]*10 + uint64(c-'0')
			digits = true
		case digits:
			i, digits = i+1, false
		}
	}
	return n == [3]uint64{0, 0, 1<<32 - 1}
}
