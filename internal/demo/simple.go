package demo

import (
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// hello says where it runs.
func hello(args []string) int {
	if len(args) != 0 {
		return usage("hello")
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fail("hello", "uname: ", err.Error())
	}
	o := &out{fd: 1}
	o.s("Hello from the image minirun/demo.\n\n")
	o.s("  host name  ", cstring(u.Nodename[:]), "\n")
	o.s("  process    ").n(int64(unix.Getpid())).s("\n")
	o.s("  user       ").n(int64(unix.Getuid())).s(":").n(int64(unix.Getgid())).s("\n")
	o.s("  kernel     ", cstring(u.Sysname[:]), " ", cstring(u.Release[:]), " ", cstring(u.Machine[:]), "\n\n")
	o.s("Everything in this image is one static binary. Programs in /bin:\n ")
	for _, name := range Applets() {
		o.s(" ", name)
	}
	return o.s("\n").status()
}

// cstring is the part of b before its first zero byte.
func cstring(b []byte) string {
	if i := slices.Index(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// sleep pauses for the sum of its arguments.
func sleep(args []string) int {
	total := forever
	for i, a := range args {
		d, ok := seconds(a)
		if !ok {
			return usage("sleep SECONDS... (a fraction or \"infinity\")")
		}
		switch {
		case i == 0:
			total = d
		case d > forever-total:
			total = forever
		default:
			total += d
		}
	}
	if len(args) == 0 {
		return usage("sleep SECONDS... (a fraction or \"infinity\")")
	}
	return wait(total)
}

// exit ends with the status it is given.
func exit(args []string) int {
	if len(args) == 0 {
		return 0
	}
	if n, ok := number(args[0], 0, 255); ok && len(args) == 1 {
		return n
	}
	return usage("exit [STATUS] (0 to 255)")
}

// echo prints its arguments; -n leaves out the end of the line.
func echo(args []string) int {
	end := "\n"
	if len(args) > 0 && args[0] == "-n" {
		end, args = "", args[1:]
	}
	o := &out{fd: 1}
	return o.s(strings.Join(args, " "), end).status()
}

// env prints the environment in the order in which it was received.
func env(args []string) int {
	if len(args) != 0 {
		return usage("env")
	}
	o := &out{fd: 1}
	for _, e := range syscall.Environ() {
		o.s(e, "\n")
	}
	return o.status()
}

// id prints the process's identity in numbers; names would need /etc/passwd.
func id(args []string) int {
	if len(args) != 0 {
		return usage("id")
	}
	o := &out{fd: 1}
	o.s("uid=").n(int64(unix.Getuid())).s(" gid=").n(int64(unix.Getgid()))
	if e := unix.Geteuid(); e != unix.Getuid() {
		o.s(" euid=").n(int64(e))
	}
	if e := unix.Getegid(); e != unix.Getgid() {
		o.s(" egid=").n(int64(e))
	}
	groups, err := unix.Getgroups()
	if err != nil {
		return fail("id", "getgroups: ", err.Error())
	}
	for i, g := range groups {
		if i == 0 {
			o.s(" groups=")
		} else {
			o.s(",")
		}
		o.n(int64(g))
	}
	return o.s("\n").status()
}

// cat copies files, or standard input, to standard output.
func cat(args []string) int {
	if len(args) == 0 {
		args = []string{"-"}
	}
	code := 0
	buf := make([]byte, 64<<10)
	for _, name := range args {
		fd := 0
		if name != "-" {
			var err error
			if fd, err = linux.OpenAt(unix.AT_FDCWD, name, unix.O_RDONLY, 0); err != nil {
				code = fail("cat", err.Error())
				continue
			}
		}
		for {
			n, err := linux.Read(fd, buf)
			if err != nil {
				code = fail("cat", "read ", name, ": ", err.Error())
			}
			if n == 0 || err != nil {
				break
			}
			if err := linux.WriteAll(1, buf[:n]); err != nil {
				return fail("cat", "write: ", err.Error())
			}
		}
		if name != "-" {
			linux.Close(fd)
		}
	}
	return code
}
