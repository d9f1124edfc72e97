package archive

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/minirun/minirun/imagestore"
)

// ChangeError reports an instruction that is not understood.
type ChangeError struct{ Instruction, Reason string }

func (e *ChangeError) Error() string { return fmt.Sprintf("change %q: %s", e.Instruction, e.Reason) }

// Change applies Dockerfile instructions to an image's configuration, as the
// option --change of docker import does: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL,
// STOPSIGNAL, USER, VOLUME and WORKDIR. CMD and ENTRYPOINT take a JSON array or
// a line for /bin/sh -c. Nothing is expanded.
func Change(c *imagestore.ImageConfig, instructions ...string) error {
	for _, in := range instructions {
		if reason := change(c, in); reason != "" {
			return &ChangeError{in, reason}
		}
	}
	return nil
}

func change(c *imagestore.ImageConfig, in string) (reason string) {
	word, rest, _ := strings.Cut(strings.TrimSpace(in), " ")
	rest = strings.TrimSpace(rest)
	if rest == "" {
		return "it has no value"
	}
	switch strings.ToUpper(word) {
	case "CMD":
		c.Cmd = commandLine(rest)
	case "ENTRYPOINT":
		c.Entrypoint = commandLine(rest)
	case "ENV":
		key, value, ok := pair(rest)
		if !ok {
			return "want ENV NAME=VALUE"
		}
		c.Env = setEnv(c.Env, key, value)
	case "LABEL":
		key, value, ok := pair(rest)
		if !ok {
			return "want LABEL NAME=VALUE"
		}
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		c.Labels[key] = value
	case "USER":
		c.User = rest
	case "WORKDIR":
		if !strings.HasPrefix(rest, "/") {
			return "the directory must be absolute"
		}
		c.WorkingDir = rest
	case "STOPSIGNAL":
		c.StopSignal = rest
	case "EXPOSE":
		for p := range strings.FieldsSeq(rest) {
			if !strings.Contains(p, "/") {
				p += "/tcp"
			}
			add(&c.ExposedPorts, p)
		}
	case "VOLUME":
		for _, v := range words(rest) {
			add(&c.Volumes, v)
		}
	default:
		return "want CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR"
	}
	return ""
}

func add(set *map[string]struct{}, key string) {
	if *set == nil {
		*set = map[string]struct{}{}
	}
	(*set)[key] = struct{}{}
}

func commandLine(s string) []string {
	var args []string
	if json.Unmarshal([]byte(s), &args) == nil {
		return args
	}
	return []string{"/bin/sh", "-c", s}
}

func words(s string) []string {
	var list []string
	if json.Unmarshal([]byte(s), &list) == nil {
		return list
	}
	return strings.Fields(s)
}

// pair splits NAME=VALUE, or NAME VALUE as old Dockerfiles have it. Quotes
// around the value go.
func pair(s string) (key, value string, ok bool) {
	i := strings.IndexAny(s, "= ")
	if i <= 0 {
		return "", "", false
	}
	key, value = s[:i], strings.TrimSpace(s[i+1:])
	if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
		value = value[1 : n-1]
	}
	return key, value, true
}

func setEnv(env []string, key, value string) []string {
	out := env[:0:0]
	for _, e := range env {
		if !strings.HasPrefix(e, key+"=") {
			out = append(out, e)
		}
	}
	return append(out, key+"="+value)
}
