package main

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/minirun/minirun/imagestore"
	"github.com/urfave/cli/v2"
)

func filterFlag(usage string) cli.Flag {
	return &cli.StringSliceFlag{Name: "filter", Aliases: []string{"f"}, Usage: "only `KEY=VALUE`: " + usage + " (repeatable)"}
}

// filters are docker's: values of one key are alternatives, keys restrict each
// other. Labels must all be there.
type filters struct {
	dangling   *bool
	references []string
	labels     []string
}

func parseFilters(c *cli.Context) (*filters, error) {
	f := &filters{}
	for _, s := range c.StringSlice("filter") {
		bad := func(why string) (*filters, error) {
			return nil, &usageError{text: fmt.Sprintf("filter %q: %s", s, why), command: c.Command.HelpName}
		}
		key, value, ok := strings.Cut(s, "=")
		if !ok || value == "" {
			return bad("want KEY=VALUE")
		}
		switch key {
		case "dangling":
			v, err := strconv.ParseBool(value)
			if err != nil {
				return bad("want true or false")
			}
			f.dangling = &v
		case "reference":
			if err := f.addReference(value); err != nil {
				return bad(err.Error())
			}
		case "label":
			f.labels = append(f.labels, value)
		default:
			return bad("want dangling, reference or label")
		}
	}
	return f, nil
}

func (f *filters) addReference(pattern string) error {
	if _, err := path.Match(pattern, ""); err != nil {
		return errors.New("not a pattern")
	}
	f.references = append(f.references, pattern)
	return nil
}

func (f *filters) match(e *imagestore.Entry) bool {
	if f.dangling != nil && *f.dangling != (e.Name == "") {
		return false
	}
	if len(f.references) > 0 && !matchesAny(f.references, e.Name) {
		return false
	}
	for _, l := range f.labels {
		if e.Image == nil {
			return false
		}
		name, value, exact := strings.Cut(l, "=")
		if have, ok := e.Image.Config.Config.Labels[name]; !ok || exact && have != value {
			return false
		}
	}
	return true
}

// matchesAny compares patterns with the full and the short form of a name, each
// with and without tag.
func matchesAny(patterns []string, name string) bool {
	forms := []string{name, imagestore.Familiar(name)}
	if r, err := imagestore.ParseReference(name); err == nil {
		r.Tag, r.Digest = "", ""
		familiar := strings.TrimSuffix(imagestore.Reference{Domain: r.Domain, Path: r.Path, Tag: "x"}.Familiar(), ":x")
		forms = append(forms, r.Repository(), familiar)
	}
	for _, p := range patterns {
		for _, f := range forms {
			if ok, _ := path.Match(p, f); ok {
				return true
			}
		}
	}
	return false
}
