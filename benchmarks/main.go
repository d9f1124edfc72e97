// Command benchmarks measures the end-to-end speed and memory of container runtimes:
// minirun beside crun, runc, bubblewrap and a C program that makes the same system calls
// by hand, all interleaved in one run.
//
// It needs root. It starts itself a second time in a private mount namespace, so that the
// host's own mounts stay as they are; README.md tells the method and how to read the output.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// options is the command line.
type options struct {
	rounds, warmup, initRounds int
	cases                      string
	seccomp, userns            bool
	fifo, strict, noMinirun    bool
	save                       bool
	out                        string
	isolated                   string // the prepared work directory; set only for the second start
}

// allCases in the order in which they run and are printed.
var allCases = []string{"run", "run-seccomp", "run-userns", "life", "exec", "state", "memory", "init", "syscalls"}

const defaultCases = "run,life,exec,state,memory,init,syscalls"

func parse(args []string, errout io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("benchmarks", flag.ContinueOnError)
	f.SetOutput(errout)
	f.IntVar(&o.rounds, "n", 100, "measured rounds of each case")
	f.IntVar(&o.warmup, "warmup", 5, "rounds before them that are not counted")
	f.IntVar(&o.initRounds, "init-n", 300, "rounds of the package initialization case")
	f.StringVar(&o.cases, "cases", defaultCases, "comma-separated, of: "+strings.Join(allCases, " "))
	f.BoolVar(&o.seccomp, "seccomp", false, "also run with Docker's seccomp profile (case run-seccomp)")
	f.BoolVar(&o.userns, "userns", false, "also run with a user namespace (case run-userns)")
	f.BoolVar(&o.fifo, "fifo", false, "run everything under SCHED_FIFO 5, to calm a noisy machine")
	f.BoolVar(&o.strict, "strict", false, "exit with 1 when a target is missed or not measured")
	f.BoolVar(&o.noMinirun, "no-minirun", false, "measure the other runtimes only")
	f.BoolVar(&o.save, "save", false, "write the report to benchmarks/results")
	f.StringVar(&o.out, "out", "", "write the report to this directory")
	f.StringVar(&o.isolated, "isolated", "", "internal: work directory, when already in the private mount namespace")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if o.rounds < 1 || o.warmup < 0 || o.initRounds < 1 {
		return o, errors.New("-n and -init-n must be at least 1, -warmup at least 0")
	}
	for name := range strings.SplitSeq(o.cases, ",") {
		if !slices.Contains(allCases, name) {
			return o, fmt.Errorf("unknown case %q, want some of %s", name, strings.Join(allCases, " "))
		}
	}
	return o, nil
}

// selected tells whether a case is to be run.
func (o options) selected(name string) bool {
	return name == "run-seccomp" && o.seccomp || name == "run-userns" && o.userns ||
		slices.Contains(strings.Split(o.cases, ","), name)
}

func main() {
	o, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	code := 2
	if err == nil {
		if o.isolated != "" {
			code, err = measure(o)
		} else {
			code, err = prepare(o)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchmarks:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}
