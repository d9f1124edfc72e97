package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mounts adds the mounts every container has, and those that were asked for.
func mounts(s *specs.Spec, asked []userMount, o *Options) error {
	ro := "ro"
	if o.Privileged {
		ro = "rw"
	}
	s.Mounts = []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", ro}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", ro}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
	}
	if o.HostNetwork {
		for _, f := range []string{"/etc/resolv.conf", "/etc/hosts"} {
			if real, err := filepath.EvalSymlinks(f); err == nil {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: f, Type: "bind", Source: real, Options: []string{"bind", "rprivate", "ro"}})
			}
		}
	}
	s.Mounts = append(s.Mounts, o.Net.mounts()...)
	place := o.place
	if place == nil {
		place = explained("")
	}
	if err := addUserMounts(s, asked, place); err != nil {
		return err
	}
	if o.Privileged {
		return hostDevices(s)
	}
	return nil
}

// checkDestination refuses what is no place for a mount. The path itself is
// resolved in the container, below its root.
func checkDestination(path string) error {
	switch {
	case !filepath.IsAbs(path):
		return errors.New("the path in the container must be absolute")
	case strings.ContainsAny(path, "\n\x00"):
		return errors.New("the path in the container cannot have a newline in it")
	case filepath.Clean(path) == "/":
		return errors.New("it would hide the whole image: the path in the container cannot be /")
	}
	return nil
}

// tmpfs reads DESTINATION[:OPTIONS].
func tmpfs(t string) (specs.Mount, error) {
	dest, opts, _ := strings.Cut(t, ":")
	var list []string
	if opts != "" {
		list = strings.Split(opts, ",")
	}
	return tmpfsAt(t, dest, list)
}

// tmpfsAt is a tmpfs with options, which the user has asked for by t. dest is a path
// and nothing else, colons and all.
func tmpfsAt(t, dest string, options []string) (specs.Mount, error) {
	if err := checkDestination(dest); err != nil {
		return specs.Mount{}, fmt.Errorf("tmpfs %q: %w", t, err)
	}
	m := specs.Mount{Destination: dest, Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "noexec"}}
	for _, opt := range options {
		name, _, hasValue := strings.Cut(opt, "=")
		ok := false
		switch name {
		case "ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async", "atime", "noatime",
			"diratime", "nodiratime", "relatime", "strictatime":
			ok = !hasValue
		case "size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "huge":
			ok = hasValue
		}
		if !ok {
			return m, fmt.Errorf("tmpfs %q: unknown option %q; see tmpfs(5)", t, opt)
		}
		m.Options = append(m.Options, opt)
	}
	return m, nil
}

// hostDevices gives a privileged container the device nodes of the host.
func hostDevices(s *specs.Spec) error {
	return filepath.WalkDir("/dev", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // gone meanwhile
		}
		if d.IsDir() {
			switch path {
			case "/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd":
				return filepath.SkipDir
			}
			return nil
		}
		if d.Type()&fs.ModeDevice == 0 || path == "/dev/console" || path == "/dev/ptmx" {
			return nil
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil {
			return nil
		}
		typ := "b"
		if d.Type()&fs.ModeCharDevice != 0 {
			typ = "c"
		}
		mode := os.FileMode(st.Mode & 0o777)
		s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{
			Path: path, Type: typ, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
			FileMode: &mode, UID: &st.Uid, GID: &st.Gid,
		})
		return nil
	})
}
