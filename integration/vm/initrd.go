package vm

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/minirun/minirun/integration/vm/guest"
)

// writeInitrd writes the guest's first file system: this program as /init, the
// modules in load order, and the configuration.
func (m *machine) writeInitrd(path string, shares []guest.Share) error {
	self, err := staticProgram(m.self)
	if err != nil {
		return err
	}
	dep, err := os.ReadFile(filepath.Join(m.kernel.modules, "modules.dep"))
	if err != nil {
		return err
	}
	builtin, err := os.ReadFile(filepath.Join(m.kernel.modules, "modules.builtin"))
	if err != nil {
		return err
	}
	boot, missing := moduleOrder(string(dep), string(builtin), bootModules)
	if len(missing) > 0 {
		return fmt.Errorf("linux %s has no %s", m.kernel.release, strings.Join(missing, ", "))
	}
	all, _ := moduleOrder(string(dep), string(builtin), append(bootModules, containerModules...))

	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	c := &cpioWriter{w: w}
	for _, d := range []string{"proc", "sys", "dev", "over", "new", "modules"} {
		c.dir(d)
	}
	c.charDevice("dev/console", 0o600, 5, 1)
	c.file("init", 0o755, self)
	cfg := guest.Config{
		Command: m.o.Command, Dir: m.o.Dir, Shares: shares, BootModules: len(boot),
		ModulesDir: m.kernel.modules, Release: m.kernel.release,
		Env: append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=dumb", "TMPDIR=" + guest.TempDir}, m.o.Env...),
	}
	for _, file := range all {
		data, err := readModule(filepath.Join(m.kernel.modules, file))
		if err != nil {
			return err
		}
		name := "modules/" + moduleName(file)
		c.file(name, 0o644, data)
		cfg.Modules = append(cfg.Modules, "/"+name)
	}
	b, err := json.Marshal(cfg)
	if err != nil {
		return err
	}
	c.file(strings.TrimPrefix(guest.ConfigFile, "/"), 0o644, b)
	if err := c.close(); err != nil {
		return err
	}
	return w.Flush()
}
