package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/minirun/minirun/orchestrate/daemon"
	"github.com/minirun/minirun/orchestrate/node"
	"github.com/minirun/minirun/orchestrate/podlife"
	"github.com/minirun/minirun/orchestrate/proxy"
	orchservices "github.com/minirun/minirun/orchestrate/services"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// readyEnv names the descriptor on which a background minirund says that it works.
const readyEnv = "MINIRUND_READY_FD"

func socketFlag() cli.Flag {
	return &cli.StringFlag{Name: "socket", Usage: "unix socket of the API", Value: daemon.DefaultSocket, EnvVars: []string{"MINIRUND_SOCKET"}, TakesFile: true}
}

func upCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name: "up", Usage: "start minirund, which keeps what minirun kube is told",
		Flags: []cli.Flag{
			socketFlag(),
			&cli.StringFlag{Name: "data", Usage: "directory of the wanted objects and of volumes", Value: daemon.DefaultData, TakesFile: true},
			&cli.StringFlag{Name: "log-file", Usage: "log of minirund in the background", DefaultText: "minirund.log in the directory of --data", TakesFile: true},
			&cli.StringFlag{Name: "network", Usage: "network of pods, made when it is missing", Value: node.DefaultNetwork},
			&cli.StringFlag{Name: "pod-range", Usage: "subnets that the network of pods is made with, one of each family, with a comma", DefaultText: "one that is free"},
			&cli.StringFlag{Name: "service-range", Usage: "addresses of services, one range of each family, with a comma", DefaultText: "those of the last time, or one that is free"},
			&cli.StringFlag{Name: "node-port-range", Usage: "node ports of services", Value: fmt.Sprintf("%d-%d", orchservices.FirstNodePort, orchservices.LastNodePort)},
			&cli.StringFlag{Name: "service-table", Usage: "nftables table of services", Value: proxy.Table},
			&cli.StringFlag{Name: "listen", Usage: "serve the API on this `ADDRESS:PORT` too, over TLS, for kubectl; DIR/kubeconfig of --data has what it needs", DefaultText: "the socket only"},
			&cli.StringFlag{Name: "cgroup-parent", Usage: "cgroup that those of pods are below", Value: node.DefaultCgroupParent},
			&cli.StringFlag{Name: "backoff", Usage: "how long containers wait that end again and again: default (1 s, 2 s, ... 5 m), or kubernetes (10 s, 20 s, ... 5 m); the first restart is at once", Value: "default"},
			&cli.BoolFlag{Name: "foreground", Usage: "do not go to the background; log to standard error"},
			&cli.BoolFlag{Name: "restore", Usage: "put the newest good backup in the place of a damaged store"},
			&cli.DurationFlag{Name: "timeout", Usage: "how long to wait until it works", Value: time.Minute},
		},
	}, 0, 0, func(c *cli.Context) error {
		if c.Bool("foreground") {
			return u.foreground(c)
		}
		return u.background(c)
	})
}

// background starts another minirund in a session of its own and waits until it
// works. Until then, its errors are ours.
func (u *ui) background(c *cli.Context) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	args, err := foregroundArgs(c)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, args...)
	cmd.ExtraFiles = []*os.File{w}
	cmd.Env = append(os.Environ(), readyEnv+"=3")
	cmd.Dir = "/"
	stderr := &strings.Builder{}
	cmd.Stderr = stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	w.Close()
	said := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(r)
		said <- string(b)
	}()
	select {
	case text := <-said:
		if text == "ready" {
			fmt.Fprintf(u.out, "minirund runs as process %d\n", cmd.Process.Pid)
			return cmd.Process.Release()
		}
		err := cmd.Wait()
		fmt.Fprint(u.err, stderr.String())
		if stderr.Len() > 0 {
			return exitStatus(1)
		}
		return fmt.Errorf("minirund ended at once: %w", err)
	case <-time.After(c.Duration("timeout")):
		return &hinted{
			errors.Join(fmt.Errorf("minirund does not answer after %s", c.Duration("timeout")), cmd.Process.Kill()),
			"see what it does with: minirun up --foreground",
		}
	}
}

// foregroundArgs is the command line for a process that is in the root directory.
func foregroundArgs(c *cli.Context) ([]string, error) {
	logFile := c.String("log-file")
	if logFile == "" {
		logFile = filepath.Join(c.String("data"), "minirund.log")
	}
	var args []string
	var bad error
	path := func(name, value string) {
		if value == "" {
			return
		}
		abs, err := filepath.Abs(value)
		bad = errors.Join(bad, err)
		args = append(args, "--"+name+"="+abs)
	}
	path("root", c.String("root"))
	path("store", c.String("store"))
	args = append(args, "up", "--foreground")
	path("socket", c.String("socket"))
	path("data", c.String("data"))
	path("log-file", logFile)
	for _, name := range []string{"network", "pod-range", "service-range", "node-port-range", "service-table", "cgroup-parent", "listen", "backoff"} {
		if c.IsSet(name) {
			args = append(args, "--"+name+"="+c.String(name))
		}
	}
	if c.Bool("restore") {
		args = append(args, "--restore")
	}
	return args, bad
}

// keepSmall trades time for memory, but not while minirund starts and takes over what
// runs, which is to be over soon. What a burst of work or the checks of each minute, which
// come some seconds earlier, have needed is given back.
func keepSmall() {
	debug.SetGCPercent(200)
	debug.SetMemoryLimit(64 << 20) // beyond that memory is looked through more often
	time.Sleep(10 * time.Second)
	debug.SetGCPercent(50)
	for {
		debug.FreeOSMemory()
		time.Sleep(time.Minute)
	}
}

// foreground is minirund itself.
func (u *ui) foreground(c *cli.Context) error {
	// A supervisor that is killed for memory helps nobody. To ask for that needs
	// CAP_SYS_RESOURCE; who has not got it lives with the risk.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-999"), 0)
	go keepSmall()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	o := daemon.Options{
		Data: c.String("data"), Socket: c.String("socket"), Restore: c.Bool("restore"), Version: version, Log: log, Listen: c.String("listen"),
		Images: c.String("store"), Network: c.String("network"), CgroupParent: c.String("cgroup-parent"), ServiceTable: c.String("service-table"),
		Ready: func() error { return ready(c.String("log-file")) },
	}
	if err := addressFlags(c, &o); err != nil {
		return err
	}
	switch b := c.String("backoff"); b {
	case "default":
		o.Backoff = podlife.Default
	case "kubernetes":
		o.Backoff = podlife.Kubernetes
	default:
		return fmt.Errorf("--backoff %q: want default or kubernetes", b)
	}
	return daemon.Run(c.Context, o)
}

// addressFlags reads the flags about addresses and ports.
func addressFlags(c *cli.Context, o *daemon.Options) (err error) {
	if o.PodRanges, err = daemon.ParseRanges(c.String("pod-range")); err != nil {
		return fmt.Errorf("--pod-range: %w", err)
	}
	if o.ServiceRanges, err = daemon.ParseRanges(c.String("service-range")); err != nil {
		return fmt.Errorf("--service-range: %w", err)
	}
	first, last, ok := strings.Cut(c.String("node-port-range"), "-")
	for _, p := range []struct {
		text string
		to   *uint16
	}{{first, &o.FirstNodePort}, {last, &o.LastNodePort}} {
		n, err := strconv.ParseUint(p.text, 10, 16)
		if err != nil || n == 0 || !ok {
			return fmt.Errorf("--node-port-range %q: want two ports, such as 30000-32767", c.String("node-port-range"))
		}
		*p.to = uint16(n)
	}
	if o.FirstNodePort > o.LastNodePort {
		return fmt.Errorf("--node-port-range %q: the first port is behind the last one", c.String("node-port-range"))
	}
	if !tableName(o.ServiceTable) {
		return fmt.Errorf("--service-table %q: want a letter, then letters, digits and underscores, 32 at most", o.ServiceTable)
	}
	return nil
}

// tableName tells whether the kernel and nft(8) take a name for a table.
func tableName(s string) bool {
	for i, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !letter && (i == 0 || (r < '0' || r > '9') && r != '_') {
			return false
		}
	}
	return s != "" && len(s) <= 32
}

// ready tells whoever started us that we work: systemd, or a minirun up, whose
// standard error then becomes the log.
func ready(logFile string) error {
	if err := daemon.Notify("READY=1"); err != nil {
		return err
	}
	n, err := strconv.Atoi(os.Getenv(readyEnv))
	if err != nil {
		return nil
	}
	os.Unsetenv(readyEnv)
	f, err := os.OpenFile(logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Dup3(int(f.Fd()), 2, 0); err != nil {
		return fmt.Errorf("log to %q: %w", logFile, err)
	}
	pipe := os.NewFile(uintptr(n), "ready")
	_, err = pipe.WriteString("ready")
	return errors.Join(err, pipe.Close())
}

func downCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name: "down", Usage: "end minirund; its containers go on",
		Flags: []cli.Flag{
			socketFlag(),
			&cli.DurationFlag{Name: "timeout", Usage: "how long to wait until it has ended", Value: 30 * time.Second},
		},
	}, 0, 0, func(c *cli.Context) error {
		pidfd, err := peer(c.String("socket"))
		if err != nil {
			return err
		}
		defer unix.Close(pidfd)
		if err := unix.PidfdSendSignal(pidfd, unix.SIGTERM, nil, 0); err != nil {
			return fmt.Errorf("end minirund: %w", err)
		}
		p := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		for end := time.Now().Add(c.Duration("timeout")); ; {
			n, err := unix.Poll(p, int(max(0, time.Until(end).Milliseconds())))
			switch {
			case errors.Is(err, unix.EINTR):
			case err != nil:
				return fmt.Errorf("wait for minirund: %w", err)
			case n == 0:
				return fmt.Errorf("minirund has not ended after %s", c.Duration("timeout"))
			default:
				return nil
			}
		}
	})
}

// peer gives a descriptor of the process that listens on a socket. The process
// is that one, and not whoever has its number by now: a connection ends with who
// listens, and it is still there after the descriptor is.
func peer(socket string) (pidfd int, err error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return -1, notRunning(socket, err)
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return -1, err
	}
	pidfd = -1
	ctrlErr := raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil {
			return
		}
		if cred.Pid == 0 {
			err = fmt.Errorf("minirund at %q is in another pid namespace", socket)
			return
		}
		if pidfd, err = unix.PidfdOpen(int(cred.Pid), 0); err != nil {
			return
		}
		p := []unix.PollFd{{Fd: int32(fd)}} // asks for nothing but the end
		if _, err = unix.Poll(p, 0); err == nil && p[0].Revents != 0 {
			err = notRunning(socket, unix.ECONNREFUSED)
		}
	})
	if err = errors.Join(err, ctrlErr); err != nil && pidfd >= 0 {
		unix.Close(pidfd)
	}
	return pidfd, err
}

// notRunning explains an error of connecting.
func notRunning(socket string, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return &hinted{fmt.Errorf("minirund is not running: nothing answers at %q", socket), "start it with: minirun up"}
	}
	return err
}

func getStatus(socket string) (s daemon.Status, err error) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	resp, err := client.Get("http://minirund" + daemon.StatusPath)
	var slow net.Error
	if errors.As(err, &slow) && slow.Timeout() {
		return s, &hinted{fmt.Errorf("minirund at %q does not answer", socket), "its log says more; minirun down, or kill -9, does not touch containers"}
	}
	if err != nil {
		return s, notRunning(socket, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return s, fmt.Errorf("minirund at %q answers %s", socket, resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		return s, fmt.Errorf("minirund at %q: status: %w", socket, err)
	}
	return s, nil
}

func statusCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name: "status", Usage: "show what minirund does",
		Flags: []cli.Flag{socketFlag(), formatFlag()},
	}, 0, 0, func(c *cli.Context) error {
		asJSON, err := wantsJSON(c)
		if err != nil {
			return err
		}
		s, err := getStatus(c.String("socket"))
		if err != nil {
			return err
		}
		if asJSON {
			return u.json(s)
		}
		fmt.Fprintf(u.out, "minirund %s runs as process %d since %s, with %s of memory\n", s.Version, s.Pid, s.Started.Local().Format(time.RFC3339), bytesText(s.Memory))
		fmt.Fprintf(u.out, "socket: %s\ndata: %s, revision %d\n", s.Socket, s.Data, s.Revision)
		if s.Listen != "" {
			fmt.Fprintf(u.out, "for kubectl: https://%s, KUBECONFIG=%s\n", s.Listen, s.Kubeconfig)
		}
		switch {
		case s.BackupError != "":
			fmt.Fprintf(u.out, "backup: none since %s: %s\n", s.Backup, printable(s.BackupError))
		case s.Backup != "":
			fmt.Fprintf(u.out, "backup: %s\n", s.Backup)
		}
		fmt.Fprintf(u.out, "objects: %s\npods: %s\n", counts(s.Objects), counts(s.Pods))
		for _, p := range s.Parts {
			state := "runs"
			switch {
			case !p.Running && p.Restarts == 0:
				state = "is being started"
			case !p.Running:
				state = "is being started again"
			}
			if p.LastError != "" {
				state += fmt.Sprintf(", %d times started again, last because of: %s", p.Restarts, printable(p.LastError))
			}
			fmt.Fprintf(u.out, "%s: %s\n", p.Name, state)
		}
		for _, w := range s.Warnings {
			fmt.Fprintf(u.out, "warning: %s\n", printable(w))
		}
		return nil
	})
}

func counts(m map[string]int) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf("%d %s", m[k], k))
	}
	if out == nil {
		return "none"
	}
	return strings.Join(out, ", ")
}
