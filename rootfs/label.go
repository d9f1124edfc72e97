package rootfs

import "strings"

// withLabel adds linux.mountLabel, an SELinux label for all files of a new file
// system, to its parameters. File systems whose files have labels of their own
// get none, as with runc; one among the options of a mount goes before.
func (t *tree) withLabel(fstype string, params []string) []string {
	if t.label == "" {
		return params
	}
	switch fstype {
	case "proc", "sysfs", "cgroup2", "mqueue":
		return params
	}
	for _, p := range params {
		for _, option := range [...]string{"context=", "fscontext=", "defcontext=", "rootcontext="} {
			if strings.HasPrefix(p, option) {
				return params
			}
		}
	}
	return append(params[:len(params):len(params)], "context="+t.label)
}
