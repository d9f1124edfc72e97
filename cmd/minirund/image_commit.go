package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/archive"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/runtime"
	"github.com/minirun/minirun/runtime/bundle"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

func imageCommitCommand(u *ui) *cli.Command { return newCommitCommand(u) }

// commitCommand is the same under docker's name.
func commitCommand(u *ui) *cli.Command { return newCommitCommand(u) }

func newCommitCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:      "commit",
		Usage:     "make an image of what a container has changed",
		ArgsUsage: "CONTAINER [NAME]",
		Description: "The image has the layers and the configuration of the container's own image, and one\n" +
			"layer more. What was said on the command line of run is not in it: see --change.",
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "change", Aliases: []string{"c"}, Usage: "apply a Dockerfile `INSTRUCTION`: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR"},
			&cli.StringFlag{Name: "message", Aliases: []string{"m"}, Usage: "`TEXT` for the image's history"},
			&cli.StringFlag{Name: "author", Aliases: []string{"a"}, Usage: "`NAME` of who made it"},
			&cli.BoolFlag{Name: "pause", Aliases: []string{"p"}, Value: true, Usage: "pause the container meanwhile"},
			unpackerFlag(),
			&cli.BoolFlag{Name: "no-unpack", Usage: "leave the unpacking to the first container"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print the image's ID and nothing else"},
		},
	}, 1, 2, func(c *cli.Context) error {
		target, err := loadContainer(c)
		if err != nil {
			return err
		}
		p := newProgress(u, c.Bool("quiet"))
		images, res, err := commitContainer(c, target, p)
		p.clear()
		if err != nil {
			return fmt.Errorf("commit container %q: %w", target.ID, err)
		}
		return arrived(c, u, images, "committed", res, p)
	})
}

// notFromImageError reports a container whose root is a directory of somebody else.
type notFromImageError struct{ id string }

func (e *notFromImageError) Error() string {
	return fmt.Sprintf("container %q was made from a bundle and not from an image", e.id)
}

func (e *notFromImageError) Hint() string {
	return "its root file system is a directory: minirun image import DIR NAME makes an image of that"
}

// upperOf opens what the container has written.
func upperOf(target *runtime.Container) (layers *overlay.Store, sn *overlay.Snapshot, upper int, err error) {
	store, key, ok := container.SnapshotOf(target)
	if !ok {
		return nil, nil, -1, &notFromImageError{target.ID}
	}
	if layers, err = overlay.OpenStore(container.OverlayDir(store)); err != nil {
		return nil, nil, -1, err
	}
	if sn, err = layers.Snapshot(key); err == nil {
		upper, err = linux.OpenAt(unix.AT_FDCWD, sn.UpperDir(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	}
	if err != nil {
		layers.Close()
		return nil, nil, -1, err
	}
	return layers, sn, upper, nil
}

func commitContainer(c *cli.Context, target *runtime.Container, p *progress) (_ *imagestore.Store, _ *archive.Result, err error) {
	layers, sn, upper, err := upperOf(target)
	if err != nil {
		return nil, nil, err
	}
	defer layers.Close()
	defer linux.Close(upper)
	store, _, _ := container.SnapshotOf(target)
	images, err := imagestore.Open(store)
	if err != nil {
		return nil, nil, err
	}
	o := archive.CommitOptions{
		Base: target.Annotations[container.ImageManifest], Changes: c.StringSlice("change"), Author: c.String("author"), Message: c.String("message"),
		Created: time.Now(), Progress: func(done, total int64) { p.update("commit", done, total) },
		Check: func() error {
			// Delete takes the snapshot out of its place before it empties it.
			_, err := layers.Snapshot(sn.Key())
			return err
		},
	}
	if err := fromConfig(target, &o); err != nil {
		return nil, nil, err
	}
	if o.Base == "" && sn.Parent() != "" {
		return nil, nil, errors.New("it is not recorded which image the container was made from: an older version has made it")
	}
	if c.Bool("pause") {
		resume, err := pauseGuarded(c, target)
		if err != nil {
			return nil, nil, err
		}
		defer func() { err = errors.Join(err, resume()) }()
	}
	res, err := archive.Commit(c.Context, images, upper, c.Args().Get(1), o)
	return images, res, err
}

// fromConfig takes from the container's configuration what it runs, for the
// image's history, and whom files belong to.
func fromConfig(target *runtime.Container, o *archive.CommitOptions) error {
	spec, err := configOf(target)
	if err != nil {
		return err
	}
	o.Places = mountPlaces(spec, "")
	if spec.Process != nil {
		o.CreatedBy = strings.Join(spec.Process.Args, " ")
	}
	if l := spec.Linux; l != nil && len(l.UIDMappings) > 0 {
		o.Owner = func(uid, gid uint32) (int, int) {
			return containerID(l.UIDMappings, uid), containerID(l.GIDMappings, gid)
		}
	}
	return nil
}

func configOf(target *runtime.Container) (*specs.Spec, error) {
	raw, err := os.ReadFile(target.Dir() + "/config.json")
	if err != nil {
		return nil, err
	}
	return bundle.Parse(raw)
}

// mountPlaces are the paths at which something is mounted in a container, behind root.
func mountPlaces(spec *specs.Spec, root string) map[string]bool {
	places := map[string]bool{}
	for _, m := range spec.Mounts {
		places[root+strings.TrimPrefix(path.Clean("/"+m.Destination), "/")] = true
	}
	return places
}

// containerID is what an id of the host is in the container, -1 if it is nothing.
func containerID(maps []specs.LinuxIDMapping, id uint32) int {
	for _, m := range maps {
		if id >= m.HostID && id-m.HostID < m.Size {
			return int(m.ContainerID + id - m.HostID)
		}
	}
	return -1
}

// pauseGuarded pauses a container that has processes, and returns what lets it
// go on. A process of its own sees to it that it goes on when we are killed.
func pauseGuarded(c *cli.Context, target *runtime.Container) (resume func() error, err error) {
	nothing := func() error { return nil }
	status, err := target.Status()
	switch {
	case err != nil:
		return nil, err
	case status == runtime.Stopped, status == runtime.Paused: // it writes nothing, and what is paused stays so
		return nothing, nil
	case status == runtime.Creating:
		return nil, &runtime.StatusError{ID: target.ID, Op: "commit", Have: status}
	}
	stop, err := startGuard(c, target.ID)
	if err != nil {
		return nil, err
	}
	if err := target.Pause(); err != nil {
		stop()
		if status, statusErr := target.Status(); statusErr == nil && status == runtime.Stopped {
			return nothing, nil // it ended meanwhile
		}
		return nil, fmt.Errorf("%w; --pause=false leaves it running, and files that are written to at this moment may be torn", err)
	}
	return func() error {
		err := target.Resume()
		stop()
		var status *runtime.StatusError
		if errors.As(err, &status) { // somebody else has resumed or killed it
			return nil
		}
		return err
	}, nil
}

// startGuard starts the process that resumes the container when our end of the
// pipe to it is closed, which is so at the latest when we are gone.
func startGuard(c *cli.Context, id string) (stop func(), err error) {
	var root []string
	if r := c.String("root"); r != "" {
		root = []string{"--root", r}
	}
	cmd := exec.Command("/proc/self/exe", append(root, guardName, id)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // ^C is for us
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		in.Close()
		_ = cmd.Wait()
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		stop()
		return nil, errors.New("the process that resumes the container if we are killed did not start")
	}
	return stop, nil
}

const guardName = "resume-at-end"

// resumeGuardCommand is what startGuard starts. It is not for people.
func resumeGuardCommand() *cli.Command {
	return &cli.Command{
		Name: guardName, Hidden: true, ArgsUsage: "ID",
		Action: func(c *cli.Context) error {
			target, err := loadContainer(c)
			if err != nil {
				return err
			}
			if _, err := os.Stdout.Write([]byte{'\n'}); err != nil {
				return err
			}
			if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
				return err
			}
			err = target.Resume()
			var status *runtime.StatusError
			if errors.As(err, &status) {
				return nil
			}
			return err
		},
	}
}
