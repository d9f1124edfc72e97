package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/internal/criu"
	"github.com/minirun/minirun/runtime"
	"github.com/minirun/minirun/runtime/bundle"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// criuFlags are those that checkpoint and restore share.
func criuFlags(more ...cli.Flag) []cli.Flag {
	return append([]cli.Flag{
		&cli.StringFlag{Name: "image-path", Usage: "`DIR` of the images", DefaultText: "./checkpoint", TakesFile: true},
		&cli.StringFlag{Name: "work-path", Usage: "`DIR` of criu's logs; default: that of the images", TakesFile: true},
		&cli.BoolFlag{Name: "tcp-established", Usage: "allow open TCP connections"},
		&cli.BoolFlag{Name: "ext-unix-sk", Usage: "allow unix sockets whose other end is outside"},
		&cli.BoolFlag{Name: "shell-job", Usage: "allow a process of a session outside"},
		&cli.BoolFlag{Name: "lazy-pages", Usage: "transfer memory when it is used, through userfaultfd"},
		&cli.BoolFlag{Name: "file-locks", Usage: "allow file locks"},
		&cli.StringFlag{Name: "manage-cgroups-mode", Usage: "what criu does with cgroups: `MODE` soft, full, strict or ignore", DefaultText: "ignore"},
		&cli.StringSliceFlag{Name: "empty-ns", Usage: "make a namespace of this `TYPE` and leave it empty; only network"},
		&cli.BoolFlag{Name: "auto-dedup", Usage: "drop from older images what newer ones have"},
	}, more...)
}

// criuOptions reads them. The images' directory is absolute afterwards.
func criuOptions(c *cli.Context) (criu.Options, error) {
	o := criu.Options{
		TCPEstablished: c.Bool("tcp-established"), ExtUnixSockets: c.Bool("ext-unix-sk"), ShellJob: c.Bool("shell-job"),
		LazyPages: c.Bool("lazy-pages"), FileLocks: c.Bool("file-locks"), AutoDedup: c.Bool("auto-dedup"),
		CgroupsMode: c.String("manage-cgroups-mode"),
	}
	if err := criu.CheckMode(o.CgroupsMode); err != nil {
		return o, &usageError{text: err.Error(), command: c.Command.HelpName}
	}
	for _, ns := range c.StringSlice("empty-ns") {
		if ns != "network" {
			return o, &usageError{text: fmt.Sprintf("--empty-ns %q: want network", ns), command: c.Command.HelpName}
		}
		o.EmptyNetwork = true
	}
	images := c.String("image-path")
	if images == "" {
		images = "checkpoint"
	}
	var err error
	if o.Images, err = filepath.Abs(images); err == nil && c.String("work-path") != "" {
		o.Work, err = filepath.Abs(c.String("work-path"))
	}
	return o, err
}

func checkpointCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name: "checkpoint", Usage: "save a running container with criu, and stop it", ArgsUsage: "ID",
		Flags: criuFlags(
			&cli.StringFlag{Name: "parent-path", Usage: "images of an earlier --pre-dump, `DIR` relative to those of this one", TakesFile: true},
			&cli.BoolFlag{Name: "leave-running", Usage: "let the container run on"},
			&cli.BoolFlag{Name: "tcp-skip-in-flight", Usage: "drop TCP connections that are being made"},
			&cli.BoolFlag{Name: "link-remap", Usage: "allow to link removed files back when they are restored"},
			&cli.IntFlag{Name: "status-fd", Value: -1, Usage: "tell on descriptor `N` that --lazy-pages is ready"},
			&cli.StringFlag{Name: "page-server", Usage: "send memory to `ADDRESS:PORT`"},
			&cli.BoolFlag{Name: "pre-dump", Usage: "save memory only and let the container run on"},
		),
	}, 1, 1, func(c *cli.Context) error {
		o := criu.DumpOptions{
			Parent: c.String("parent-path"), LeaveRunning: c.Bool("leave-running"), PreDump: c.Bool("pre-dump"),
			SkipInFlight: c.Bool("tcp-skip-in-flight"), LinkRemap: c.Bool("link-remap"),
			StatusFD: c.Int("status-fd"), PageServer: c.String("page-server"),
		}
		var err error
		if o.Options, err = criuOptions(c); err != nil {
			return err
		}
		if o.Parent != "" {
			if filepath.IsAbs(o.Parent) {
				return &usageError{text: fmt.Sprintf("--parent-path %q: want a path relative to --image-path", o.Parent), command: c.Command.HelpName}
			}
			if _, err := os.Stat(filepath.Join(o.Images, o.Parent)); err != nil {
				return fmt.Errorf("--parent-path: %w", err)
			}
		}
		target, err := loadContainer(c)
		if err != nil {
			return err
		}
		program, err := criu.Find()
		if err != nil {
			return err
		}
		for _, dir := range []string{o.Images, o.Work} {
			if dir == "" {
				continue
			}
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return err
			}
		}
		err = target.Checkpoint(func(pid int, spec *specs.Spec) error { return criu.Dump(program, pid, spec, &o) })
		if err != nil || o.LeaveRunning || o.PreDump {
			return err
		}
		return container.Delete(target, runtime.Force)
	})
}

func loadContainer(c *cli.Context) (*runtime.Container, error) {
	s, err := openContainers(c)
	if err != nil {
		return nil, err
	}
	return s.Load(c.Args().First())
}

func openContainers(c *cli.Context) (*runtime.Store, error) {
	root := c.String("root")
	if root == "" {
		root = runtime.DefaultRoot
	}
	return runtime.OpenStore(root)
}

func restoreCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name: "restore", Usage: "make a container from what checkpoint has saved", ArgsUsage: "ID",
		Flags: criuFlags(
			&cli.StringFlag{Name: "bundle", Aliases: []string{"b"}, Usage: "`DIR` of the OCI bundle; default: the working directory", TakesFile: true},
			&cli.StringFlag{Name: "console-socket", Usage: "refused: containers with a terminal cannot be restored", TakesFile: true},
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "return when the container runs"},
			&cli.StringFlag{Name: "pid-file", Usage: "write the pid of the container's process to `FILE`", TakesFile: true},
			&cli.BoolFlag{Name: "no-subreaper", Usage: "do not become the parent of the container's orphans"},
			&cli.BoolFlag{Name: "no-pivot", Usage: "accepted for compatibility: criu changes the root"},
			&cli.BoolFlag{Name: "tcp-close", Usage: "close TCP connections that were open"},
			&cli.StringFlag{Name: "lsm-profile", Usage: "`TYPE:NAME` of the profile of a security module"},
			&cli.StringFlag{Name: "lsm-mount-context", Usage: "`CONTEXT` of mounts"},
		),
	}, 1, 1, func(c *cli.Context) error { return restore(c, u) })
}

func restore(c *cli.Context, u *ui) error {
	o := criu.RestoreOptions{
		TCPClose: c.Bool("tcp-close"), LSMProfile: c.String("lsm-profile"), LSMMountContext: c.String("lsm-mount-context"),
		Streams: [3]int{0, 1, 2},
	}
	var err error
	if o.Options, err = criuOptions(c); err != nil {
		return err
	}
	if c.String("console-socket") != "" {
		return &runtime.UnsupportedError{Field: "restore --console-socket"}
	}
	s, err := openContainers(c)
	if err != nil {
		return err
	}
	b, err := bundle.Load(c.String("bundle"))
	if err != nil {
		return err
	}
	program, err := criu.Find()
	if err != nil {
		return err
	}
	if st, err := os.Stat(o.Images); err != nil || !st.IsDir() {
		return fmt.Errorf("--image-path: %w", errors.Join(err, notDirectory(o.Images, st)))
	}
	if o.Work != "" {
		if err := os.MkdirAll(o.Work, 0o700); err != nil {
			return err
		}
	}
	detach := c.Bool("detach")
	if !detach && !c.Bool("no-subreaper") {
		_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	}
	// From here on a signal is for the container.
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	box, err := s.Restore(runtime.CreateOptions{ID: c.Args().First(), Bundle: b, PidFile: c.String("pid-file"), Stdio: o.Streams, PlanOptions: runtime.PlanOptions{Systemd: c.Bool("systemd-cgroup")}},
		func(r *runtime.Restoration) (int, error) {
			o.Spec, o.Rootfs, o.Scratch = r.Spec, r.Rootfs, r.StateDir
			o.Cgroup, o.CgroupDir, o.Path = r.Cgroup, r.CgroupDir, r.Path
			return criu.Restore(program, &o)
		})
	if err != nil {
		return err
	}
	for _, w := range box.Warnings {
		u.log.entry("warning", errors.New(w))
		fmt.Fprintf(u.err, "minirun: warning: %s\n", w)
	}
	if detach {
		return nil
	}
	status, err := attend(box, signals)
	if err != nil {
		return err
	}
	if err := container.Delete(box, runtime.Force); err != nil {
		return err
	}
	if code := runtime.ExitCode(status); code != 0 {
		return exitStatus(code)
	}
	return nil
}

func notDirectory(path string, st fs.FileInfo) error {
	if st == nil {
		return nil
	}
	return &fs.PathError{Op: "open", Path: path, Err: syscall.ENOTDIR}
}

// attend passes signals on to the container until it ends.
func attend(box *runtime.Container, signals chan os.Signal) (syscall.WaitStatus, error) {
	pidfd := []unix.PollFd{{Fd: int32(box.PidFD()), Events: unix.POLLIN}}
	over := make(chan struct{})
	go func() {
		for {
			if _, err := unix.Poll(pidfd, -1); err != unix.EINTR {
				close(over)
				return
			}
		}
	}()
	for {
		select {
		case sig := <-signals:
			if s, ok := sig.(syscall.Signal); ok && s != syscall.SIGCHLD && s != syscall.SIGURG {
				_ = box.Signal(s)
			}
		case <-over:
			return box.Wait()
		}
	}
}
