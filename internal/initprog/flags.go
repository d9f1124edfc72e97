package initprog

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A flagName names the value of a flag or of a choice.
type flagName struct {
	value uint64
	name  string
}

// flags is the number n as names of the kind that a signature has in brackets.
func flags(kind byte, n uint64) string {
	switch kind {
	case 'n': // mode of a node
		s := choice(nodeTypes[:], n&unix.S_IFMT)
		return s + "|" + octal(n&^unix.S_IFMT)
	case 'b':
		if n < uint64(len(capNames)) {
			return "CAP_" + capNames[n]
		}
		return number(n)
	case 'o':
		s := choice(accessModes[:], n&unix.O_ACCMODE)
		if rest := n &^ unix.O_ACCMODE; rest != 0 {
			f := set(openFlags[:], rest)
			if n&(unix.O_ACCMODE|unix.O_PATH) == unix.O_PATH { // the mode means nothing
				return f
			}
			s += "|" + f
		}
		return s
	case 'O': // dup3 takes no mode
		return set(openFlags[:], n)
	case 'I':
		if s := choice(ioctls[:], n); s != number(n) {
			return s
		}
		return "0x" + strconv.FormatUint(n, 16)
	case 'k':
		if t := n & 0xf; t != 0 {
			s := choice(socketTypes[:], t)
			if n&unix.SOCK_CLOEXEC != 0 {
				s += "|SOCK_CLOEXEC"
			}
			return s
		}
		return set([]flagName{{unix.SOCK_CLOEXEC, "SOCK_CLOEXEC"}, {unix.SOCK_NONBLOCK, "SOCK_NONBLOCK"}}, n)
	case 'A':
		return attributes(n)
	case 'x':
		if n == 0 {
			return "F_OK"
		}
	}
	names, many := kindNames(kind)
	if many {
		return set(names, n)
	}
	return choice(names, n)
}

// kindNames are the names of a kind; many tells flags from choices.
func kindNames(kind byte) (names []flagName, many bool) {
	switch kind {
	case 'a':
		return atFlags[:], true
	case 'e':
		return accessFlags[:], true
	case 'R':
		return resolveFlags[:], true
	case 'N':
		return cloneFlags[:], true
	case 'c':
		return closeRangeFlags[:], true
	case 'g':
		return msgFlags[:], true
	case 'F':
		return fsopenFlags[:], true
	case 'm':
		return fsmountFlags[:], true
	case 't':
		return treeFlags[:], true
	case 'v':
		return moveFlags[:], true
	case 'M':
		return mountFlags[:], true
	case 'u':
		return umountFlags[:], true
	case 's':
		return seccompFlags[:], true
	case 'x':
		return accessBits[:], true
	case 'U':
		return interfaceFlags[:], true
	case 'C':
		return fsconfigCommands[:], false
	case 'p':
		return prctlOptions[:], false
	case 'q':
		return ambientOptions[:], false
	case 'r':
		return rlimits[:], false
	case 'S':
		return seccompOps[:], false
	case 'K':
		return keyctlOps[:], false
	case 'f':
		return families[:], false
	}
	return nil, false
}

// choice is the name of the value n, or n itself.
func choice(names []flagName, n uint64) string {
	for _, f := range names {
		if f.value == n {
			return f.name
		}
	}
	return number(n)
}

// set is n as names joined by "|", with what has no name in hexadecimal.
// Combined flags come before their parts in names.
func set(names []flagName, n uint64) string {
	if n == 0 {
		return "0"
	}
	var s []string
	for _, f := range names {
		if f.value != 0 && n&f.value == f.value {
			s = append(s, f.name)
			n &^= f.value
		}
	}
	if n != 0 {
		s = append(s, "0x"+strconv.FormatUint(n, 16))
	}
	return strings.Join(s, "|")
}

// attributes are MOUNT_ATTR_*, three of which are a number for access times.
func attributes(n uint64) string {
	const atime = unix.MOUNT_ATTR__ATIME
	s := ""
	switch n & atime {
	case atime:
		s = "MOUNT_ATTR__ATIME"
	case unix.MOUNT_ATTR_NOATIME:
		s = "MOUNT_ATTR_NOATIME"
	case unix.MOUNT_ATTR_STRICTATIME:
		s = "MOUNT_ATTR_STRICTATIME"
	case 0:
		return set(mountAttrs[:], n)
	default:
		return set(mountAttrs[:], n)
	}
	if rest := n &^ atime; rest != 0 {
		return set(mountAttrs[:], rest) + "|" + s
	}
	return s
}

// capabilities is a set of them by names.
func capabilities(mask uint64) string {
	const all = 1<<len(capNames) - 1
	switch {
	case mask == 0:
		return "0"
	case mask&all == all:
		return "all"
	}
	var s []string
	for i, name := range capNames {
		if mask&(1<<i) != 0 {
			s = append(s, "CAP_"+name)
		}
	}
	if rest := mask &^ all; rest != 0 {
		s = append(s, "0x"+strconv.FormatUint(rest, 16))
	}
	return strings.Join(s, "|")
}
