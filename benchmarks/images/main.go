// Command images measures what images cost: to pull and unpack, to mount, to read, to remove;
// minirun beside containerd, podman, docker, and skopeo with umoci, interleaved in one run.
//
// It needs root. Everything happens on a file system of its own, ext4 on a loop device in
// memory, in a private mount namespace: README.md in the directory above tells the method.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

type options struct {
	rounds    int
	time      time.Duration
	only      string
	image     string
	dir, out  string
	save      bool
	isolated  bool
	childWhat string
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "n", 3, "rounds")
	flag.DurationVar(&o.time, "time", 0, "begin no round that would not be done after this time, as long as the last one; 0: all rounds")
	flag.StringVar(&o.only, "tools", "", "comma-separated names of the tools to measure; all if empty")
	flag.StringVar(&o.image, "image", "small", "the image: \"small\", with few large files, or \"installed\", with sizes as an installed system has")
	flag.StringVar(&o.dir, "dir", "", "work in this directory; if empty, on an ext4 file system in memory")
	flag.StringVar(&o.out, "out", "", "write the report to this directory")
	flag.BoolVar(&o.save, "save", false, "write the report to benchmarks/results")
	flag.BoolVar(&o.isolated, "isolated", false, "internal: in the private mount namespace")
	flag.StringVar(&o.childWhat, "child", "", "internal: what to do instead")
	flag.Parse()
	if o.save {
		o.out = "benchmarks/results"
	}
	var err error
	switch {
	case o.childWhat != "":
		err = child(o.childWhat, flag.Args())
	case images[o.image].files == nil:
		err = fmt.Errorf("no image %q: -image is %s", o.image, strings.Join(slices.Sorted(maps.Keys(images)), " or "))
	case !o.isolated:
		err = isolate()
	default:
		err = measure(o)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchmarks/images:", err)
		os.Exit(1)
	}
}

// isolate starts the program again in a private mount namespace.
func isolate() error {
	if os.Geteuid() != 0 {
		return errors.New("root is needed")
	}
	cmd := exec.Command("/proc/self/exe", append([]string{"-isolated"}, os.Args[1:]...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM) // theirs to handle
	return cmd.Run()
}

// bench is one run.
type bench struct {
	o       options
	began   time.Time
	self    string
	minirun string
	dir     string // the file system on which everything happens
	cold    *disk  // another one, whose caches can be dropped; nil with -dir
	blobs   string
	groups  string
	own     *group // of parts of this program
	image   generated
	all     []*tool
	rows    []*row
	notes   []string
	stopped atomic.Bool
}

func measure(o options) (err error) {
	b := &bench{o: o, began: time.Now()}
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if b.minirun, err = filepath.Abs("bin/minirun"); err != nil {
		return err
	}
	if _, err := os.Stat(b.minirun); err != nil {
		return fmt.Errorf("%w: run make build", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	work, err := os.MkdirTemp(o.dir, "minirun-bench-images-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	b.dir = work
	if o.dir == "" {
		fs, err := inMemory(work, "fs")
		defer fs.end()
		if err != nil {
			return err
		}
		b.cold, err = inMemory(work, "cold")
		defer b.cold.end()
		if err != nil {
			return err
		}
		b.dir = fs.at
	}
	parent, err := cgroup2()
	if err != nil {
		return err
	}
	b.groups = filepath.Join(parent, "minirun-bench-images-"+strconv.Itoa(os.Getpid()))
	defer func() { err = errors.Join(err, os.Remove(b.groups)) }()
	if b.own, err = newGroup(b.groups, "own"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.own.remove()) }()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-signals
		b.stopped.Store(true)
	}()
	m := describe(o)
	from, endRegistry, err := b.registry()
	if err != nil {
		return err
	}
	defer endRegistry()
	for _, t := range b.tools(from) {
		if o.only != "" && !strings.Contains(","+o.only+",", ","+t.name+",") {
			t.skip = "not asked for"
		} else if err := b.prepare(t); err != nil {
			return err
		}
		if t.group != nil {
			defer func() { err = errors.Join(err, t.group.remove()) }()
		}
		if t.daemon != nil {
			defer t.daemon.stop()
		}
		b.all = append(b.all, t)
	}
	if err := b.rounds(from); err != nil {
		return err
	}
	text := b.report(m)
	fmt.Print(text)
	if o.out == "" {
		return nil
	}
	path := filepath.Join(o.out, m.fileName())
	fmt.Println("\nwritten to", path)
	return os.WriteFile(path, []byte(text), 0o644)
}

// disk is an ext4 file system on a loop device on a tmpfs.
type disk struct{ tmpfs, at string }

// inMemory makes one at work/name. It has to be ended after an error, too.
func inMemory(work, name string) (*disk, error) {
	d := &disk{filepath.Join(work, name+".disk"), filepath.Join(work, name)}
	for _, dir := range []string{d.tmpfs, d.at} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return d, err
		}
	}
	if err := unix.Mount("tmpfs", d.tmpfs, "tmpfs", 0, "mode=0700"); err != nil {
		return d, fmt.Errorf("mount tmpfs: %w", err)
	}
	if err := command("truncate", "-s", "8G", d.tmpfs+"/image"); err != nil {
		return d, err
	}
	if err := command("mkfs.ext4", "-q", "-F", "-N", "1500000", "-E", "lazy_itable_init=0,lazy_journal_init=0", d.tmpfs+"/image"); err != nil {
		return d, err
	}
	return d, d.mount()
}

func (d *disk) mount() error {
	if err := command("mount", "-o", "loop,noatime", d.tmpfs+"/image", d.at); err != nil {
		return err
	}
	return os.Chmod(d.at, 0o711)
}

// forget has the kernel forget everything that it has cached of the file system.
func (d *disk) forget() error {
	if err := unix.Unmount(d.at, 0); err != nil {
		return fmt.Errorf("unmount %q: %w", d.at, err)
	}
	return d.mount()
}

func (d *disk) end() {
	_ = unix.Unmount(d.at, unix.MNT_DETACH)
	_ = unix.Unmount(d.tmpfs, unix.MNT_DETACH)
}

func command(argv ...string) error {
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", argv[0], err, tail(string(out)))
	}
	return nil
}

// child is a part of this program as a command.
func (b *bench) child(what string, args ...string) []string {
	return append([]string{b.self, "-child", what, "--"}, args...)
}

// registry makes the image and serves it.
func (b *bench) registry() (address string, end func(), err error) {
	b.blobs = filepath.Join(b.dir, "registry")
	if err := os.Mkdir(b.blobs, 0o700); err != nil {
		return "", nil, err
	}
	if _, err := b.run(b.own, b.child("generate", b.blobs, b.o.image)); err != nil {
		return "", nil, err
	}
	text, err := os.ReadFile(filepath.Join(b.blobs, "generated.json"))
	if err == nil {
		err = json.Unmarshal(text, &b.image)
	}
	if err != nil {
		return "", nil, err
	}
	cmd := b.command(b.own, b.child("registry", b.blobs))
	cmd.SysProcAttr.Pdeathsig = 0
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	end = func() {
		_ = in.Close()
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		end()
		return "", nil, fmt.Errorf("the registry says nothing: %w", err)
	}
	return strings.TrimSpace(line), end, nil
}
