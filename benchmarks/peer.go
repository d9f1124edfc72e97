package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// kind tells which command line a peer has.
type kind int

const (
	ociRuntime kind = iota // runc's command line: --root DIR VERB ...
	floorKind              // c/floor.c
	bwrapKind              // bubblewrap
)

// peer is one of the programs that are compared.
type peer struct {
	name, path, version string
	kind                kind
	work                string
	tag                 string // part of the name of everything that it makes
}

// state is the directory given as --root.
func (p *peer) state() string { return filepath.Join(p.work, "run", p.name) }

func (p *peer) bundle(v variant) string { return filepath.Join(p.work, "bundle", string(v), p.name) }

func (p *peer) rootfs() string { return filepath.Join(p.work, "rootfs") }

// cgroup is the path, below the cgroup mount, of the control group of the variant's container.
func (p *peer) cgroup(v variant) string { return "/" + p.tag + "/" + p.name + "-" + string(v) }

// verb is the argument list of an OCI command.
func (p *peer) verb(verb string, args ...string) []string {
	return append([]string{p.path, "--root", p.state(), verb}, args...)
}

// run is the argument list for a whole container of the variant.
func (p *peer) run(v variant, id string) []string {
	switch p.kind {
	case floorKind:
		return append([]string{p.path, cgroupMount + p.cgroup(v), p.rootfs()}, p.command(v)...)
	case bwrapKind:
		return append([]string{p.path}, p.bubblewrap(v)...)
	default:
		return p.verb("run", "-b", p.bundle(v), id)
	}
}

// command is what the container runs, for those who do not read it from the bundle.
func (p *peer) command(v variant) []string {
	if of, isProbe := probed(v); isProbe {
		script, _ := probeScript(of, p.kind)
		return []string{"sh", "-c", script}
	}
	return []string{"true"}
}

// bubblewrap is the closest it has to the bundle. It knows no control groups and no device
// rules, sysfs is the host's by a bind mount, and it brings the loopback link up.
func (p *peer) bubblewrap(v variant) []string {
	args := strings.Fields("--unshare-pid --unshare-net --unshare-ipc --unshare-uts --unshare-cgroup --as-pid-1 --new-session" +
		" --hostname bench --clearenv --setenv PATH /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --setenv TERM xterm" +
		" --cap-drop ALL --cap-add CAP_AUDIT_WRITE --cap-add CAP_KILL --cap-add CAP_NET_BIND_SERVICE")
	args = append(args, "--ro-bind", p.rootfs(), "/")
	args = append(args, strings.Fields("--proc /proc --dev /dev --tmpfs /dev/shm --mqueue /dev/mqueue --ro-bind /sys /sys")...)
	for _, dir := range []string{"/proc/acpi", "/proc/scsi", "/sys/firmware"} {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			args = append(args, "--tmpfs", dir, "--remount-ro", dir)
		}
	}
	for _, file := range []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug"} {
		if _, err := os.Stat(file); err == nil {
			args = append(args, "--ro-bind", "/dev/null", file)
		}
	}
	return append(args, p.command(v)...)
}

// peersFromEnv reads BENCH_PEERS (name=path,name=path); entries without both parts are
// caught by checkPeers.
func peersFromEnv() map[string]string {
	peers := map[string]string{}
	for entry := range strings.SplitSeq(os.Getenv("BENCH_PEERS"), ",") {
		if entry == "" {
			continue
		}
		name, path, _ := strings.Cut(entry, "=")
		peers[name] = path
	}
	return peers
}

// checkPeers reports every entry of BENCH_PEERS that cannot be used.
func checkPeers(peers map[string]string) error {
	var errs []error
	for name, path := range peers {
		switch {
		case name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") != "":
			errs = append(errs, fmt.Errorf("BENCH_PEERS: name %q: want letters, digits, dots and dashes", name))
		case name == "minirun" || name == "floor" || name == "bwrap":
			errs = append(errs, fmt.Errorf("BENCH_PEERS: the name %q is taken", name))
		default:
			if _, err := exec.LookPath(path); err != nil {
				errs = append(errs, fmt.Errorf("BENCH_PEERS: %s: %w", name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// version is the first line of `--version`, or why there is none.
func version(path string) string {
	out, err := exec.Command(path, "--version").CombinedOutput()
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if err != nil {
		return fmt.Sprintf("no version (%v)", err)
	}
	return line
}
