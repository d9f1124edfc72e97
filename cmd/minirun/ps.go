package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/jsonread"
	"github.com/minirun/minirun/internal/linux"
)

// psOptions are the flags of ps.
type psOptions struct{ format string }

func psFlags(*app) *flagSet { return new(psOptions).flags() }

func (o *psOptions) flags() *flagSet {
	f := newFlags("ps")
	o.format = "table"
	f.String(&o.format, "format", 'f', "table|json", "how to print (default table)")
	return f
}

// ps lists the processes of a container. A table is what the host's ps prints,
// less the lines of other processes: nothing of the container's is executed
// (CVE-2022-1227).
func (a *app) ps(args []string) error {
	var o psOptions
	f := o.flags()
	args, err := f.parse(args)
	if err != nil {
		return err
	}
	if len(args) == 0 {
		return f.fail("want a container ID and perhaps options of ps; got no arguments")
	}
	if o.format != "table" && o.format != "json" {
		return f.fail("flag --format: invalid format option %q: want table or json", o.format)
	}
	c, err := a.container(f, args[:1])
	if err != nil {
		return err
	}
	pids, err := c.Processes()
	if err != nil {
		return err
	}
	slices.Sort(pids)
	pids = slices.DeleteFunc(slices.Compact(pids), func(pid int) bool { return pid == 0 }) // not of our pid namespace
	if o.format == "json" {
		return stdout(pidsJSON(pids))
	}
	options := args[1:]
	if len(options) == 0 {
		options = []string{"-ef"}
	}
	table, err := hostPS(options)
	if err != nil {
		return err
	}
	table, err = filterPS(table, pids)
	if err != nil {
		return err
	}
	return stdout(table)
}

// pidsJSON is an array, and null for none, as runc has it.
func pidsJSON(pids []int) string {
	if len(pids) == 0 {
		return "null\n"
	}
	b := []byte{'['}
	for _, pid := range pids {
		b = jsonread.AppendInt(jsonread.AppendComma(b), int64(pid))
	}
	return string(b) + "]\n"
}

// filterPS keeps the first line of what ps has printed and the lines of pids.
func filterPS(table string, pids []int) (string, error) {
	head, rest, _ := strings.Cut(table, "\n")
	column, end := slices.Index(strings.Fields(head), "PID"), pidEnd(head)
	if column < 0 {
		return "", &noPIDError{}
	}
	var b strings.Builder
	b.WriteString(head + "\n")
	for line := range strings.Lines(rest) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		pid := pidAt(line, end)
		if pid < 0 && column < len(fields) {
			pid = pidOf(fields[column])
		}
		_, found := slices.BinarySearch(pids, pid)
		if pid < 0 { // no process hides itself by its name, or has the table fail
			found = slices.ContainsFunc(fields, func(f string) bool { return slices.Contains(pids, pidOf(f)) })
		}
		if found {
			b.WriteString(strings.TrimSuffix(line, "\n") + "\n")
		}
	}
	return b.String(), nil
}

// pidEnd is where the title PID ends, in characters, -1 if there is none.
func pidEnd(head string) int {
	for i := 0; ; {
		k := strings.Index(head[i:], "PID")
		if k < 0 {
			return -1
		}
		from, to := i+k, i+k+len("PID")
		if (from == 0 || head[from-1] == ' ') && (to == len(head) || head[to] == ' ') {
			return utf8.RuneCountInString(head[:to])
		}
		i = to
	}
}

// pidAt is the number that ends at a place in a line, -1 if there is none: ps
// aligns pids with the end of their title, and columns before it may hold blanks
// that a process has put into its name.
func pidAt(line string, end int) int {
	r := []rune(strings.TrimSuffix(line, "\n"))
	if end < 0 || end > len(r) || end < len(r) && r[end] != ' ' {
		return -1
	}
	from := end
	for from > 0 && r[from-1] != ' ' {
		from--
	}
	return pidOf(string(r[from:end]))
}

func pidOf(field string) int {
	pid, err := strconv.Atoi(field)
	if err != nil || pid <= 0 {
		return -1
	}
	return pid
}

type noPIDError struct{}

func (*noPIDError) Error() string { return "couldn't find PID field in ps output" }
func (*noPIDError) Hint() string  { return "add the column, as in: minirun ps ID -o pid,args" }

// hostPS runs the host's ps and returns what it prints.
func hostPS(options []string) (string, error) {
	path, err := lookPath("ps")
	if err != nil {
		return "", err
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return "", os.NewSyscallError("pipe", err)
	}
	defer linux.Close(p[0])
	w := uintptr(p[1])
	pid, err := syscall.ForkExec(path, append([]string{"ps"}, options...), &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, w, w}})
	linux.Close(p[1])
	if err != nil {
		return "", &fs.PathError{Op: "exec", Path: path, Err: err}
	}
	out, readErr := linux.ReadAll(p[0], 0)
	var status syscall.WaitStatus
	for {
		if _, err = syscall.Wait4(pid, &status, 0, nil); err != syscall.EINTR {
			break
		}
	}
	switch {
	case err != nil:
		return "", os.NewSyscallError("wait4", err)
	case status.ExitStatus() != 0:
		return "", fmt.Errorf("ps %s: exit status %d: %s", strings.Join(options, " "), status.ExitStatus(), strings.TrimSpace(string(out)))
	}
	return string(out), readErr
}

// lookPath finds a program of the host. Engines call us without a PATH.
func lookPath(name string) (string, error) {
	dirs := os.Getenv("PATH")
	if dirs == "" {
		dirs = "/usr/local/bin:/usr/bin:/bin"
	}
	for dir := range strings.SplitSeq(dirs, ":") {
		if !strings.HasPrefix(dir, "/") {
			continue // never from where we happen to be
		}
		path := dir + "/" + name
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	return "", &noProgramError{name}
}

type noProgramError struct{ name string }

func (e *noProgramError) Error() string { return "program " + e.name + " not found in PATH" }
func (e *noProgramError) Hint() string {
	return "install it (Debian: procps), or use --format json"
}
func (e *noProgramError) Unwrap() error { return errors.ErrUnsupported }
