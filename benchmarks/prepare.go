package main

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

//go:embed c/floor.c
var floorSource []byte

//go:embed c/launch.c
var launchSource []byte

// buildFlags are the same for minirun and for the empty program it is compared with.
var buildFlags = []string{"build", "-trimpath", "-ldflags", "-s -w"}

// prepare is the first start: it installs and builds what is needed into a temporary
// directory, measures in a second process, and removes the directory.
func prepare(o options) (code int, err error) {
	if os.Geteuid() != 0 {
		return 1, errors.New("root is needed: namespaces, cgroups and mounts are made for real")
	}
	module, err := moduleDir()
	if err != nil {
		return 1, err
	}
	// Debian has runc in /usr/sbin, which su and sudo may leave out.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/local/sbin:/usr/sbin:/sbin"); err != nil {
		return 1, err
	}
	if err := checkPeers(peersFromEnv()); err != nil {
		return 1, err
	}
	if err := install(); err != nil {
		return 1, err
	}
	work, err := os.MkdirTemp("", "minirun-bench-")
	if err != nil {
		return 1, err
	}
	// Mapped root of the user namespace case has to pass through.
	if err := os.Chmod(work, 0o711); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, removeWork(work)) }()
	for _, dir := range []string{"bin", "run", "empty"} {
		if err := os.Mkdir(filepath.Join(work, dir), 0o755); err != nil {
			return 1, err
		}
	}
	if err := build(o, module, work); err != nil {
		return 1, err
	}
	return isolate(work)
}

func moduleDir() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	file := strings.TrimSpace(string(out))
	if file == "" || file == os.DevNull {
		return "", errors.New("not inside the module: run it as `go run ./benchmarks` from the repository")
	}
	return filepath.Dir(file), nil
}

// need is a Debian package and the test for having what it brings.
type need struct {
	debian  string
	present func() bool
}

func install() error {
	peers := peersFromEnv()
	command := func(name string) func() bool {
		return func() bool { _, err := exec.LookPath(name); return err == nil }
	}
	// A runtime given by BENCH_PEERS under the package's name takes its place.
	runtimeOr := func(name string) func() bool {
		return func() bool { return peers[name] != "" || command(name)() }
	}
	needs := []need{
		{"crun", runtimeOr("crun")},
		{"runc", runtimeOr("runc")},
		{"bubblewrap", command("bwrap")},
		{"busybox-static", func() bool { _, err := staticBusybox(); return err == nil }},
		{"gcc", command("gcc")},
		{"libc6-dev", func() bool {
			found, _ := filepath.Glob("/usr/lib/*/libc.a")
			lib, _ := filepath.Glob("/usr/lib*/libc.a")
			return len(found)+len(lib) > 0
		}},
	}
	var missing []string
	for _, n := range needs {
		if !n.present() {
			missing = append(missing, n.debian)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if !command("apt-get")() {
		return fmt.Errorf("missing, and there is no apt-get to install them: %s", strings.Join(missing, " "))
	}
	fmt.Printf("installing Debian packages: %s\n", strings.Join(missing, " "))
	for _, args := range [][]string{{"update"}, append([]string{"install", "-y", "--no-install-recommends"}, missing...)} {
		cmd := exec.Command("apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	for _, n := range needs {
		if !n.present() {
			return fmt.Errorf("package %s is installed but does not provide what is needed", n.debian)
		}
	}
	return nil
}

// build fills work/bin: floor, launch, minirun, and the empty Go program.
func build(o options, module, work string) error {
	bin := filepath.Join(work, "bin")
	for _, c := range []struct {
		name   string
		source []byte
	}{{"floor", floorSource}, {"launch", launchSource}} {
		cmd := exec.Command("gcc", "-O2", "-static", "-x", "c", "-o", filepath.Join(bin, c.name), "-")
		cmd.Stdin = bytes.NewReader(c.source)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("compile %s.c: %w\n%s", c.name, err, out)
		}
	}
	if o.noMinirun {
		return nil
	}
	minirun := filepath.Join(bin, "minirun")
	if given := os.Getenv("BENCH_MINIRUN"); given != "" {
		abs, err := filepath.Abs(given)
		if err != nil {
			return err
		}
		if err := os.Symlink(abs, minirun); err != nil {
			return err
		}
		if _, err := os.Stat(minirun); err != nil {
			return fmt.Errorf("BENCH_MINIRUN: %w", err)
		}
	} else if err := goBuild(module, minirun, "-tags", "urfave_cli_no_docs", "./cmd/minirun"); err != nil {
		return fmt.Errorf("%w\n(BENCH_MINIRUN=PATH measures a finished binary, -no-minirun only the others)", err)
	}
	out, err := exec.Command(minirun, "--version").Output()
	if err != nil {
		return fmt.Errorf("%s --version: %w", minirun, err)
	}
	// The write is a raw system call: importing os would be initialization work of its own.
	source := fmt.Sprintf("package main\n\nimport \"syscall\"\n\nfunc main() { syscall.Write(1, []byte(%q)) }\n", out)
	empty := filepath.Join(work, "empty", "main.go")
	if err := os.WriteFile(empty, []byte(source), 0o644); err != nil {
		return err
	}
	return goBuild(filepath.Dir(empty), filepath.Join(bin, "empty"), empty)
}

func goBuild(dir, output string, args ...string) error {
	cmd := exec.Command("go", append(append(append([]string{}, buildFlags...), "-o", output), args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", args[len(args)-1], err, out)
	}
	return rewrite(output)
}

// rewrite writes a program again from beginning to end, as every installation
// does, the peers' by Debian too. Go's linker writes through a mapping, and what
// is written that way lies in the page cache page by page; what is written in one
// go lies there in large folios, which are mapped several at a time.
func rewrite(path string) error {
	content, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path+".installed", content, 0o755)
	}
	if err == nil {
		err = os.Rename(path+".installed", path)
	}
	return err
}

// isolate starts this program again in a mount namespace of its own and returns its exit code.
func isolate(work string) (int, error) {
	// The child is to be told when its parent dies, and that means the thread.
	runtime.LockOSThread()
	cmd := exec.Command("/proc/self/exe", append([]string{"-isolated", work}, os.Args[1:]...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// Unshareflags with a mount namespace also makes every mount private.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	// The child stops at the next command and cleans up; a terminal's ^C reaches it by itself.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("start in a private mount namespace: %w", err)
	}
	go func() {
		for s := range signals {
			if s == syscall.SIGTERM {
				_ = cmd.Process.Signal(s)
			}
		}
	}()
	err := cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if exit.ExitCode() < 0 {
			return 1, fmt.Errorf("the measuring process died: %w", err)
		}
		return exit.ExitCode(), nil
	}
	return 0, err
}

// removeWork removes the work directory, unless a mount of the host lies in it: then
// removing would go through the mount.
func removeWork(work string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	if strings.Contains(string(mounts), work) {
		return fmt.Errorf("leak: the host has a mount below %s", work)
	}
	return os.RemoveAll(work)
}
