package doctor

import (
	"fmt"
	"io"
	"strings"
)

const (
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	dim    = "\x1b[2m"
	bold   = "\x1b[1m"
	reset  = "\x1b[0m"
)

// WriteText writes checks for people: grouped, the columns of a group aligned,
// what is lost and what would help below what is not there.
func WriteText(w io.Writer, checks []Check, colour bool) error {
	paint := func(code, s string) string {
		if !colour {
			return s
		}
		return code + s + reset
	}
	var b strings.Builder
	count := map[State]int{}
	required, doubt := 0, false
	for i, c := range checks {
		if i == 0 || checks[i-1].group != c.group {
			if i > 0 {
				b.WriteByte('\n')
			}
			b.WriteString(paint(bold, c.group) + "\n")
		}
		width := 0
		for _, other := range checks {
			if other.group == c.group {
				width = max(width, len(other.Name))
			}
		}
		count[c.State]++
		code := green
		switch {
		case c.State == Missing && c.Required:
			code = red
			required++
		case c.State == Missing:
			code = yellow
		case c.State == Unknown:
			code = dim
			doubt = doubt || c.Required
		}
		line := fmt.Sprintf("  %s  %-*s  %s", paint(code, fmt.Sprintf("%-7s", c.State)), width, c.Name, c.Detail)
		b.WriteString(strings.TrimRight(line, " ") + "\n")
		if c.State == Missing && c.Required {
			b.WriteString("           " + paint(red, "required: no container runs without it") + "\n")
		}
		if c.Lost != "" && c.State == Missing {
			b.WriteString("           lost: " + c.Lost + "\n")
		} else if c.Lost != "" {
			b.WriteString("           lost if missing: " + c.Lost + "\n")
		}
		if c.Hint != "" {
			b.WriteString("           hint: " + c.Hint + "\n")
		}
	}
	fmt.Fprintf(&b, "\n%d ok, %d missing, %d unknown. ", count[OK], count[Missing], count[Unknown])
	switch {
	case required > 0:
		b.WriteString(paint(red, fmt.Sprintf("Containers cannot run: %d required missing.", required)) + "\n")
	case doubt:
		b.WriteString("Containers can run, as far as could be found out.\n")
	default:
		b.WriteString("Containers can run.\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
