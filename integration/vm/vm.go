package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/integration/vm/guest"
)

// Options say what to run and in which machine. Only Command is required.
type Options struct {
	Command   []string      // program and arguments, found by the guest's PATH
	Dir       string        // working directory; the caller's if empty
	Env       []string      // NAME=VALUE, added to PATH, HOME, TERM and TMPDIR
	Memory    int           // MiB; 2048 if 0
	CPUs      int           // 2 if 0
	Timeout   time.Duration // for boot and command; one hour if 0
	ReadOnly  []string      // host directories that must be visible though they may be other file systems than /
	ReadWrite []string      // host directories whose changes stay
	Kernel    string        // Debian package; what linux-image-cloud-amd64 depends on if empty
	Append    string        // added to the kernel's command line
	Cache     string        // directory for unpacked kernels; minirun/vm in the user's cache directory if empty
	Stdout    io.Writer     // of the command; nil discards
	Stderr    io.Writer
	Log       io.Writer // steps with times, and the console of a guest that dies; nil discards
	Keep      bool      // leave the work directory, and say so in Log
}

// ErrTimeout means that the command and the guest were killed at the time limit.
var ErrTimeout = errors.New("time limit exceeded")

const (
	// Byte-wise string moves, 5-level page tables, SMAP and SMEP cost much in emulation and bring nothing here.
	cpu = "max,erms=off,fsrm=off,la57=off,smap=off,smep=off"
	// Without address randomisation translated code is found again: fork and exec are 2 to 3 times faster.
	kernelArgs = "console=ttyS0 panic=-1 mitigations=off nokaslr norandmaps random.trust_cpu=on cgroup_no_v1=all " +
		"systemd.unified_cgroup_hierarchy=1"
	scratchSize = 16 << 30 // bytes, sparse
	minMemory   = 512      // MiB: the initramfs and the kernel's own need
)

// Reexec must be the first call of main in a program that uses [Run]: Run starts
// the program again as the guest's init and as helper processes. It returns in
// the original process only.
func Reexec() {
	if guest.IsInit() {
		guest.Main() // never returns
	}
	if os.Args[0] == shareName && len(os.Args) > 4 {
		fmt.Fprintln(os.Stderr, share(os.Args[1:]))
		os.Exit(1)
	}
}

// Run boots a guest, runs the command in it and returns its exit status (128 + N
// if signal N ended it). An error means that there is no status: the guest did
// not boot or died, or time was up ([ErrTimeout]). Nothing is left running.
func Run(ctx context.Context, o Options) (int, error) {
	if runtime.GOARCH != "amd64" {
		return 0, fmt.Errorf("guests exist for amd64 only, this is %s: %w", runtime.GOARCH, errors.ErrUnsupported)
	}
	if os.Geteuid() != 0 {
		return 0, fmt.Errorf("sharing the root file system with a guest needs root: %w", unix.EPERM)
	}
	if len(o.Command) == 0 {
		return 0, errors.New("no command")
	}
	if err := o.setDefaults(); err != nil {
		return 0, err
	}
	// Children die with the thread that started them, so this one has to live as long as Run.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeout, ErrTimeout)
	defer cancel()
	k, err := findKernel(ctx, o.Cache, o.Kernel)
	if err != nil {
		return 0, err
	}
	m := &machine{o: o, kernel: k, start: time.Now()}
	m.self, err = os.Executable()
	if err != nil {
		return 0, err
	}
	if m.work, err = workDir(); err != nil {
		return 0, err
	}
	defer m.cleanUp()
	return m.run(ctx)
}

func (o *Options) setDefaults() error {
	var err error
	if o.Dir == "" {
		if o.Dir, err = os.Getwd(); err != nil {
			return err
		}
	}
	if o.Cache == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return fmt.Errorf("where to keep the kernel: %w", err)
		}
		o.Cache = filepath.Join(cache, "minirun", "vm")
	}
	if o.Memory == 0 {
		o.Memory = 2048
	}
	o.Memory = max(o.Memory, minMemory)
	if o.CPUs == 0 {
		o.CPUs = 2
	}
	if o.Timeout == 0 {
		o.Timeout = time.Hour
	}
	for _, w := range []*io.Writer{&o.Stdout, &o.Stderr, &o.Log} {
		if *w == nil {
			*w = io.Discard
		}
	}
	return nil
}

// workDir makes the temporary directory; sockets in it must fit into sun_path.
func workDir() (string, error) {
	dir, err := os.MkdirTemp("", "minirun-vm-")
	if err == nil && len(dir) > 80 {
		os.Remove(dir)
		dir, err = os.MkdirTemp("/tmp", "minirun-vm-")
	}
	return dir, err
}

// machine is one guest and what serves it.
type machine struct {
	o        Options
	kernel   kernel
	self     string
	work     string
	start    time.Time
	children []*exec.Cmd
	ports    []net.Listener
	logLock  sync.Mutex
}

func (m *machine) logf(format string, args ...any) {
	m.logLock.Lock()
	defer m.logLock.Unlock()
	fmt.Fprintf(m.o.Log, "vm: %6.2f s: %s\n", time.Since(m.start).Seconds(), fmt.Sprintf(format, args...))
}

// cleanUp kills what is left, with its process groups, and removes the files.
func (m *machine) cleanUp() {
	for _, c := range m.children {
		unix.Kill(-c.Process.Pid, unix.SIGKILL)
	}
	for _, c := range m.children {
		if c.ProcessState == nil {
			c.Wait()
		}
	}
	for _, l := range m.ports {
		l.Close()
	}
	if m.o.Keep {
		m.logf("kept %s", m.work)
	} else if err := os.RemoveAll(m.work); err != nil {
		m.logf("%v", err)
	}
}

func (m *machine) run(ctx context.Context) (int, error) {
	args, err := m.prepare(ctx)
	if err != nil {
		return 0, err
	}
	qemu, err := findProgram("qemu-system-x86_64", "qemu-system-x86")
	if err != nil {
		return 0, err
	}
	out := make(map[string]func(io.Reader), 3)
	copyTo := func(w io.Writer) func(io.Reader) {
		return func(r io.Reader) {
			if _, err := io.Copy(w, r); err != nil {
				m.logf("output: %v", err)
				io.Copy(io.Discard, r) // the guest must not block on a reader that has gone
			}
		}
	}
	out["out"], out["err"] = copyTo(m.o.Stdout), copyTo(m.o.Stderr)
	var status result
	out["status"] = func(r io.Reader) { status.read(r, m.logf) }
	var readers sync.WaitGroup
	for i, name := range []string{"out", "err", "status"} {
		path := filepath.Join(m.work, name+".sock")
		l, err := net.Listen("unix", path)
		if err != nil {
			return 0, err
		}
		m.ports = append(m.ports, l)
		readers.Go(func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			out[name](conn)
		})
		args = append(args, "-chardev", "socket,id=p"+name+",path="+path,
			"-device", fmt.Sprintf("virtserialport,nr=%d,chardev=p%s,name=%s", i+1, name, name))
	}
	log, err := os.Create(filepath.Join(m.work, "qemu.log"))
	if err != nil {
		return 0, err
	}
	defer log.Close()
	cmd := child(qemu, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("qemu: %w", err)
	}
	m.children = append(m.children, cmd)
	m.logf("started %s with Linux %s", filepath.Base(qemu), m.kernel.release)

	stop := context.AfterFunc(ctx, func() { unix.Kill(-cmd.Process.Pid, unix.SIGKILL) })
	err = cmd.Wait()
	stop()
	for _, l := range m.ports { // ends an Accept that QEMU did not live to see
		l.Close()
	}
	readers.Wait()
	m.logf("the guest is gone")
	if ctx.Err() != nil {
		m.printConsole()
		return 0, context.Cause(ctx)
	}
	if status.failure != "" {
		return 0, fmt.Errorf("guest: %s", status.failure)
	}
	if !status.exited {
		m.printConsole()
		return 0, fmt.Errorf("the guest ended without a status (qemu: %v)", err)
	}
	return status.code, nil
}

// result is what the guest's init reports.
type result struct {
	exited  bool
	code    int
	failure string
}

func (s *result) read(r io.Reader, logf func(string, ...any)) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case guest.StatusExit:
			if code, err := strconv.Atoi(rest); err == nil {
				s.exited, s.code = true, code
			}
		case guest.StatusFailure:
			s.failure = rest
		}
		logf("guest: %s", lines.Text())
	}
}

// printConsole writes the end of what kernel, QEMU and virtiofsd said to Log.
func (m *machine) printConsole() {
	for _, name := range []string{"console", "qemu.log", "root.log"} {
		b, err := os.ReadFile(filepath.Join(m.work, name))
		if err != nil || len(b) == 0 {
			continue
		}
		fmt.Fprintf(m.o.Log, "vm: end of %s:\n%s\n", name, b[max(0, len(b)-4000):])
	}
}

// prepare makes the initramfs and the disk, starts the file servers and returns
// QEMU's arguments without the ports.
func (m *machine) prepare(ctx context.Context) ([]string, error) {
	shares, err := m.shares()
	if err != nil {
		return nil, err
	}
	scratch := filepath.Join(m.work, "scratch")
	if err := m.makeScratch(ctx, scratch); err != nil {
		return nil, err
	}
	initrd := filepath.Join(m.work, "initrd")
	if err := m.writeInitrd(initrd, shares); err != nil {
		return nil, fmt.Errorf("initramfs: %w", err)
	}
	quiet := "quiet "
	if m.o.Keep {
		quiet = ""
	}
	args := []string{
		"-accel", "tcg,thread=multi", "-cpu", cpu, "-smp", strconv.Itoa(m.o.CPUs), "-m", strconv.Itoa(m.o.Memory),
		// vhost-user needs the guest's memory shareable.
		"-machine", "q35,memory-backend=mem",
		"-object", fmt.Sprintf("memory-backend-memfd,id=mem,size=%dM,share=on", m.o.Memory),
		"-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-nic", "none",
		"-kernel", m.kernel.image, "-initrd", initrd, "-append", quiet + kernelArgs + " " + m.o.Append,
		"-device", "virtio-rng-pci",
		"-drive", "file=" + scratch + ",format=raw,if=none,id=scratch,cache=unsafe,discard=unmap",
		"-device", "virtio-blk-pci,drive=scratch",
		"-chardev", "file,id=console,path=" + filepath.Join(m.work, "console"), "-serial", "chardev:console",
		"-device", "virtio-serial-pci,max_ports=8",
	}
	for _, s := range append([]guest.Share{{Tag: "root", Path: "/"}}, shares...) {
		cmd, socket, err := serve(m.work, s.Tag, s.Path, s.ReadWrite, m.self)
		if err != nil {
			return nil, err
		}
		m.children = append(m.children, cmd)
		args = append(args, "-chardev", "socket,id="+s.Tag+",path="+socket,
			"-device", "vhost-user-fs-pci,queue-size=1024,chardev="+s.Tag+",tag="+s.Tag)
	}
	return args, nil
}

// shares returns what the guest has to mount beside the root.
func (m *machine) shares() ([]guest.Share, error) {
	var out []guest.Share
	add := func(dir string, readWrite bool) error {
		dir, err := filepath.Abs(dir)
		if err != nil {
			return err
		}
		if info, err := os.Stat(dir); err != nil {
			return err
		} else if !info.IsDir() {
			return fmt.Errorf("%q is not a directory", dir)
		}
		real, err := filepath.EvalSymlinks(dir)
		if err != nil {
			return err
		}
		if other, err := needsShare(real); err != nil {
			return err
		} else if other || readWrite {
			out = append(out, guest.Share{Tag: fmt.Sprintf("share%d", len(out)), Path: real, ReadWrite: readWrite})
		}
		return nil
	}
	for _, dir := range append([]string{m.o.Dir}, m.o.ReadOnly...) {
		if err := add(dir, false); err != nil {
			return nil, err
		}
	}
	for _, dir := range m.o.ReadWrite {
		if err := add(dir, true); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (m *machine) makeScratch(ctx context.Context, path string) error {
	mkfs, err := findProgram("mkfs.ext4", "e2fsprogs")
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(scratchSize); err != nil {
		return err
	}
	return run(ctx, m.work, mkfs, "-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", path)
}

// writeInitrd writes the guest's first file system: this program as /init, the
// modules in load order, and the configuration.
func (m *machine) writeInitrd(path string, shares []guest.Share) error {
	self, err := staticProgram(m.self)
	if err != nil {
		return err
	}
	dep, err := os.ReadFile(filepath.Join(m.kernel.modules, "modules.dep"))
	if err != nil {
		return err
	}
	builtin, err := os.ReadFile(filepath.Join(m.kernel.modules, "modules.builtin"))
	if err != nil {
		return err
	}
	boot, missing := moduleOrder(string(dep), string(builtin), bootModules)
	if len(missing) > 0 {
		return fmt.Errorf("linux %s has no %s", m.kernel.release, strings.Join(missing, ", "))
	}
	all, _ := moduleOrder(string(dep), string(builtin), append(bootModules, containerModules...))

	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	c := &cpioWriter{w: w}
	for _, d := range []string{"proc", "sys", "dev", "lower", "over", "new", "modules"} {
		c.dir(d)
	}
	c.charDevice("dev/console", 0o600, 5, 1)
	c.file("init", 0o755, self)
	cfg := guest.Config{
		Command: m.o.Command, Dir: m.o.Dir, Shares: shares, BootModules: len(boot),
		ModulesDir: m.kernel.modules, Release: m.kernel.release,
		Env: append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=dumb", "TMPDIR=" + guest.TempDir}, m.o.Env...),
	}
	for _, file := range all {
		data, err := readModule(filepath.Join(m.kernel.modules, file))
		if err != nil {
			return err
		}
		name := "modules/" + moduleName(file)
		c.file(name, 0o644, data)
		cfg.Modules = append(cfg.Modules, "/"+name)
	}
	b, err := json.Marshal(cfg)
	if err != nil {
		return err
	}
	c.file(strings.TrimPrefix(guest.ConfigFile, "/"), 0o644, b)
	if err := c.close(); err != nil {
		return err
	}
	return w.Flush()
}
