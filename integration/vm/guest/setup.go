package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func mount(source, target, fstype string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return fmt.Errorf("mount %s on %q: %w", fstype, target, err)
	}
	return nil
}

// optionalMount is for file systems that not every kernel has.
func optionalMount(source, target, fstype string) {
	if err := mount(source, target, fstype, 0, ""); err != nil {
		fmt.Fprintln(os.Stderr, "vm init:", err)
	}
}

func kernelFileSystems(*Config) error {
	return errors.Join(
		mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""),
		mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""),
		mount("devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=755"),
	)
}

func loadModules(cfg *Config) error {
	for i, file := range cfg.Modules {
		err := loadModule(file)
		if err == nil || errors.Is(err, unix.EEXIST) {
			os.Remove(file) // its memory
			continue
		}
		err = fmt.Errorf("load module %s: %w", filepath.Base(file), err)
		if i < cfg.BootModules {
			return err
		}
		fmt.Fprintln(os.Stderr, "vm init:", err)
	}
	return nil
}

func loadModule(file string) error {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	params := ""
	if filepath.Base(file) == "dummy" {
		params = "numdummies=0" // else there is a dummy0 that no test made
	}
	return unix.FinitModule(fd, params, 0)
}

// overlay makes the virtiofs file system with the tag visible at target, with an
// upper directory in base, which is on a tmpfs.
func overlay(base, tag, target string) error {
	lower, upper, work := base+"/lower", base+"/upper", base+"/work"
	for _, d := range []string{lower, upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := mount(tag, lower, "virtiofs", unix.MS_RDONLY, ""); err != nil {
		return err
	}
	return mount("overlay", target, "overlay", 0, "lowerdir="+lower+",upperdir="+upper+",workdir="+work)
}

// switchRoot makes the host's files the root. An initramfs cannot be pivoted
// away, so the new root is moved over it, as switch_root(8) does.
func switchRoot(cfg *Config) error {
	if err := mount("tmpfs", "/over", "tmpfs", 0, "mode=755,size=100%"); err != nil {
		return err
	}
	if err := overlay("/over/root", "root", "/new"); err != nil {
		return err
	}
	modules := "/new/lib/modules/" + cfg.Release
	for _, d := range []string{"/new/proc", "/new/sys", "/new/dev", "/new/run", "/new/scratch", modules} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	// Best effort: modprobe matters to few commands, and the cache may be on another file system than /.
	if err := unix.Mount("/new"+cfg.ModulesDir, modules, "", unix.MS_BIND, ""); err != nil {
		fmt.Fprintln(os.Stderr, "vm init: no modules for modprobe:", err)
	}
	for _, d := range []string{"/proc", "/sys", "/dev"} {
		if err := unix.Mount(d, "/new"+d, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", d, err)
		}
	}
	os.RemoveAll("/modules")
	os.Remove(ConfigFile)
	if err := os.Chdir("/new"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the new root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	// As systemd leaves it: runtimes must cope with shared mounts.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make mounts shared: %w", err)
	}
	return nil
}

// shares mounts the other directories of the host. It comes after everything
// that could cover them, such as the guest's own /run.
func shares(cfg *Config) error {
	for _, s := range cfg.Shares {
		if err := os.MkdirAll(s.Path, 0o755); err != nil {
			return err
		}
		if s.ReadWrite {
			if err := mount(s.Tag, s.Path, "virtiofs", 0, ""); err != nil {
				return err
			}
			continue
		}
		if err := overlay("/run/minirun-vm/"+s.Tag, s.Tag, s.Path); err != nil {
			return err
		}
	}
	return nil
}

func deviceFileSystems(*Config) error {
	for _, d := range []string{"/dev/pts", "/dev/shm", "/dev/mqueue"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	for _, l := range [][2]string{{"/proc/self/fd", "/dev/fd"}, {"fd/0", "/dev/stdin"}, {"fd/1", "/dev/stdout"}, {"fd/2", "/dev/stderr"}} {
		if err := os.Symlink(l[0], l[1]); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	optionalMount("securityfs", "/sys/kernel/security", "securityfs")
	optionalMount("bpf", "/sys/fs/bpf", "bpf")
	optionalMount("tracefs", "/sys/kernel/tracing", "tracefs")
	if err := errors.Join(
		mount("devpts", "/dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"),
		mount("tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"),
		mount("mqueue", "/dev/mqueue", "mqueue", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""),
		mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"),
	); err != nil {
		return err
	}
	return os.MkdirAll("/run/lock", 0o755)
}

// controlGroups mounts cgroup v2 with every controller enabled for children of
// the root, and moves everything to come into a leaf.
func controlGroups(*Config) error {
	const root = "/sys/fs/cgroup"
	if err := mount("cgroup2", root, "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "nsdelegate"); err != nil {
		return err
	}
	if err := os.Mkdir(root+"/init.scope", 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(root+"/init.scope/cgroup.procs", []byte("0"), 0); err != nil {
		return err
	}
	b, err := os.ReadFile(root + "/cgroup.controllers")
	if err != nil {
		return err
	}
	for c := range strings.FieldsSeq(string(b)) {
		if err := os.WriteFile(root+"/cgroup.subtree_control", []byte("+"+c), 0); err != nil {
			return fmt.Errorf("enable the %s controller: %w", c, err)
		}
	}
	return nil
}

func network(*Config) error {
	if err := unix.Sethostname([]byte("minirun-vm")); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
}

func scratch(*Config) error {
	if err := mount("/dev/vda", "/scratch", "ext4", unix.MS_NOATIME, "discard"); err != nil {
		return err
	}
	if err := os.Chmod("/scratch", 0o777|os.ModeSticky); err != nil {
		return err
	}
	if err := os.Mkdir(TempDir, 0o777); err != nil {
		return err
	}
	return os.Chmod(TempDir, 0o777|os.ModeSticky)
}

// ioScheduler gives the scratch disk a scheduler that knows weights, which
// io.bfq.weight needs; a kernel may lack it.
func ioScheduler(*Config) error {
	if err := os.WriteFile("/sys/block/vda/queue/scheduler", []byte("bfq"), 0); err != nil {
		fmt.Fprintln(os.Stderr, "vm init:", err)
	}
	return nil
}
