// Supervisor shows and measures what minirund does, with the built binaries, in
// network and mount namespaces of its own: nothing of the host is touched but
// cgroups below /minirun-pods, which end with the pods.
//
//	go run ./benchmarks/supervisor demo     a rolling update, and one that goes wrong, under load
//	go run ./benchmarks/supervisor bench    how long starts, replacements and restarts of minirund take
//	go run ./benchmarks/supervisor peers    the same work by minirund, podman and containerd
//	go run ./benchmarks/supervisor codes    exit statuses of containers that end while minirund is dead
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// inside marks the process that is in its own namespaces.
const inside = "MINIRUN_BENCH_SUPERVISOR_INSIDE"

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "supervisor:", err)
		os.Exit(1)
	}
}

func run() error {
	binary := flag.String("minirun", "bin/minirun", "the `BINARY` to measure; minirund lies beside it")
	rate := flag.Int("rate", 1000, "new connections per second of the demo")
	seconds := flag.Int("seconds", 30, "length of each half of the demo")
	pods := flag.Int("pods", 500, "how many pods the bench starts")
	containers := flag.Int("containers", 1000, "how many containers end while minirund is dead")
	flag.Parse()
	what := flag.Arg(0)
	if !slices.Contains([]string{"demo", "bench", "peers", "codes"}, what) {
		return fmt.Errorf("want demo, bench, peers or codes, not %q", what)
	}
	path, err := filepath.Abs(*binary)
	if err != nil {
		return err
	}
	if os.Getenv(inside) == "" {
		return apart(path)
	}
	if err := prepare(); err != nil {
		return err
	}
	h, err := newHost(path)
	if err != nil {
		return err
	}
	switch what {
	case "demo":
		err = h.demo(*rate, *seconds)
	case "bench":
		if err = h.bench(*pods); err == nil {
			err = h.peers(10, 50)
		}
	case "peers":
		err = h.peers(10, 50)
	case "codes":
		err = h.codes(*containers)
	}
	return errors.Join(err, h.close())
}

// apart runs this program again in namespaces of its own.
func apart(minirun string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, append([]string{"-minirun", minirun}, os.Args[1:]...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS}
	return cmd.Run()
}

// prepare makes the namespaces usable.
func prepare() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, args := range [][]string{{"link", "set", "lo", "up"}, {"address", "add", "192.0.2.1/32", "dev", "lo"}, {"route", "add", "default", "dev", "lo", "src", "192.0.2.1"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	// Many short connections come from one address.
	return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("1024 65535"), 0)
}

// host is a minirund with directories of its own.
type host struct {
	minirun, dir string
}

func newHost(minirun string) (*host, error) {
	dir, err := os.MkdirTemp("", "minirund")
	if err != nil {
		return nil, err
	}
	h := &host{minirun: minirun, dir: dir}
	if _, err := h.command("image", "demo"); err != nil {
		return h, errors.Join(err, os.RemoveAll(dir))
	}
	return h, h.up()
}

func (h *host) up() error {
	_, err := h.command("up", "--data", filepath.Join(h.dir, "data"), "--socket", h.socket())
	return err
}

func (h *host) socket() string { return filepath.Join(h.dir, "run", "s") }

// close ends minirund; its pods should have gone before.
func (h *host) close() error {
	_, err := h.command("down", "--socket", h.socket())
	if log, _ := os.ReadFile(filepath.Join(h.dir, "data", "minirund.log")); len(bytes.TrimSpace(log)) > 0 {
		fmt.Printf("log of minirund:\n%s", log[:min(len(log), 4000)])
	}
	return errors.Join(err, os.RemoveAll(h.dir))
}

// command runs minirun with this host's store.
func (h *host) command(args ...string) (string, error) {
	return h.input("", args...)
}

func (h *host) input(stdin string, args ...string) (string, error) {
	cmd := exec.Command(h.minirun, append([]string{"--root", filepath.Join(h.dir, "containers"), "--store", filepath.Join(h.dir, "store")}, args...)...)
	cmd.Env = append(os.Environ(), "MINIRUND_SOCKET="+h.socket())
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("minirun %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

// show is command, with what it prints on the screen.
func (h *host) show(args ...string) error {
	fmt.Printf("$ minirun %s\n", strings.Join(args, " "))
	out, err := h.command(args...)
	fmt.Print(out)
	return err
}

func (h *host) apply(yaml string) error {
	_, err := h.input(yaml, "kube", "apply", "-f", "-")
	return err
}
