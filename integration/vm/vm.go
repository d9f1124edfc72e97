package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
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
	Disks     []*Disk       // /dev/vdb and so on
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
	// Without address randomisation translated code is found again: fork and exec are 2 to 3 times faster. A busy host
	// delivers timer ticks late: the kernel must neither panic ("IO-APIC + timer doesn't work!") nor complain about it.
	kernelArgs = "console=ttyS0 panic=-1 mitigations=off nokaslr norandmaps random.trust_cpu=on cgroup_no_v1=all " +
		"systemd.unified_cgroup_hierarchy=1 no_timer_check nowatchdog rcupdate.rcu_cpu_stall_suppress=1"
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
	// Emulation on a busy host now and then loses a guest before its init runs. That says nothing about the command.
	status, err := runOnce(ctx, o, k)
	if errors.Is(err, errNoBoot) && ctx.Err() == nil {
		fmt.Fprintln(o.Log, "vm: booting once more")
		status, err = runOnce(ctx, o, k)
	}
	return status, err
}

// errNoBoot means that the guest ended before its command began.
var errNoBoot = errors.New("the guest did not boot")

func runOnce(ctx context.Context, o Options, k kernel) (int, error) {
	m := &machine{o: o, kernel: k, start: time.Now()}
	var err error
	if m.self, err = os.Executable(); err != nil {
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
