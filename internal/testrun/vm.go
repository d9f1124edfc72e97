package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"time"
)

// guestSlow is the factor for time limits in the guest, whose processor is emulated.
const guestSlow = "8"

// vm runs the TestVM tests of all packages in one boot. Binaries are built here
// and see this machine's file system in the guest; their output comes back in
// frames (see guest) and becomes events through test2json.
func vm(ctx context.Context, o *options, c *counter) error {
	pkgs, err := listTests(ctx, o, "TestVM")
	if err != nil {
		return err
	}
	if len(pkgs) == 0 {
		return nil
	}
	if runtime.GOARCH != "amd64" {
		for _, p := range pkgs {
			for _, name := range p.tests {
				c.skip(p.ImportPath+" "+name, "the virtual machine exists for amd64 only, this is "+runtime.GOARCH)
			}
		}
		return nil
	}
	work, err := os.MkdirTemp("", "minirun-vmtest-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	pattern := "^TestVM"
	if o.run != "" {
		pattern = o.run
	}
	var jobs []job
	for i, p := range pkgs {
		bin := filepath.Join(work, fmt.Sprintf("%d.test", i))
		cmd := command(ctx, "go", "test", "-c", "-o", bin, p.ImportPath)
		if out, err := cmd.CombinedOutput(); err != nil {
			c.fail(p.ImportPath, fmt.Sprintf("build the test: %v\n%s", err, out))
			continue
		}
		jobs = append(jobs, job{Package: p.ImportPath, Dir: p.Dir, Args: []string{
			bin, "-test.v=test2json", "-test.paniconexit0", "-test.timeout=15m", "-test.run=" + pattern,
		}})
	}
	if len(jobs) == 0 {
		return nil
	}
	vmrun := filepath.Join(work, "vmrun")
	if out, err := command(ctx, "go", "build", "-o", vmrun, "./integration/vm/cmd/vmrun").CombinedOutput(); err != nil {
		return fmt.Errorf("build vmrun: %w\n%s", err, out)
	}
	return runGuest(ctx, o, c, work, vmrun, jobs)
}

func runGuest(ctx context.Context, o *options, c *counter, work, vmrun string, jobs []job) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	b, err := json.Marshal(jobs)
	if err != nil {
		return err
	}
	list := filepath.Join(work, "jobs.json")
	if err := os.WriteFile(list, b, 0o644); err != nil {
		return err
	}
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	args := []string{
		"-timeout", o.vmTimeout.String(), "-ro", dir, "-ro", work, "-ro", filepath.Dir(self),
		"-env", "MINIRUN_TEST_EXCLUSIVE=1", "-env", "MINIRUN_TEST_SLOW=" + guestSlow,
	}
	// Also when they are not there: a guest is no place to build them.
	if bin, err := filepath.Abs(o.binDir); err == nil {
		args = append(args, "-env", "MINIRUN_BIN_DIR="+bin)
		if _, err := os.Stat(bin); err == nil {
			args = append(args, "-ro", bin)
		}
	}
	cmd := command(ctx, vmrun, append(args, "--", self, guestCommand, list)...)
	cmd.Stderr = c.w
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("virtual machine: %w", err)
	}
	done, err := readFrames(ctx, out, jobs, c)
	io.Copy(io.Discard, out)
	if werr := cmd.Wait(); werr != nil {
		err = werr
	}
	c.finish()
	for i, j := range jobs {
		if !done[i] {
			c.fail(j.Package, "the virtual machine ended before its tests did")
		}
	}
	if err != nil {
		return fmt.Errorf("virtual machine: %w", err)
	}
	return nil
}

// readFrames feeds each job's output to a test2json of its own and its events to
// the counter. It returns which jobs came to their end.
func readFrames(ctx context.Context, r io.Reader, jobs []job, c *counter) ([]bool, error) {
	done := make([]bool, len(jobs))
	dec := json.NewDecoder(r)
	var conv *converter
	defer func() {
		if conv != nil {
			conv.close(c, "the virtual machine ended while it ran")
		}
	}()
	for {
		var f frame
		if err := dec.Decode(&f); err == io.EOF {
			return done, nil
		} else if err != nil {
			return done, fmt.Errorf("output of the guest: %w", err)
		}
		if f.Job < 0 || f.Job >= len(jobs) {
			return done, fmt.Errorf("output of the guest: no job %d", f.Job)
		}
		if conv == nil {
			var err error
			if conv, err = newConverter(ctx, jobs[f.Job].Package); err != nil {
				return done, err
			}
		}
		if _, err := conv.in.Write(f.Out); err != nil {
			return done, err
		}
		if f.End {
			conv.close(c, f.Error)
			conv = nil
			done[f.Job] = true
		}
	}
}

// converter is a running test2json.
type converter struct {
	name   string
	cmd    *exec.Cmd
	in     io.WriteCloser
	events chan []event
	start  time.Time
}

func newConverter(ctx context.Context, name string) (*converter, error) {
	// The context's end is left to vmrun: output up to then is still converted.
	cmd := command(context.WithoutCancel(ctx), "go", "tool", "test2json", "-p", name)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("test2json: %w", err)
	}
	conv := &converter{name: name, cmd: cmd, in: in, events: make(chan []event, 1), start: time.Now()}
	go func() {
		var list []event
		readEvents(out, func(e event) { list = append(list, e) }, func(string) {})
		conv.events <- list
	}()
	return conv, nil
}

// close counts what the job said. why is the reason if its process failed.
func (conv *converter) close(c *counter, why string) {
	conv.in.Close()
	events := <-conv.events
	if err := conv.cmd.Wait(); err != nil && why == "" {
		why = fmt.Sprintf("test2json: %v", err)
	}
	ended := func(e event) bool {
		return e.Test == "" && (e.Action == "pass" || e.Action == "fail" || e.Action == "skip")
	}
	// test2json says nothing of a process that died.
	if !slices.ContainsFunc(events, ended) {
		if why == "" {
			why = "the test process ended without a result"
		}
		events = append(events, event{Action: "fail", Package: conv.name})
	}
	for _, e := range events {
		if ended(e) {
			e.Elapsed = time.Since(conv.start).Seconds()
			if why != "" {
				c.exited(conv.name, why)
			}
		}
		c.add(e)
	}
}
