// Vmrun runs one command as root in a throw-away virtual machine that sees this
// machine's files; see package vm for what is inside.
//
//	vmrun [flags] -- COMMAND [ARG...]
//
// The command has no standard input and no terminal. Its output is streamed and
// its exit status returned; 124 means that time was up, 125 that the machine
// did not boot or died.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/minirun/minirun/integration/vm"
)

// list is a flag that can be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func main() {
	vm.Reexec()
	o := vm.Options{Stdout: os.Stdout, Stderr: os.Stderr}
	var env list
	flag.IntVar(&o.Memory, "mem", 2048, "memory in `MiB`")
	flag.IntVar(&o.CPUs, "cpus", 2, "`number` of processors")
	flag.DurationVar(&o.Timeout, "timeout", 0, "kill the machine after this `time` (default 1h)")
	flag.StringVar(&o.Kernel, "kernel", "", "Debian `package` of the kernel (default: what linux-image-cloud-amd64 depends on)")
	flag.StringVar(&o.Append, "append", "", "more `arguments` for the kernel")
	flag.Var((*list)(&o.ReadOnly), "ro", "`directory` that must be visible even if it is not on the root file system (repeatable)")
	flag.Var((*list)(&o.ReadWrite), "rw", "`directory` whose changes are kept (repeatable)")
	flag.Var(&env, "env", "`NAME[=VALUE]` for the command's environment (repeatable)")
	flag.BoolVar(&o.Keep, "keep", false, "keep the work directory, with the kernel's console")
	verbose := flag.Bool("v", false, "report steps on standard error")
	flag.Parse()
	o.Command = flag.Args()
	for _, e := range env {
		if !strings.Contains(e, "=") {
			e += "=" + os.Getenv(e)
		}
		o.Env = append(o.Env, e)
	}
	var log strings.Builder
	o.Log = &log
	if *verbose {
		o.Log = io.Writer(os.Stderr)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	status, err := vm.Run(ctx, o)
	stop()
	if err != nil {
		// The log ends with the guest's console.
		fmt.Fprintf(os.Stderr, "%svmrun: %v\n", log.String(), err)
		status = 125
		if errors.Is(err, vm.ErrTimeout) {
			status = 124
		}
	}
	os.Exit(status)
}
