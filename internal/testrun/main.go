// Testrun runs minirun's tests and counts them.
//
//	testrun [flags] PHASE...
//
// Phases run in the order given, all of them even when one fails:
//
//	build   make build: counts one failure if it does not build, else nothing
//	unit    go test without TestRoot* and TestVM*
//	root    go test of TestRoot*, as root, one package at a time
//	vm      TestVM* of all packages in one boot of a virtual machine
//	fuzz    every Fuzz* target for -fuzztime
//
// While they run, each package gets a line and each failure its full output. At
// the end come the failures and skipped tests by name, and as the last line of
// standard output
//
//	N passed, N failed, N skipped
//
// With -again, the few tests that failed in a phase are run once more, alone.
// Those that pass then count as passed and are listed as unstable.
//
// What counts as one test: a test or subtest without subtests of its own. A test
// that has subtests counts only if it fails by itself, a fuzz target counts once
// whatever its seeds, and what is no test but fails (a package that does not
// build, a test process that dies, a phase that cannot start) counts as failed.
// The exit status is 1 if anything failed.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// options are the command line's.
type options struct {
	packages  []string      // patterns
	flags     []string      // extra flags of go test
	run       string        // only tests whose name matches too
	binDir    string        // where make build puts minirun and minirund
	vmTimeout time.Duration // for everything in the guest
	fuzzTime  time.Duration
	again     bool // what failed
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == guestCommand {
		os.Exit(guest(os.Args[2], os.Stdout))
	}
	var o options
	self, err := os.Executable()
	if err != nil {
		self = "."
	}
	packages := flag.String("packages", "./...", "package `patterns`")
	flags := flag.String("flags", "", "more `flags` of go test")
	flag.StringVar(&o.run, "run", "", "in the unit, root and vm phases, only tests that match this `pattern`")
	flag.BoolVar(&o.again, "again", false, "run the few tests that failed in a phase again, alone, and list those that pass then as unstable")
	flag.StringVar(&o.binDir, "bin", filepath.Dir(self), "`directory` of the built minirun and minirund")
	countFile := flag.String("count", "", "also write the count to this `file`")
	flag.DurationVar(&o.vmTimeout, "vm-timeout", 25*time.Minute, "time limit of the virtual machine")
	flag.DurationVar(&o.fuzzTime, "fuzztime", 30*time.Second, "time for each fuzz target")
	flag.Parse()
	o.packages, o.flags = strings.Fields(*packages), strings.Fields(*flags)

	phases := map[string]func(context.Context, *options, *counter) error{
		"build": build, "unit": unit, "root": root, "vm": vm, "fuzz": fuzz,
	}
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	for _, name := range flag.Args() {
		if phases[name] == nil {
			fmt.Fprintf(os.Stderr, "testrun: no phase %q\n", name)
			os.Exit(2)
		}
	}
	// A second signal ends testrun at once; the first lets it stop its children and sum up.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop)

	c := newCounter(os.Stdout)
	for _, name := range flag.Args() {
		c.phase(name)
		start, failures := time.Now(), len(c.failures)
		err := phases[name](ctx, &o, c)
		c.finish()
		if err != nil {
			c.fail("the "+name+" phase", err.Error())
		}
		c.phaseDone(time.Since(start))
		if o.again && err == nil {
			again(ctx, &o, c, name, phases[name], failures)
		}
		if ctx.Err() != nil {
			c.fail("testrun", "interrupted")
			break
		}
	}
	ok := c.summary()
	if *countFile != "" {
		if err := os.WriteFile(*countFile, []byte(countLine(c.passed, c.failed, c.skipped)+"\n"), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, "testrun:", err)
			ok = false
		}
	}
	if !ok {
		os.Exit(1)
	}
}
