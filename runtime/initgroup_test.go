package runtime

import (
	"os"
	"testing"

	"github.com/minirun/minirun/cgroups"
)

// An init that was moved out of the container's cgroup does not take processes of
// exec with it, away from the limits.
func TestInitGroup_MovedOut(t *testing.T) {
	path, err := cgroups.PathOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	c := &Container{}
	c.ID, c.Pid = "c1", os.Getpid()
	for _, outside := range []string{"/no-such-group", path + "x", path + "/below"} {
		c.Cgroup = outside
		if g, err := c.initGroup(); err == nil {
			t.Errorf("container's %q, the process is in %q: %q is taken", outside, path, g.Path)
		}
	}
	for _, inside := range []string{path, "/"} {
		c.Cgroup = inside
		if g, err := c.initGroup(); err != nil || g.Path != path {
			t.Errorf("container's %q, the process is in %q: %v, %v", inside, path, g, err)
		}
	}
}
