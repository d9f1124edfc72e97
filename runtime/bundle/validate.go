package bundle

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/minirun/minirun/internal/jsonread"
)

// Validate checks what can be said about a configuration without looking at
// the host: that values are in range, that no string would be cut short at a
// NUL byte on its way to the kernel, and that what belongs together is there
// together. It returns the first 20 findings, joined, each a *FieldError. Left to
// others are sysctl keys (which need the namespaces' owners), mount options,
// cpu lists and the content of the seccomp profile.
//
// Where runc refuses the same, its words are in the message.
func Validate(s *specs.Spec) error {
	var c checker
	c.version(s.Version)
	if s.Root == nil {
		c.add(`missing: say where the root filesystem is, such as {"path": "rootfs"}`, "root")
	} else if s.Root.Path == "" {
		c.add("empty: name the directory of the root filesystem, relative to the bundle or absolute", "root.path")
	} else {
		c.text(s.Root.Path, "root.path")
	}
	if s.Process != nil {
		c.process(s.Process)
	}
	c.hooks(s.Hooks)
	for i := range s.Mounts {
		c.mount(&s.Mounts[i], i)
	}
	linux := s.Linux
	if linux == nil {
		linux = new(specs.Linux)
	}
	ns := c.namespaces(linux.Namespaces)
	c.identity(s, ns)
	c.users(s, linux, ns)
	c.linux(linux, ns)
	return c.err()
}

// Validate is [Validate] for the configuration of b, and adds to each error
// the line and column of the value, or of the closest thing around it.
func (b *Bundle) Validate() error {
	err := Validate(b.Spec)
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return err
	}
	// One pass over the document for all: it may be large and all wrong.
	at := map[string]int{}
	for _, e := range joined.Unwrap() {
		for path := e.(*FieldError).Path; path != ""; path = parent(path) {
			at[path] = -1
		}
	}
	jsonread.Locate(b.Raw, at)
	for _, e := range joined.Unwrap() {
		field := e.(*FieldError)
		field.File = ConfigFile
		for path := field.Path; path != ""; path = parent(path) {
			if offset := at[path]; offset >= 0 {
				field.Line, field.Column = jsonread.Position(b.Raw, offset)
				break
			}
		}
	}
	return err
}

// parent cuts the last key or index from a path. A key in brackets may hold
// dots: the cut then is inside of it, names nothing, and is cut again.
func parent(path string) string {
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
}

// ValidateProcess is [Validate] for the process of an exec.
func ValidateProcess(p *specs.Process) error {
	var c checker
	c.process(p)
	return c.err()
}

// ValidateResources is [Validate] for the resources of an update, which may
// leave out what stays as it is: a swap limit needs no memory limit beside it.
func ValidateResources(r *specs.LinuxResources) error {
	var c checker
	c.resources(r, update)
	return c.err()
}

// ValidateMounts is [Validate] for mounts of a running container.
func ValidateMounts(mounts []specs.Mount) error {
	var c checker
	for i := range mounts {
		c.mount(&mounts[i], i)
	}
	return c.err()
}

// checker collects findings. Nothing is formatted unless there is one.
type checker struct{ errs []error }

// maxFindings bounds the work on a document that is wrong a million times.
const maxFindings = 20

// add records a finding at a path whose %d are filled from index.
func (c *checker) add(msg, path string, index ...int) {
	if len(c.errs) >= maxFindings {
		return
	}
	args := make([]any, len(index))
	for i, n := range index {
		args[i] = n
	}
	if len(args) > 0 {
		path = fmt.Sprintf(path, args...)
	}
	c.errs = append(c.errs, &FieldError{Path: path, Msg: msg})
}

// text checks a string on its way to the kernel, where a NUL would end it.
func (c *checker) text(s, path string, index ...int) {
	if strings.IndexByte(s, 0) >= 0 {
		c.add("holds a NUL byte, where the kernel would end it: remove it", path, index...)
	}
}

// absolute checks a path that must be absolute.
func (c *checker) absolute(s, path string, index ...int) {
	c.text(s, path, index...)
	if !strings.HasPrefix(s, "/") {
		c.add("must be an absolute path, got "+strconv.Quote(s), path, index...)
	}
}

// sortFrom sorts the findings from the nth on by path: those of a map come in
// no order.
func (c *checker) sortFrom(n int) {
	if len(c.errs)-n > 1 {
		slices.SortStableFunc(c.errs[n:], func(a, b error) int {
			return strings.Compare(a.(*FieldError).Path, b.(*FieldError).Path)
		})
	}
}

func (c *checker) err() error { return errors.Join(c.errs...) }

// version accepts every 1.x, with or without more after it: engines write
// what their library says (1.0.2-dev), and no 1.x has taken anything back.
func (c *checker) version(v string) {
	switch major, _, _ := strings.Cut(v, "."); {
	case v == "":
		c.add(`missing: say which version of the OCI runtime specification this is, such as "`+specs.Version+`"`, "ociVersion")
	case major != "1":
		c.add("unsupported version "+strconv.Quote(v)+": want 1.x", "ociVersion")
	}
}

func (c *checker) hooks(h *specs.Hooks) {
	if h == nil {
		return
	}
	c.hookList(h.Prestart, "prestart") // deprecated, and what dockerd uses
	c.hookList(h.CreateRuntime, "createRuntime")
	c.hookList(h.CreateContainer, "createContainer")
	c.hookList(h.StartContainer, "startContainer")
	c.hookList(h.Poststart, "poststart")
	c.hookList(h.Poststop, "poststop")
}

func (c *checker) hookList(hooks []specs.Hook, name string) {
	for i, hook := range hooks {
		at := "hooks." + name + "[%d]"
		c.absolute(hook.Path, at+".path", i)
		for j, arg := range hook.Args {
			c.text(arg, at+".args[%d]", i, j)
		}
		for j, env := range hook.Env {
			c.text(env, at+".env[%d]", i, j)
		}
		if hook.Timeout != nil && *hook.Timeout <= 0 {
			c.add("must be greater than zero seconds, got "+strconv.Itoa(*hook.Timeout)+": leave it out for the default", at+".timeout", i)
		}
	}
}
