package rootfs

import (
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/initprog"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Everything that a running container gets from the host is taken before the
// program joins it.
func TestPlanLive_Golden(t *testing.T) {
	o := testOptions()
	var before []initprog.Step
	o.Before = func(s initprog.Step) { before = append(before, s) }
	steps, err := PlanLive(&specs.Spec{}, []specs.Mount{
		{Destination: "/data", Source: "/host/dir", Options: []string{"rbind", "ro"}},
		{Destination: "/tmp", Type: "tmpfs", Options: []string{"size=1m"}},
		{Destination: "/link", Source: "/host/link", Options: []string{"bind", "copy-symlink"}},
	}, o)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	b := initprog.NewBuilder(3)
	for _, s := range append(before, steps...) {
		text.WriteString(s.Phase() + ": " + s.String() + "\n")
		b.Phase(s.Phase())
		s.Emit(b)
	}
	b.ExitGroup(0)
	image, err := b.Link()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "live", text.String()+"\n"+image.Listing())
}

func TestCheckRemoval(t *testing.T) {
	spec := &specs.Spec{Linux: &specs.Linux{MaskedPaths: []string{"/etc//secret"}, ReadonlyPaths: []string{"/sys/x"}}}
	for dest, ok := range map[string]bool{
		"/data": true, "/sys": true, "/proc/cpuinfo": true, "/processes": true, "/etc": true,
		"/": false, "": false, "/proc": false, "proc/.": false, "/proc/kcore": false, "/a/../proc/sys": false,
		"/etc/secret": false, "etc/./secret/": false, "/sys/x": false,
	} {
		if err := CheckRemoval(spec, dest); (err == nil) != ok {
			t.Errorf("%q: %v", dest, err)
		}
	}
	if err := CheckRemoval(&specs.Spec{}, "/data"); err != nil {
		t.Error(err)
	}
}
