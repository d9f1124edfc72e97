package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/container/inventory"
	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/runtime"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// A mounted image is a snapshot with a name that no container's can be, whose upper
// directory nobody uses, and a file that says what is mounted where. As for every
// snapshot, the layers below it are kept as long as it is there. It is made
// before the mount and removed after it, under a lock: one without a mount is what
// somebody has left who was killed, or a boot, and goes with the next command.
const (
	mountKey    = inventory.MountKey // and a random number
	mountRecord = "mount"
)

// imageMount is the record, one line each.
type imageMount struct {
	key                string
	Name               string `json:"name"`
	ID                 string `json:"id"`
	Path               string `json:"path"`
	root               string // device and inode of what is mounted
	bootID, mntns      string // where Path means something
	mounted, elsewhere bool
}

func imageMountCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name: "mount", Usage: "mount the files of an image, read-only, and print where; or list what is mounted", ArgsUsage: "[NAME|ID [DIR]]",
		Description: "Without DIR it is mounted inside the store. Set-user-ID bits and device nodes have no effect there.",
		Flags:       []cli.Flag{&cli.StringFlag{Name: "format", Value: "table", Usage: "`FORMAT` of the list: table or json"}},
	}, 0, 2, func(c *cli.Context) error {
		if f := c.String("format"); f != "table" && f != "json" {
			return &usageError{text: fmt.Sprintf("unknown format %q, want table or json", f), command: c.Command.HelpName}
		}
		images, err := openImages(c)
		if err != nil {
			return err
		}
		if c.NArg() == 0 {
			return listMounts(c, u, images)
		}
		if own, _ := runtime.OwnIDs(); own != nil {
			return &hinted{errors.New("image mount: an ordinary user's mounts end with the command"), "run --image shows the files to a container, image save writes them; or be root"}
		}
		ref := c.Args().First()
		if err := unpackImage(c, u, images, ref, nil, newProgress(u, true)); err != nil {
			return err
		}
		path, err := mountImage(c, images, ref, c.Args().Get(1))
		if err != nil {
			return fmt.Errorf("mount image %q: %w", ref, err)
		}
		fmt.Fprintln(u.out, path)
		return nil
	})
}

// openMounts opens the layer store, takes the lock and reads the records. Those
// whose mount is gone are removed.
func openMounts(images *imagestore.Store) (layers *overlay.Store, list []*imageMount, done func(), err error) {
	dir := container.OverlayDir(images.Root())
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil, func() {}, nil
	}
	if layers, err = overlay.OpenStore(dir); err != nil {
		return nil, nil, nil, err
	}
	lock, err := linux.OpenAt(unix.AT_FDCWD, images.Root()+"/mounts.lock", unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW, 0o600)
	for err == nil {
		if err = unix.Flock(lock, unix.LOCK_EX); err != unix.EINTR {
			break
		}
		err = nil
	}
	done = func() {
		linux.Close(lock)
		layers.Close()
	}
	var snapshots []overlay.SnapshotInfo
	if err == nil {
		snapshots, err = layers.Snapshots()
	}
	for _, s := range snapshots {
		if err != nil || !strings.HasPrefix(s.Key, mountKey) {
			continue
		}
		m := readMount(dir, s.Key)
		if m == nil || !m.mounted && !m.elsewhere {
			err = layers.RemoveSnapshot(s.Key)
			continue
		}
		list = append(list, m)
	}
	if err != nil {
		done()
		return nil, nil, nil, err
	}
	return layers, list, done, nil
}

// readMount reads a record; nil if it is not whole.
func readMount(dir, key string) *imageMount {
	raw, err := linux.ReadFile(dir+"/snapshots/"+key+"/"+mountRecord, 64<<10)
	f := strings.Split(string(raw), "\n")
	if err != nil || len(f) != 7 || f[6] != "" {
		return nil
	}
	m := &imageMount{key: key, Name: f[0], ID: f[1], Path: f[2], root: f[3], bootID: f[4], mntns: f[5]}
	boot, ns := here()
	switch {
	case m.bootID != boot:
	case m.mntns != ns:
		m.elsewhere = true
	default:
		fd, err := linux.OpenAt(unix.AT_FDCWD, m.Path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		m.mounted = err == nil && rootOf(fd) == m.root
		linux.Close(fd)
	}
	return m
}

// here is the boot and the mount namespace that paths are of.
func here() (boot, mntns string) {
	boot, _ = linux.BootID()
	mntns, _ = os.Readlink("/proc/self/ns/mnt")
	return boot, mntns
}

// rootOf identifies the root of a mount; "" for what is none.
func rootOf(fd int) string {
	var st unix.Statx_t
	if unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_INO, &st) != nil || st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return ""
	}
	return fmt.Sprintf("%d:%d %d", st.Dev_major, st.Dev_minor, st.Ino)
}

func mountImage(c *cli.Context, images *imagestore.Store, ref, dir string) (path string, err error) {
	img, pin, err := images.Pin(c.Context, ref) // layers stay until the snapshot stands on them
	if err != nil {
		return "", err
	}
	defer pin.Close()
	if imageChain(img) == "" {
		return "", errors.New("it has no layers: there is nothing to mount")
	}
	layers, _, done, err := openMounts(images)
	if err != nil {
		return "", err
	}
	defer done()
	key := mountKey + container.RandomID()
	sn, err := layers.Prepare(key, imageChain(img))
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, layers.RemoveSnapshot(key))
		}
	}()
	if path = sn.RootfsDir(); dir != "" {
		if path, err = filepath.Abs(dir); err == nil {
			path, err = filepath.EvalSymlinks(path)
		}
		if st, statErr := os.Stat(path); err == nil && statErr == nil && !st.IsDir() {
			err = &fs.PathError{Op: "mount on", Path: path, Err: unix.ENOTDIR}
		}
	}
	if err == nil && strings.ContainsAny(path+img.Name, "\n") {
		err = fmt.Errorf("%q: a path with a newline", path)
	}
	if err != nil {
		return "", err
	}
	view, err := layers.MountView(imageChain(img))
	if err != nil {
		return "", err
	}
	defer linux.Close(view)
	boot, ns := here()
	record := strings.Join([]string{img.Name, string(img.ConfigDigest), path, rootOf(view), boot, ns, ""}, "\n")
	if err := os.WriteFile(filepath.Dir(sn.RootfsDir())+"/"+mountRecord, []byte(record), 0o600); err != nil {
		return "", err
	}
	if err := unix.MoveMount(view, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return "", &fs.PathError{Op: "move_mount", Path: path, Err: err}
	}
	return path, nil
}

func listMounts(c *cli.Context, u *ui, images *imagestore.Store) error {
	_, list, done, err := openMounts(images)
	if err != nil {
		return err
	}
	defer done()
	here := []*imageMount{}
	for _, m := range list {
		if m.mounted {
			here = append(here, m)
		}
	}
	if c.String("format") == "json" {
		return u.json(here)
	}
	w := tabwriter.NewWriter(u.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tID\tPATH")
	for _, m := range here {
		fmt.Fprintf(w, "%s\t%s\t%s\n", printable(imagestore.Familiar(m.Name)), imagestore.Digest(m.ID).Short(), printable(m.Path))
	}
	return w.Flush()
}

func imageUnmountCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name: "unmount", Aliases: []string{"umount"}, Usage: "unmount images", ArgsUsage: "NAME|ID|DIR...",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "all that are mounted"}},
	}, 0, -1, func(c *cli.Context) error {
		if (c.NArg() == 0) != c.Bool("all") {
			return &usageError{text: "want images or directories, or --all", command: c.Command.HelpName}
		}
		images, err := openImages(c)
		if err != nil {
			return err
		}
		layers, list, done, err := openMounts(images)
		if err != nil {
			return err
		}
		defer done()
		var errs []error
		wanted := list
		if !c.Bool("all") {
			wanted = nil
			for _, arg := range c.Args().Slice() {
				found := false
				for _, m := range list {
					if m.is(images, arg) {
						found = true
						if !slices.Contains(wanted, m) {
							wanted = append(wanted, m)
						}
					}
				}
				if !found {
					errs = append(errs, &hinted{fmt.Errorf("%q is no mounted image", arg), "minirun image mount lists what is mounted"})
				}
			}
		}
		for _, m := range wanted {
			if err := m.unmount(layers); err != nil {
				errs = append(errs, fmt.Errorf("unmount image %q: %w", imagestore.Familiar(m.Name), err))
				continue
			}
			fmt.Fprintln(u.out, m.Path)
		}
		return errors.Join(errs...)
	})
}

// is reports whether arg means this mount: by its place, or by its image.
func (m *imageMount) is(images *imagestore.Store, arg string) bool {
	if abs, err := filepath.Abs(arg); err == nil && (abs == m.Path || abs == filepath.Clean(m.Path)) {
		return true
	}
	if full, err := imagestore.Normalize(arg); err == nil && full == m.Name {
		return true
	}
	img, err := images.Resolve(arg)
	return err == nil && string(img.ConfigDigest) == m.ID
}

// seenBy is a process in the mount's namespace that sees it; 0 if there is none, and
// the namespace is gone: its number may be another one's by now.
func (m *imageMount) seenBy() (pid int, err error) {
	entries, err := os.ReadDir("/proc")
	for _, e := range entries {
		pid, bad := strconv.Atoi(e.Name())
		proc := "/proc/" + e.Name()
		if ns, err := os.Readlink(proc + "/ns/mnt"); bad != nil || err != nil || ns != m.mntns {
			continue
		}
		fd, err := linux.OpenAt(unix.AT_FDCWD, proc+"/root"+m.Path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		seen := err == nil && rootOf(fd) == m.root
		linux.Close(fd)
		if seen {
			return pid, nil
		}
	}
	return 0, err
}

func (m *imageMount) unmount(layers *overlay.Store) error {
	if m.elsewhere {
		pid, err := m.seenBy()
		if err != nil {
			return err
		}
		if pid > 0 {
			return &hinted{
				fmt.Errorf("it is mounted in another mount namespace, that of process %d", pid),
				fmt.Sprintf("nsenter --mount=/proc/%d/ns/mnt minirun image unmount %s", pid, m.Path),
			}
		}
		return layers.RemoveSnapshot(m.key) // nobody sees it any more
	}
	if err := unix.Unmount(m.Path, unix.UMOUNT_NOFOLLOW); err != nil {
		err = &fs.PathError{Op: "umount", Path: m.Path, Err: err}
		if errors.Is(err, unix.EBUSY) {
			return &hinted{err, "a process has a file of it open, or is in a directory of it"}
		}
		return err
	}
	return layers.RemoveSnapshot(m.key)
}
