package integration

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// With linux.rootfsPropagation shared and a shared volume, a mount that the
// container makes in the volume appears on the host; and no other mount of the
// host comes or goes.
func TestRootPropagation_Shared(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	volume := t.TempDir()
	caps := []string{"CAP_SYS_ADMIN"}
	for _, tt := range []struct{ propagation, option, want string }{
		{"rshared", "rshared", "1"},
		{"rslave", "rslave", "0"},
		{"rprivate", "rprivate", "0"},
	} {
		t.Run(tt.propagation, func(t *testing.T) {
			bundle := testenv.Bundle(t, func(s *specs.Spec) {
				s.Root.Readonly = false
				s.Linux.RootfsPropagation = tt.propagation
				s.Process.Args = []string{"mount", "-t", "tmpfs", "none", "/vol/sub"}
				s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/vol", Source: volume, Options: []string{"rbind", tt.option}})
			})
			script := `
set -e
mount --make-rprivate /
mount -t tmpfs none "$1"
mount --make-shared "$1"
mkdir "$1/sub"
before=$(wc -l </proc/self/mountinfo)
"$2" --root "$3" run --bundle "$4" "$5"
grep -c " $1/sub " /proc/self/mountinfo || true
echo $(($(wc -l </proc/self/mountinfo) - before))
`
			cmd := exec.Command("unshare", "--mount", "sh", "-c", script, "sh", volume, testenv.Binary(t), testenv.StateRoot(t), bundle, testenv.UniqueID(t))
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			want := tt.want + "\n" + tt.want + "\n"
			if got := string(out); got != want {
				t.Errorf("mounts of the volume on the host and change of their number: got %q, want %q", strings.ReplaceAll(got, "\n", " "), strings.ReplaceAll(want, "\n", " "))
			}
		})
	}
}
