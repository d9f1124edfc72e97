package host

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	goruntime "runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Facts are what is seen of a host.
type Facts struct {
	Name, Version                             string
	MaxPods                                   int64
	CPUs, Memory, Available                   int64
	Disk, DiskFree, Inodes, InodesFree        int64
	MaxPIDs, PIDs                             int64
	Kernel, OS, MachineID, SystemUUID, BootID string
	// Addresses are where others reach this host, one of each family.
	Addresses []netip.Addr
}

// Look looks at this host. dir is on the file system that counts.
func Look(dir string) (Facts, error) {
	f := Facts{CPUs: int64(goruntime.NumCPU()), MachineID: line("/etc/machine-id"), BootID: line("/proc/sys/kernel/random/boot_id")}
	var err error
	if f.Memory, f.Available, err = memory("/proc/meminfo"); err != nil {
		return f, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return f, fmt.Errorf("statfs %q: %w", dir, err)
	}
	f.Disk, f.DiskFree = int64(st.Blocks)*st.Bsize, int64(st.Bavail)*st.Bsize
	f.Inodes, f.InodesFree = int64(st.Files), int64(st.Ffree)
	if f.MaxPIDs, err = number("/proc/sys/kernel/pid_max"); err != nil {
		return f, err
	}
	if threads, err := number("/proc/sys/kernel/threads-max"); err == nil {
		f.MaxPIDs = min(f.MaxPIDs, threads)
	}
	if f.PIDs, err = tasks(line("/proc/loadavg")); err != nil {
		return f, err
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return f, os.NewSyscallError("uname", err)
	}
	f.Kernel = unix.ByteSliceToString(u.Release[:])
	if f.SystemUUID = line("/sys/class/dmi/id/product_uuid"); f.SystemUUID == "" {
		f.SystemUUID = f.MachineID
	}
	release, _ := os.ReadFile("/etc/os-release")
	f.OS = prettyName(string(release))
	f.Addresses = outward()
	return f, nil
}

// line is the first line of a small file; empty if it cannot be read.
func line(path string) string {
	text, _ := os.ReadFile(path)
	first, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSpace(first)
}

func number(path string) (int64, error) {
	n, err := strconv.ParseInt(line(path), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read %q: %w", path, err)
	}
	return n, nil
}

// memory reads how much there is, and how much can be had.
func memory(path string) (total, available int64, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, err
	}
	for l := range strings.Lines(string(text)) {
		f := strings.Fields(l)
		if len(f) < 2 {
			continue
		}
		n, err := strconv.ParseInt(f[1], 10, 64)
		switch {
		case err != nil:
		case f[0] == "MemTotal:":
			total = n << 10
		case f[0] == "MemAvailable:":
			available = n << 10
		}
	}
	if total == 0 {
		return 0, 0, fmt.Errorf("read %q: it has no MemTotal", path)
	}
	return total, available, nil
}

// tasks reads the number of threads from /proc/loadavg: the fourth field.
func tasks(loadavg string) (int64, error) {
	if f := strings.Fields(loadavg); len(f) > 3 {
		if _, all, ok := strings.Cut(f[3], "/"); ok {
			return strconv.ParseInt(all, 10, 64)
		}
	}
	return 0, fmt.Errorf("read /proc/loadavg: %q", loadavg)
}

func prettyName(release string) string {
	for l := range strings.Lines(release) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(l), "PRETTY_NAME="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return "Linux"
}

// outward are the addresses that this host would speak to the world from. Nothing
// is sent: to connect a UDP socket only chooses a route.
func outward() (out []netip.Addr) {
	for _, to := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} {
		c, err := net.Dial("udp", to)
		if err != nil {
			continue // no such family, or no route
		}
		if a, err := netip.ParseAddrPort(c.LocalAddr().String()); err == nil && !a.Addr().IsLoopback() {
			out = append(out, a.Addr().Unmap())
		}
		c.Close()
	}
	return out
}
