package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// command returns a child that ends with testrun: interrupted when ctx ends (go
// test and vmrun clean up then), killed half a minute later.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	// A group of its own: a terminal's ^C reaches it once, through us, and its children as well.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 30 * time.Second
	return cmd
}

func build(ctx context.Context, _ *options, c *counter) error {
	cmd := command(ctx, "make", "--no-print-directory", "build")
	out, err := cmd.CombinedOutput()
	fmt.Fprintf(c.w, "%s", out)
	if err != nil {
		return fmt.Errorf("make build: %w", err)
	}
	return nil
}

func unit(ctx context.Context, o *options, c *counter) error {
	args := append([]string{"-skip", "^Test(Root|VM)"}, o.flags...)
	if o.run != "" {
		args = append(args, "-run", o.run)
	}
	return goTest(ctx, nil, append(args, o.packages...), c)
}

func root(ctx context.Context, o *options, c *counter) error {
	if uid := os.Geteuid(); uid != 0 {
		return fmt.Errorf("these tests need root, and this is uid %d: run `make test-root` as root, or only `make test-unit`", uid)
	}
	pkgs, err := listTests(ctx, o, "TestRoot")
	if err != nil {
		return err
	}
	if len(pkgs) == 0 {
		return nil
	}
	// One package at a time: these tests mount, make cgroups and links, and measure.
	pattern := "^TestRoot"
	if o.run != "" {
		pattern = o.run
	}
	args := []string{"-count=1", "-p", "1", "-timeout", "20m", "-run", pattern}
	args = append(args, o.flags...)
	for _, p := range pkgs {
		args = append(args, p.ImportPath)
	}
	return goTest(ctx, binEnv(o), args, c)
}

// binEnv tells testenv.Binary where the built binaries are, if they are there: a
// build that fails removes them.
func binEnv(o *options) []string {
	dir, err := filepath.Abs(o.binDir)
	if err != nil {
		return nil
	}
	if _, err := os.Stat(filepath.Join(dir, "minirun")); err != nil {
		return nil
	}
	return []string{"MINIRUN_BIN_DIR=" + dir}
}

// goTest runs `go test -json args...` and counts its events.
func goTest(ctx context.Context, env, args []string, c *counter) error {
	cmd := command(ctx, "go", append([]string{"test", "-json"}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = c.w
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	failed := c.failed
	if err := cmd.Start(); err != nil {
		return err
	}
	err = readEvents(out, c.add, func(line string) { fmt.Fprint(c.w, line) })
	werr := cmd.Wait()
	c.finish()
	if err != nil {
		return err
	}
	// Failing tests explain a bad exit status; without one it is a failure of its own.
	if werr != nil && c.failed == failed {
		return fmt.Errorf("go test: %w", werr)
	}
	return nil
}

func fuzz(ctx context.Context, o *options, c *counter) error {
	pkgs, err := listTests(ctx, o, "Fuzz")
	if err != nil {
		return err
	}
	for _, p := range pkgs {
		for _, name := range p.tests {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			cmd := command(ctx, "go", "test", "-run", "^$", "-fuzz", "^"+name+"$", "-fuzztime", o.fuzzTime.String(), p.ImportPath)
			var out strings.Builder
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Run(); err != nil {
				c.fail(p.ImportPath+" "+name, out.String())
				continue
			}
			c.pass()
			fmt.Fprintf(c.w, "ok   %s %s  %s\n", p.ImportPath, name, lastExecs(out.String()))
		}
	}
	return nil
}

// lastExecs is the last progress line of the fuzzer.
func lastExecs(out string) string {
	last := ""
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "fuzz: ") && strings.Contains(line, "execs: ") {
			last = strings.TrimSpace(line)
		}
	}
	return last
}
