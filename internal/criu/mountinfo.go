package criu

import (
	"fmt"
	"os"
	"strings"
)

// mount is a line of /proc/PID/mountinfo.
type mount struct {
	id, dev, root, point string
	flags                []string // of the mount: ro, nosuid, ...
	fstype               string
}

func readMounts(path string) ([]mount, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var list []mount
	for line := range strings.Lines(string(raw)) {
		before, after, _ := strings.Cut(line, " - ")
		f := strings.Fields(before)
		g := strings.Fields(after)
		if len(f) < 6 || len(g) < 2 {
			return nil, fmt.Errorf("%s: cannot read %q", path, line)
		}
		list = append(list, mount{id: f[0], dev: f[2], root: unescape(f[3]), point: unescape(f[4]), flags: restrictive(f[5]), fstype: g[0]})
	}
	return list, nil
}

// restrictive are those mount attributes whose loss would give something away.
func restrictive(options string) []string {
	flags := []string{}
	for o := range strings.SplitSeq(options, ",") {
		switch o {
		case "ro", "nosuid", "nodev", "noexec", "nosymfollow":
			flags = append(flags, o)
		}
	}
	return flags
}

// unescape reverses the kernel's octal escapes of blanks and backslashes.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// outside are the mounts of a container that show file systems of the host, all
// but its root: criu must be told of them.
func outside(container, host []mount) []mount {
	known := map[string]bool{}
	for _, m := range host {
		known[m.dev] = true
	}
	var list []mount
	for _, m := range container {
		if m.point != "/" && known[m.dev] && m.fstype != "mqueue" {
			list = append(list, m)
		}
	}
	return list
}
