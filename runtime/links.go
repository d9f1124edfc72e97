package runtime

import (
	"strings"

	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// maxLinks is how many symbolic links the kernel follows in one path.
const maxLinks = 40

// throughLinks is rootfs.Options.Destination: the place below root that path
// leads to, without symbolic links. Images have links that lead nowhere yet,
// /etc/resolv.conf above all; the kernel would not make what they point to. And
// no link may lead a mount into /proc.
//
// It only says where. What is there is looked up again by the init, below the
// root whatever has changed since.
func throughLinks(root int, path string) string {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: linux.InRoot | unix.RESOLVE_NO_SYMLINKS}
	fd, err := unix.Openat2(root, path, &how)
	if err == nil {
		linux.Close(fd)
		return path
	}
	if err != unix.ELOOP {
		return path
	}
	var done []string
	todo := strings.Split(path, "/")
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			done = done[:max(len(done)-1, 0)]
			continue
		}
		done = append(done, name)
		target, link := linkAt(root, strings.Join(done, "/"))
		if !link {
			continue
		}
		if links++; links > maxLinks {
			return path
		}
		if strings.HasPrefix(target, "/") {
			done = nil
		} else {
			done = done[:len(done)-1]
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return strings.Join(done, "/") // "" is the root
}

// linkAt tells whether path below root is a symbolic link, and to where.
func linkAt(root int, path string) (target string, link bool) {
	fd, err := linux.OpenInRoot(root, path, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return "", false
	}
	defer linux.Close(fd)
	var buf [unix.PathMax]byte
	n, err := unix.Readlinkat(fd, "", buf[:])
	return string(buf[:max(n, 0)]), err == nil
}
