package archive

import (
	"encoding/json"
	"fmt"
	"strconv"
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
		list, ok := pairs(rest)
		if !ok {
			return "want ENV NAME=VALUE..."
		}
		for _, p := range list {
			c.Env = setEnv(c.Env, p[0], p[1])
		}
	case "LABEL":
		list, ok := pairs(rest)
		if !ok {
			return "want LABEL NAME=VALUE..."
		}
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		for _, p := range list {
			c.Labels[p[0]] = p[1]
		}
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
			if p = port(p); p == "" {
				return "want EXPOSE PORT[-PORT][/tcp|/udp|/sctp]..., from 1 to 65535"
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

// port brings a port, or a range of them, into the form that configurations have; "" for
// what is none.
func port(s string) string {
	numbers, protocol, given := strings.Cut(strings.ToLower(s), "/")
	if !given {
		protocol = "tcp"
	}
	first, last, isRange := strings.Cut(numbers, "-")
	if !isRange {
		last = first
	}
	from, err1 := strconv.ParseUint(first, 10, 16)
	to, err2 := strconv.ParseUint(last, 10, 16)
	if err1 != nil || err2 != nil || from == 0 || to < from || protocol != "tcp" && protocol != "udp" && protocol != "sctp" {
		return ""
	}
	return numbers + "/" + protocol
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

// pairs reads NAME=VALUE NAME=VALUE..., or one NAME VALUE as old Dockerfiles
// have it. Quotes and backslashes keep spaces in a value, and go.
func pairs(s string) (list [][2]string, ok bool) {
	i := strings.IndexAny(s, "= \t")
	if i <= 0 {
		return nil, false
	}
	if s[i] != '=' {
		value := strings.TrimSpace(s[i+1:])
		return [][2]string{{s[:i], value}}, value != ""
	}
	for s != "" {
		name, rest, found := strings.Cut(s, "=")
		if !found || name == "" || strings.ContainsAny(name, " \t") {
			return nil, false
		}
		value, after, closed := unquote(rest)
		if !closed {
			return nil, false
		}
		list = append(list, [2]string{name, value})
		s = strings.TrimLeft(after, " \t")
	}
	return list, true
}

// unquote reads a word as far as the first space outside of quotes. closed is
// false if a quote has no end.
func unquote(s string) (word, rest string, closed bool) {
	var b strings.Builder
	quote := byte(0)
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && quote != '\'' && i+1 < len(s):
			i++
			if quote == '"' && s[i] != '"' && s[i] != '\\' && s[i] != '$' {
				b.WriteByte(c) // means nothing here
			}
			b.WriteByte(s[i])
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == ' ' || c == '\t'):
			return b.String(), s[i:], true
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), "", quote == 0
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
