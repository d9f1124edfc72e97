package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
)

// A user of the host prepares a directory that root then names with --root: a
// record in it has hooks, which delete would run as root.
func TestRootAttackStateRoot(t *testing.T) {
	setup(t)
	victim := newBox(t, forever).up()
	for _, c := range []struct {
		name string
		make func(root string) error
		want string // part of the refusal; "": it is used
	}{
		{"of another user", func(root string) error { return os.Chown(root, 1000, 1000) }, "belongs to user 1000"},
		{"for everybody", func(root string) error { return os.Chmod(root, 0o777) }, "mode 777"},
		{"for everybody, sticky", func(root string) error { return os.Chmod(root, 0o777|os.ModeSticky) }, "mode 1777"},
		{"for a group", func(root string) error { return os.Chmod(root, 0o775) }, "mode 775"},
		{"our own", func(root string) error { return os.Chmod(root, 0o755) }, ""},
	} {
		root := filepath.Join(t.TempDir(), "root")
		dir := filepath.Join(root, victim.id)
		marker := filepath.Join(filepath.Dir(root), "marker")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, "config.json"), `{"ociVersion":"1.0.2","root":{"path":"x"},"process":{"cwd":"/","args":["x"]},"linux":{},
			"hooks":{"poststop":[{"path":"/bin/sh","args":["sh","-c","touch `+marker+`"]}]}}`)
		record := strings.Replace(readFile(t, filepath.Join(testenv.StateRoot(t), victim.id, "state.json")), `"complete":true`, `"hooks":4,"complete":true`, 1)
		if c.want != "" { // the record of a container that runs: it would be killed
			writeFile(t, filepath.Join(dir, "state.json"), record)
		} else {
			writeFile(t, filepath.Join(dir, "state.json"), `{"version":1,"id":"`+victim.id+`","complete":true,"hooks":4,"bundle":"/"}`)
		}
		if err := c.make(root); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"list"}, {"state", victim.id}, {"kill", victim.id, "KILL"}, {"delete", "--force", victim.id}, {"create", "--bundle", victim.bundle, victim.id + "x"}} {
			if c.want == "" && args[0] != "delete" {
				continue
			}
			r := testenv.Run(t, append([]string{"--root", root}, args...)...)
			if refused := r.Code == 1 && strings.Contains(r.Stderr, "state root") && strings.Contains(r.Stderr, c.want); refused != (c.want != "") {
				t.Errorf("%s: %s: %+v", c.name, args[0], r)
			}
		}
		if _, err := os.Stat(marker); (err == nil) != (c.want == "") {
			t.Errorf("%s: the hook ran: %t", c.name, err == nil)
		}
	}
	victim.wantStatus("running")
}
