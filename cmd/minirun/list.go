package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/minirun/minirun/internal/jsonread"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/runtime"
	"golang.org/x/sys/unix"
)

// state prints one container as JSON.
func (a *app) state(args []string) error {
	f := newFlags("state")
	args, err := f.parse(args)
	if err != nil {
		return err
	}
	c, err := a.container(f, args)
	if err != nil {
		return err
	}
	b, err := appendState(nil, c)
	if err != nil {
		return err
	}
	return stdout(string(jsonread.AppendIndent(nil, b)) + "\n")
}

// appendState writes what runc's state prints: the OCI state with more fields.
func appendState(b []byte, c *runtime.Container) ([]byte, error) {
	status, err := c.Status()
	if err != nil {
		return nil, err
	}
	pid := c.Pid
	if status == runtime.Stopped {
		pid = 0
	}
	b = jsonread.AppendString(append(b, `{"ociVersion":`...), c.OCIVersion)
	b = jsonread.AppendString(append(b, `,"id":`...), c.ID)
	b = jsonread.AppendInt(append(b, `,"pid":`...), int64(pid))
	b = jsonread.AppendString(append(b, `,"status":`...), string(status))
	b = jsonread.AppendString(append(b, `,"bundle":`...), c.Bundle)
	b = jsonread.AppendString(append(b, `,"rootfs":`...), c.Rootfs)
	b = jsonread.AppendTime(append(b, `,"created":`...), c.Created)
	if len(c.Annotations) > 0 {
		b = append(b, `,"annotations":`...)
		b = runtime.AppendAnnotations(b, c.Annotations)
	}
	b = jsonread.AppendString(append(b, `,"owner":`...), ownerOf(c))
	return append(b, '}'), nil
}

// ownerOf is who created a container. Root of an ordinary user's namespace is that
// user outside, to whom the record belongs.
func ownerOf(c *runtime.Container) string {
	if c.Owner == 0 && !isRoot() {
		var st unix.Stat_t
		if unix.Stat(c.Dir(), &st) == nil {
			return ownerName(st.Uid)
		}
	}
	return ownerName(c.Owner)
}

// ownerName is the name of a user; root's needs no look-up.
func ownerName(uid uint32) string {
	if uid == 0 {
		return "root"
	}
	id := strconv.FormatUint(uint64(uid), 10)
	raw, _ := linux.ReadFile("/etc/passwd", 1<<20)
	for line := range strings.SplitSeq(string(raw), "\n") {
		if f := strings.SplitN(line, ":", 4); len(f) == 4 && f[2] == id {
			return f[0]
		}
	}
	return "#" + id
}

// listOptions are the flags of list.
type listOptions struct {
	format string
	quiet  bool
}

func listFlags(*app) *flagSet { return new(listOptions).flags() }

func (o *listOptions) flags() *flagSet {
	f := newFlags("list")
	o.format = "table"
	f.String(&o.format, "format", 'f', "table|json", "how to print (default table)")
	f.Bool(&o.quiet, "quiet", 'q', "print only the IDs")
	return f
}

// list prints all containers of the store. One that cannot be read is named on
// standard error and does not hide the others.
func (a *app) list(args []string) error {
	var o listOptions
	f := o.flags()
	args, err := f.parse(args)
	if err != nil {
		return err
	}
	if len(args) > 0 {
		return f.fail("want no arguments; got %d", len(args))
	}
	if o.format != "table" && o.format != "json" {
		return f.fail("flag --format: invalid value %q: want table or json", o.format)
	}
	s, err := a.store()
	if err != nil {
		return err
	}
	ids, err := s.IDs()
	if err != nil {
		return err
	}
	if o.quiet {
		return stdout(strings.Join(append(ids, ""), "\n"))
	}
	var containers []*runtime.Container
	for _, id := range ids {
		c, err := s.Load(id)
		if err != nil {
			a.log.warn(oneLine(err))
			continue
		}
		containers = append(containers, c)
	}
	if o.format == "json" {
		return listJSON(containers)
	}
	return listTable(containers)
}

func listJSON(containers []*runtime.Container) error {
	if len(containers) == 0 {
		return stdout("null\n") // as runc
	}
	b := []byte{'['}
	for i, c := range containers {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = appendState(b, c); err != nil {
			return err
		}
	}
	return stdout(string(b) + "]\n")
}

func listTable(containers []*runtime.Container) error {
	rows := [][]string{{"ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"}}
	for _, c := range containers {
		status, err := c.Status()
		if err != nil {
			return err
		}
		pid := c.Pid
		if status == runtime.Stopped {
			pid = 0
		}
		rows = append(rows, []string{c.ID, strconv.Itoa(pid), string(status), c.Bundle, c.Created.Format(time.RFC3339Nano), ownerOf(c)})
	}
	width := make([]int, len(rows[0]))
	for _, r := range rows {
		for i, cell := range r {
			width[i] = max(width[i], len(cell))
		}
	}
	var b strings.Builder
	for _, r := range rows {
		for i, cell := range r {
			if i == len(r)-1 {
				b.WriteString(cell + "\n")
			} else {
				fmt.Fprintf(&b, "%-*s", max(width[i]+3, 12), cell)
			}
		}
	}
	return stdout(visible(b.String()))
}
