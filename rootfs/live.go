package rootfs

import (
	"errors"
	"fmt"

	"github.com/minirun/minirun/internal/initprog"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// PlanLive returns the steps that add mounts to a running container with the
// configuration spec, for a process that has joined its namespaces but for that
// of pids. What the host has to give, sources of binds above all, is taken by
// the steps that Options.Before gets, on the host.
func PlanLive(spec *specs.Spec, mounts []specs.Mount, o Options) ([]initprog.Step, error) {
	t := &tree{userns: o.UserNS, live: true, frugal: true}
	var err error
	if spec.Linux != nil {
		if t.host, _, err = rootPropagation(spec.Linux.RootfsPropagation); err != nil {
			return nil, err
		}
	} else {
		t.host = unix.MS_SLAVE
	}
	o.maps = containerMaps(spec)
	steps := []initprog.Step{&liveRoot{t}}
	var errs []error
	for i := range mounts {
		m, err := planMount(t, i, &mounts[i], &o)
		switch {
		case err != nil:
		case m.options.remount:
			err = m.fail(&mounts[i], ".options", "remount would change a mount and add none")
		case m.dest == ".":
			err = m.fail(&mounts[i], ".destination", "the root of a running container cannot be covered")
		case m.dest == "proc":
			err = m.fail(&mounts[i], ".destination", "it would cover the masked and read-only paths there")
		case m.fstype == "proc" && !m.options.bind:
			// It would be that of the host's pid namespace.
			err = m.fail(&mounts[i], ".type", "procfs cannot be added to a running container")
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if m.early {
			o.Before(&source{m})
		}
		steps = append(steps, m)
		o.earlier = append(o.earlier, m)
	}
	return steps, errors.Join(errs...)
}

// liveRoot opens the root of the container that the process has joined.
type liveRoot struct{ t *tree }

func (s *liveRoot) Phase() string  { return "rootfs" }
func (s *liveRoot) String() string { return "open the root of the container" }
func (s *liveRoot) Why() string    { return "destinations are only looked up below it" }

func (s *liveRoot) Emit(b *initprog.Builder) {
	b.Object("/")
	s.t.init(b)
	b.Umask(0)
	s.t.root = b.Openat(initprog.CWD(), "/", unix.O_PATH|unix.O_DIRECTORY).Result()
}

// CheckRemoval refuses to unmount what the isolation of the container rests on.
func CheckRemoval(spec *specs.Spec, dest string) error {
	dest = clean(dest)
	if dest == "." || dest == "proc" || !procAllowed(dest) {
		return fmt.Errorf("/%s stays as long as the container does", dest)
	}
	if spec.Linux == nil {
		return nil
	}
	for _, list := range [...]struct {
		field string
		paths []string
	}{{"maskedPaths", spec.Linux.MaskedPaths}, {"readonlyPaths", spec.Linux.ReadonlyPaths}} {
		for i, p := range list.paths {
			if clean(p) == dest {
				return fmt.Errorf("/%s is what linux.%s[%d] covers", dest, list.field, i)
			}
		}
	}
	return nil
}
