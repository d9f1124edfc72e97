package runtime

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/namespaces"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// linux.intelRdt: the container's processes belong to a class of service, a
// directory of the resctrl file system, that says which part of the caches and of
// the memory bandwidth they may use; and, to be counted, to a monitoring group
// below that.

// resctrlFS is where the kernel keeps the classes. Tests put something else in
// its place: few machines have one.
type resctrlFS struct {
	root         string
	magic        int64
	mkdir, rmdir func(path string) error
}

var resctrl = resctrlFS{root: "/sys/fs/resctrl", magic: unix.RDTGROUP_SUPER_MAGIC, mkdir: makeGroup, rmdir: unix.Rmdir}

func makeGroup(path string) error { return unix.Mkdir(path, 0o755) }

// RdtError reports that a container cannot have its class of service.
type RdtError struct {
	Field, Op string
	Err       error
	hint      string
}

func (e *RdtError) Error() string {
	t := e.Field + ": " + e.Op
	if e.Err != nil {
		t += ": " + e.Err.Error()
	}
	return t
}

func (e *RdtError) Unwrap() error { return e.Err }

// Hint says what would help.
func (e *RdtError) Hint() string { return e.hint }

const fieldRdt = "linux.intelRdt"

// Rdt is what State records of a class of service.
type Rdt struct {
	Class   string // directory below the root of resctrl, "/" for that itself; "" for none at all
	Own     bool   // made for the container, and removed with it
	Monitor string // directory of the monitoring group, below mon_groups of the class; "" for none
}

// planRdt chooses the class of a container, without making anything.
func planRdt(id string, want *specs.LinuxIntelRdt) (r Rdt, err error) {
	if want == nil {
		return r, nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(resctrl.root, &fs); err != nil || int64(fs.Type) != resctrl.magic {
		return r, &RdtError{
			fieldRdt, "Intel RDT is not available: no resctrl file system is mounted at " + resctrl.root, nil,
			"on a processor that has RDT: mount -t resctrl resctrl " + resctrl.root,
		}
	}
	r = Rdt{Class: want.ClosID}
	if r.Class == "" {
		r.Class = id
	}
	var st unix.Stat_t
	err = unix.Stat(r.dir(), &st)
	switch {
	case errors.Is(err, unix.ENOENT) && want.ClosID != "" && len(schemata(want)) == 0:
		return r, &RdtError{fieldRdt + ".closID", "there is no class " + strconv.Quote(want.ClosID) + " in " + resctrl.root, nil, "make it before, or say in linux.intelRdt.schemata what it may use"}
	case err == nil:
	case errors.Is(err, unix.ENOENT):
		r.Own = want.ClosID == "" // what has a name of its own stays
	default:
		return r, &RdtError{fieldRdt, "look at " + r.dir(), err, ""}
	}
	if want.EnableMonitoring {
		r.Monitor = id
	}
	return r, nil
}

func (r *Rdt) dir() string {
	if r.Class == "/" {
		return resctrl.root
	}
	return resctrl.root + "/" + r.Class
}

func (r *Rdt) monitorDir() string { return r.dir() + "/mon_groups/" + r.Monitor }

// schemata are the texts to write, one after the other.
func schemata(want *specs.LinuxIntelRdt) (texts []string) {
	if want.L3CacheSchema != "" {
		texts = append(texts, want.L3CacheSchema)
	}
	if want.MemBwSchema != "" {
		texts = append(texts, want.MemBwSchema)
	}
	if len(want.Schemata) > 0 {
		texts = append(texts, strings.Join(want.Schemata, "\n"))
	}
	return texts
}

// makeRdt makes the class and the monitoring group. A class that is there keeps
// what it may use, and that must be what is wanted.
func (c *Container) makeRdt(want *specs.LinuxIntelRdt) error {
	r := &c.Rdt
	if r.Class == "" {
		return nil
	}
	var made error = unix.EEXIST
	if r.Class != "/" {
		made = resctrl.mkdir(r.dir())
	}
	switch {
	case made == nil:
		for _, text := range schemata(want) {
			if err := r.write(text); err != nil {
				if !r.Own { // one with a name stays, but not half of it
					err = errors.Join(err, resctrl.rmdir(r.dir()))
				}
				r.Monitor = ""
				return err
			}
		}
	case errors.Is(made, unix.EEXIST) && !r.Own:
		if err := r.compare(schemata(want)); err != nil {
			r.Monitor = ""
			return err
		}
	default:
		hint := ""
		r.Own, r.Monitor = false, "" // whoever has made it meanwhile, delete leaves it alone
		if errors.Is(made, unix.ENOSPC) {
			hint = "the processor has no class left: share one by linux.intelRdt.closID"
		}
		return &RdtError{fieldRdt, "make the class " + r.dir(), made, hint}
	}
	if r.Monitor == "" {
		return nil
	}
	if err := resctrl.mkdir(r.monitorDir()); err != nil {
		dir, hint := r.monitorDir(), ""
		r.Monitor = "" // as above
		if errors.Is(err, unix.ENOENT) {
			hint = "this processor or kernel cannot monitor: there is no mon_groups in the class"
		}
		return &RdtError{fieldRdt + ".enableMonitoring", "make the monitoring group " + dir, err, hint}
	}
	return nil
}

// write says what the class may use.
func (r *Rdt) write(text string) error {
	err := writeHost(r.dir()+"/schemata", strings.TrimSuffix(text, "\n")+"\n")
	if err == nil {
		return nil
	}
	hint := ""
	if why, e := linux.ReadFile(resctrl.root+"/info/last_cmd_status", 4096); e == nil {
		hint = "the kernel says: " + strings.TrimSpace(string(why))
	}
	return &RdtError{fieldRdt, "write " + strconv.Quote(text) + " to " + r.dir() + "/schemata", err, hint}
}

// compare checks that a class that others have made allows what is wanted.
func (r *Rdt) compare(want []string) error {
	if len(want) == 0 {
		return nil
	}
	have, err := linux.ReadFile(r.dir()+"/schemata", 64<<10)
	if err != nil {
		return &RdtError{fieldRdt, "read the class", err, ""}
	}
	for _, text := range want {
		if missing := missingSchema(string(have), text); missing != "" {
			return &RdtError{
				fieldRdt, fmt.Sprintf("the class %q is there already and has another schema than %q", r.Class, missing), nil,
				"choose another linux.intelRdt.closID, or leave the schema out to take the class as it is",
			}
		}
	}
	return nil
}

// missingSchema returns the first part of the wanted lines, such as L3:0=f, that
// is not in those that there are; "" if all are. Leading zeros mean nothing.
func missingSchema(have, want string) string {
	parts := func(text string, f func(resource, domain, value string) bool) {
		for line := range strings.SplitSeq(text, "\n") {
			resource, domains, _ := strings.Cut(line, ":")
			for d := range strings.SplitSeq(domains, ";") {
				domain, value, ok := strings.Cut(d, "=")
				if ok && !f(strings.TrimSpace(resource), number(domain), number(value)) {
					return
				}
			}
		}
	}
	missing := ""
	parts(want, func(resource, domain, value string) bool {
		found := false
		parts(have, func(r, d, v string) bool {
			found = r == resource && d == domain && v == value
			return !found
		})
		if !found {
			missing = resource + ":" + domain + "=" + value
		}
		return found
	})
	return missing
}

func number(s string) string {
	s = strings.ToLower(strings.TrimSpace(s))
	if t := strings.TrimLeft(s, "0"); t != "" || s == "" {
		return t
	}
	return "0"
}

// joinRdt puts a process into the class and its monitoring group.
func (c *Container) joinRdt(pid int) error {
	r := &c.Rdt
	if r.Class == "" {
		return nil
	}
	dirs := [...]string{r.dir(), r.monitorDir()}
	n := len(dirs)
	if r.Monitor == "" {
		n--
	}
	for _, dir := range dirs[:n] {
		if err := writeHost(dir+"/tasks", strconv.Itoa(pid)); err != nil {
			return &RdtError{fieldRdt, "put process " + strconv.Itoa(pid) + " into " + dir, err, ""}
		}
	}
	return nil
}

// classGate is where a process of exec waits until it is in the container's class:
// those that it starts are, too.
type classGate struct{ rdt *Rdt }

func (s *classGate) Phase() string { return fieldRdt }
func (s *classGate) String() string {
	return "wait while the runtime puts the process into " + s.rdt.dir()
}
func (s *classGate) Why() string { return "" }

func (s *classGate) Emit(b *initprog.Builder) {
	b.Object("")
	namespaces.Handshake(b, namespaces.Ready)
}

// classed reports whether the process has to be put into a class.
func (e *execution) classed() bool { return e.c.Rdt.Class != "" && e.pr != nil && e.hook == nil }

// removeRdt removes what makeRdt has made for the container alone.
func (c *Container) removeRdt() error {
	r := &c.Rdt
	var errs []error
	remove := func(dir string) {
		if err := resctrl.rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
			errs = append(errs, &os.PathError{Op: "rmdir", Path: dir, Err: err})
		}
	}
	if r.Class != "" && r.Monitor != "" {
		remove(r.monitorDir())
	}
	if r.Class != "" && r.Own {
		remove(r.dir())
	}
	return errors.Join(errs...)
}

// UpdateRdt changes what the container's class of service may use.
func (c *Container) UpdateRdt(l3CacheSchema, memBwSchema string) error {
	dir, err := c.lockLoaded()
	if err != nil {
		return err
	}
	defer linux.Close(dir)
	for _, s := range [...]struct{ text, what string }{
		{l3CacheSchema, "Intel RDT/CAT: l3 cache schema"}, {memBwSchema, "Intel RDT/MBA: memory bandwidth schema"},
	} {
		if s.text == "" {
			continue
		}
		if c.Rdt.Class == "" {
			return fmt.Errorf("%s is not enabled: the container was created without linux.intelRdt", s.what)
		}
		if err := c.Rdt.write(s.text); err != nil {
			return err
		}
	}
	return nil
}
