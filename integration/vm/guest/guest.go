// Package guest is the init of the virtual machines of package vm: process 1,
// from the kernel's start in an initramfs to the power switch.
//
// It speaks through three virtio-serial ports: "out" and "err" carry the
// command's output, "status" one line per event. Any error ends the guest with a
// StatusFailure line.
package guest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// ConfigFile is where the initramfs has the configuration.
	ConfigFile = "/vm.json"
	// TempDir is TMPDIR in the guest: on a real disk file system.
	TempDir = "/scratch/tmp"

	StatusUp      = "up"      // the command is about to start
	StatusExit    = "exit"    // followed by the command's status
	StatusFailure = "failure" // followed by what went wrong
)

// Config is what the host tells the guest.
type Config struct {
	Command     []string
	Dir         string
	Env         []string
	Modules     []string // files in the initramfs, in load order
	BootModules int      // so many of them must load
	ModulesDir  string   // on the host, for modprobe
	Release     string   // of the kernel
	Shares      []Share
}

// Share is a host directory with a virtiofs tag.
type Share struct {
	Tag       string
	Path      string
	ReadWrite bool
}

// IsInit reports whether this process is the init of a guest.
func IsInit() bool {
	if os.Getpid() != 1 || os.Args[0] != "/init" {
		return false
	}
	_, err := os.Stat(ConfigFile)
	return err == nil
}

// Main is process 1. It does not return.
func Main() {
	code, err := boot()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm init:", err) // the console
		report(StatusFailure + " " + strings.ReplaceAll(err.Error(), "\n", " "))
	} else {
		unix.Sync()
		report(fmt.Sprintf("%s %d", StatusExit, code))
	}
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {} // process 1 must not exit
}

func boot() (int, error) {
	// The umask decides about modes below; the kernel starts init with 022.
	unix.Umask(0)
	b, err := os.ReadFile(ConfigFile)
	if err != nil {
		return 0, err
	}
	var cfg Config
	if err := json.Unmarshal(b, &cfg); err != nil {
		return 0, fmt.Errorf("%s: %w", ConfigFile, err)
	}
	for _, step := range []func(*Config) error{
		kernelFileSystems, loadModules, switchRoot, deviceFileSystems, controlGroups, network, scratch, ioScheduler, shares,
	} {
		if err := step(&cfg); err != nil {
			return 0, err
		}
	}
	unix.Umask(0o022)
	return command(&cfg)
}

// port opens the virtio-serial port of that name for blocking writes: those
// return when the host has the data.
func port(name string) (int, error) {
	dirs, err := filepath.Glob("/sys/class/virtio-ports/*")
	if err != nil {
		return -1, err
	}
	for _, d := range dirs {
		b, err := os.ReadFile(d + "/name")
		if err == nil && strings.TrimSpace(string(b)) == name {
			fd, err := unix.Open("/dev/"+filepath.Base(d), unix.O_WRONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return -1, fmt.Errorf("open port %q: %w", name, err)
			}
			return fd, nil
		}
	}
	return -1, fmt.Errorf("no port %q", name)
}

var statusPort = -1

// report writes one line to the status port; what cannot be said there has been
// said on the console.
func report(line string) {
	if statusPort < 0 {
		fd, err := port("status")
		if err != nil {
			fmt.Fprintln(os.Stderr, "vm init:", err)
			return
		}
		statusPort = fd
	}
	writeAll(statusPort, []byte(line+"\n"))
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
