package integration

import (
	"net"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// A user's container that waits for start is not dumpable, so nobody but root of
// the host may look into it, its user included. It tells its namespaces to those
// who can connect to its start socket: exec, mounts and hooks work all the same,
// and the container's other processes get nowhere.
func TestRootRootlessCreated(t *testing.T) {
	setup(t)
	script := func(text string) specs.Hook {
		return specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", text}}
	}
	const show = "for n in mnt user; do readlink /proc/self/ns/$n; done"
	many := []specs.LinuxIDMapping{{ContainerID: 0, HostID: userID, Size: 1}, {ContainerID: 1, HostID: userFirst, Size: 1000}}
	for _, tt := range []struct {
		name string
		maps []specs.LinuxIDMapping
		uid  uint32
	}{{"one id", nil, 0}, {"many ids", many, 5}} {
		t.Run(tt.name, func(t *testing.T) {
			u := newUserBox(t, tt.maps, func(s *specs.Spec) {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"})
				s.Hooks = &specs.Hooks{
					CreateContainer: []specs.Hook{script("set below")},
					StartContainer:  []specs.Hook{script("echo first > /tmp/first"), script(show + " > /tmp/second")},
				}
				full := []string{"CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH", "CAP_DAC_OVERRIDE", "CAP_SETPCAP"}
				s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: full, Effective: full, Permitted: full}
				s.Process.User.UID, s.Process.User.GID = tt.uid, tt.uid
			})
			change(t, u.bundle, func(c map[string]any) { // in its mount namespace / is the host's, and the container's /tmp is mounted
				h := c["hooks"].(map[string]any)["createContainer"].([]any)[0].(map[string]any)
				h["args"] = []string{"sh", "-c", "(" + show + ") > " + filepath.Join(u.bundle, "rootfs/tmp/inside")}
			})
			u.must("create", "--bundle", u.bundle, u.id)
			ids := u.must("exec", u.id, "sh", "-c", show)
			if got := u.must("exec", u.id, "cat", "/tmp/inside"); got != ids {
				t.Errorf("the hook of create was in %q, exec is in %q", got, ids)
			}
			for range 2 {
				got := u.must("exec", u.id, "sh", "-c", "ls /tmp; readlink /proc/1/exe || readlink /proc/1/root || ls /proc/1/fd 2>/dev/null || echo closed")
				if !strings.HasPrefix(got, "inside\n") || !strings.HasSuffix(got, "closed\n") || strings.Count(got, "\n") != 2 {
					t.Errorf("exec before start: %q", got)
				}
			}
			list := filepath.Join(u.bundle, "mounts.json")
			writeFile(t, list, `[{"destination": "/tmp/live", "type": "tmpfs", "source": "tmpfs"}]`)
			u.must("mounts", "add", u.id, list)
			if got := u.must("exec", u.id, "stat", "-f", "-c", "%T", "/tmp/live"); got != "tmpfs\n" {
				t.Errorf("a mount that was added: %q", got)
			}
			u.must("mounts", "remove", u.id, list)

			// Who connects and goes, or talks nonsense and goes, opens nothing.
			for _, say := range []string{"", "\x01", "\x01\x00\x00\x00\x00\x00\x00\x00"} {
				eventually(t, "the init has room for a connection", func() bool {
					c, err := net.Dial("unix", filepath.Join(u.root, u.id, "start.sock"))
					if err != nil {
						return false
					}
					_, _ = c.Write([]byte(say))
					return c.Close() == nil
				})
			}
			u.wantStatus("created")
			u.must("exec", u.id, "true")
			u.must("start", u.id)
			u.wantStatus("running")
			if got := u.must("exec", u.id, "cat", "/tmp/first", "/tmp/second"); got != "first\n"+ids {
				t.Errorf("the hooks of start have left %q, want first and %q", got, ids)
			}
			u.must("delete", "--force", u.id)

			change(t, u.bundle, func(c map[string]any) {
				c["process"].(map[string]any)["args"] = []string{"sh", "-c", "cat /tmp/inside /tmp/first /tmp/second; " + show}
			})
			got := lines(u.must("run", "--bundle", u.bundle, u.id))
			if len(got) != 7 || got[0] != got[5] || got[1] != got[6] || got[2] != "first" || got[3] != got[5] || got[4] != got[6] {
				t.Errorf("run: %q", got)
			}
		})
	}
}
