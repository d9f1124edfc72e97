package clients

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/testenv"
)

// client is an engine in its sandbox, with the runtime it is to use.
type client struct {
	*sandbox
	runtime string   // minirun, runc or crun
	wrapper string   // what the engine is told to execute
	command []string // what each call begins with
}

// newClient makes a sandbox whose engine uses the runtime through a wrapper that
// writes down its arguments.
func newClient(t *testing.T, runtime string) *client {
	t.Helper()
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	program := testenv.Binary(t)
	if runtime != "minirun" {
		var err error
		if program, err = exec.LookPath(runtime); err != nil {
			t.Fatalf("%v; tools/deps.sh installs it", err)
		}
	}
	c := &client{sandbox: newSandbox(t), runtime: runtime}
	// One printf is one write, so that lines of several calls do not mix. Engines give the runtime no PATH: only what the shell has built in.
	c.wrapper = c.write("bin/"+runtime, `#!/bin/sh
line=
for a; do line="$line $a"; done
printf '%s\n' "${line# }" >>'`+c.dir+`/argv'
exec `+program+` "$@"
`, 0o755)
	c.env = append(c.env, "PATH="+c.dir+"/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin")
	began := time.Now()
	t.Cleanup(func() { t.Logf("%s: %v", t.Name(), time.Since(began).Round(100*time.Millisecond)) })
	return c
}

// do runs the client with arguments.
func (c *client) do(args ...string) testenv.Result {
	c.t.Helper()
	return c.run(append(c.command[:len(c.command):len(c.command)], args...)...)
}

// ok runs the client with arguments, which must succeed, and returns what it prints.
func (c *client) ok(args ...string) string {
	c.t.Helper()
	r := c.do(args...)
	if r.Code != 0 {
		c.t.Fatalf("%q: exit status %d\n%s%s", args, r.Code, r.Stdout, r.Stderr)
	}
	return strings.ReplaceAll(r.Stdout, "\r\n", "\n")
}

// prints checks what the client prints; blanks at the ends do not count.
func (c *client) prints(want string, args ...string) {
	c.t.Helper()
	if got := strings.TrimSpace(c.ok(args...)); got != want {
		c.t.Errorf("%q prints\n%s\nwant\n%s", args, got, want)
	}
}

// exits checks the exit status, and that what is printed contains a text.
func (c *client) exits(code int, text string, args ...string) {
	c.t.Helper()
	r := c.do(args...)
	if r.Code != code || !strings.Contains(r.Stdout+r.Stderr, text) {
		c.t.Errorf("%q: exit status %d, want %d and %q in\n%s%s", args, r.Code, code, text, r.Stdout, r.Stderr)
	}
}

// typed runs a shell through the client on a terminal of its own, types the input
// and, once the terminal shows the text, "exit 5": engines may lose what a process
// says at its end. It returns the exit status and what the terminal shows.
func (c *client) typed(input, text string, args ...string) testenv.Result {
	c.t.Helper()
	var line []string
	for _, a := range append(c.command[:len(c.command):len(c.command)], args...) {
		line = append(line, "'"+strings.ReplaceAll(a, "'", `'\''`)+"'")
	}
	cmd := c.sandbox.command("script", "-qec", strings.Join(line, " "), "/dev/null")
	keyboard, screen, err := os.Pipe()
	if err != nil {
		c.t.Fatal(err)
	}
	defer keyboard.Close()
	out, err := os.CreateTemp(c.t.TempDir(), "screen")
	if err != nil {
		c.t.Fatal(err)
	}
	defer out.Close()
	shown := func() string {
		b, err := os.ReadFile(out.Name())
		if err != nil {
			c.t.Error(err)
		}
		return string(b)
	}
	cmd.Stdin, cmd.Stdout = keyboard, out
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		defer screen.Close()
		_, _ = screen.WriteString(input)
		for !strings.Contains(shown(), text) {
			select {
			case <-over:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
		_, _ = screen.WriteString("exit 5\n")
		<-over // an end of the input would be typed too
	}()
	r := testenv.RunCmdWithin(c.t, cmd, patience)
	close(over)
	<-done
	r.Stdout = shown()
	return r
}

// piped runs the client with the input on a pipe that ends.
func (c *client) piped(input string, args ...string) string {
	c.t.Helper()
	cmd := c.sandbox.command(append(c.command[:len(c.command):len(c.command)], args...)...)
	cmd.Stdin = strings.NewReader(input)
	r := testenv.RunCmdWithin(c.t, cmd, patience)
	if r.Code != 0 {
		c.t.Errorf("%q with input: %+v", args, r)
	}
	return r.Stdout
}

// rootfs makes the archive of a small root file system.
func (c *client) rootfs() string {
	c.t.Helper()
	root := testenv.Rootfs(c.t)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		link := ""
		if info.Mode()&fs.ModeSymlink != 0 {
			if link, err = os.Readlink(path); err != nil {
				return err
			}
		}
		h, err := tar.FileInfoHeader(info, link)
		if err != nil {
			return err
		}
		if h.Name, err = filepath.Rel(root, path); err != nil {
			return err
		}
		if err := w.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	})
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return c.write("rootfs.tar", b.String(), 0o644)
}

// waits is the program of containers that stay: it says when it runs and exits
// with status 3 on SIGTERM. The shell waits for a program in the background,
// since it would not handle the signal before one in the foreground ends.
const waits = `trap 'echo term; exit 3' TERM; sleep 10000 & echo up; while :; do wait; done`

// seccompProfile refuses mkdir with EPERM, and names a system call that no kernel has.
const seccompProfile = `{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64"],
 "syscalls": [{"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}`

// nothingLeft checks that no control group of a container is left below the
// engine's parent group, and no record of one in the runtime's directory.
func (c *client) nothingLeft(parent, root string) {
	c.t.Helper()
	filepath.WalkDir(filepath.Join(c.group, parent), func(path string, d fs.DirEntry, err error) error {
		if name := strings.TrimPrefix(path, c.group); err == nil && d.IsDir() && name != "/"+parent && filepath.Base(path) != "conmon" && name != "" && name != "/engine" {
			c.t.Errorf("control group %s is left", name)
		}
		return nil
	})
	if out := c.run("ls", "-A", root).Stdout; strings.TrimSpace(out) != "" {
		c.t.Errorf("records are left in %s: %s", root, out)
	}
}
