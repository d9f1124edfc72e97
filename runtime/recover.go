package runtime

import (
	"strings"

	"github.com/minirun/minirun/cgroups"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/runtime/bundle"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// recover finds the cgroup of a container whose state.json is damaged through
// the copy of its config.json, and removes it with all its processes. Without
// this, deleting the record would leave a running container that nobody knows.
// Then the poststop hooks run: whatever else is lost, they know the ID.
func (c *Container) recover(config []byte) error {
	spec, err := bundle.Parse(config)
	if err != nil || spec.Linux == nil {
		return nil //nolint:nilerr // nothing to learn from it
	}
	if strings.Count(spec.Linux.CgroupsPath, ":") == 2 && !strings.Contains(spec.Linux.CgroupsPath, "/") {
		return c.recoverUnit(spec)
	}
	if c.Cgroup, err = cgroups.CleanPath(spec.Linux.CgroupsPath, c.ID); err != nil {
		return nil //nolint:nilerr // create would have refused it
	}
	return c.recoverGroup(spec)
}

func (c *Container) recoverGroup(spec *specs.Spec) (err error) {
	if c.CgroupMount, err = cgroups.Mount(); err != nil {
		return err
	}
	if g := c.group(); g.Exists() {
		if err := g.Kill(); err != nil {
			return err
		}
		if c.Unit != "" {
			if err := c.stopUnit(nil); err != nil {
				return err
			}
		}
		if err := g.Remove(killTimeout); err != nil {
			return err
		}
	}
	c.OCIVersion, c.Annotations = spec.Version, spec.Annotations
	c.runPoststop(spec)
	return nil
}

// RecordedSnapshot is the snapshot that the record in the directory dir names, whatever
// else is in it. That there is none is fs.ErrNotExist.
func RecordedSnapshot(dir string) (string, error) {
	raw, err := linux.ReadFile(dir+"/"+snapshotFile, 4096)
	return string(raw), err
}
