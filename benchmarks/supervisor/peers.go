package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// peers does what other programs do too, by turns with minirund: a pod of one
// container on the host's network that sleeps, from the command to the end of the
// command (and for minirund, whose apply returns before, to Ready); a killed
// process, until its successor is there; many pods with one command. containerd
// keeps nothing running: of it there is the start of containers, with ctr.
func (h *host) peers(rounds, many int) error {
	contenders := []*contender{h.asMinirund()}
	for _, f := range []func() (*contender, error){h.asPodman, h.asContainerd} {
		c, err := f()
		if err != nil {
			text, _, _ := strings.Cut(err.Error(), "\n")
			fmt.Println("not compared:", text)
			continue
		}
		defer c.close()
		contenders = append(contenders, c)
	}
	if len(contenders) == 1 {
		return nil
	}
	fmt.Println("\nBeside others, on the host's network:")
	measure := func(what string, n int, of func(c *contender) func() (time.Duration, error)) error {
		all := map[string][]time.Duration{}
		for round := range n {
			for i := range contenders {
				c := contenders[(i+round)%len(contenders)]
				f := of(c)
				if f == nil {
					continue
				}
				d, err := f()
				if err != nil {
					return fmt.Errorf("%s: %w", c.name, err)
				}
				all[c.name] = append(all[c.name], d)
			}
		}
		for _, c := range contenders {
			if len(all[c.name]) > 0 {
				line(what+": "+c.name, "none", all[c.name])
			}
		}
		return nil
	}
	return errors.Join(
		measure("a pod", rounds, func(c *contender) func() (time.Duration, error) {
			return func() (time.Duration, error) { return c.start(1) }
		}),
		measure("a killed process", rounds, func(c *contender) func() (time.Duration, error) { return c.replace }),
		measure(fmt.Sprintf("%d pods", many), 3, func(c *contender) func() (time.Duration, error) {
			return func() (time.Duration, error) { return c.start(many) }
		}),
	)
}

// contender is somebody who keeps pods.
type contender struct {
	name    string
	start   func(pods int) (time.Duration, error) // and removes them, outside the time
	replace func() (time.Duration, error)
	close   func()
}

// podsYAML is n pods.
func podsYAML(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `---
apiVersion: v1
kind: Pod
metadata: {name: peer%d, labels: {app: peer}}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: docker.io/minirun/demo:latest, imagePullPolicy: Never, command: [sleep, "100000"]}]
`, i)
	}
	return b.String()
}

func (h *host) asMinirund() *contender {
	up := func(n int) (*watcher, time.Duration, error) {
		w, err := h.watch()
		if err != nil {
			return nil, 0, err
		}
		began := time.Now()
		err = h.apply(podsYAML(n))
		if err == nil {
			err = w.until(func() bool { return w.ready(app("peer")) == n })
		}
		return w, time.Since(began), err
	}
	down := func(w *watcher) error {
		defer w.cancel()
		if _, err := h.command("kube", "delete", "pods", "-l", "app=peer", "--now"); err != nil {
			return err
		}
		return w.until(func() bool { return w.count(app("peer")) == 0 })
	}
	return &contender{
		name: "minirund",
		start: func(n int) (time.Duration, error) {
			w, d, err := up(n)
			if err == nil {
				err = down(w)
			}
			return d, err
		},
		replace: func() (time.Duration, error) {
			w, _, err := up(1)
			if err != nil {
				return 0, err
			}
			pid, err := h.process(w.any(app("peer")))
			if err != nil {
				return 0, err
			}
			began := time.Now()
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				return 0, err
			}
			err = w.until(func() bool {
				return w.ready(func(p *podView) bool { return app("peer")(p) && p.restarts() > 0 }) == 1
			})
			d := time.Since(began)
			return d, errors.Join(err, down(w))
		},
	}
}

// asPodman is podman with mounts of its own: below version 1 of cgroups, where there
// are both. (With version 2 alone, podman 4.3 without systemd gives pods a control
// group that allows no device, and crun wants to raise RLIMIT_MEMLOCK.)
func (h *host) asPodman() (*contender, error) {
	for _, program := range []string{"podman", "catatonit", "crun"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("podman: %w", err)
		}
	}
	at := func(name string) string { return filepath.Join(h.dir, name) }
	yaml, conf := at("pods.yaml"), at("containers.conf")
	if err := os.WriteFile(conf, []byte("[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n"), 0o600); err != nil {
		return nil, err
	}
	w, err := newWorld()
	if err != nil {
		return nil, err
	}
	podman := func(args ...string) (out []byte, err error) {
		w.do(func() {
			cmd := exec.Command("podman", append([]string{
				"--root", at("podman"), "--runroot", at("podman-run"), "--tmpdir", at("podman-tmp"), "--runtime", "crun",
				"--cgroup-manager=cgroupfs", "--events-backend=none",
			}, args...)...)
			cmd.Env = append(os.Environ(), "CONTAINERS_CONF="+conf)
			if out, err = cmd.CombinedOutput(); err != nil {
				err = fmt.Errorf("podman %s: %w: %s", strings.Join(args, " "), err, out)
			}
		})
		return out, err
	}
	up := func(n int) (time.Duration, error) {
		if err := os.WriteFile(yaml, []byte(podsYAML(n)), 0o600); err != nil {
			return 0, err
		}
		began := time.Now()
		_, err := podman("kube", "play", yaml)
		return time.Since(began), err
	}
	down := func() error {
		_, err := podman("kube", "down", yaml)
		return err
	}
	c := &contender{
		name: "podman kube play, crun",
		start: func(n int) (time.Duration, error) {
			d, err := up(n)
			return d, errors.Join(err, down())
		},
		replace: func() (time.Duration, error) {
			if _, err := up(1); err != nil {
				return 0, err
			}
			out, err := podman("inspect", "--format", "{{.State.Pid}} {{.PidFile}}", "peer0-c")
			if err != nil {
				return 0, err
			}
			first, file, ok := strings.Cut(strings.TrimSpace(string(out)), " ")
			pid, err := strconv.Atoi(first)
			if err != nil || !ok {
				return 0, fmt.Errorf("podman inspect: %q", out)
			}
			began := time.Now()
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				return 0, err
			}
			// Nobody need ask podman, which would take longer.
			for now := first; now == first || now == ""; time.Sleep(time.Millisecond) {
				if time.Since(began) > time.Minute {
					return 0, errors.New("podman has not restarted the container in a minute")
				}
				b, _ := os.ReadFile(file)
				now = strings.TrimSpace(string(b))
			}
			return time.Since(began), down()
		},
		close: func() {
			_ = down()
			w.do(func() { _ = unix.Unmount(at("podman/overlay"), unix.MNT_DETACH) })
			w.close()
			removeGroups("libpod_parent")
		},
	}
	archive := at("demo.tar")
	_, err = h.command("image", "save", "-o", archive, "minirun/demo")
	if err == nil {
		_, err = podman("load", "-i", archive)
	}
	if err == nil {
		_, err = c.start(1) // which makes the pause image
	}
	if err != nil {
		c.close()
	}
	return c, err
}

// asContainerd is containerd with runc, driven with ctr as that has no pods: a
// container of the same image and command, detached.
func (h *host) asContainerd() (*contender, error) {
	for _, program := range []string{"containerd", "ctr", "runc"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("containerd: %w", err)
		}
	}
	at := func(name string) string { return filepath.Join(h.dir, name) }
	if err := os.WriteFile(at("containerd.toml"), fmt.Appendf(nil, `version = 2
root = "%[1]s/containerd"
state = "%[1]s/containerd.state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "%[1]s/containerd.sock"
`, h.dir), 0o600); err != nil {
		return nil, err
	}
	daemon := exec.Command("containerd", "--config", at("containerd.toml"), "--log-level", "error")
	daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	// Whoever started it is its parent: a thread that ends with this program.
	started := make(chan error)
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		err := daemon.Start()
		started <- err
		if err == nil {
			<-done
			_ = daemon.Process.Signal(unix.SIGTERM)
			_ = daemon.Wait()
		}
		done <- struct{}{}
	}()
	if err := <-started; err != nil {
		<-done
		return nil, err
	}
	ctr := func(args ...string) error {
		cmd := exec.Command("ctr", append([]string{"-a", at("containerd.sock")}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("ctr %s: %w: %s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	c := &contender{
		name: "containers of containerd, runc",
		start: func(n int) (d time.Duration, err error) {
			began := time.Now()
			for i := range n {
				err = errors.Join(err, ctr("run", "--detach", "--net-host", "--cgroup", "/minirun-peers/"+strconv.Itoa(i), "docker.io/minirun/demo:latest", "peer"+strconv.Itoa(i), "sleep", "100000"))
			}
			d = time.Since(began)
			for i := range n {
				err = errors.Join(err, ctr("task", "rm", "--force", "peer"+strconv.Itoa(i)), ctr("container", "rm", "peer"+strconv.Itoa(i)))
			}
			return d, err
		},
		close: func() {
			done <- struct{}{}
			<-done
			removeGroups("minirun-peers")
		},
	}
	deadline := time.Now().Add(30 * time.Second)
	err := ctr("version")
	for err != nil && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond)
		err = ctr("version")
	}
	if err == nil {
		_, err = h.command("image", "save", "-o", at("demo-ctr.tar"), "minirun/demo")
	}
	if err == nil {
		err = ctr("image", "import", at("demo-ctr.tar"))
	}
	if err == nil {
		_, err = c.start(1)
	}
	if err != nil {
		c.close()
		return nil, fmt.Errorf("containerd: %w", err)
	}
	return c, nil
}

// removeGroups removes empty control groups of this name, in whatever hierarchies
// there are.
func removeGroups(name string) {
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
	for _, top := range append(dirs, "/sys/fs/cgroup/"+name) {
		var all []string
		_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				all = append(all, path)
			}
			return nil
		})
		for _, d := range slices.Backward(all) {
			_ = unix.Rmdir(d)
		}
	}
}

// world is a mount namespace with version 1 of cgroups where there are both, and a
// /run of its own. What runs in it is started by one thread that lives there.
type world struct{ work chan func() }

func newWorld() (*world, error) {
	w := &world{work: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this
		err := os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS))
		if err == nil {
			err = os.NewSyscallError("mount", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		}
		if err == nil {
			err = os.NewSyscallError("mount", unix.Mount("tmpfs", "/run", "tmpfs", 0, ""))
		}
		if err == nil {
			err = os.MkdirAll("/run/lock", 0o755)
		}
		if err == nil {
			if e := unix.Unmount("/sys/fs/cgroup/unified", unix.MNT_DETACH); e != unix.EINVAL && e != unix.ENOENT {
				err = os.NewSyscallError("umount", e)
			}
		}
		made <- err
		if err != nil {
			return
		}
		for f := range w.work {
			f()
		}
	}()
	return w, <-made
}

func (w *world) do(f func()) {
	done := make(chan struct{})
	w.work <- func() { f(); close(done) }
	<-done
}

func (w *world) close() { close(w.work) }
